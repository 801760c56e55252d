/* ingest/progress.h: one line on a terminal: documents, pages/s, MB/s, time left. */
#ifndef INGEST_PROGRESS_H
#define INGEST_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    int fd;                      /* -1: off */
    int64_t start_ns, drawn_ns;
    int64_t total_documents, total_bytes; /* 0: not known (yet) */
    bool shown;
};

/* On if `fd` is a terminal. */
void progress_init(struct progress *progress, int fd);
/* Draws at most ten times a second. */
void progress_draw(struct progress *progress, int64_t documents, int64_t pages, int64_t bytes);
/* Takes the line away, before something else is written to the terminal and at the end. */
void progress_clear(struct progress *progress);

/* The line without control characters, for tests; returns its length. */
int progress_line(const struct progress *progress, double seconds, int64_t documents, int64_t pages, int64_t bytes,
                  int width, char *out, int cap);

#endif
