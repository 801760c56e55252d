/* extract_server.c: the fork server of extract_protocol.h. One thread, one poll loop. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/vec.h"
#include "ingest/extract.h"
#include "ingest/extract_protocol.h"
#include "ingest/jail.h"
#include "ingest/limits.h"

struct child {
    json_int_t id;
    pid_t pid;
    bool killed; /* by the client's wish */
};

struct server {
    const struct jail *jail;
    bool allow_unsandboxed;
    VEC(struct child) children;
};

/* Takes `message`. A client that is gone is noticed by the next receive. */
static void answer(json_t *message)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

    if (text)
        (void)send(EXTRACT_SOCKET_FD, text, strlen(text), MSG_NOSIGNAL);
    free(text);
    json_decref(message);
}

static void refuse(json_int_t id, const char *why)
{
    answer(json_pack("{s:I, s:s}", "id", id, "error", why));
}

/* --- Requests ------------------------------------------------------------------------------------------------ */

enum { DESCRIPTORS_MAX = 8 };

struct packet {
    char text[EXTRACT_PACKET_BYTES];
    size_t len;
    int fds[DESCRIPTORS_MAX];
    int fd_count;
    bool cut;
};

static void close_descriptors(struct packet *packet)
{
    for (int i = 0; i < packet->fd_count; i++)
        (void)close(packet->fds[i]);
    packet->fd_count = 0;
}

/* False when the client has closed the socket. */
static bool receive(struct packet *packet)
{
    char control[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    struct iovec bytes = {packet->text, sizeof packet->text};
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control,
    };
    ssize_t n;

    packet->fd_count = 0;
    do
        n = recvmsg(EXTRACT_SOCKET_FD, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    packet->len = (size_t)n;
    packet->cut = message.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            packet->fd_count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(packet->fds, CMSG_DATA(c), (size_t)packet->fd_count * sizeof(int));
        }
    }
    return true;
}

static void kill_child(struct server *server, json_int_t id)
{
    for (size_t i = 0; i < server->children.count; i++) {
        struct child *child = &server->children.items[i];

        if (child->id == id) { /* not yet reaped, so the process id is still its own */
            child->killed = true;
            (void)kill(child->pid, SIGKILL);
        }
    }
}

static void start_child(struct server *server, json_t *wish, struct packet *packet)
{
    struct extract_request request = {.name = "", .seekable = true};
    struct error err = {0};
    json_int_t id = 0;
    int seekable = 1;
    pid_t pid;

    if (json_unpack(wish, "{s:I, s?:s, s?:s, s?:s, s?:i, s?:b}", "id", &id, "name", &request.name, "media_type",
                    &request.media_type, "password", &request.password, "archive_depth", &request.archive_depth,
                    "seekable", &seekable) != 0) {
        refuse(id, "a request needs an id, and fields of the right types");
        return;
    }
    if (packet->fd_count != 2) {
        refuse(id, "a request carries two descriptors: the document and the pipe");
        return;
    }
    request.seekable = seekable;
    request.document_fd = packet->fds[0];
    request.frames_fd = packet->fds[1];
    if (vec_reserve(&server->children, 1)) {
        refuse(id, "no memory");
        return;
    }
    if (extract_start(&request, server->jail, server->allow_unsandboxed, &pid, &err)) {
        refuse(id, err.message);
        return;
    }
    server->children.items[server->children.count++] = (struct child){.id = id, .pid = pid};
    answer(json_pack("{s:I, s:i}", "id", id, "pid", (int)pid));
}

static void handle(struct server *server, struct packet *packet)
{
    json_t *wish = packet->cut ? NULL : json_loadb(packet->text, packet->len, 0, NULL);
    json_t *victim = json_object_get(wish, "kill");

    if (!json_is_object(wish))
        refuse(0, "not a request: one JSON object of at most 16384 bytes");
    else if (victim)
        kill_child(server, json_integer_value(victim));
    else
        start_child(server, wish, packet);
    json_decref(wish);
    close_descriptors(packet);
}

/* --- Ends ---------------------------------------------------------------------------------------------------- */

static const char *reason_for(const struct child *child, int status, const struct rusage *usage)
{
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    long long rss = (long long)usage->ru_maxrss * 1024;

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return "ok";
    if (child->killed)
        return "killed";
    if (signal == SIGXCPU ||
        (signal == SIGKILL && usage->ru_utime.tv_sec + usage->ru_stime.tv_sec >= LIMIT_CHILD_CPU_SECONDS))
        return "timeout";
    if (signal == SIGSYS)
        return "jail";
    /* Libraries end the process when they get no memory: with abort(), a trap, or a code of their own. */
    if (rss > LIMIT_CHILD_MEMORY_BYTES / 2 || signal == SIGKILL || (WIFEXITED(status) && WEXITSTATUS(status) == 5))
        return "memory";
    return "crash";
}

static void reap(struct server *server)
{
    struct rusage usage;
    int status;
    pid_t pid;

    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        for (size_t i = 0; i < server->children.count; i++) {
            struct child child = server->children.items[i];
            char end[32] = "ok";

            if (child.pid != pid)
                continue;
            if (WIFSIGNALED(status))
                (void)snprintf(end, sizeof end, "signal %d", WTERMSIG(status));
            else if (WEXITSTATUS(status))
                (void)snprintf(end, sizeof end, "code %d", WEXITSTATUS(status));
            server->children.items[i] = server->children.items[--server->children.count];
            answer(json_pack("{s:I, s:s, s:s, s:I, s:I}", "id", child.id, "exit", end, "reason",
                             reason_for(&child, status, &usage), "max_rss_bytes",
                             (json_int_t)usage.ru_maxrss * 1024, "cpu_ms",
                             (json_int_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
                                 (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000));
            break;
        }
    }
}

/* --- The loop ------------------------------------------------------------------------------------------------ */

static bool say_ready(const struct server *server)
{
    int abi = jail_landlock_abi(server->jail);
    bool seccomp = jail_has_seccomp(server->jail), ready = abi || seccomp || server->allow_unsandboxed;

    if (ready)
        answer(json_pack("{s:b, s:s, s:{s:i, s:b}}", "ready", 1, "version", DSA_VERSION, "jail", "landlock_abi", abi,
                         "seccomp", seccomp));
    else
        answer(json_pack("{s:b, s:s}", "ready", 0, "message",
                         "this kernel has neither Landlock nor seccomp: documents can't be read safely "
                         "(--allow-unsandboxed reads them all the same)"));
    return ready;
}

int extract_serve(const struct jail *jail, bool allow_unsandboxed)
{
    struct server server = {.jail = jail, .allow_unsandboxed = allow_unsandboxed};
    struct packet *packet = malloc(sizeof *packet);
    struct pollfd waits[2] = {{.fd = EXTRACT_SOCKET_FD, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    struct signalfd_siginfo signal;
    sigset_t child_ends;
    int code = 71; /* EX_OSERR */

    (void)sigemptyset(&child_ends);
    (void)sigaddset(&child_ends, SIGCHLD);
    if (!packet || sigprocmask(SIG_BLOCK, &child_ends, NULL) != 0)
        goto out;
    waits[1].fd = signalfd(-1, &child_ends, SFD_CLOEXEC | SFD_NONBLOCK);
    if (waits[1].fd < 0)
        goto out;
    if (!say_ready(&server)) {
        code = EXTRACT_EXIT_NO_JAIL;
        goto out;
    }
    code = 0;
    for (;;) {
        if (poll(waits, 2, -1) < 0 && errno != EINTR)
            break;
        if (waits[1].revents) {
            while (read(waits[1].fd, &signal, sizeof signal) > 0)
                continue;
            reap(&server);
        }
        if (waits[0].revents) {
            if (!receive(packet))
                break;
            handle(&server, packet);
        }
    }
    /* PR_SET_PDEATHSIG would end them too; this is sooner. */
    for (size_t i = 0; i < server.children.count; i++)
        (void)kill(server.children.items[i].pid, SIGKILL);
out:
    if (waits[1].fd >= 0)
        (void)close(waits[1].fd);
    vec_finish(&server.children);
    free(packet);
    return code;
}
