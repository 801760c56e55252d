/* server.c: the wire thread's loop, its sessions' ends, its own beginning and end. */
#include "daemon/server_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/verbs.h"

enum {
    QUEUE_CAP = 8192,
    MESSAGES_A_TURN = 1000,    /* received before something is sent again */
    BYE_AGAIN_MS = 50,         /* BYE is said again after that, also to learn who is gone */
    STALL_MS = 50              /* a full socket is tried again after that */
};

struct span session_routing(const struct session *session)
{
    return span_of((const char *)session->routing, session->routing_len);
}

/* Replies are not counted against credit; they are bounded by what was asked and by the high-water mark. */
void server_reply(struct server *server, const struct session *session, int type, const unsigned char *id, char *header,
                  struct span body)
{
    if (header)
        (void)router_send(server, session_routing(session), type, id, span_from_cstr(header), body);
    free(header);
}

void server_reply_json(struct server *server, const struct session *session, int type, const unsigned char *id,
                       json_t *json)
{
    server_reply(server, session, type, id, json_dumps(json, JSON_COMPACT), span_of(NULL, 0));
    json_decref(json);
}

void server_refuse(struct server *server, const struct session *session, const unsigned char *id, const char *code,
                   const char *text, bool retryable)
{
    server_reply(server, session, WIRE_ERROR, id, verbs_error(code, text, retryable), span_of(NULL, 0));
}

/* --- Sessions ---------------------------------------------------------------------------------------------------- */

void server_abandon(struct server *server, int64_t job)
{
    struct message *message;

    if (sessions_follow(&server->sessions, job))
        return;
    message = message_create(MESSAGE_ABANDON);
    message->job = job;
    /* With the writer's queue full the job simply goes on to its end. */
    if (!queue_try_push(server->writer, message))
        message_destroy(message);
}

static void drop_session(struct server *server, struct session *session)
{
    int64_t *jobs = calloc(session->streams.count + 1, sizeof *jobs);
    size_t count = session->streams.count;

    for (size_t i = 0; jobs && i < count; i++)
        jobs[i] = session->streams.items[i].job;
    sessions_remove(&server->sessions, session);
    for (size_t i = 0; jobs && i < count; i++)
        server_abandon(server, jobs[i]);
    free(jobs);
}

bool server_knows(const struct server *server, const char *principal)
{
    const char *colon = strchr(principal, ':');
    const struct endpoint_key *key = colon ? endpoint_keys_find(server->keys, colon + 1) : NULL;
    char expected[PRINCIPAL_BYTES] = "";

    if (!server->endpoint->curve)
        return true;
    if (key)
        zap_principal(key, expected);
    return strcmp(principal, expected) == 0;
}

void server_reload(struct server *server, struct message *message)
{
    struct endpoint_keys *old = server->keys;

    if (!message->keys)
        return;
    server->keys = message->keys;
    message->keys = NULL;
    zap_set_keys(server->zap, server->keys);
    endpoint_keys_destroy(old);
    for (size_t i = server->sessions.list.count; i-- > 0;)
        if (!server_knows(server, server->sessions.list.items[i]->principal))
            drop_session(server, server->sessions.list.items[i]);
}

static void drop_silent(struct server *server)
{
    int64_t oldest = clock_monotonic_ns() - server->config->session_ms * INT64_C(1000000);

    for (size_t i = server->sessions.list.count; i-- > 0;)
        if (server->sessions.list.items[i]->last_heard_ns < oldest) {
            log_debug("session %llu is silent: dropped", (unsigned long long)server->sessions.list.items[i]->number);
            drop_session(server, server->sessions.list.items[i]);
        }
}
/* --- The loop ---------------------------------------------------------------------------------------------------- */
static void turn(struct server *server)
{
    struct message *list, *next;

    for (int i = 0; i < MESSAGES_A_TURN && router_receive(server); i++)
        continue;
    for (list = queue_take(&server->queue, 0); list; list = next) {
        next = list->next;
        deliver(server, list);
        message_destroy(list);
    }
    drop_silent(server);
}

static int poll_ms(const struct server *server)
{
    int64_t ms = server->config->session_ms / 4;

    if (server->any_stalled)
        return STALL_MS;
    return ms < 1000 ? (int)ms : 1000;
}

/* --- The end ----------------------------------------------------------------------------------------------------- */

static size_t say_bye(struct server *server)
{
    static const unsigned char nobody[WIRE_ID_BYTES];
    size_t parting = 0;

    for (size_t i = 0; i < server->sessions.list.count; i++) {
        struct session *session = server->sessions.list.items[i];

        if (session->parting)
            session->parting = router_send(server, session_routing(session), WIRE_BYE, nobody, span_from_cstr("{}"),
                                           span_of(NULL, 0)) != GONE;
        parting += session->parting;
    }
    return parting;
}

/* The end of a connection may take what was received and not read: from a client with ZMQ_IMMEDIATE, or by a reset of
 * tcp. So the connection stays until each client has answered BYE, which comes after all that was sent before; is gone;
 * or has had its time. */
static void farewell(struct server *server)
{
    int64_t until = clock_monotonic_ns() + server->config->farewell_ms * INT64_C(1000000);
    size_t parting;

    for (size_t i = 0; i < server->sessions.list.count; i++)
        server->sessions.list.items[i]->parting = server->sessions.list.items[i]->minor >= 1;
    while ((parting = say_bye(server)) > 0 && clock_monotonic_ns() < until) {
        zmq_pollitem_t item = {.socket = server->router, .events = ZMQ_POLLIN};
        int64_t again = clock_monotonic_ns() + BYE_AGAIN_MS * INT64_C(1000000);

        while (parting && clock_monotonic_ns() < again) {
            (void)zmq_poll(&item, 1, BYE_AGAIN_MS / 5);
            for (int i = 0; i < MESSAGES_A_TURN && router_receive(server); i++)
                continue;
            parting = sessions_parting(&server->sessions);
        }
    }
    if (parting)
        log_info("%zu clients did not say that they have read the last messages", parting);
}

void *server_run(void *context)
{
    struct server *server = context;

    for (;;) {
        zmq_pollitem_t items[3] = {{.socket = server->router, .events = ZMQ_POLLIN},
                                   {.fd = server->wake_fd, .events = ZMQ_POLLIN},
                                   {.socket = zap_socket(server->zap), .events = ZMQ_POLLIN}};
        bool stopping = atomic_load(&server->stop);
        uint64_t wakes;

        if (zmq_poll(items, server->zap ? 3 : 2, stopping ? 0 : poll_ms(server)) < 0 && zmq_errno() == ETERM)
            break;
        if (read(server->wake_fd, &wakes, sizeof wakes) < 0 && errno != EAGAIN)
            log_error("the wire thread's wake-up can't be read");
        if (server->zap)
            zap_answer(server->zap);
        turn(server);
        if (server->any_stalled)
            deliver_stalled(server);
        /* Everything pushed before server_stop() was in the queue before the flag was seen. */
        if (stopping) {
            farewell(server);
            break;
        }
    }
    return NULL;
}

/* --- Life -------------------------------------------------------------------------------------------------------- */

enum status server_create(const struct config *config, struct endpoint *endpoint, const char *boot,
                          struct queue *writer, struct server **out, struct error *err)
{
    struct server *server = calloc(1, sizeof *server);
    enum status s;

    if (!server)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the server");
    server->config = config;
    server->endpoint = endpoint;
    server->keys = endpoint->keys;
    endpoint->keys = NULL;
    server->boot = boot;
    server->writer = writer;
    atomic_init(&server->stop, false);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    queue_init(&server->queue, QUEUE_CAP, server->wake_fd);
    server->context = zmq_ctx_new();
    if (server->wake_fd < 0 || !server->context)
        s = error_set(err, STATUS_NO_MEMORY, "no descriptors or memory for the server");
    else
        s = router_bind(server, err);
    if (s) {
        server_destroy(server);
        return s;
    }
    *out = server;
    return STATUS_OK;
}

const char *server_address(const struct server *server, char *address, size_t cap)
{
    size_t len = cap;

    return zmq_getsockopt(server->router, ZMQ_LAST_ENDPOINT, address, &len) ? server->endpoint->address : address;
}

struct queue *server_queue(struct server *server)
{
    return &server->queue;
}

void server_stop(struct server *server)
{
    static const uint64_t one = 1;

    atomic_store(&server->stop, true);
    if (write(server->wake_fd, &one, sizeof one) < 0)
        return; /* the counter is full: it is awake */
}

void server_destroy(struct server *server)
{
    if (!server)
        return;
    queue_close(&server->queue);
    if (server->router)
        (void)zmq_close(server->router);
    zap_destroy(server->zap);
    if (server->context)
        (void)zmq_ctx_term(server->context);
    endpoint_keys_destroy(server->keys);
    queue_finish(&server->queue);
    sessions_finish(&server->sessions);
    if (server->wake_fd >= 0)
        (void)close(server->wake_fd);
    free(server);
}
