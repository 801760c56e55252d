/* ingest/extract.h: the parts of the program dsa-extract: the child that reads one document, the server that
 * forks children, the printer of frames. */
#ifndef INGEST_EXTRACT_H
#define INGEST_EXTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/status.h"

struct jail;

struct extract_request {
    const char *name, *media_type, *password; /* media_type and password may be NULL */
    int archive_depth;
    long long memory_bytes; /* of the child; 0: LIMIT_CHILD_MEMORY_BYTES */
    bool seekable;
    int document_fd, frames_fd;
};

/* Forks a child that reads the document and writes its frames. The descriptors stay the caller's. */
enum status extract_start(const struct extract_request *request, const struct jail *jail, bool allow_unsandboxed,
                          pid_t *pid, struct error *err) MUST_CHECK;

/* Files that readers open while they work: for jail_create(). */
extern const char *const extract_paths[];

/* The program's parts; each returns an exit code. */
int extract_serve(const struct jail *jail, bool allow_unsandboxed);
int extract_doctor(const struct jail *jail);
/* Reads one file and prints its frames as text, or as they are with `raw`. */
int extract_print(const char *path, const struct extract_request *wishes, const struct jail *jail, bool raw,
                  bool allow_unsandboxed);

#endif
