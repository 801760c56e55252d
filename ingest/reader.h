/* ingest/reader.h: one format. Readers bid on the first bytes and the name; the highest bid reads.
 *
 * Readers run only inside dsa-extract's jailed child. They pull from a `struct source` and push frames; they
 * neither normalise nor chunk. A reader returns STATUS_OK when it sent all it could (problems included),
 * BAD_INPUT when nothing could be read (the message becomes the document's error). */
#ifndef INGEST_READER_H
#define INGEST_READER_H

#include <stdbool.h>

#include "base/status.h"
#include "ingest/frames.h"

struct source; /* the document's bytes: ingest/source.h */
struct frame_writer; /* buffered frames to the pipe: ingest/frame_writer.h */

struct reader_job {
    struct source *source;
    struct span head;      /* the first bytes, at most 4096 */
    const char *name;      /* file or member name: a label only */
    const char *password;  /* NULL: none */
    int archive_depth;     /* archives around this one already */
    struct frame_writer *out;
};

struct reader {
    const char *name;       /* "pdf" */
    const char *media_type; /* "application/pdf" */
    int (*bid)(struct span head, const char *name); /* 0: not mine; 100: certain */
    enum status (*read)(const struct reader_job *job, struct error *err);
};

extern const struct reader *const reader_list[]; /* reader_list.c, NULL at the end */

#endif
