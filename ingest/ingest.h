/* ingest/ingest.h: from files to finished documents, handed to a sink.
 *
 * ingest_run() walks its sources, has each read by a jailed child of dsa-extract, makes text and passages of what
 * the child says, and gives every file and archive member to the sink exactly once: as a document, a duplicate, a
 * failure. It knows nothing of models, and of the store only its structs; sink_store.c writes to a store, tests
 * remember.
 *
 * Threads: ingest_run() starts `jobs` workers, each with its own fork server and one document in hand. Sink and
 * report are called only on the thread that called ingest_run(); a worker waits while its document is written, so
 * at most `jobs` finished documents exist at a time. */
#ifndef INGEST_INGEST_H
#define INGEST_INGEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "store/store.h"

/* One finished document: its row and everything beneath it. Borrowed during the call. */
struct ingest_document {
    struct store_document row;
    const struct store_page *pages;
    size_t page_count;
    const struct store_chunk *chunks;
    size_t chunk_count;
    const struct store_problem *problems;
    size_t problem_count;
};

/* What a sink knows of a source. */
struct ingest_known {
    int64_t id;
    enum document_status status;
    int64_t size_bytes, mtime_ms;
    char sha256[65];
    bool encrypted; /* not read, or a part of it, for want of a password: its error begins with "encrypted:" */
};

struct ingest_sink {
    void *context;
    /* The row of that source: STATUS_NOT_FOUND. */
    enum status (*find)(void *context, const char *path, const char *member, struct ingest_known *known,
                        struct error *err);
    /* Another source with the same bytes whose pages were read (status OK or PARTIAL): STATUS_NOT_FOUND. */
    enum status (*find_bytes)(void *context, const char *sha256, const char *path, const char *member, int64_t *id,
                              struct error *err);
    /* Writes a document in place of the source's old row, in one transaction. */
    enum status (*put)(void *context, const struct ingest_document *document, struct error *err);
    /* Removes the rows for which `gone` says so, among those whose path is `path`, or with `beneath` begins with
     * it. */
    enum status (*remove)(void *context, const char *path, bool beneath,
                          bool (*gone)(void *gone_context, const char *path, const char *member),
                          void *gone_context, int64_t *removed, struct error *err);
    /* Puts on disk what was written so far. Called when nothing comes in for a while. */
    enum status (*flush)(void *context, struct error *err);
    /* Calls visit for each duplicate whose original is not there any more. */
    enum status (*orphans)(void *context, bool (*visit)(void *visit_context, const char *path, const char *member),
                           void *visit_context, struct error *err);
};

/* What happened to one source; for progress and reports. */
enum ingest_outcome {
    INGEST_STORED,    /* read and written, whatever its status */
    INGEST_UNCHANGED, /* the same bytes in the same place: nothing done */
    INGEST_MISSING,   /* named in a list or seen in a folder, and gone or unreadable when its turn came */
    INGEST_REMOVED,   /* its file or member is gone */
    INGEST_WOULD_ADD, /* dry run */
    INGEST_WOULD_REPLACE,
    INGEST_WOULD_REMOVE
};

struct ingest_event {
    enum ingest_outcome outcome;
    const char *path, *member;
    const struct ingest_document *document; /* of INGEST_STORED; without text */
    const char *error;
    int64_t max_rss_bytes; /* of the child that read it; 0 if none did */
};

struct ingest_totals {
    int64_t stored[DOCUMENT_DUPLICATE + 1]; /* by enum document_status */
    int64_t unchanged, missing, removed;
    int64_t pages, chunks, file_bytes, text_bytes; /* of what was read in this run */
    int64_t links, special, hidden;                /* met in folders and passed over */
    int64_t max_rss_bytes;                         /* of the largest child */
    int64_t elapsed_ms;
};

/* What the progress bar shows; changed by workers, read by anyone. */
struct ingest_gauge {
    atomic_llong documents, pages, bytes;
};

struct ingest_options {
    const char *extract_program;    /* path of dsa-extract */
    const char *collection;
    const char *stdin_name;         /* NULL: "stdin:" and the hash */
    const char *const *passwords;   /* tried in turn on encrypted documents */
    size_t password_count;
    int jobs;                       /* 1..INGEST_JOBS_MAX */
    bool allow_unsandboxed;
    bool dry_run;                   /* writes nothing; sink.put and sink.remove are not called */
    bool prune;                     /* first removes what is gone beneath the roots */
    bool retry;                     /* reads again what failed, was skipped or cut before */
    bool hidden;                    /* folders' hidden files too */
    const char *const *paths;       /* files and folders, as given; every one must be there */
    size_t path_count;
    const char *files_from;         /* a list, "-" for standard input; NULL: none */
    bool read_stdin;                /* one document or archive from standard input */
    const atomic_bool *cancel;      /* set it to stop after the documents in hand */
    void (*report)(void *context, const struct ingest_event *event);
    void (*tick)(void *context, const struct ingest_gauge *gauge); /* ten times a second; NULL */
    void *context;                  /* of report and tick */
};

enum { INGEST_JOBS_MAX = 256 };

/* STATUS_NOT_FOUND: a path is not there, a root to prune is missing or empty, or nothing was named: nothing was
 * done. STATUS_UNSUPPORTED: no jail, and not allowed without. STATUS_CANCELLED: stopped on request; what was done
 * is kept. IO, LIMIT, CORRUPT …: of the sink, which ends the run. Failures of documents are not the run's. */
enum status ingest_run(const struct ingest_options *options, const struct ingest_sink *sink,
                       struct ingest_totals *totals, struct error *err) MUST_CHECK;

/* A sink that writes to a store opened with STORE_INGEST (STORE_READ for a dry run; NULL: an empty store). */
struct sink_store {
    struct store *store;
    const char *collection;
};
void sink_store_init(struct sink_store *sink, struct store *store, const char *collection, struct ingest_sink *out);

#endif
