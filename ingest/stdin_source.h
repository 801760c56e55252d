/* ingest/stdin_source.h: standard input as a document.
 *
 * Up to STDIN_HEAD_BYTES are taken whole into a sealed memory file and read like any file. What is longer flows
 * through a pipe to the child as it comes, hashed on its way by a thread of its own; nothing is kept. */
#ifndef INGEST_STDIN_SOURCE_H
#define INGEST_STDIN_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "ingest/digest.h"

/* Long enough that two archives that begin alike are told apart by their names. */
enum { STDIN_HEAD_BYTES = 8 << 20 };

struct stdin_source;

enum status stdin_source_open(int fd, const atomic_bool *cancel, struct stdin_source **source, struct error *err)
    MUST_CHECK;
void stdin_source_close(struct stdin_source *source); /* NULL allowed */

int stdin_source_fd(const struct stdin_source *source); /* for the child */
bool stdin_source_whole(const struct stdin_source *source); /* the head is everything: seekable */
const atomic_bool *stdin_source_starving(const struct stdin_source *source);
/* Of the head: of everything if it is whole. */
const char *stdin_source_head_hash(const struct stdin_source *source);
/* Once the child is started: our copy of its end goes, so that it sees the end. */
void stdin_source_started(struct stdin_source *source);
/* After the child: takes in what it left unread, and gives hash and size of all. STATUS_LIMIT: there was more than
 * LIMIT_ARCHIVE_TOTAL_BYTES, and the rest was left. */
enum status stdin_source_end(struct stdin_source *source, char hex[DIGEST_HEX_BYTES], int64_t *bytes,
                             struct error *err) MUST_CHECK;

#endif
