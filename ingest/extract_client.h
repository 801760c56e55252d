/* ingest/extract_client.h: the parent's end of extract_protocol.h: one fork server and its children.
 *
 * A client belongs to one thread. Several of its children may be open at a time (an archive that waits while its
 * members are read). The client keeps the deadlines, and its clock runs only while it waits for a child: time in
 * which the caller was busy elsewhere, or the child starved because standard input was slow, is nobody's fault. */
#ifndef INGEST_EXTRACT_CLIENT_H
#define INGEST_EXTRACT_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "ingest/frames.h"

struct extract_client;
struct extract_child;

/* Starts the server. STATUS_UNSUPPORTED when it finds no jail and may not go without; STATUS_IO when the program
 * cannot be started. `cancel` ends every wait with STATUS_CANCELLED. */
enum status extract_client_create(const char *program, bool allow_unsandboxed, const atomic_bool *cancel,
                                  struct extract_client **client, struct error *err) MUST_CHECK;
void extract_client_destroy(struct extract_client *client); /* NULL allowed; kills children that still run */

struct extract_child_request {
    int fd;                 /* the document; stays the caller's */
    const char *name;
    const char *password;   /* NULL: none */
    int archive_depth;
    bool seekable;
    int64_t size;
    const atomic_bool *starving; /* true while the document's writer has nothing to give; NULL: never */
};

/* A server that died is started again. */
enum status extract_child_start(struct extract_client *client, const struct extract_child_request *request,
                                struct extract_child **child, struct error *err) MUST_CHECK;

/* The next frame, borrowed until the next call. STATUS_NOT_FOUND: the stream has ended. STATUS_CORRUPT: it is no
 * stream of frames. STATUS_LIMIT: a deadline passed. In all of these the child is over; finish it. */
enum status extract_child_next(struct extract_child *child, struct frame *frame, struct error *err) MUST_CHECK;

struct extract_exit {
    char reason[16];        /* "ok", "crash", "memory", "timeout", "jail", "killed", "lost" */
    int64_t max_rss_bytes, cpu_ms;
};
/* Kills the child if it still runs, waits for its end and frees it. NULL allowed. */
void extract_child_finish(struct extract_child *child, struct extract_exit *exit);

/* Of the running server. */
const char *extract_client_version(const struct extract_client *client);

#endif
