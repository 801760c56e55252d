/* test_cut.c: a daemon that ends between two frames of a message, read or written, and one that is not there yet.
 *
 * The daemon is a ROUTER of this program. libdsa calls libzmq through the functions below, which end it at a chosen
 * frame. libzmq looks for news of its connections at every hundredth frame that is read; here it is made to look
 * right after the end, so that the rare moment comes each time. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "dsa/client.h"
#include "tests/harness/check.h"
#include "wire/wire.h"

enum { FRAMES = 6, NEWS_MS = 60 };

static struct {
    char endpoint[300];
    void *context, *router;
    char routing[256];
    size_t routing_len;
} peer;

/* Frames of libdsa until the peer ends; negative: never. */
static int reads_left = -1, writes_left = -1;

static void peer_start(void)
{
    int zero = 0;

    (void)snprintf(peer.endpoint, sizeof peer.endpoint, "ipc://%s/cut.sock", check_temp_dir());
    peer.context = zmq_ctx_new();
    peer.router = zmq_socket(peer.context, ZMQ_ROUTER);
    CHECK(zmq_setsockopt(peer.router, ZMQ_LINGER, &zero, sizeof zero) == 0);
    CHECK(zmq_bind(peer.router, peer.endpoint) == 0);
}

static void peer_end(void)
{
    (void)zmq_close(peer.router);
    (void)zmq_ctx_term(peer.context);
    peer.router = NULL;
}

static void cut(void *socket)
{
    int events;
    size_t size = sizeof events;

    peer_end();
    (void)usleep(NEWS_MS * 1000);
    (void)zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size);
}

static bool is_dealer(void *socket)
{
    int type = 0;
    size_t size = sizeof type;

    return zmq_getsockopt(socket, ZMQ_TYPE, &type, &size) == 0 && type == ZMQ_DEALER;
}

/* Names of libzmq's: libdsa finds these first. */
int zmq_msg_recv(zmq_msg_t *message, void *socket, int flags)
{
    int (*real)(zmq_msg_t *, void *, int) = (int (*)(zmq_msg_t *, void *, int))dlsym(RTLD_NEXT, "zmq_msg_recv");
    int result = real(message, socket, flags);

    if (result >= 0 && is_dealer(socket) && reads_left >= 0 && reads_left-- == 0)
        cut(socket);
    return result;
}

int zmq_send(void *socket, const void *bytes, size_t len, int flags)
{
    int (*real)(void *, const void *, size_t, int) =
        (int (*)(void *, const void *, size_t, int))dlsym(RTLD_NEXT, "zmq_send");
    int result = real(socket, bytes, len, flags);

    if (result >= 0 && is_dealer(socket) && writes_left >= 0 && writes_left-- == 0)
        cut(socket);
    return result;
}

/* The next message but PING; its type, 0 after timeout_ms. Whole and well-formed, or the test fails. */
static int peer_read(int timeout_ms, struct wire_message *message)
{
    static char bytes[FRAMES][WIRE_MAX_HEADER_BYTES];
    int64_t until = clock_monotonic_ns() + timeout_ms * INT64_C(1000000);

    while (clock_monotonic_ns() < until) {
        struct span frames[FRAMES];
        size_t count = 0;
        int more = 1;

        for (; more; count++) {
            size_t size = sizeof more;
            int len = zmq_recv(peer.router, bytes[count], sizeof *bytes, ZMQ_DONTWAIT);

            if (len < 0)
                break;
            CHECK(count < FRAMES);
            frames[count] = span_of(bytes[count], (size_t)len);
            CHECK(zmq_getsockopt(peer.router, ZMQ_RCVMORE, &more, &size) == 0);
        }
        if (count == 0) {
            (void)usleep(1000);
            continue;
        }
        CHECK_OK(wire_decode(frames + 1, count - 1, message, NULL), NULL);
        memcpy(peer.routing, frames[0].ptr, peer.routing_len = frames[0].len);
        if (message->type != WIRE_PING)
            return message->type;
    }
    return 0;
}

static void peer_send(const struct wire_message *message)
{
    struct span frames[5];
    size_t count = wire_encode(message, frames);

    CHECK(zmq_send(peer.router, peer.routing, peer.routing_len, ZMQ_SNDMORE) >= 0);
    for (size_t i = 0; i < count; i++)
        CHECK(zmq_send(peer.router, frames[i].ptr, frames[i].len, i + 1 < count ? ZMQ_SNDMORE : 0) >= 0);
}

static struct dsa_client *open_client(void)
{
    struct dsa_options options = {.size = sizeof options, .endpoint = peer.endpoint, .ping_ms = 60000};
    struct dsa_client *client = NULL;

    reads_left = writes_left = -1;
    CHECK_EQ_INT(dsa_open(&options, &client, NULL, 0), DSA_OK);
    return client;
}

static void expect_event(struct dsa_client *client, enum dsa_event_type type)
{
    const struct dsa_event *event;

    CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
    CHECK_EQ_INT(event->type, type);
}

/* HELLO comes first, and then each of these types once; nothing else. */
static void expect_messages(const char *types)
{
    struct wire_message message;
    char came[64] = "";
    size_t wanted = strlen(types);

    CHECK_EQ_INT(peer_read(10000, &message), WIRE_HELLO);
    for (size_t i = 0; i < wanted; i++)
        came[i] = (char)peer_read(10000, &message);
    CHECK_EQ_STR(came, types);
    CHECK_EQ_INT(peer_read(100, &message), 0);
}

/* Four answers lie there unread; the end comes at one of their 20 frames. Each is handed out, then the end. */
TEST(what_was_received_is_read_whatever_frame_the_end_comes_at)
{
    for (int at = 0; at < 20; at++) {
        struct dsa_client *client;
        struct wire_message message;
        uint64_t requests[4];

        peer_start();
        client = open_client();
        expect_event(client, DSA_EVENT_CONNECTED);
        CHECK_EQ_INT(peer_read(10000, &message), WIRE_HELLO);
        for (int i = 0; i < 4; i++) {
            struct wire_message reply = {.type = WIRE_STATUS_OK, .header = span_from_cstr("{}"),
                                         .body = span_from_cstr("[]")};

            CHECK_EQ_INT(dsa_request(client, WIRE_STATUS, NULL, 0, &requests[i]), DSA_OK);
            CHECK_EQ_INT(peer_read(10000, &message), WIRE_STATUS);
            memcpy(reply.id, message.id, sizeof reply.id);
            peer_send(&reply);
        }
        (void)usleep(20000);
        reads_left = at;
        for (int i = 0; i < 4; i++) {
            const struct dsa_event *event;

            CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
            CHECK_EQ_INT(event->type, DSA_EVENT_REPLY);
            CHECK_EQ_INT(event->request, requests[i]);
        }
        expect_event(client, DSA_EVENT_DISCONNECTED);
        peer_start();
        expect_event(client, DSA_EVENT_CONNECTED);
        expect_messages(""); /* all was answered */
        dsa_close(client);
        peer_end();
    }
}

/* The end comes after one of a question's five frames, or after the whole: the next daemon gets it once and whole. */
TEST(what_was_half_sent_is_sent_again_whole)
{
    for (int at = 0; at < 5; at++) {
        struct dsa_question question = {.size = sizeof question, .text = "What is granite?"};
        struct dsa_client *client;
        struct wire_message message;
        uint64_t request = 0;

        peer_start();
        client = open_client();
        expect_event(client, DSA_EVENT_CONNECTED);
        CHECK_EQ_INT(peer_read(10000, &message), WIRE_HELLO);
        writes_left = at;
        CHECK_EQ_INT(dsa_ask(client, &question, &request), DSA_OK);
        CHECK(!peer.router);
        expect_event(client, DSA_EVENT_DISCONNECTED);
        peer_start();
        expect_event(client, DSA_EVENT_CONNECTED);
        expect_messages("S");
        dsa_close(client);
        peer_end();
    }
}

/* A daemon that comes later hears HELLO first and no question twice; one that never comes holds nobody up. */
TEST(nothing_is_queued_for_a_daemon_that_is_not_there)
{
    struct dsa_question question = {.size = sizeof question, .text = "What is granite?"};
    struct dsa_client *client;
    const struct dsa_event *event;
    uint64_t request = 0;
    int64_t begun_ns;

    peer_start();
    peer_end();
    client = open_client();
    for (int i = 0; i < 3; i++) {
        CHECK_EQ_INT(dsa_ask(client, &question, &request), DSA_OK);
        CHECK_EQ_INT(dsa_next_event(client, 20, &event), DSA_TIMEOUT);
    }
    peer_start();
    expect_event(client, DSA_EVENT_CONNECTED);
    expect_messages("SSS");
    peer_end();
    expect_event(client, DSA_EVENT_DISCONNECTED);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ_INT(dsa_ask(client, &question, &request), DSA_OK);
        CHECK_EQ_INT(dsa_cancel(client, request), DSA_OK);
        CHECK_EQ_INT(dsa_next_event(client, 20, &event), DSA_TIMEOUT);
    }
    peer_start();
    expect_event(client, DSA_EVENT_CONNECTED);
    expect_messages("SSSSXSX");
    peer_end();
    expect_event(client, DSA_EVENT_DISCONNECTED);
    begun_ns = clock_monotonic_ns();
    dsa_close(client);
    CHECK(clock_monotonic_ns() - begun_ns < INT64_C(400000000)); /* its linger is 500 ms */
}
