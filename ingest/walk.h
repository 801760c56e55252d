/* ingest/walk.h: the files to read, one after the other.
 *
 * Named files and folders first, in the order given, then a list's. A folder gives its files in byte order, files
 * of a folder and its folders mixed, so that two runs see the same order. Links inside a folder are not followed
 * (their target is met by itself, or lies outside of what was named); a link that is named is. Names that begin
 * with a dot are passed over in folders. */
#ifndef INGEST_WALK_H
#define INGEST_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct walk;

struct walk_options {
    const char *const *paths;
    size_t path_count;
    const char *files_from; /* "-" standard input; NUL bytes in its first block make NUL the separator */
    bool hidden;
};

struct walk_file {
    const char *path;  /* absolute, as bytes; borrowed until the next call */
    const char *error; /* not NULL: the file or folder could not be looked at */
    int64_t size_bytes, mtime_ms;
};

struct walk_counts {
    int64_t links, special, hidden; /* passed over */
};

/* STATUS_NOT_FOUND when a named path is not there. */
enum status walk_create(const struct walk_options *options, struct walk **walk, struct error *err) MUST_CHECK;
void walk_destroy(struct walk *walk); /* NULL allowed */

/* STATUS_NOT_FOUND at the end. */
enum status walk_next(struct walk *walk, struct walk_file *file, struct error *err) MUST_CHECK;
struct walk_counts walk_get_counts(const struct walk *walk);

/* Bytes of a path that are not UTF-8 become "\xHH"; others stay as they are. The caller frees the result. */
char *walk_path_text(const char *path);
/* True if the path that walk_path_text() gave is not there any more. An error that tells nothing (no permission,
 * I/O) counts as being there. */
bool walk_path_gone(const char *text);

#endif
