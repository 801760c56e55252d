/* ingest/jail.h: the walls around a process that reads one hostile document.
 *
 * Memory, time, files and processes are limited by rlimits; Landlock leaves poppler's and iconv's own data
 * readable and nothing writable; a seccomp allow-list kills the process at any other system call (no socket, no
 * exec, no fork, no open for writing). What the kernel does not have is left out and reported by jail_works():
 * without Landlock no file can be opened at all. Not for threads: the caller is single-threaded. */
#ifndef INGEST_JAIL_H
#define INGEST_JAIL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct jail;

/* Probes the kernel and builds the filters once; every child enters the same walls. STATUS_IO when even that
 * fails. `paths` (NULL-terminated) may be read inside; those that do not exist are skipped. */
enum status jail_create(const char *const *paths, struct jail **out, struct error *err) MUST_CHECK;
void jail_destroy(struct jail *jail);

int jail_landlock_abi(const struct jail *jail); /* 0: not available */
bool jail_has_seccomp(const struct jail *jail);

struct jail_limits {
    long long file_bytes;   /* what it may write to memory files that it holds */
    long long memory_bytes; /* 0: LIMIT_CHILD_MEMORY_BYTES */
    long long mapped_bytes; /* what it will map of its document, beyond that */
    int first_closed_fd;    /* descriptors from here up are closed */
};

/* Closes the calling process in, for good. After a failure it must end: it may be half inside. */
enum status jail_enter(const struct jail *jail, const struct jail_limits *limits, struct error *err) MUST_CHECK;

#endif
