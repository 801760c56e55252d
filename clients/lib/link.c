/* link.c: the DEALER socket, the monitor that says when the handshake is done, and one epoll descriptor that
 * is readable when there is something to do.
 *
 * One socket for one connection. When it ends, what it brought is read to the last message, and then the socket goes,
 * with all that was queued in it, and a new one connects. ZMQ_IMMEDIATE would keep messages for an absent daemon from
 * being queued as well, but libzmq 4.3 then takes the pipe from under its reader: session_base.cpp, reconnect() sends
 * a hiccup, socket_base.cpp, hiccuped() ends the pipe with what is unread in it, and fq.cpp aborts the process (!_more)
 * if that comes between two frames of a message. On the way out, lb.cpp swallows the message after the one that was
 * cut. Without the option the pipe outlives the connection and has whole messages only.
 *
 * libzmq connects anew by itself before this side has seen the end. What was queued in those moments reaches the next
 * daemon from a connection that is closed soon after; each message bears that: a SUBMIT has a key, an ATTACH is
 * repeated, a CREDIT without its stream and a second CANCEL do nothing. */
#include "clients/lib/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    SEND_HWM = 1000,
    HANDSHAKE_MS = 5000,
    RECONNECT_MS = 50,
    RECONNECT_MAX_MS = 2000,
    LINGER_MS = 500 /* lets a last CANCEL leave */
};

static int set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

static int fail(struct dsa_client *client, const char *what)
{
    (void)snprintf(client->error, sizeof client->error, "%s '%s': %s", what, client->endpoint,
                   zmq_strerror(zmq_errno()));
    return DSA_ERROR;
}

static int watch_fd(struct dsa_client *client, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    return epoll_ctl(client->link.epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int zmq_fd(void *socket)
{
    int fd = -1;
    size_t len = sizeof fd;

    return zmq_getsockopt(socket, ZMQ_FD, &fd, &len) == 0 ? fd : -1;
}

static int open_socket(struct dsa_client *client)
{
    struct link *link = &client->link;
    int64_t max_message = WIRE_MAX_BODY_BYTES;
    char monitor[64];

    link->socket = zmq_socket(link->context, ZMQ_DEALER);
    if (!link->socket)
        return fail(client, "no socket for");
    if (set_int(link->socket, ZMQ_SNDHWM, SEND_HWM) || set_int(link->socket, ZMQ_RCVHWM, 0) ||
        set_int(link->socket, ZMQ_LINGER, 0) || set_int(link->socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) ||
        set_int(link->socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) ||
        set_int(link->socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) ||
        zmq_setsockopt(link->socket, ZMQ_MAXMSGSIZE, &max_message, sizeof max_message))
        return fail(client, "socket options for");
    if (client->server_key &&
        (zmq_setsockopt(link->socket, ZMQ_CURVE_SERVERKEY, client->server_key, strlen(client->server_key) + 1) ||
         zmq_setsockopt(link->socket, ZMQ_CURVE_PUBLICKEY, client->public_key, strlen(client->public_key) + 1) ||
         zmq_setsockopt(link->socket, ZMQ_CURVE_SECRETKEY, client->secret_key, strlen(client->secret_key) + 1)))
        return fail(client, "CURVE keys for");
    (void)snprintf(monitor, sizeof monitor, "inproc://dsa-monitor-%p", link->socket);
    if (zmq_socket_monitor(link->socket, monitor, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED))
        return fail(client, "no monitor for");
    link->monitor = zmq_socket(link->context, ZMQ_PAIR);
    if (!link->monitor || set_int(link->monitor, ZMQ_LINGER, 0) || zmq_connect(link->monitor, monitor))
        return fail(client, "no monitor for");
    if (zmq_connect(link->socket, client->endpoint))
        return fail(client, "can't connect to");
    if (watch_fd(client, zmq_fd(link->socket)) || watch_fd(client, zmq_fd(link->monitor)))
        return fail(client, "can't watch");
    link->last_heard_ns = link->last_ping_ns = clock_monotonic_ns();
    return DSA_OK;
}

static void close_socket(struct link *link)
{
    if (link->monitor) {
        (void)zmq_socket_monitor(link->socket, NULL, 0);
        (void)zmq_close(link->monitor);
    }
    if (link->socket)
        (void)zmq_close(link->socket);
    link->socket = link->monitor = NULL;
    link->up = link->ended = false;
    link->asked_ns = 0;
}

int link_open(struct dsa_client *client)
{
    struct link *link = &client->link;

    link->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    link->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->context = zmq_ctx_new();
    if (link->epoll_fd < 0 || link->timer_fd < 0 || link->wake_fd < 0 || !link->context) {
        (void)snprintf(client->error, sizeof client->error, "no descriptors or memory for a connection");
        return DSA_ERROR;
    }
    if (watch_fd(client, link->timer_fd) || watch_fd(client, link->wake_fd))
        return fail(client, "can't watch");
    return open_socket(client);
}

void link_close(struct dsa_client *client)
{
    struct link *link = &client->link;

    /* What waits for a daemon that is not there waits for nobody. */
    if (link->socket && link->up)
        (void)set_int(link->socket, ZMQ_LINGER, LINGER_MS);
    close_socket(link);
    for (size_t i = 0; i < client->received.count; i++)
        (void)zmq_msg_close(&client->received.parts[i]);
    client->received.count = 0;
    if (link->context)
        (void)zmq_ctx_term(link->context);
    if (link->wake_fd >= 0)
        (void)close(link->wake_fd);
    if (link->timer_fd >= 0)
        (void)close(link->timer_fd);
    if (link->epoll_fd >= 0)
        (void)close(link->epoll_fd);
}

void link_reconnect(struct dsa_client *client)
{
    /* Closing the sockets takes their descriptors out of the epoll set. */
    close_socket(&client->link);
    if (open_socket(client))
        close_socket(&client->link); /* out of descriptors: tried again when the next event is asked for */
}

bool link_send(struct dsa_client *client, int type, const unsigned char *id, const char *header, const char *body,
               size_t body_len)
{
    struct wire_message message = {.type = type, .header = span_from_cstr(header), .body = span_of(body, body_len)};
    struct span frames[WIRE_FRAMES];
    size_t count;

    if (!client->link.up)
        return false;
    memcpy(message.id, id, WIRE_ID_BYTES);
    count = wire_encode(&message, frames);
    for (size_t i = 0; i < count; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0);

        if (zmq_send(client->link.socket, frames[i].ptr, frames[i].len, flags) < 0)
            return false;
    }
    return true;
}

/* Receives one whole message into client->received; extra frames are read and dropped. */
static bool receive_parts(struct dsa_client *client)
{
    zmq_msg_t *parts = client->received.parts;
    size_t count = 0;
    int more = 1;

    for (size_t i = 0; i < client->received.count; i++)
        (void)zmq_msg_close(&parts[i]);
    client->received.count = 0;
    while (more) {
        zmq_msg_t extra, *part = count < WIRE_FRAMES ? &parts[count] : &extra;

        (void)zmq_msg_init(part);
        if (zmq_msg_recv(part, client->link.socket, ZMQ_DONTWAIT) < 0) {
            (void)zmq_msg_close(part);
            return false;
        }
        more = zmq_msg_more(part);
        if (part == &extra)
            (void)zmq_msg_close(part);
        else
            client->received.count++;
        count++;
    }
    client->link.last_heard_ns = clock_monotonic_ns();
    client->link.asked_ns = 0;
    return true;
}

bool link_receive(struct dsa_client *client, struct wire_message *message)
{
    while (client->link.socket && receive_parts(client)) {
        zmq_msg_t *parts = client->received.parts;
        struct span frames[WIRE_FRAMES];

        for (size_t i = 0; i < client->received.count; i++)
            frames[i] = span_of(zmq_msg_data(&parts[i]), zmq_msg_size(&parts[i]));
        if (wire_decode(frames, client->received.count, message, NULL) == STATUS_OK)
            return true;
    }
    return false;
}

enum link_change link_watch(struct dsa_client *client)
{
    struct link *link = &client->link;

    while (link->monitor && !link->ended) {
        unsigned char event[6] = {0};
        char address[256];
        uint16_t kind;

        /* Two frames: 16-bit event and 32-bit value, then the address. */
        if (zmq_recv(link->monitor, event, sizeof event, ZMQ_DONTWAIT) < 0)
            return LINK_SAME;
        if (zmq_recv(link->monitor, address, sizeof address, ZMQ_DONTWAIT) < 0)
            return LINK_SAME;
        memcpy(&kind, event, sizeof kind);
        if (kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            link->up = true;
            link->last_heard_ns = clock_monotonic_ns();
            return LINK_UP;
        }
        if (kind == ZMQ_EVENT_DISCONNECTED && link->up) {
            link->up = false;
            link->ended = true;
        }
    }
    return LINK_SAME;
}

void link_arm(struct dsa_client *client, int64_t at_ns)
{
    struct itimerspec when = {.it_value = {at_ns / 1000000000, at_ns % 1000000000}};

    (void)timerfd_settime(client->link.timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void link_wait(struct dsa_client *client, int timeout_ms)
{
    struct epoll_event event;
    uint64_t count;

    (void)epoll_wait(client->link.epoll_fd, &event, 1, timeout_ms);
    if (read(client->link.timer_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return;
    if (read(client->link.wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return;
}
