/* base/buf.h: a growing byte buffer with a stated maximum, for text and bytes of hostile size.
 *
 * Zero is a valid empty buffer with maximum 0; call buf_init() first. An append that fails changes nothing:
 * STATUS_LIMIT beyond the maximum, STATUS_NO_MEMORY when the allocation fails. The bytes are always followed
 * by a NUL that is not counted in `len`. One owner, no threads. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>

#include "base/span.h"
#include "base/status.h"

struct buf {
    char *ptr;  /* owned; NULL while nothing was ever appended */
    size_t len; /* bytes used */
    size_t cap; /* bytes allocated, the NUL included */
    size_t max; /* the most that len may become */
};

void buf_init(struct buf *buf, size_t max);
void buf_finish(struct buf *buf); /* frees; the buffer is empty again with the same maximum */
void buf_clear(struct buf *buf);  /* keeps the memory */

enum status buf_reserve(struct buf *buf, size_t more) MUST_CHECK;
enum status buf_append(struct buf *buf, const void *bytes, size_t len) MUST_CHECK;
enum status buf_append_span(struct buf *buf, struct span text) MUST_CHECK;
enum status buf_append_cstr(struct buf *buf, const char *text) MUST_CHECK;
enum status buf_append_byte(struct buf *buf, char byte) MUST_CHECK;
enum status buf_printf(struct buf *buf, const char *format, ...) MUST_CHECK PRINTF_LIKE(2, 3);

static inline struct span buf_span(const struct buf *buf)
{
    return span_of(buf->ptr, buf->len);
}

/* "" when nothing was appended; borrowed until the next change. */
static inline const char *buf_cstr(const struct buf *buf)
{
    return buf->ptr ? buf->ptr : "";
}

#endif
