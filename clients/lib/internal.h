/* internal.h: what the files of libdsa share.
 *
 *   client.c   the handle and its events
 *   request.c  what was asked, what still has to come, resume
 *   link.c     the DEALER socket, its monitor, the timer: bytes in and out, up and down
 *   event.c    one received message → one struct dsa_event
 *
 * libzmq 4.3.4 rules kept here: no ZMTP heartbeat on this side (a slow reader with one aborts its process), no
 * ZMQ_IMMEDIATE (the end of a daemon may abort it: link.c), no high-water mark on receiving (credits bound it), sends
 * never block. */
#ifndef CLIENTS_LIB_INTERNAL_H
#define CLIENTS_LIB_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <zmq.h>

#include "base/buf.h"
#include "base/vec.h"
#include "dsa/client.h"
#include "wire/wire.h"

#define DSA_EXPORT __attribute__((visibility("default")))

enum { EVENT_MAX_RECTS = 512, ERROR_BYTES = 256, MAX_CANCELS = 64 };

struct request {
    uint64_t number;
    unsigned char id[WIRE_ID_BYTES];
    int type;             /* WIRE_SUBMIT, WIRE_ATTACH or another verb */
    char *header;         /* JSON as sent; owned */
    char *body;           /* owned, may be NULL */
    size_t body_len;
    int64_t job;          /* 0: not accepted yet */
    int64_t next_seq;
    int64_t uncredited;   /* consumed by the caller and not yet granted again */
    int64_t deadline_ns;  /* 0: none */
    bool stream;          /* SUBMIT and ATTACH */
    bool sent;            /* on this connection */
    bool accepted;        /* ACCEPTED was handed out */
    bool resuming;        /* an ATTACH is on its way: holes seen until its answer are known */
    bool cancel_wanted, cancel_sent;
    char key[2 * WIRE_ID_BYTES + 1]; /* idempotency key made here; "" when the caller gave one */
};

struct link {
    void *context, *socket, *monitor;
    int epoll_fd, timer_fd, wake_fd;
    bool up;              /* handshake done */
    bool ended;           /* the connection is gone: what it brought is to be read, then the socket goes */
    int64_t last_heard_ns, last_ping_ns;
    int64_t asked_ns;     /* the first PING that nothing has followed; 0: none */
};

enum { WIRE_FRAMES = 5 };

/* What arrived, owned until the next receive. */
struct received {
    zmq_msg_t parts[WIRE_FRAMES];
    size_t count;
};

struct dsa_client {
    char *endpoint, *server_key, *public_key, *secret_key;
    int64_t window;
    int ping_ms, dead_ms;
    struct link link;
    VEC(struct request *) requests;
    uint64_t last_number;
    char error[ERROR_BYTES];

    pthread_mutex_t cancel_lock; /* guards the two below; everything else belongs to the handle's thread */
    uint64_t cancels[MAX_CANCELS];
    int cancel_count;

    /* The event handed out last, and what it borrows from. */
    struct dsa_event event;
    struct dsa_rect rects[EVENT_MAX_RECTS];
    json_t *json;
    struct buf header;             /* the event's header, ended by NUL */
    struct received received;
    struct request *event_request; /* to be credited or freed when the next event is asked for */
    int64_t event_cost;
    bool event_ends;
};

/* request.c */
struct request *request_by_number(struct dsa_client *client, uint64_t number); /* NULL: there is none */
struct request *request_by_id(struct dsa_client *client, const unsigned char *id);
void request_remove(struct dsa_client *client, struct request *request);
void request_destroy(struct request *request);
/* On this connection: the request as it was, or ATTACH where it stands, and its CANCEL if one is wanted. */
void request_send(struct dsa_client *client, struct request *request);
void request_attach(struct dsa_client *client, struct request *request);
void request_cancel(struct dsa_client *client, struct request *request);

/* link.c */
int link_open(struct dsa_client *client);
void link_close(struct dsa_client *client);
void link_reconnect(struct dsa_client *client); /* a new socket; what was queued in the old one is forgotten */
/* False when the message could not be queued (not connected); it is sent again after the handshake. */
bool link_send(struct dsa_client *client, int type, const unsigned char *id, const char *header, const char *body,
               size_t body_len);
/* Receives one message without waiting; true with *message filled (borrowed until the next call). Messages
 * that do not decode are dropped: the daemon's, not ours. */
bool link_receive(struct dsa_client *client, struct wire_message *message);
enum link_change { LINK_SAME, LINK_UP };
enum link_change link_watch(struct dsa_client *client); /* drains the monitor; also sets link.ended */
/* Waits for anything; timeout_ms as poll(). */
void link_wait(struct dsa_client *client, int timeout_ms);
void link_arm(struct dsa_client *client, int64_t at_ns);

/* event.c: fills client->event from a message. STATUS_BAD_INPUT: not a message this side understands. */
enum status event_fill(struct dsa_client *client, const struct wire_message *message, const struct request *request)
    MUST_CHECK;

#endif
