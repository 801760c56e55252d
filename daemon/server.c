/* server.c: the wire thread's loop: socket → sessions → writer, and back. */
#include "daemon/server.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/request.h"
#include "daemon/streams.h"
#include "daemon/verbs.h"
#include "daemon/zap.h"

enum {
    QUEUE_CAP = 8192,
    MAX_FRAMES = 6,            /* routing id and five */
    MESSAGES_A_TURN = 1000,    /* received before something is sent again */
    HWM = 1000,
    HANDSHAKE_MS = 5000,
    HEARTBEAT_MS = 10000,      /* tcp, on this side only: see facts in PROTOCOL.md */
    HEARTBEAT_TIMEOUT_MS = 30000,
    LINGER_MS = 2000,
    LAST_WORD_MS = 300,        /* a client with ZMQ_IMMEDIATE loses what it has not read when its connection ends */
    STALL_MS = 50,             /* a full socket is tried again after that */
    REQUEST_ARENA_BYTES = 8 << 20
};

struct server {
    const struct config *config;
    const struct endpoint *endpoint;
    const char *boot;
    struct queue *writer;
    struct queue queue;
    int wake_fd;
    void *context, *router;
    struct zap *zap;
    struct sessions sessions;
    atomic_bool stop;
    bool any_stalled;
    int64_t sent_ns;  /* when something was last sent */
    uint64_t garbage; /* messages that were none */
};

/* --- Sending ----------------------------------------------------------------------------------------------------- */

enum sent { SENT, FULL, GONE };

static enum sent send_message(struct server *server, struct span routing, int type, const unsigned char *id,
                              struct span header, struct span body)
{
    struct wire_message message = {.type = type, .header = header, .body = body};
    struct span frames[5];
    size_t count;

    memcpy(message.id, id, WIRE_ID_BYTES);
    count = wire_encode(&message, frames);
    /* The routing id decides: EAGAIN for a full pipe, EHOSTUNREACH for a peer that is known to be gone. The frames
     * after it go into the same pipe, which has room for them. */
    if (zmq_send(server->router, routing.ptr, routing.len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return zmq_errno() == EAGAIN ? FULL : GONE;
    for (size_t i = 0; i < count; i++)
        if (zmq_send(server->router, frames[i].ptr, frames[i].len, ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0)) <
            0)
            return GONE;
    server->sent_ns = clock_monotonic_ns();
    return SENT;
}

/* Linger hands the last messages to the kernel; their readers, on a busy machine, need a moment more. */
static void let_them_read(const struct server *server)
{
    int64_t left_ns = server->sent_ns ? server->sent_ns + LAST_WORD_MS * INT64_C(1000000) - clock_monotonic_ns() : 0;

    if (left_ns > 0)
        (void)usleep((useconds_t)(left_ns / 1000));
}

static struct span routing_of(const struct session *session)
{
    return span_of((const char *)session->routing, session->routing_len);
}

/* Replies are not counted against credit; they are bounded by what was asked and by the high-water mark. */
static void reply(struct server *server, const struct session *session, int type, const unsigned char *id, char *header,
                  struct span body)
{
    if (header)
        (void)send_message(server, routing_of(session), type, id, span_from_cstr(header), body);
    free(header);
}

static void reply_json(struct server *server, const struct session *session, int type, const unsigned char *id,
                       json_t *json)
{
    reply(server, session, type, id, json_dumps(json, JSON_COMPACT), span_of(NULL, 0));
    json_decref(json);
}

static void refuse(struct server *server, const struct session *session, const unsigned char *id, const char *code,
                   const char *text, bool retryable)
{
    reply(server, session, WIRE_ERROR, id, verbs_error(code, text, retryable), span_of(NULL, 0));
}

/* --- Sessions ---------------------------------------------------------------------------------------------------- */

static void abandon(struct server *server, int64_t job)
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
        abandon(server, jobs[i]);
    free(jobs);
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

/* On ipc the kernel says who is at the other end; on tcp the key does (see zap.c). */
static void find_principal(zmq_msg_t *part, bool curve, char principal[PRINCIPAL_BYTES])
{
    const char *user = curve ? zmq_msg_gets(part, "User-Id") : NULL;
    const char *peer = curve ? NULL : zmq_msg_gets(part, "Peer-Address");
    size_t digits;

    /* "localhost:UID:GID:PID", from SO_PEERCRED */
    if (peer && strncmp(peer, "localhost:", 10) == 0)
        peer += 10;
    digits = peer ? strspn(peer, "0123456789") : 0;
    if (user)
        (void)snprintf(principal, PRINCIPAL_BYTES, "%s", user);
    else if (digits && digits < 12 && peer[digits] == ':')
        (void)snprintf(principal, PRINCIPAL_BYTES, "uid:%.*s", (int)digits, peer);
    else
        (void)snprintf(principal, PRINCIPAL_BYTES, "unknown");
}

/* --- Streams ----------------------------------------------------------------------------------------------------- */

/* Sends one numbered message if it is next and there is credit. False when the stream is to be left alone (no
 * credit, full) or is gone. */
static bool send_numbered(struct server *server, struct session *session, struct stream *stream,
                          const struct message *message, bool *closed)
{
    struct span header = span_of(message->header, message->header_len),
                body = span_of(message->body, message->body_len);
    int64_t cost = wire_cost(header, body);

    *closed = false;
    if (message->seq != stream->next_seq || !stream_take_credit(stream, cost))
        return false;
    switch (send_message(server, routing_of(session), message->type, stream->id, header, body)) {
    case SENT:
        stream->next_seq++;
        if (message->last) {
            session_close(session, stream);
            *closed = true;
        }
        return true;
    case FULL:
        stream_add_credit(stream, cost);
        stream->stalled = server->any_stalled = true;
        return false;
    case GONE:
        session->last_heard_ns = INT64_MIN; /* dropped at the end of this turn */
        return false;
    }
    return false;
}

/* A stream that has missed something asks the writer for it. */
static void catch_up(struct server *server, struct session *session, struct stream *stream)
{
    struct message *message;

    if (!stream_behind(stream))
        return;
    message = message_create(MESSAGE_READ);
    message->session = session->number;
    memcpy(message->id, stream->id, sizeof message->id);
    message->job = stream->job;
    message->seq = stream->next_seq;
    message->credit = stream->credit;
    stream->fetching = queue_try_push(server->writer, message);
    if (!stream->fetching) {
        message_destroy(message);
        stream->stalled = server->any_stalled = true;
    }
}

static void retry_stalled(struct server *server)
{
    server->any_stalled = false;
    for (size_t i = 0; i < server->sessions.list.count; i++)
        for (size_t k = 0; k < server->sessions.list.items[i]->streams.count; k++) {
            struct stream *stream = &server->sessions.list.items[i]->streams.items[k];

            if (!stream->stalled)
                continue;
            stream->stalled = false;
            catch_up(server, server->sessions.list.items[i], stream);
        }
}

static void on_publish(struct server *server, const struct message *message)
{
    for (size_t i = 0; i < server->sessions.list.count; i++) {
        struct session *session = server->sessions.list.items[i];

        for (size_t k = 0; k < session->streams.count; k++) {
            struct stream *stream = &session->streams.items[k];
            bool closed = false;

            if (stream->job != message->job)
                continue;
            if (message->seq >= stream->known)
                stream->known = message->seq + 1;
            if (!stream->fetching && !stream->stalled)
                (void)send_numbered(server, session, stream, message, &closed);
            if (closed)
                k--;
            else
                catch_up(server, session, stream);
        }
    }
}

static void on_progress(struct server *server, const struct message *message)
{
    for (size_t i = 0; i < server->sessions.list.count; i++) {
        struct session *session = server->sessions.list.items[i];

        for (size_t k = 0; k < session->streams.count; k++) {
            const struct stream *stream = &session->streams.items[k];

            if (stream->job != message->job || stream->next_seq < stream->known || session->progress_left <= 0)
                continue;
            session->progress_left--;
            (void)send_message(server, routing_of(session), message->type, stream->id,
                               span_of(message->header, message->header_len), span_of(NULL, 0));
        }
    }
}

static void on_open(struct server *server, const struct message *message)
{
    struct session *session = sessions_by_number(&server->sessions, message->session);
    struct stream *stream;

    if (!session) {
        abandon(server, message->job);
        return;
    }
    stream = session_open(session, message->id, message->job, message->seq, message->count, message->credit);
    if (!stream)
        return;
    if (send_message(server, routing_of(session), WIRE_ACCEPTED, message->id,
                     span_of(message->header, message->header_len), span_of(NULL, 0)) == GONE) {
        session->last_heard_ns = INT64_MIN;
        return;
    }
    catch_up(server, session, stream);
}

static void on_batch(struct server *server, const struct message *batch)
{
    struct session *session = sessions_by_number(&server->sessions, batch->session);
    struct stream *stream = session ? session_stream(session, batch->id) : NULL;

    if (!stream || stream->job != batch->job)
        return;
    stream->fetching = false;
    if (batch->count > stream->known)
        stream->known = batch->count;
    if (!batch->list && stream->next_seq < stream->known) {
        refuse(server, session, stream->id, WIRE_CODE_NO_JOB, "the job's stream is not kept any more", false);
        session_close(session, stream);
        return;
    }
    for (const struct message *message = batch->list; message; message = message->next) {
        bool closed = false;

        if (message->seq != stream->next_seq)
            continue;
        if (!send_numbered(server, session, stream, message, &closed))
            break;
        if (closed)
            return;
    }
    catch_up(server, session, stream);
}

static void on_inside(struct server *server, const struct message *message)
{
    const struct session *session;

    switch (message->kind) {
    case MESSAGE_REPLY:
        session = sessions_by_number(&server->sessions, message->session);
        if (session)
            (void)send_message(server, routing_of(session), message->type, message->id,
                               span_of(message->header, message->header_len),
                               span_of(message->body, message->body_len));
        break;
    case MESSAGE_OPEN: on_open(server, message); break;
    case MESSAGE_PUBLISH: on_publish(server, message); break;
    case MESSAGE_PROGRESS: on_progress(server, message); break;
    case MESSAGE_BATCH: on_batch(server, message); break;
    default: break;
    }
}

/* --- What clients say -------------------------------------------------------------------------------------------- */

static int64_t field(const json_t *json, const char *name, int64_t fallback)
{
    const json_t *value = json_object_get(json, name);

    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

static void to_writer(struct server *server, const struct session *session, const unsigned char *id,
                      struct message *message)
{
    message->session = session->number;
    memcpy(message->id, id, WIRE_ID_BYTES);
    free(message->text);
    message->text = strdup(session->principal);
    if (message->text && queue_try_push(server->writer, message))
        return;
    refuse(server, session, id, WIRE_CODE_BUSY, "the daemon has too much to do at the moment", true);
    message_destroy(message);
}

static bool room_for_stream(struct server *server, struct session *session, const unsigned char *id)
{
    struct stream *old = session_stream(session, id);

    if (old)
        session_close(session, old); /* the same request again: it starts afresh */
    if (session->streams.count < (size_t)server->config->max_streams)
        return true;
    refuse(server, session, id, WIRE_CODE_BUSY, "too many open streams", true);
    return false;
}

static void on_submit(struct server *server, struct session *session, const struct wire_message *in)
{
    struct request_fault fault = {0};
    struct request request = {0};
    struct message *message;
    struct arena arena;
    const char *key = NULL;
    int64_t credit = 0;
    char *kept;

    if (!room_for_stream(server, session, in->id))
        return;
    arena_init(&arena, REQUEST_ARENA_BYTES);
    kept = request_accept(in->header, in->body, server->config, &arena, &request, &key, &credit, &fault);
    if (!kept) {
        refuse(server, session, in->id, fault.code, fault.message, false);
        arena_finish(&arena);
        return;
    }
    message = message_create(MESSAGE_SUBMIT);
    message_set_header(message, kept);
    message->number = request.kind;
    message->block = (int)request.class;
    message->flag = request.detach;
    message->done = request.seed;
    message->credit = credit;
    if (message_set_body(message, span_from_cstr(key)))
        to_writer(server, session, in->id, message);
    else
        message_destroy(message);
    arena_finish(&arena);
}

static void on_attach(struct server *server, struct session *session, const struct wire_message *in, const json_t *json)
{
    struct message *message;

    if (!room_for_stream(server, session, in->id))
        return;
    message = message_create(MESSAGE_ATTACH);
    message->job = field(json, "job", 0);
    message->seq = field(json, "from", 0);
    message->credit = field(json, "credit", WIRE_DEFAULT_CREDIT_BYTES);
    if (message->job > 0 && message->seq >= 0) {
        to_writer(server, session, in->id, message);
        return;
    }
    refuse(server, session, in->id, WIRE_CODE_BAD_REQUEST, "'job' is not a job's number, or 'from' is negative", false);
    message_destroy(message);
}

/* CANCEL, RETRY, ACK and LIST name a job by its number, or by the key it was submitted with. */
static void on_job_verb(struct server *server, struct session *session, const struct wire_message *in,
                        const json_t *json, enum message_kind kind)
{
    struct message *message = message_create(kind);
    const json_t *key = json_object_get(json, "key");

    message->job = field(json, "job", 0);
    message->seq = field(json, "after", 0);
    message->count = field(json, "limit", 0);
    message->flag = json_is_true(json_object_get(json, "all"));
    if (json_is_string(key) && !message->job)
        (void)message_set_body(message, span_of(json_string_value(key), json_string_length(key)));
    if (kind == MESSAGE_LIST || message->job > 0 || message->body) {
        to_writer(server, session, in->id, message);
        return;
    }
    refuse(server, session, in->id, WIRE_CODE_BAD_REQUEST, "neither 'job' nor 'key' is given", false);
    message_destroy(message);
}

static void on_hello(struct server *server, const struct session *session, const struct wire_message *in)
{
    reply_json(server, session, WIRE_HELLO_OK, in->id,
               json_pack("{s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:s}", "minor", WIRE_PROTOCOL_MINOR, "boot", server->boot,
                         "version", DSA_VERSION, "max_header_bytes", (json_int_t)WIRE_MAX_HEADER_BYTES,
                         "max_question_bytes", (json_int_t)WIRE_MAX_QUESTION_BYTES, "max_streams",
                         (json_int_t)server->config->max_streams, "session_timeout_ms",
                         (json_int_t)server->config->session_ms, "principal", session->principal));
}

static void on_known(struct server *server, struct session *session, const struct wire_message *in, const json_t *json)
{
    struct stream *stream;
    struct message *message;

    switch (in->type) {
    case WIRE_HELLO: on_hello(server, session, in); break;
    case WIRE_PING:
        reply_json(server, session, WIRE_PONG, in->id,
                   json_pack("{s:s, s:I}", "boot", server->boot, "streams", (json_int_t)session->streams.count));
        break;
    case WIRE_SUBMIT: on_submit(server, session, in); break;
    case WIRE_ATTACH: on_attach(server, session, in, json); break;
    case WIRE_CREDIT:
        stream = session_stream(session, in->id);
        if (stream) {
            stream_add_credit(stream, field(json, "bytes", 0));
            catch_up(server, session, stream);
        }
        break;
    case WIRE_CANCEL: on_job_verb(server, session, in, json, MESSAGE_CANCEL); break;
    case WIRE_RETRY: on_job_verb(server, session, in, json, MESSAGE_RETRY); break;
    case WIRE_ACK: on_job_verb(server, session, in, json, MESSAGE_ACK); break;
    case WIRE_LIST: on_job_verb(server, session, in, json, MESSAGE_LIST); break;
    case WIRE_STATUS:
        message = message_create(MESSAGE_STATUS);
        message->count = (int64_t)server->sessions.list.count;
        message->number = (int64_t)sessions_streams(&server->sessions);
        to_writer(server, session, in->id, message);
        break;
    case WIRE_DRAIN: to_writer(server, session, in->id, message_create(MESSAGE_DRAIN)); break;
    default: break; /* a newer client's type: ignored */
    }
}

/* A message that does not decode: an answer if there is anybody to answer. */
static void on_broken(struct server *server, const struct session *session, const struct span *frames, size_t count,
                      enum status why, const struct error *err)
{
    static const unsigned char nobody[WIRE_ID_BYTES];
    const unsigned char *id =
        count > 2 && frames[2].len == WIRE_ID_BYTES ? (const unsigned char *)frames[2].ptr : nobody;

    refuse(server, session, id,
           why == STATUS_UNSUPPORTED ? WIRE_CODE_BAD_VERSION
           : why == STATUS_LIMIT     ? WIRE_CODE_TOO_LARGE
                                     : WIRE_CODE_BAD_REQUEST,
           err->message, false);
}

static void on_message(struct server *server, struct span routing, const struct span *frames, size_t count,
                       zmq_msg_t *any_part)
{
    struct session *session = sessions_find(&server->sessions, routing);
    struct wire_message in;
    struct error err = {0};
    enum status s;

    /* Not ours at all: a scanner, another protocol. Nothing is owed to it. */
    if (!session && (count == 0 || wire_check_magic(frames[0]) == STATUS_BAD_INPUT)) {
        server->garbage++;
        return;
    }
    if (!session) {
        char principal[PRINCIPAL_BYTES];

        find_principal(any_part, server->endpoint->curve, principal);
        if (server->sessions.list.count < (size_t)server->config->max_sessions)
            session = sessions_add(&server->sessions, routing, principal);
        if (!session) {
            static const unsigned char nobody[WIRE_ID_BYTES];
            char *header = verbs_error(WIRE_CODE_BUSY, "too many clients", true);

            (void)send_message(server, routing, WIRE_ERROR, nobody, span_from_cstr(header), span_of(NULL, 0));
            free(header);
            return;
        }
    }
    session->last_heard_ns = clock_monotonic_ns();
    session->progress_left = PROGRESS_ALLOWANCE;
    s = wire_decode(frames, count, &in, &err);
    if (s) {
        on_broken(server, session, frames, count, s, &err);
    } else {
        json_t *json = json_loadb(in.header.ptr, in.header.len, 0, NULL);

        on_known(server, session, &in, json);
        json_decref(json);
    }
}

/* --- The loop ---------------------------------------------------------------------------------------------------- */

/* Receives one whole message; false when there is none. Frames beyond the most that a message has are dropped,
 * and make it a broken one. */
static bool receive(struct server *server)
{
    zmq_msg_t parts[MAX_FRAMES];
    struct span frames[MAX_FRAMES + 1];
    size_t kept = 0, count = 0;
    int more = 1;

    while (more) {
        zmq_msg_t extra, *part = kept < MAX_FRAMES ? &parts[kept] : &extra;

        (void)zmq_msg_init(part);
        if (zmq_msg_recv(part, server->router, ZMQ_DONTWAIT) < 0) {
            (void)zmq_msg_close(part);
            break;
        }
        more = zmq_msg_more(part);
        count++;
        if (part == &extra)
            (void)zmq_msg_close(part);
        else
            kept++;
    }
    for (size_t i = 0; i < kept; i++)
        frames[i] = span_of(zmq_msg_data(&parts[i]), zmq_msg_size(&parts[i]));
    if (count > 1) {
        if (count > MAX_FRAMES)
            frames[MAX_FRAMES] = span_of(NULL, 0); /* one too many: wire_decode() refuses the count */
        on_message(server, frames[0], frames + 1, count > MAX_FRAMES ? MAX_FRAMES : count - 1, &parts[kept - 1]);
    }
    for (size_t i = 0; i < kept; i++)
        (void)zmq_msg_close(&parts[i]);
    return count > 0;
}

static void turn(struct server *server)
{
    struct message *list, *next;

    for (int i = 0; i < MESSAGES_A_TURN && receive(server); i++)
        continue;
    for (list = queue_take(&server->queue, 0); list; list = next) {
        next = list->next;
        on_inside(server, list);
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
            retry_stalled(server);
        /* Everything pushed before server_stop() was in the queue before the flag was seen. */
        if (stopping) {
            let_them_read(server);
            break;
        }
    }
    return NULL;
}

/* --- Life -------------------------------------------------------------------------------------------------------- */

static int set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

static enum status bind_router(struct server *server, struct error *err)
{
    const struct endpoint *endpoint = server->endpoint;
    int64_t max_message = WIRE_MAX_BODY_BYTES;
    void *router = zmq_socket(server->context, ZMQ_ROUTER);

    server->router = router;
    if (!router || set_int(router, ZMQ_ROUTER_MANDATORY, 1) || set_int(router, ZMQ_ROUTER_HANDOVER, 0) ||
        set_int(router, ZMQ_SNDHWM, HWM) || set_int(router, ZMQ_RCVHWM, HWM) ||
        set_int(router, ZMQ_LINGER, LINGER_MS) || set_int(router, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) ||
        zmq_setsockopt(router, ZMQ_MAXMSGSIZE, &max_message, sizeof max_message))
        return error_set(err, STATUS_IO, "no socket: %s", zmq_strerror(zmq_errno()));
    if (endpoint->curve) {
        enum status s = zap_create(server->context, endpoint, &server->zap, err);

        if (s)
            return s;
        if (set_int(router, ZMQ_CURVE_SERVER, 1) || set_int(router, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) ||
            set_int(router, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) ||
            zmq_setsockopt(router, ZMQ_CURVE_SECRETKEY, endpoint->secret_key, CURVE_KEY_CHARS + 1) ||
            zmq_setsockopt(router, ZMQ_ZAP_DOMAIN, ZAP_DOMAIN, strlen(ZAP_DOMAIN)))
            return error_set(err, STATUS_IO, "no CURVE: %s", zmq_strerror(zmq_errno()));
    }
    if (zmq_bind(router, endpoint->address))
        return error_set(err, STATUS_IO, "can't listen at '%s': %s", endpoint->address, zmq_strerror(zmq_errno()));
    /* Who may enter the directory may connect: on a socket file that takes the right to write. */
    if (!endpoint->curve && chmod(endpoint->address + strlen("ipc://"), 0660))
        return error_set(err, STATUS_IO, "socket '%s': %s", endpoint->address, strerror(errno));
    return STATUS_OK;
}

enum status server_create(const struct config *config, const struct endpoint *endpoint, const char *boot,
                          struct queue *writer, struct server **out, struct error *err)
{
    struct server *server = calloc(1, sizeof *server);
    enum status s;

    if (!server)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the server");
    server->config = config;
    server->endpoint = endpoint;
    server->boot = boot;
    server->writer = writer;
    atomic_init(&server->stop, false);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    queue_init(&server->queue, QUEUE_CAP, server->wake_fd);
    server->context = zmq_ctx_new();
    if (server->wake_fd < 0 || !server->context)
        s = error_set(err, STATUS_NO_MEMORY, "no descriptors or memory for the server");
    else
        s = bind_router(server, err);
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
    queue_finish(&server->queue);
    sessions_finish(&server->sessions);
    if (server->wake_fd >= 0)
        (void)close(server->wake_fd);
    free(server);
}
