/* source.c: a document's bytes, mapped or streamed. */
#include "ingest/source.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ingest/limits.h"

enum {
    PIECE_BYTES = 1 << 18,
    RELEASE_BYTES = 16 << 20 /* pages of a mapped file that were read are given back this often */
};

struct source {
    int fd, spool_fd;
    struct span map;  /* all bytes, when mapped or in memory */
    bool mapped;      /* `map` is ours to unmap */
    bool in_memory;   /* `map` holds everything */
    bool read_begun;
    size_t position;  /* bytes given by source_read() */
    size_t released;  /* mapped bytes given back to the kernel */
    char *piece;      /* buffer of a pipe */
    size_t head_len;
    char head[SOURCE_HEAD_BYTES];
};

/* Reads until `len` bytes or the end. */
static enum status read_full(int fd, char *ptr, size_t len, size_t *got, struct error *err)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = read(fd, ptr + have, len - have);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, STATUS_IO, "reading the document: %s", strerror(errno));
        if (n == 0)
            break;
        have += (size_t)n;
    }
    *got = have;
    return STATUS_OK;
}

static enum status map_fd(struct source *source, int fd, size_t size, struct error *err)
{
    void *bytes;

    if (size) {
        bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            return error_set(err, errno == ENOMEM ? STATUS_NO_MEMORY : STATUS_IO, "mapping the document: %s",
                             strerror(errno));
        source->map = span_of(bytes, size);
        source->mapped = true;
    }
    source->in_memory = true;
    return STATUS_OK;
}

static enum status open_file(struct source *source, struct error *err)
{
    struct stat info;
    enum status status;

    if (fstat(source->fd, &info) != 0)
        return error_set(err, STATUS_IO, "looking at the document: %s", strerror(errno));
    if (info.st_size < 0 || info.st_size > LIMIT_DOCUMENT_BYTES)
        return error_set(err, STATUS_LIMIT, "%lld bytes, more than %lld", (long long)info.st_size,
                         LIMIT_DOCUMENT_BYTES);
    status = map_fd(source, source->fd, (size_t)info.st_size, err);
    if (status)
        return status;
    source->head_len = source->map.len < SOURCE_HEAD_BYTES ? source->map.len : SOURCE_HEAD_BYTES;
    if (source->head_len)
        memcpy(source->head, source->map.ptr, source->head_len);
    return STATUS_OK;
}

enum status source_open(int fd, bool seekable, int spool_fd, struct source **out, struct error *err)
{
    struct source *source = calloc(1, sizeof *source);
    enum status status;

    if (!source)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a source");
    source->fd = fd;
    source->spool_fd = spool_fd;
    if (seekable)
        status = open_file(source, err);
    else
        status = read_full(fd, source->head, SOURCE_HEAD_BYTES, &source->head_len, err);
    if (status)
        source_close(source);
    else
        *out = source;
    return status;
}

enum status source_open_memory(struct span bytes, struct source **out)
{
    struct source *source = calloc(1, sizeof *source);

    if (!source)
        return STATUS_NO_MEMORY;
    source->fd = source->spool_fd = -1;
    source->map = bytes;
    source->in_memory = true;
    source->head_len = bytes.len < SOURCE_HEAD_BYTES ? bytes.len : SOURCE_HEAD_BYTES;
    if (source->head_len)
        memcpy(source->head, bytes.ptr, source->head_len);
    *out = source;
    return STATUS_OK;
}

void source_close(struct source *source)
{
    if (!source)
        return;
    if (source->mapped)
        (void)munmap((void *)(uintptr_t)source->map.ptr, source->map.len);
    free(source->piece);
    free(source);
}

struct span source_head(const struct source *source)
{
    return span_of(source->head, source->head_len);
}

static struct span next_mapped(struct source *source)
{
    struct span piece = span_slice(source->map, source->position, source->position + PIECE_BYTES);

    /* What was read is not looked at again: a 2 GB text must not make the child 2 GB large. */
    if (source->mapped && source->position - source->released >= RELEASE_BYTES) {
        (void)madvise((void *)(uintptr_t)(source->map.ptr + source->released), RELEASE_BYTES, MADV_DONTNEED);
        source->released += RELEASE_BYTES;
    }
    return piece;
}

enum status source_read(struct source *source, struct span *piece, struct error *err)
{
    if (source->in_memory) {
        *piece = next_mapped(source);
    } else if (!source->read_begun && source->head_len) {
        *piece = source_head(source);
    } else {
        size_t got = 0;
        enum status status;

        if (!source->piece && !(source->piece = malloc(PIECE_BYTES)))
            return error_set(err, STATUS_NO_MEMORY, "no memory to read the document");
        status = read_full(source->fd, source->piece, PIECE_BYTES, &got, err);
        if (status)
            return status;
        *piece = span_of(source->piece, got);
    }
    source->read_begun = true;
    source->position += piece->len;
    if (source->position > LIMIT_DOCUMENT_BYTES)
        return error_set(err, STATUS_LIMIT, "more than %lld bytes", LIMIT_DOCUMENT_BYTES);
    return STATUS_OK;
}

static enum status write_full(int fd, const char *ptr, size_t len, struct error *err)
{
    while (len) {
        ssize_t n = write(fd, ptr, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set(err, STATUS_IO, "keeping the document in memory: %s", strerror(errno));
        ptr += n;
        len -= (size_t)n;
    }
    return STATUS_OK;
}

enum status source_map(struct source *source, struct span *bytes, struct error *err)
{
    long long size = 0;
    struct span piece;
    enum status status;

    if (!source->in_memory) {
        do {
            status = source_read(source, &piece, err);
            if (status)
                return status;
            size += (long long)piece.len;
            if (size > LIMIT_ARCHIVE_SEEKABLE_BYTES)
                return error_set(err, STATUS_LIMIT, "more than %lld bytes from a pipe", LIMIT_ARCHIVE_SEEKABLE_BYTES);
            status = write_full(source->spool_fd, piece.ptr, piece.len, err);
            if (status)
                return status;
        } while (piece.len);
        status = map_fd(source, source->spool_fd, (size_t)size, err);
        if (status)
            return status;
    }
    source->position = source->map.len;
    *bytes = source->map;
    return STATUS_OK;
}

long long source_position(const struct source *source)
{
    return (long long)source->position;
}
