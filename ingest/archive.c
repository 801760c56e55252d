/* archive.c: members of an archive as tasks of their own, each in a sealed memory file, never on disk.
 *
 * The caps are the child's to keep and are checked here once more, because the child is not trusted. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <jansson.h>
#include <xxhash.h>

#include "ingest/limits.h"
#include "ingest/run.h"

static uint64_t hash_name(const char *member)
{
    uint64_t hash = XXH3_64bits(member, strlen(member));

    return hash ? hash : 1;
}

static bool holds(const struct archive *archive, uint64_t hash)
{
    if (!archive->seen_cap)
        return false;
    for (size_t at = hash & (archive->seen_cap - 1); archive->seen[at]; at = (at + 1) & (archive->seen_cap - 1)) {
        if (archive->seen[at] == hash)
            return true;
    }
    return false;
}

bool archive_holds(const struct archive *archive, const char *member)
{
    return holds(archive, hash_name(member));
}

static enum status remember(struct archive *archive, uint64_t hash)
{
    size_t at;

    if (archive->seen_count * 2 >= archive->seen_cap) {
        struct archive larger = {.seen_cap = archive->seen_cap ? archive->seen_cap * 2 : 64};

        larger.seen = calloc(larger.seen_cap, sizeof *larger.seen);
        if (!larger.seen)
            return STATUS_NO_MEMORY;
        for (size_t i = 0; i < archive->seen_cap; i++) {
            if (archive->seen[i])
                (void)remember(&larger, archive->seen[i]); /* has room: cannot fail */
        }
        free(archive->seen);
        archive->seen = larger.seen;
        archive->seen_cap = larger.seen_cap;
    }
    at = hash & (archive->seen_cap - 1);
    while (archive->seen[at])
        at = (at + 1) & (archive->seen_cap - 1);
    archive->seen[at] = hash;
    archive->seen_count++;
    return STATUS_OK;
}

void archive_finish(struct archive *archive)
{
    free(archive->seen);
    archive->seen = NULL;
}

/* "a.zip//b/c.txt": the parent's member path and the name. A name that was there before gets "#2", "#3", …: each
 * member has a row of its own. */
static char *member_path(const struct archive *archive, const char *parent, const char *name)
{
    const char *separator = *parent ? "//" : "";
    char *path = NULL;

    for (int copy = 1;; copy++) {
        int len = copy == 1 ? asprintf(&path, "%s%s%s", parent, separator, name)
                            : asprintf(&path, "%s%s%s#%d", parent, separator, name, copy);

        if (len < 0)
            return NULL;
        if (!archive_holds(archive, path))
            return path;
        free(path);
    }
}

enum status member_begin(struct member *member, struct archive *archive, const struct task *parent,
                         struct span payload, struct error *err)
{
    json_t *json = json_loadb(payload.ptr, payload.len, 0, NULL);
    const char *name = json_string_value(json_object_get(json, "name"));
    struct task *task = calloc(1, sizeof *task);
    enum status status = STATUS_OK;

    if (!task) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a member");
        goto out;
    }
    task->fd = -1;
    if (!name || strlen(name) > LIMIT_MEMBER_NAME_BYTES || archive->seen_count >= LIMIT_ARCHIVE_MEMBERS) {
        status = error_set(err, STATUS_CORRUPT, "the extractor passed the caps on members");
        goto out;
    }
    task->path = strdup(parent->path);
    task->member = member_path(archive, parent->member, *name ? name : "unnamed");
    task->depth = parent->depth + 1;
    task->mtime_ms = (int64_t)json_integer_value(json_object_get(json, "mtime_ms"));
    if (!task->path || !task->member || remember(archive, hash_name(task->member)) ||
        digest_init(&member->digest)) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a member");
        goto out;
    }
    task->fd = memfd_create("member", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (task->fd < 0)
        status = error_set(err, STATUS_IO, "memfd_create: %s", strerror(errno));
out:
    json_decref(json);
    if (status) {
        task_destroy(task);
        digest_finish(&member->digest);
    } else {
        member->task = task;
    }
    return status;
}

enum status member_data(struct member *member, struct archive *archive, struct span payload, struct error *err)
{
    struct task *task = member->task;

    task->size_bytes += (int64_t)payload.len;
    archive->bytes += (int64_t)payload.len;
    if (task->size_bytes > LIMIT_ARCHIVE_MEMBER_BYTES || archive->bytes > LIMIT_ARCHIVE_TOTAL_BYTES)
        return error_set(err, STATUS_CORRUPT, "the extractor passed the caps on members");
    while (payload.len) {
        ssize_t len = write(task->fd, payload.ptr, payload.len);

        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            return error_set(err, STATUS_NO_MEMORY, "a member does not fit into memory: %s", strerror(errno));
        if (digest_add(&member->digest, payload.ptr, (size_t)len))
            return error_set(err, STATUS_NO_MEMORY, "no memory to hash");
        payload = span_slice(payload, (size_t)len, payload.len);
    }
    return STATUS_OK;
}

enum status member_end(struct member *member, struct span payload, struct task **task, struct error *err)
{
    json_t *json = json_loadb(payload.ptr, payload.len, 0, NULL);
    const char *skipped = json_string_value(json_object_get(json, "skipped"));
    enum status status = digest_hex(&member->digest, member->task->sha256);

    member->task->incomplete = !json_is_true(json_object_get(json, "complete"));
    if (skipped) {
        member->task->sha256[0] = '\0'; /* of bytes that nobody saw */
        member->task->skipped = strndup(skipped, 64);
        if (!member->task->skipped)
            status = STATUS_NO_MEMORY;
    }
    json_decref(json);
    digest_finish(&member->digest);
    if (!status && fcntl(member->task->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
        status = STATUS_IO;
    if (status)
        return error_set(err, status, "a member could not be sealed");
    *task = member->task;
    member->task = NULL;
    return STATUS_OK;
}

void member_finish(struct member *member)
{
    task_destroy(member->task);
    member->task = NULL;
    digest_finish(&member->digest);
}
