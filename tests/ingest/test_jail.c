/* test_jail.c: what a child cannot do, and that the fork server survives what its children don't. */
#include "ingest/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ingest/extract_protocol.h"
#include "ingest/frames.h"
#include "ingest/limits.h"
#include "tests/harness/check.h"

/* --- The jail itself ------------------------------------------------------------------------------------------ */

static const char *const no_paths[] = {NULL};

/* Runs `act` in a jailed child; returns its wait status. */
static int in_jail(const char *const *paths, const struct jail_limits *limits, int (*act)(void))
{
    struct jail *jail = NULL;
    struct error err = {0};
    int status;
    pid_t pid;

    CHECK_OK(jail_create(paths, &jail, &err), &err);
    if (!jail_has_seccomp(jail) || !jail_landlock_abi(jail)) {
        jail_destroy(jail);
        SKIP("no Landlock or no seccomp here");
    }
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(jail_enter(jail, limits, &err) ? 99 : act());
    CHECK(waitpid(pid, &status, 0) == pid);
    jail_destroy(jail);
    return status;
}

static const struct jail_limits tight = {.first_closed_fd = 3};

static bool killed_for_call(int status)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

static int act_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
}

static int act_exec(void)
{
    char *const arguments[] = {(char[]){"true"}, NULL};

    return execv("/bin/true", arguments);
}

static int act_fork(void)
{
    return fork() >= 0;
}

static int act_create(void)
{
    return open("/tmp/dsa-test-jail", O_WRONLY | O_CREAT, 0600) >= 0;
}

static int act_ptrace(void)
{
    return (int)syscall(SYS_ptrace, 0, 0, 0, 0);
}

static int act_signal_parent(void)
{
    return (int)syscall(SYS_tgkill, 1, 1, 0);
}

static int act_unlink(void)
{
    return unlink("/tmp/dsa-test-jail");
}

TEST(what_kills)
{
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_socket)));
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_exec)));
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_fork)));
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_create)));
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_ptrace)));
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_signal_parent)));
    CHECK(killed_for_call(in_jail(no_paths, &tight, act_unlink)));
}

static int act_read_passwd(void)
{
    return open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? 0 : 1;
}

static int act_read_allowed(void)
{
    int fd = open("/usr/include/stdio.h", O_RDONLY);
    char byte;

    return fd >= 0 && read(fd, &byte, 1) == 1 ? 0 : 1;
}

TEST(only_the_named_paths_can_be_read)
{
    static const char *const paths[] = {"/usr/include", "/no/such/path", NULL};

    CHECK_EQ_INT(in_jail(no_paths, &tight, act_read_passwd), 0);
    CHECK_EQ_INT(in_jail(no_paths, &tight, act_read_allowed), 1 << 8);
    CHECK_EQ_INT(in_jail(paths, &tight, act_read_allowed), 0);
    CHECK_EQ_INT(in_jail(paths, &tight, act_read_passwd), 0);
}

static int act_abort(void)
{
    abort();
}

TEST(abort_is_still_an_abort)
{
    int status = in_jail(no_paths, &tight, act_abort);

    CHECK(WIFSIGNALED(status));
    CHECK_EQ_INT(WTERMSIG(status), SIGABRT);
}

static int act_take_memory(void)
{
    return mmap(NULL, (size_t)LIMIT_CHILD_MEMORY_BYTES + (1 << 20), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
               ? 0
               : 1;
}

static int act_descriptors(void)
{
    return write(3, "x", 1) < 0 && errno == EBADF ? 0 : 1;
}

TEST(memory_and_descriptors_end)
{
#ifndef __SANITIZE_ADDRESS__
    CHECK_EQ_INT(in_jail(no_paths, &tight, act_take_memory), 0);
#else
    (void)act_take_memory;
#endif
    CHECK_EQ_INT(in_jail(no_paths, &tight, act_descriptors), 0);
}

/* --- The fork server ------------------------------------------------------------------------------------------- */

struct client {
    int socket;
    pid_t server;
};

static json_t *receive(struct client *client)
{
    char text[EXTRACT_PACKET_BYTES];
    struct pollfd wait = {.fd = client->socket, .events = POLLIN};
    ssize_t n;
    json_t *message;

    CHECK(poll(&wait, 1, 20000) == 1);
    n = recv(client->socket, text, sizeof text, 0);
    CHECK(n > 0);
    message = json_loadb(text, (size_t)n, 0, NULL);
    CHECK(json_is_object(message));
    return message;
}

static void start_server(struct client *client)
{
    int ends[2];
    json_t *ready;

    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    client->socket = ends[0];
    client->server = fork();
    CHECK(client->server >= 0);
    if (client->server == 0) {
        int high = fcntl(ends[1], F_DUPFD, 64);

        (void)dup2(high, EXTRACT_SOCKET_FD);
        (void)close(high);
        (void)execl(EXTRACT_PROGRAM, "dsa-extract", "--serve", (char *)NULL);
        _exit(127);
    }
    (void)close(ends[1]);
    ready = receive(client);
    if (!json_is_true(json_object_get(ready, "ready"))) {
        json_decref(ready);
        SKIP("no Landlock and no seccomp here");
    }
    json_decref(ready);
}

static int stop_server(struct client *client)
{
    int status;

    (void)close(client->socket);
    CHECK(waitpid(client->server, &status, 0) == client->server);
    return status;
}

/* Sends a request with `count` descriptors. */
static void request(struct client *client, const char *json, const int *fds, int count)
{
    char control[CMSG_SPACE(4 * sizeof(int))] = {0};
    struct iovec bytes = {(char *)(uintptr_t)json, strlen(json)};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};

    if (count) {
        struct cmsghdr *c;

        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)count * sizeof(int));
    }
    CHECK(sendmsg(client->socket, &message, MSG_NOSIGNAL) == (ssize_t)bytes.iov_len);
}

/* Starts a document; returns the read end of its frames. */
static int start_document(struct client *client, int id, int document, bool seekable)
{
    char json[128];
    int frames[2], fds[2];
    json_t *started;

    CHECK(pipe2(frames, O_CLOEXEC) == 0);
    (void)snprintf(json, sizeof json, "{\"id\":%d,\"name\":\"a.txt\",\"seekable\":%s,\"archive_depth\":0}", id,
                   seekable ? "true" : "false");
    fds[0] = document;
    fds[1] = frames[1];
    request(client, json, fds, 2);
    (void)close(frames[1]);
    started = receive(client);
    CHECK_EQ_INT(json_integer_value(json_object_get(started, "id")), id);
    CHECK(json_integer_value(json_object_get(started, "pid")) > 0);
    json_decref(started);
    return frames[0];
}

static int text_document(const char *text)
{
    int fd = memfd_create("text", MFD_CLOEXEC);

    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

/* Reads frames to the end of the pipe; true when END came and all was in order. */
static bool drain(int fd, struct buf *lines)
{
    struct buf bytes;
    struct frame_order order = {0};
    struct frame frame;
    struct frame_line line;
    struct frame_word *words = NULL;
    size_t words_cap = 0, taken = 0, used;
    ssize_t n;

    buf_init(&bytes, 64 << 20);
    do {
        CHECK(buf_reserve(&bytes, 65536) == STATUS_OK);
        n = read(fd, bytes.ptr + bytes.len, 65536);
        bytes.len += n > 0 ? (size_t)n : 0;
    } while (n > 0);
    (void)close(fd);
    while (frame_next(span_slice(buf_span(&bytes), taken, bytes.len), &frame, &used) == STATUS_OK) {
        taken += used;
        CHECK_STATUS(frame_order_step(&order, &frame), STATUS_OK);
        if (frame.type == FRAME_LINE) {
            CHECK_STATUS(frame_get_line(frame.payload, &line, &words, &words_cap), STATUS_OK);
            CHECK(buf_append_span(lines, line.text) == STATUS_OK);
        }
    }
    free(words);
    buf_finish(&bytes);
    return order.state == FRAME_ORDER_ENDED;
}

static void check_end(struct client *client, int id, const char *reason)
{
    json_t *end = receive(client);

    CHECK_EQ_INT(json_integer_value(json_object_get(end, "id")), id);
    CHECK_EQ_STR(json_string_value(json_object_get(end, "reason")), reason);
    if (strcmp(reason, "ok") == 0) {
        CHECK_EQ_STR(json_string_value(json_object_get(end, "exit")), "ok");
        CHECK(json_integer_value(json_object_get(end, "max_rss_bytes")) > 1 << 20);
    }
    json_decref(end);
}

TEST(a_document_through_the_server)
{
    struct client client;
    struct buf lines;
    int document;

    start_server(&client);
    for (int id = 1; id <= 3; id++) {
        buf_init(&lines, 4096);
        document = text_document("hello");
        CHECK(drain(start_document(&client, id, document, true), &lines));
        CHECK_EQ_STR(buf_cstr(&lines), "hello");
        check_end(&client, id, "ok");
        (void)close(document);
        buf_finish(&lines);
    }
    CHECK_EQ_INT(stop_server(&client), 0);
}

TEST(bad_requests_are_answered_and_change_nothing)
{
    static const char *const bad[] = {"", "[]", "not json", "{}", "{\"id\":\"x\"}", "{\"id\":1}",
                                      "{\"id\":1,\"name\":7}", "{\"kill\":99}"};
    struct client client;
    struct buf lines;
    int document = text_document("still here"), one[3] = {document, document, document};

    start_server(&client);
    for (size_t i = 1; i < sizeof bad / sizeof *bad; i++) {
        request(&client, bad[i], one, 1); /* one descriptor is too few, three are too many */
        if (!strstr(bad[i], "kill")) {
            json_t *refused = receive(&client);

            CHECK(json_is_string(json_object_get(refused, "error")));
            json_decref(refused);
        }
    }
    request(&client, "{\"id\":5}", one, 3);
    json_decref(receive(&client));
    buf_init(&lines, 4096);
    CHECK(drain(start_document(&client, 6, document, true), &lines));
    CHECK_EQ_STR(buf_cstr(&lines), "still here");
    buf_finish(&lines);
    (void)close(document);
    CHECK_EQ_INT(stop_server(&client), 0);
}

TEST(a_child_that_hangs_is_killed_alone)
{
    struct client client;
    struct buf lines;
    int pipe_ends[2], hung, document = text_document("meanwhile"), good;

    start_server(&client);
    CHECK(pipe2(pipe_ends, O_CLOEXEC) == 0); /* a document that never comes */
    hung = start_document(&client, 1, pipe_ends[0], false);
    good = start_document(&client, 2, document, true);
    buf_init(&lines, 4096);
    CHECK(drain(good, &lines));
    check_end(&client, 2, "ok");
    request(&client, "{\"kill\":1}", NULL, 0);
    check_end(&client, 1, "killed");
    CHECK(!drain(hung, &lines));
    CHECK_EQ_STR(buf_cstr(&lines), "meanwhile");
    buf_finish(&lines);
    (void)close(document);
    (void)close(pipe_ends[0]);
    (void)close(pipe_ends[1]);
    CHECK_EQ_INT(stop_server(&client), 0);
}

TEST(a_reader_that_goes_away_ends_its_child)
{
    struct client client;
    size_t len = 8 << 20;
    char *text = malloc(len + 1);
    int document, frames;
    json_t *end;

    for (size_t i = 0; i < len; i++)
        text[i] = i % 80 == 79 ? '\n' : 'a';
    text[len] = '\0';
    start_server(&client);
    document = text_document(text);
    frames = start_document(&client, 1, document, true);
    (void)close(frames);
    end = receive(&client);
    CHECK_EQ_STR(json_string_value(json_object_get(end, "exit")), "code 3");
    json_decref(end);
    (void)close(document);
    free(text);
    CHECK_EQ_INT(stop_server(&client), 0);
}

TEST(children_die_with_their_server)
{
    struct client client;
    int pipe_ends[2], hung, status;
    char byte;

    start_server(&client);
    CHECK(pipe2(pipe_ends, O_CLOEXEC) == 0);
    hung = start_document(&client, 1, pipe_ends[0], false);
    CHECK(kill(client.server, SIGKILL) == 0);
    CHECK(waitpid(client.server, &status, 0) == client.server);
    /* The pipe ends when the last process that held its other end is gone. */
    CHECK_EQ_INT(read(hung, &byte, 1), 0);
    (void)close(hung);
    (void)close(pipe_ends[0]);
    (void)close(pipe_ends[1]);
    (void)close(client.socket);
}

TEST(the_doctor_finds_no_way_out)
{
    char command[4096], line[256];
    FILE *out;
    int seen = 0;

    (void)snprintf(command, sizeof command, "'%s' --doctor", EXTRACT_PROGRAM);
    out = popen(command, "r");
    CHECK(out);
    while (fgets(line, sizeof line, out)) {
        if (strstr(line, "landlock") && strstr(line, " no")) {
            (void)pclose(out);
            SKIP("no Landlock here");
        }
        seen += strstr(line, "stopped") != NULL;
#ifndef __SANITIZE_ADDRESS__
        CHECK(!strstr(line, "POSSIBLE"));
#endif
    }
    (void)pclose(out);
    CHECK(seen >= 5);
}
