/* ingest/source.h: the bytes of one document inside the jailed child, from a file or from a pipe.
 *
 * A source is read once from front to back (source_read), or taken whole (source_map) by formats that need to
 * jump. A file is memory-mapped; a pipe that must be jumped in is first copied into a memory file that the
 * server made before the jail closed, so that both give the same result. The head can be looked at before. */
#ifndef INGEST_SOURCE_H
#define INGEST_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"
#include "base/status.h"

enum { SOURCE_HEAD_BYTES = 4096 };

struct source;

/* `fd` stays the caller's. `spool_fd` is an empty memory file for a pipe's bytes, or -1 when `seekable`.
 * STATUS_LIMIT for a file beyond LIMIT_DOCUMENT_BYTES. */
enum status source_open(int fd, bool seekable, int spool_fd, struct source **out, struct error *err) MUST_CHECK;
/* For tests and for documents inside documents: `bytes` are borrowed. */
enum status source_open_memory(struct span bytes, struct source **out) MUST_CHECK;
void source_close(struct source *source);

/* The first bytes, at most SOURCE_HEAD_BYTES; fewer only when the document is shorter. Borrowed for good. */
struct span source_head(const struct source *source);

/* The next piece, borrowed until the next call; length 0 at the end. Not after source_map(). */
enum status source_read(struct source *source, struct span *piece, struct error *err) MUST_CHECK;

/* All bytes, borrowed until source_close(). May be asked for at any time before the first source_read().
 * STATUS_LIMIT when a pipe holds more than LIMIT_ARCHIVE_SEEKABLE_BYTES. */
enum status source_map(struct source *source, struct span *bytes, struct error *err) MUST_CHECK;

/* Bytes taken by source_read(), or the whole size after source_map(): the input side of expansion ratios. */
long long source_position(const struct source *source);

#endif
