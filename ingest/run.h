/* ingest/run.h: what the files of one run share. Internal to ingest.c, queue.c and worker.c.
 *
 * The coordinator (the thread that called ingest_run) owns the sink, the totals and the report; workers ask it to
 * run a function and wait (run_call). Workers pull work from two places: members of archives first, then the
 * walk. A worker that reads an archive puts its members into the queue for others; when the queue is full it reads
 * the member itself, with its archive's child waiting at the pipe. When its archive is at an end it helps with
 * members that lie deeper than the archive until all of its own are done. A worker thus never waits for work that
 * only it could do, whatever the number of workers, and nests at most LIMIT_ARCHIVE_DEPTH children. */
#ifndef INGEST_RUN_H
#define INGEST_RUN_H

#include <pthread.h>

#include "base/vec.h"
#include "ingest/digest.h"
#include "ingest/extract_client.h"
#include "ingest/ingest.h"
#include "ingest/walk.h"

struct stdin_source;

/* One file or member to read. Owned by who holds it; task_destroy() closes the descriptor. */
struct task {
    struct task *next;
    char *path, *member;    /* as stored: UTF-8 */
    char *file;             /* of a file: its path in bytes, not yet open; NULL for others */
    char *error;            /* why the file cannot be looked at; NULL */
    int fd;                 /* -1: not open */
    int64_t size_bytes, mtime_ms;
    int depth;              /* archives around it */
    char sha256[DIGEST_HEX_BYTES]; /* "" unknown yet */
    bool incomplete;        /* a member that was cut */
    char *skipped;          /* a member that is listed and not read: the problem's code; NULL */
    bool replaces;          /* the store holds a row of it */
    bool reread;            /* read it even if unchanged: its original is gone */
    struct archive *archive; /* it came from; NULL */
    struct task *next_reading; /* in run->reading */
    struct stdin_source *stdin_source; /* NULL */
};
void task_destroy(struct task *task);

/* An archive that is being read. */
struct archive {
    int outstanding; /* members not yet done; under run->mutex */
    uint64_t *seen;  /* hashes of its members' names, open addressing, 0 is empty */
    size_t seen_cap, seen_count;
    int64_t bytes;   /* of its members so far */
};

struct call {
    struct call *next;
    enum status (*run)(void *argument, struct error *err);
    void *argument;
    enum status status;
    struct error err;
    bool done;
};

struct run {
    const struct ingest_options *options;
    const struct ingest_sink *sink;
    struct ingest_totals *totals;    /* coordinator only */
    struct ingest_gauge gauge;
    atomic_bool stop;                /* cancelled, or the run has failed */
    pthread_mutex_t mutex;
    pthread_cond_t work, coordinator, answered;
    struct walk *walk;               /* under mutex */
    bool walk_done;
    struct task *members;            /* newest first; under mutex */
    int member_count;
    int64_t member_bytes;
    struct task *extra;              /* given by the coordinator: standard input, rereads */
    struct task *reading;            /* files that a verdict sent to be read; under mutex */
    int64_t done_count;              /* tasks that have ended */
    int busy, running;               /* workers with a task; workers not ended */
    struct call *calls, **calls_end; /* under mutex */
    enum status status;              /* the first failure of the run itself; under mutex */
    struct error err;
};

/* --- queue.c */
enum status run_init(struct run *run, const struct ingest_options *options, const struct ingest_sink *sink,
                     struct ingest_totals *totals, struct error *err) MUST_CHECK;
void run_finish(struct run *run);
/* Ends the run with that status; the first one stays. */
void run_fail(struct run *run, enum status status, const struct error *err);
/* Runs a function on the coordinator's thread and waits for its result. */
enum status run_call(struct run *run, enum status (*function)(void *argument, struct error *err), void *argument,
                     struct error *err) MUST_CHECK;
/* The coordinator: serves calls until every worker has ended. */
void run_coordinate(struct run *run);
/* The next task, or NULL when there will be none. */
struct task *run_take(struct run *run);
void run_done(struct run *run, struct task *task);
/* Waits until a task has ended since `ticket`; false if the run is to stop. */
bool run_wait(struct run *run, int64_t ticket);
/* Enters a file into the list of what is being read, unless its bytes are there already: then false and a ticket.
 * Only files wait so; members never do, or archives that hold each other would wait in a circle. */
bool run_begin_reading(struct run *run, struct task *task, int64_t *ticket);
/* Puts a member into the queue; false if it is full: the caller reads it itself. */
bool run_offer(struct run *run, struct task *task);
/* A queued member deeper than `depth`, or NULL when the archive has no member outstanding. Waits. */
struct task *run_help(struct run *run, struct archive *archive, int depth);

/* --- ingest.c: run by the coordinator. */
enum verdict {
    VERDICT_READ, /* read it */
    VERDICT_WAIT, /* the same bytes are being read: ask again when something has ended */
    VERDICT_DONE  /* nothing to do, and reported */
};
struct verdict_call {
    struct run *run;
    struct task *task;
    bool quick;    /* in: its hash is not known yet: compare size and time */
    enum verdict verdict;
    int64_t ticket; /* of VERDICT_WAIT, for run_wait() */
};
enum status run_verdict(void *verdict_call, struct error *err);

struct commit_call {
    struct run *run;
    struct task *task;
    struct ingest_document *document;
    int64_t max_rss_bytes;
};
enum status run_commit(void *commit_call, struct error *err);

/* Removes the rows of members that the archive holds no more. */
struct members_call {
    struct run *run;
    const struct task *task;
    const struct archive *archive;
};
enum status run_remove_members(void *members_call, struct error *err);

/* Reports a task that came to nothing. */
struct missing_call {
    struct run *run;
    struct task *task;
    const char *error;
};
enum status run_missing(void *missing_call, struct error *err);

/* --- archive.c: the members of an archive. */
struct member {
    struct task *task; /* NULL between members */
    struct digest digest;
};
enum status member_begin(struct member *member, struct archive *archive, const struct task *parent,
                         struct span payload, struct error *err) MUST_CHECK;
enum status member_data(struct member *member, struct archive *archive, struct span payload, struct error *err)
    MUST_CHECK;
/* The member is whole, or as much of it as there was; *task is the caller's. */
enum status member_end(struct member *member, struct span payload, struct task **task, struct error *err) MUST_CHECK;
void member_finish(struct member *member);
void archive_finish(struct archive *archive);
bool archive_holds(const struct archive *archive, const char *member);

/* --- worker.c */
struct worker {
    struct run *run;
    struct extract_client *client; /* created with the first document */
    pthread_t thread;
};
void *worker_main(void *worker);

#endif
