/* extract_client.c: spawns dsa-extract, passes descriptors, reads frames, keeps deadlines.
 *
 * The server gets its own process group, so that a ^C on the terminal reaches dsa-ingest alone, which then stops
 * in order. A child is over when its pipe has no writer any more and the server has told its exit. */
#include "ingest/extract_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/buf.h"
#include "base/clock.h"
#include "ingest/extract_protocol.h"
#include "ingest/limits.h"

enum {
    PIPE_BYTES = 1 << 20,     /* room for a child to go on while its parent writes */
    READ_BYTES = 256 << 10,
    POLL_MS = 200,            /* how late a cancellation may be noticed */
    EXIT_WAIT_MS = 10000,     /* for the server's word that a killed child is gone */
    READY_WAIT_MS = 60000,
    RESTARTS = 5              /* servers that die without finishing a document; then the program is broken */
};

struct extract_child {
    struct extract_client *client;
    struct extract_child *next;
    int64_t id;
    int pipe;                 /* -1 when it has ended */
    bool started, ended;      /* the server's words */
    struct extract_exit exit;
    const atomic_bool *starving;
    int64_t waited_ms;        /* in all, in extract_child_next() */
    struct buf bytes;         /* read and not yet taken */
    size_t taken;             /* of these, already handed out */
};

struct extract_client {
    char *program;
    bool allow_unsandboxed;
    const atomic_bool *cancel;
    pid_t pid;
    int socket; /* -1: no server */
    int64_t next_id;
    int deaths; /* in a row */
    char version[32];
    struct extract_child *children;
};

static bool cancelled(const struct extract_client *client)
{
    return client->cancel && atomic_load_explicit(client->cancel, memory_order_relaxed);
}

static int64_t now_ms(void)
{
    return clock_monotonic_ns() / 1000000;
}

/* --- The server ---------------------------------------------------------------------------------------------- */

static void stop_server(struct extract_client *client)
{
    if (client->socket >= 0)
        (void)close(client->socket); /* the server ends, and its children die with it */
    client->socket = -1;
    if (client->pid > 0) {
        for (int i = 0; waitpid(client->pid, NULL, WNOHANG) == 0; i++) {
            if (i == 200)
                (void)kill(client->pid, SIGKILL);
            (void)usleep(5000);
        }
    }
    client->pid = 0;
    for (struct extract_child *child = client->children; child; child = child->next) {
        if (!child->ended) {
            child->ended = true;
            (void)snprintf(child->exit.reason, sizeof child->exit.reason, "lost");
        }
    }
}

static void take_exit(struct extract_child *child, json_t *message)
{
    const char *reason = json_string_value(json_object_get(message, "reason"));

    child->ended = true;
    child->exit.max_rss_bytes = (int64_t)json_integer_value(json_object_get(message, "max_rss_bytes"));
    child->exit.cpu_ms = (int64_t)json_integer_value(json_object_get(message, "cpu_ms"));
    (void)snprintf(child->exit.reason, sizeof child->exit.reason, "%s", reason ? reason : "crash");
}

/* Reads one packet that is there. False: the server is gone. */
static bool take_packet(struct extract_client *client)
{
    char packet[EXTRACT_PACKET_BYTES];
    ssize_t len = recv(client->socket, packet, sizeof packet, MSG_DONTWAIT);
    json_t *message;
    int64_t id;

    if (len < 0)
        return errno == EAGAIN || errno == EINTR;
    if (len == 0)
        return false;
    message = json_loadb(packet, (size_t)len, 0, NULL);
    id = (int64_t)json_integer_value(json_object_get(message, "id"));
    for (struct extract_child *child = client->children; child; child = child->next) {
        if (child->id != id)
            continue;
        if (json_object_get(message, "pid")) {
            child->started = true;
        } else if (json_object_get(message, "exit")) {
            client->deaths = 0;
            take_exit(child, message);
        } else if (json_object_get(message, "error")) {
            child->ended = true;
            (void)snprintf(child->exit.reason, sizeof child->exit.reason, "lost");
        }
    }
    json_decref(message);
    return true;
}

/* The server's first words. */
static enum status wait_until_ready(struct extract_client *client, struct error *err)
{
    struct pollfd poll_fd = {.fd = client->socket, .events = POLLIN};
    char packet[EXTRACT_PACKET_BYTES];
    const char *text;
    ssize_t len;
    json_t *message;
    enum status status = STATUS_OK;
    int ready;

    do
        ready = poll(&poll_fd, 1, READY_WAIT_MS);
    while (ready < 0 && errno == EINTR && !cancelled(client));
    len = ready > 0 ? recv(client->socket, packet, sizeof packet, 0) : -1;
    if (len <= 0)
        return error_set(err, STATUS_IO, "'%s' does not answer", client->program);
    message = json_loadb(packet, (size_t)len, 0, NULL);
    if (!json_is_true(json_object_get(message, "ready"))) {
        text = json_string_value(json_object_get(message, "message"));
        status = error_set(err, STATUS_UNSUPPORTED, "'%s': %s", client->program, text ? text : "not ready");
    } else {
        text = json_string_value(json_object_get(message, "version"));
        (void)snprintf(client->version, sizeof client->version, "%s", text ? text : "");
    }
    json_decref(message);
    return status;
}

static enum status start_server(struct extract_client *client, struct error *err)
{
    char *const arguments[] = {client->program, (char[]){"--serve"},
                               client->allow_unsandboxed ? (char[]){"--allow-unsandboxed"} : NULL, NULL};
    char *const environment[] = {(char[]){"LC_ALL=C.UTF-8"}, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    int sockets[2], result;
    enum status status;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
        return error_set(err, STATUS_IO, "socketpair: %s", strerror(errno));
    (void)sigemptyset(&none);
    (void)sigfillset(&defaults);
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, sockets[1], EXTRACT_SOCKET_FD);
    (void)posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setsigdefault(&attributes, &defaults);
    (void)posix_spawnattr_setpgroup(&attributes, 0);
    (void)posix_spawnattr_setflags(&attributes,
                                   POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    result = posix_spawn(&client->pid, client->program, &actions, &attributes, arguments, environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    (void)close(sockets[1]);
    client->socket = sockets[0];
    if (result) {
        client->pid = 0;
        stop_server(client);
        return error_set(err, STATUS_IO, "cannot start '%s': %s", client->program, strerror(result));
    }
    status = wait_until_ready(client, err);
    if (status)
        stop_server(client);
    return status;
}

enum status extract_client_create(const char *program, bool allow_unsandboxed, const atomic_bool *cancel,
                                  struct extract_client **client, struct error *err)
{
    struct extract_client *made = calloc(1, sizeof *made);
    enum status status;

    if (!made)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the extractor's client");
    made->program = strdup(program);
    made->allow_unsandboxed = allow_unsandboxed;
    made->cancel = cancel;
    made->socket = -1;
    status = made->program ? start_server(made, err) : error_set(err, STATUS_NO_MEMORY, "no memory");
    if (status) {
        extract_client_destroy(made);
        return status;
    }
    *client = made;
    return STATUS_OK;
}

void extract_client_destroy(struct extract_client *client)
{
    if (!client)
        return;
    stop_server(client);
    while (client->children)
        extract_child_finish(client->children, NULL);
    free(client->program);
    free(client);
}

const char *extract_client_version(const struct extract_client *client)
{
    return client->version;
}

/* --- A child ------------------------------------------------------------------------------------------------- */

static enum status send_request(struct extract_client *client, const struct extract_child_request *request, int64_t id,
                                int pipe_fd, struct error *err)
{
    union {
        struct cmsghdr header; /* for its alignment */
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    json_t *json = json_pack("{s:I, s:s, s:i, s:b, s:I}", "id", (json_int_t)id, "name", request->name,
                             "archive_depth", request->archive_depth, "seekable", request->seekable, "size",
                             (json_int_t)request->size);
    char *text = NULL;
    struct iovec vector;
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *rights;
    enum status status = STATUS_OK;

    if (json && request->password && json_object_set_new(json, "password", json_string(request->password)) != 0) {
        json_decref(json);
        return error_set(err, STATUS_BAD_INPUT, "the password is not UTF-8");
    }
    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text)
        return error_set(err, STATUS_NO_MEMORY, "no request for '%s'", request->name);
    vector = (struct iovec){text, strlen(text)};
    rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(rights), (int[]){request->fd, pipe_fd}, 2 * sizeof(int));
    if (vector.iov_len > EXTRACT_PACKET_BYTES)
        status = error_set(err, STATUS_LIMIT, "the name is too long");
    else if (sendmsg(client->socket, &message, MSG_NOSIGNAL) < 0)
        status = error_set(err, STATUS_IO, "the extractor is gone: %s", strerror(errno));
    free(text);
    return status;
}

enum status extract_child_start(struct extract_client *client, const struct extract_child_request *request,
                                struct extract_child **child, struct error *err)
{
    struct extract_child *made = calloc(1, sizeof *made);
    int pipes[2] = {-1, -1};
    enum status status = STATUS_OK;

    if (!made || pipe2(pipes, O_CLOEXEC) != 0) {
        free(made);
        return error_set(err, made ? STATUS_IO : STATUS_NO_MEMORY, "no pipe for a child: %s", strerror(errno));
    }
    (void)fcntl(pipes[0], F_SETPIPE_SZ, PIPE_BYTES); /* smaller ones work too */
    (void)fcntl(pipes[0], F_SETFL, O_NONBLOCK);
    while (client->socket >= 0 && poll(&(struct pollfd){.fd = client->socket, .events = POLLIN}, 1, 0) > 0) {
        if (!take_packet(client)) {
            client->deaths++;
            stop_server(client);
        }
    }
    if (client->socket < 0) {
        status = client->deaths >= RESTARTS
                     ? error_set(err, STATUS_IO, "'%s' died %d times in a row", client->program, client->deaths)
                     : start_server(client, err);
        if (status)
            goto fail;
    }
    *made = (struct extract_child){.client = client, .id = ++client->next_id, .pipe = pipes[0],
                                   .starving = request->starving};
    buf_init(&made->bytes, 2 * (size_t)LIMIT_FRAME_BYTES + READ_BYTES);
    (void)snprintf(made->exit.reason, sizeof made->exit.reason, "crash");
    status = send_request(client, request, made->id, pipes[1], err);
    if (status)
        goto fail;
    (void)close(pipes[1]);
    made->next = client->children;
    client->children = made;
    *child = made;
    return STATUS_OK;
fail:
    (void)close(pipes[0]);
    (void)close(pipes[1]);
    free(made);
    return status;
}

/* Waits for bytes or the server's word. STATUS_AGAIN: something came, look again. */
static enum status wait_for_child(struct extract_child *child, int64_t *silent_ms, struct error *err)
{
    struct extract_client *client = child->client;
    struct pollfd fds[2] = {{.fd = child->pipe, .events = POLLIN}, {.fd = client->socket, .events = POLLIN}};
    int64_t before = now_ms(), waited;
    int ready;

    if (cancelled(client))
        return error_set(err, STATUS_CANCELLED, "stopped on request");
    ready = poll(fds, 2, POLL_MS);
    waited = now_ms() - before;
    if (!(child->starving && atomic_load(child->starving))) {
        *silent_ms += waited;
        child->waited_ms += waited;
    }
    if (ready > 0 && (fds[1].revents & (POLLIN | POLLHUP | POLLERR)) && !take_packet(client)) {
        client->deaths++;
        stop_server(client);
    }
    if (ready > 0 && fds[0].revents)
        *silent_ms = 0;
    if (*silent_ms >= LIMIT_PROGRESS_SECONDS * 1000)
        return error_set(err, STATUS_LIMIT, "no progress for %d seconds", LIMIT_PROGRESS_SECONDS);
    if (child->waited_ms >= LIMIT_TOTAL_SECONDS * 1000)
        return error_set(err, STATUS_LIMIT, "not read within %d seconds", LIMIT_TOTAL_SECONDS);
    return STATUS_AGAIN;
}

enum status extract_child_next(struct extract_child *child, struct frame *frame, struct error *err)
{
    int64_t silent_ms = 0;

    for (;;) {
        struct span left = span_slice(buf_span(&child->bytes), child->taken, child->bytes.len);
        size_t used;
        ssize_t len;
        enum status status = frame_next(left, frame, &used);

        if (status == STATUS_OK) {
            child->taken += used;
            return STATUS_OK;
        }
        if (status != STATUS_AGAIN)
            return error_set(err, STATUS_CORRUPT, "the extractor sent no frames");
        if (child->taken) {
            memmove(child->bytes.ptr, left.ptr, left.len);
            child->bytes.len = left.len;
            child->taken = 0;
        }
        status = buf_reserve(&child->bytes, READ_BYTES);
        if (status)
            return error_set(err, STATUS_NO_MEMORY, "no memory for a frame");
        len = read(child->pipe, child->bytes.ptr + child->bytes.len, READ_BYTES);
        if (len > 0) {
            child->bytes.len += (size_t)len;
            continue;
        }
        if (len == 0)
            return child->bytes.len ? error_set(err, STATUS_CORRUPT, "the extractor stopped within a frame")
                                    : STATUS_NOT_FOUND;
        if (errno != EAGAIN && errno != EINTR)
            return error_set(err, STATUS_IO, "reading frames: %s", strerror(errno));
        status = wait_for_child(child, &silent_ms, err);
        if (status != STATUS_AGAIN)
            return status;
    }
}

void extract_child_finish(struct extract_child *child, struct extract_exit *exit)
{
    struct extract_client *client;
    struct extract_child **link;
    int64_t deadline = now_ms() + EXIT_WAIT_MS;
    char last_byte;
    bool over;

    if (!child)
        return;
    client = child->client;
    over = read(child->pipe, &last_byte, 1) == 0; /* no writer any more */
    if (!over && !child->ended && client->socket >= 0) {
        char text[64];
        int len = snprintf(text, sizeof text, "{\"kill\": %lld}", (long long)child->id);

        (void)send(client->socket, text, (size_t)len, MSG_NOSIGNAL);
    }
    (void)close(child->pipe); /* a writer that ignores all this gets SIGPIPE */
    while (!child->ended && client->socket >= 0) {
        struct pollfd poll_fd = {.fd = client->socket, .events = POLLIN};
        int64_t left = deadline - now_ms();

        if (left <= 0 || (poll(&poll_fd, 1, (int)left) > 0 && !take_packet(client))) {
            client->deaths++;
            stop_server(client); /* it does not answer: its children go with it */
        }
    }
    for (link = &client->children; *link != child; link = &(*link)->next)
        ;
    *link = child->next;
    if (exit)
        *exit = child->exit;
    buf_finish(&child->bytes);
    free(child);
}
