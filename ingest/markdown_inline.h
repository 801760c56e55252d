/* ingest/markdown_inline.h: the inline marks of Markdown taken off, so that text reads as it was meant. */
#ifndef INGEST_MARKDOWN_INLINE_H
#define INGEST_MARKDOWN_INLINE_H

#include "base/buf.h"

/* Appends `text` without emphasis, code marks, link targets, tags and escapes: "**a** [b](c) `d`" is "a b d".
 * A mark that has no partner stays. */
enum status markdown_inline(struct span text, struct buf *out) MUST_CHECK;

#endif
