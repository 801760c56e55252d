/* ingest/member_name.h: the name of an archive's member as a label that can be shown and stored.
 *
 * No name is ever opened, so nothing here guards a file system; a label that pretends to stand outside its
 * archive, or that is no text, is still repaired, and the bytes as they stood are kept beside it. */
#ifndef INGEST_MEMBER_NAME_H
#define INGEST_MEMBER_NAME_H

#include <stdbool.h>

#include "base/buf.h"

struct member_name {
    bool not_utf8; /* bytes that are no UTF-8, or control characters: U+FFFD, or spaces */
    bool unsafe;   /* absolute, with a drive, or with ".." : those parts were left out */
    bool cut;      /* longer than LIMIT_MEMBER_NAME_BYTES */
};

/* Fills `label` (cleared first): UTF-8, relative, "/" between parts, never empty. */
enum status member_name_clean(struct span raw, struct buf *label, struct member_name *found) MUST_CHECK;

#endif
