/* ingest/mail_decode.h: the encodings of mail: transfer encodings (RFC 2045) and words in headers (RFC 2047). */
#ifndef INGEST_MAIL_DECODE_H
#define INGEST_MAIL_DECODE_H

#include <stdbool.h>

#include "base/buf.h"

/* Appends the decoded bytes; what is no base64 is passed over, as in all mail readers. */
enum status mail_decode_base64(struct span text, struct buf *out) MUST_CHECK;
/* `header` also takes "_" for a space, as words in headers do. */
enum status mail_decode_quoted(struct span text, bool header, struct buf *out) MUST_CHECK;

/* Appends a header's value as UTF-8: folded lines joined, "=?charset?B|Q?…?=" decoded. Bytes that are no UTF-8
 * stay for the writer to repair. */
enum status mail_decode_header(struct span value, struct buf *out) MUST_CHECK;

/* The parameter of a structured header, `boundary` in `multipart/mixed; boundary="x"`, unquoted; false if absent. */
bool mail_parameter(struct span value, const char *name, char *text, size_t size);

#endif
