/* stdin_source.c: see stdin_source.h. */
#include "ingest/stdin_source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ingest/limits.h"

enum { BLOCK_BYTES = 256 << 10, POLL_MS = 200 };

struct stdin_source {
    int in, out, child; /* out: the pipe's write end; child: what the child reads. -1 when closed */
    const atomic_bool *cancel;
    atomic_bool starving;
    bool whole, threaded, limited, failed;
    struct digest digest;
    char head_hash[DIGEST_HEX_BYTES];
    char *head;
    size_t head_len;
    int64_t bytes;
    pthread_t thread;
};

static bool cancelled(const struct stdin_source *source)
{
    return source->cancel && atomic_load(source->cancel);
}

/* Reads what is there. 0 at the end, -1 on an error or when cancelled. */
static ssize_t read_some(struct stdin_source *source, char *to, size_t room)
{
    for (;;) {
        struct pollfd poll_fd = {.fd = source->in, .events = POLLIN};
        ssize_t len;

        if (cancelled(source))
            return -1;
        if (poll(&poll_fd, 1, POLL_MS) <= 0)
            continue;
        len = read(source->in, to, room);
        if (len < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (len > 0 && digest_add(&source->digest, to, (size_t)len))
            return -1;
        return len;
    }
}

/* Gives the child bytes; a child that has had enough is not an error. */
static void give(struct stdin_source *source, const char *bytes, size_t len)
{
    while (len && source->out >= 0 && !cancelled(source)) {
        struct pollfd poll_fd = {.fd = source->out, .events = POLLOUT};
        ssize_t done;

        if (poll(&poll_fd, 1, POLL_MS) <= 0)
            continue;
        done = write(source->out, bytes, len);
        if (done < 0 && errno != EAGAIN && errno != EINTR) {
            (void)close(source->out);
            source->out = -1;
        } else if (done > 0) {
            bytes += done;
            len -= (size_t)done;
        }
    }
}

static void *pump(void *context)
{
    struct stdin_source *source = context;
    char *block = malloc(BLOCK_BYTES);
    ssize_t len = -1;
    sigset_t pipe_signal;

    (void)sigemptyset(&pipe_signal);
    (void)sigaddset(&pipe_signal, SIGPIPE); /* a child that stopped reading answers EPIPE */
    (void)pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
    give(source, source->head, source->head_len);
    while (block) {
        atomic_store(&source->starving, true);
        len = read_some(source, block, BLOCK_BYTES);
        atomic_store(&source->starving, false);
        if (len <= 0)
            break;
        give(source, block, (size_t)len);
        source->bytes += len;
        if (source->bytes > LIMIT_ARCHIVE_TOTAL_BYTES) {
            source->limited = true;
            break;
        }
    }
    source->failed = len < 0;
    if (source->out >= 0)
        (void)close(source->out);
    source->out = -1;
    free(block);
    return NULL;
}

/* The head as a memory file that nobody can change any more. */
static enum status seal_head(struct stdin_source *source, struct error *err)
{
    size_t done = 0;

    source->child = memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (source->child < 0)
        return error_set(err, STATUS_IO, "memfd_create: %s", strerror(errno));
    while (done < source->head_len) {
        ssize_t len = write(source->child, source->head + done, source->head_len - done);

        if (len < 0)
            return error_set(err, STATUS_IO, "standard input does not fit into memory: %s", strerror(errno));
        done += (size_t)len;
    }
    if (fcntl(source->child, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
        return error_set(err, STATUS_IO, "sealing: %s", strerror(errno));
    return STATUS_OK;
}

enum status stdin_source_open(int fd, const atomic_bool *cancel, struct stdin_source **source, struct error *err)
{
    struct stdin_source *made = calloc(1, sizeof *made);
    enum status status = STATUS_OK;
    ssize_t len = 1;

    if (!made)
        return error_set(err, STATUS_NO_MEMORY, "no memory for standard input");
    *made = (struct stdin_source){.in = fd, .out = -1, .child = -1, .cancel = cancel};
    made->head = malloc(STDIN_HEAD_BYTES);
    if (!made->head || digest_init(&made->digest)) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for standard input");
        goto fail;
    }
    while (made->head_len < STDIN_HEAD_BYTES && len > 0) {
        len = read_some(made, made->head + made->head_len, STDIN_HEAD_BYTES - made->head_len);
        if (len > 0)
            made->head_len += (size_t)len;
    }
    if (len < 0) {
        status = cancelled(made) ? error_set(err, STATUS_CANCELLED, "stopped on request")
                                 : error_set(err, STATUS_IO, "reading standard input: %s", strerror(errno));
        goto fail;
    }
    made->bytes = (int64_t)made->head_len;
    made->whole = len == 0;
    status = digest_hex(&made->digest, made->head_hash);
    if (!status && made->whole) {
        status = seal_head(made, err);
    } else if (!status) {
        int pipes[2];

        if (pipe2(pipes, O_CLOEXEC) != 0) {
            status = error_set(err, STATUS_IO, "pipe: %s", strerror(errno));
            goto fail;
        }
        made->child = pipes[0];
        made->out = pipes[1];
        (void)fcntl(made->out, F_SETFL, O_NONBLOCK);
        made->threaded = pthread_create(&made->thread, NULL, pump, made) == 0;
        if (!made->threaded)
            status = error_set(err, STATUS_NO_MEMORY, "no thread for standard input");
    }
    if (status)
        goto fail;
    *source = made;
    return STATUS_OK;
fail:
    stdin_source_close(made);
    return status;
}

void stdin_source_started(struct stdin_source *source)
{
    if (!source->whole && source->child >= 0) {
        (void)close(source->child);
        source->child = -1;
    }
}

void stdin_source_close(struct stdin_source *source)
{
    if (!source)
        return;
    if (source->child >= 0)
        (void)close(source->child);
    if (source->threaded)
        (void)pthread_join(source->thread, NULL);
    if (source->out >= 0)
        (void)close(source->out);
    digest_finish(&source->digest);
    free(source->head);
    free(source);
}

int stdin_source_fd(const struct stdin_source *source)
{
    return source->child;
}

bool stdin_source_whole(const struct stdin_source *source)
{
    return source->whole;
}

const atomic_bool *stdin_source_starving(const struct stdin_source *source)
{
    return &source->starving;
}

const char *stdin_source_head_hash(const struct stdin_source *source)
{
    return source->head_hash;
}

enum status stdin_source_end(struct stdin_source *source, char hex[DIGEST_HEX_BYTES], int64_t *bytes,
                             struct error *err)
{
    enum status status;

    if (source->threaded) {
        (void)pthread_join(source->thread, NULL);
        source->threaded = false;
    }
    if (cancelled(source))
        return error_set(err, STATUS_CANCELLED, "stopped on request");
    if (source->failed)
        return error_set(err, STATUS_IO, "reading standard input failed");
    status = digest_hex(&source->digest, hex);
    if (status)
        return error_set(err, status, "no memory to hash");
    *bytes = source->bytes;
    return source->limited ? error_set(err, STATUS_LIMIT, "more than %lld GiB on standard input",
                                       LIMIT_ARCHIVE_TOTAL_BYTES >> 30)
                           : STATUS_OK;
}

