/* client.c: a handle: opened, closed, and its events, one after the other. */
#include "clients/lib/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    DEFAULT_PING_MS = 2000,
    DEFAULT_DEAD_MS = 10000,
    LEAST_WINDOW_BYTES = 128 * 1024
};

/* --- Opening and closing ----------------------------------------------------------------------------------------- */

static char *copy_or_null(const char *text)
{
    return text ? strdup(text) : NULL;
}

static const char *check_options(const struct dsa_options *options)
{
    if (!options || options->size < sizeof *options)
        return "options without their size";
    if (!options->endpoint || !*options->endpoint)
        return "no endpoint";
    if (options->credit_bytes && options->credit_bytes < LEAST_WINDOW_BYTES)
        return "credit_bytes below 128 KiB";
    if (options->server_key && (!options->public_key || !options->secret_key))
        return "a server key needs this client's public and secret key too";
    return NULL;
}

DSA_EXPORT int dsa_open(const struct dsa_options *options, struct dsa_client **out, char *message, size_t message_bytes)
{
    const char *wrong = check_options(options);
    struct dsa_client *client = wrong ? NULL : calloc(1, sizeof *client);

    *out = NULL;
    if (!client) {
        if (message && message_bytes)
            (void)snprintf(message, message_bytes, "%s", wrong ? wrong : "no memory");
        return DSA_ERROR;
    }
    client->endpoint = copy_or_null(options->endpoint);
    client->server_key = copy_or_null(options->server_key);
    client->public_key = copy_or_null(options->public_key);
    client->secret_key = copy_or_null(options->secret_key);
    client->window = options->credit_bytes ? options->credit_bytes : WIRE_DEFAULT_CREDIT_BYTES;
    client->ping_ms = options->ping_ms > 0 ? options->ping_ms : DEFAULT_PING_MS;
    client->dead_ms = options->dead_ms > 0 ? options->dead_ms : DEFAULT_DEAD_MS;
    client->link.epoll_fd = client->link.timer_fd = client->link.wake_fd = -1;
    buf_init(&client->header, WIRE_MAX_HEADER_BYTES + 1);
    (void)pthread_mutex_init(&client->cancel_lock, NULL);
    if (!client->endpoint || link_open(client)) {
        if (message && message_bytes)
            (void)snprintf(message, message_bytes, "%s", client->error[0] ? client->error : "no memory");
        dsa_close(client);
        return DSA_ERROR;
    }
    *out = client;
    return DSA_OK;
}

DSA_EXPORT void dsa_close(struct dsa_client *client)
{
    if (!client)
        return;
    link_close(client);
    for (size_t i = 0; i < client->requests.count; i++)
        request_destroy(client->requests.items[i]);
    vec_finish(&client->requests);
    json_decref(client->json);
    buf_finish(&client->header);
    (void)pthread_mutex_destroy(&client->cancel_lock);
    if (client->secret_key)
        explicit_bzero(client->secret_key, strlen(client->secret_key));
    free(client->endpoint);
    free(client->server_key);
    free(client->public_key);
    free(client->secret_key);
    free(client);
}

DSA_EXPORT const char *dsa_error(const struct dsa_client *client)
{
    return client->error;
}

DSA_EXPORT int dsa_fd(const struct dsa_client *client)
{
    return client->link.epoll_fd;
}

/* --- What arrives ------------------------------------------------------------------------------------------------ */

static void grant(struct dsa_client *client, struct request *request, int64_t cost)
{
    char header[96];

    request->uncredited += cost;
    if (request->uncredited < client->window / 4)
        return;
    (void)snprintf(header, sizeof header, "{\"bytes\":%lld}", (long long)request->uncredited);
    if (link_send(client, WIRE_CREDIT, request->id, header, NULL, 0))
        request->uncredited = 0;
}

/* The caller has asked for the next event: it is done with the last one. */
static void settle(struct dsa_client *client)
{
    struct request *request = client->event_request;

    client->event_request = NULL;
    if (!request)
        return;
    if (client->event_ends)
        request_remove(client, request);
    else if (client->event_cost)
        grant(client, request, client->event_cost);
}

static size_t open_streams(const struct dsa_client *client)
{
    size_t count = 0;

    for (size_t i = 0; i < client->requests.count; i++)
        count += client->requests.items[i]->stream && client->requests.items[i]->accepted;
    return count;
}

static void resume_streams(struct dsa_client *client)
{
    for (size_t i = 0; i < client->requests.count; i++)
        if (client->requests.items[i]->stream && client->requests.items[i]->job)
            request_attach(client, client->requests.items[i]);
}

/* The daemon forgot our streams (it took us for dead, or it is a new one): take them up again. */
static void check_pong(struct dsa_client *client, const struct wire_message *message)
{
    json_t *json = json_loadb(message->header.ptr, message->header.len, 0, NULL);
    json_t *streams = json_object_get(json, "streams");

    if (json_is_integer(streams) && json_integer_value(streams) < (json_int_t)open_streams(client))
        resume_streams(client);
    json_decref(json);
}

static bool numbered(int type)
{
    return type == WIRE_EVIDENCE || type == WIRE_TOKENS || type == WIRE_CITATION || type == WIRE_FINAL ||
           type == WIRE_ERROR;
}

/* True when client->event is to be handed out. */
static bool deliver(struct dsa_client *client, const struct wire_message *message)
{
    struct request *request = request_by_id(client, message->id);
    struct dsa_event *event = &client->event;

    if (message->type == WIRE_BYE) { /* all that came before it was handed out: the daemon may go */
        (void)link_send(client, WIRE_BYE_OK, message->id, "{}", NULL, 0);
        return false;
    }
    if (message->type == WIRE_PONG && !request) {
        check_pong(client, message);
        return false;
    }
    if (!request || event_fill(client, message, request))
        return false;
    client->event_request = request;
    client->event_cost = 0;
    client->event_ends = message->type == WIRE_FINAL || message->type == WIRE_ERROR || !request->stream;
    if (!request->stream)
        return true;
    if (numbered(message->type) && event->seq >= 0) {
        client->event_cost = wire_cost(message->header, message->body);
        if (event->seq < request->next_seq)
            grant(client, request, client->event_cost); /* twice: it was paid for twice as well */
        if (event->seq > request->next_seq && !request->resuming)
            request_attach(client, request); /* a hole: ask again from where it began */
        if (event->seq != request->next_seq)
            goto ignore;
        request->next_seq++;
        return true;
    }
    switch (message->type) {
    case WIRE_ACCEPTED:
        request->job = event->job;
        request->resuming = false;
        if (request->cancel_wanted && !request->cancel_sent)
            request_cancel(client, request);
        if (request->accepted)
            goto ignore;
        request->accepted = true;
        return true;
    case WIRE_RESET:
        request->next_seq = 0;
        return true;
    case WIRE_PROGRESS:
    case WIRE_ERROR:
        return true;
    default:
        break;
    }
ignore:
    client->event_request = NULL;
    client->event_ends = false;
    return false;
}

static void connection_event(struct dsa_client *client, enum dsa_event_type type)
{
    client->event_request = NULL;
    client->event = (struct dsa_event){.type = type, .seq = -1, .json = "", .text = "", .title = "", .path = "",
                                       .member = "", .label = "", .phase = "", .reason = "", .answered_by = "",
                                       .code = "", .message = "", .rects = client->rects};
}

static void say_hello(struct dsa_client *client)
{
    unsigned char id[WIRE_ID_BYTES];
    char header[128];

    wire_id_random(id);
    (void)snprintf(header, sizeof header, "{\"minor\":%d,\"client\":\"libdsa %s\"}", WIRE_PROTOCOL_MINOR, DSA_VERSION);
    (void)link_send(client, WIRE_HELLO, id, header, NULL, 0);
}

static void on_up(struct dsa_client *client)
{
    say_hello(client);
    for (size_t i = 0; i < client->requests.count; i++)
        request_send(client, client->requests.items[i]);
}

static void start_over(struct dsa_client *client)
{
    link_reconnect(client);
    for (size_t i = 0; i < client->requests.count; i++)
        client->requests.items[i]->sent = client->requests.items[i]->cancel_sent = false;
}

/* --- Time -------------------------------------------------------------------------------------------------------- */

static void take_cancels(struct dsa_client *client)
{
    uint64_t numbers[MAX_CANCELS];
    int count;

    (void)pthread_mutex_lock(&client->cancel_lock);
    count = client->cancel_count;
    memcpy(numbers, client->cancels, (size_t)count * sizeof *numbers);
    client->cancel_count = 0;
    (void)pthread_mutex_unlock(&client->cancel_lock);
    for (int i = 0; i < count; i++) {
        struct request *request = request_by_number(client, numbers[i]);

        if (!request || !request->stream)
            continue;
        request->cancel_wanted = true;
        if (!request->cancel_sent)
            request_cancel(client, request);
    }
}

/* True when a deadline passed and the event is to be handed out. */
static bool check_deadlines(struct dsa_client *client, int64_t now)
{
    for (size_t i = 0; i < client->requests.count; i++) {
        struct request *request = client->requests.items[i];

        if (!request->deadline_ns || now < request->deadline_ns)
            continue;
        if (request->stream)
            request_cancel(client, request);
        connection_event(client, DSA_EVENT_ERROR);
        client->event.request = request->number;
        client->event.job = request->job;
        client->event.code = "deadline";
        client->event.message = client->link.up ? "no answer within the deadline"
                                                : "no answer within the deadline: the daemon can't be reached";
        client->event.retryable = 1;
        client->event_request = request;
        client->event_ends = true;
        return true;
    }
    return false;
}

/* Pings the daemon, gives up a dead connection. */
static void check_silence(struct dsa_client *client, int64_t now)
{
    struct link *link = &client->link;
    /* A program that did not call for a while has heard nothing; the daemon is silent only when it was asked. */
    int64_t silent_ms = link->asked_ns ? (now - link->asked_ns) / 1000000 : 0;
    unsigned char id[WIRE_ID_BYTES];

    if (!link->up)
        return;
    if (silent_ms >= client->dead_ms) {
        start_over(client);
        return;
    }
    /* Also while tokens flow in: the daemon wants a sign of life from a client that only reads. */
    if ((now - link->last_ping_ns) / 1000000 < client->ping_ms)
        return;
    wire_id_random(id);
    (void)link_send(client, WIRE_PING, id, "{}", NULL, 0);
    link->last_ping_ns = now;
    if (!link->asked_ns)
        link->asked_ns = now;
}

/* The next moment at which something is due without any message. */
static int64_t next_due(const struct dsa_client *client)
{
    int64_t due = client->link.last_ping_ns + client->ping_ms * INT64_C(1000000);

    if (!client->link.up)
        due = INT64_MAX / 2;
    for (size_t i = 0; i < client->requests.count; i++) {
        int64_t deadline = client->requests.items[i]->deadline_ns;

        if (deadline && deadline < due)
            due = deadline;
    }
    return due;
}

DSA_EXPORT int dsa_next_event(struct dsa_client *client, int timeout_ms, const struct dsa_event **event)
{
    int64_t give_up = timeout_ms < 0 ? INT64_MAX : clock_monotonic_ns() + timeout_ms * INT64_C(1000000);

    *event = &client->event;
    settle(client);
    for (;;) {
        struct wire_message message;
        int64_t now;
        int left;

        take_cancels(client);
        if (link_watch(client) == LINK_UP) {
            on_up(client);
            connection_event(client, DSA_EVENT_CONNECTED);
            return DSA_OK;
        }
        while (link_receive(client, &message))
            if (deliver(client, &message))
                return DSA_OK;
        if (client->link.ended) {
            start_over(client);
            connection_event(client, DSA_EVENT_DISCONNECTED);
            return DSA_OK;
        }
        if (!client->link.socket)
            link_reconnect(client);
        if (!client->link.socket)
            return DSA_ERROR;
        now = clock_monotonic_ns();
        if (check_deadlines(client, now))
            return DSA_OK;
        check_silence(client, now);
        link_arm(client, next_due(client));
        if (now >= give_up)
            return DSA_TIMEOUT;
        left = timeout_ms < 0 ? -1 : (int)((give_up - now + 999999) / 1000000);
        link_wait(client, left);
    }
}

DSA_EXPORT int dsa_run(struct dsa_client *client, uint64_t request,
                       int (*visit)(void *context, const struct dsa_event *event), void *context)
{
    for (;;) {
        const struct dsa_event *event;
        int result = dsa_next_event(client, -1, &event);
        bool ends;

        if (result)
            return result;
        ends = event->request == request && client->event_ends && client->event_request;
        if (visit(context, event) || ends)
            return DSA_OK;
    }
}
