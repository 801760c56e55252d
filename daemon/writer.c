/* writer.c: the group-commit loop and the table of questions. What clients ask for is in verbs.c, the life of a
 * question in question.c. */
#include "daemon/writer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/authorise.h"
#include "daemon/replay.h"
#include "daemon/verbs.h"

enum {
    QUEUE_CAP = 4096,
    PURGE_EVERY_S = 3600,
    LOST_RETRY_MS = 1000,
    COMMIT_RETRY_MS = 200,
    FAILURE_TOLD_S = 60,
    READS_A_GROUP = 8,
    MOST_IDS = 1024,            /* of one message of the stream, with what follows: below WIRE_MAX_STREAM_BYTES */
    MOST_TOKEN_BYTES = 32 * 1024,
    PURGED_A_GROUP = 64
};

void writer_init(struct writer *writer)
{
    queue_init(&writer->in, QUEUE_CAP, -1);
    writer->questions = calloc((size_t)writer->config->max_active, sizeof *writer->questions);
    if (!writer->questions)
        abort();
    writer->claim_again = true;
    writer->later_end = &writer->later;
    writer->purge_at_ns = clock_monotonic_ns() + INT64_C(1000000000);
}

static void destroy_list(struct message *list)
{
    while (list) {
        struct message *next = list->next;

        message_destroy(list);
        list = next;
    }
}

void writer_finish(struct writer *writer)
{
    for (size_t i = 0; i < writer->question_count; i++)
        question_destroy(writer->questions[i]);
    free(writer->questions);
    for (size_t i = 0; i < writer->outbox.count; i++)
        message_destroy(writer->outbox.items[i].message);
    vec_finish(&writer->outbox);
    destroy_list(writer->later);
    vec_finish(&writer->abandoned);
    vec_finish(&writer->lost);
    vec_finish(&writer->settled);
    access_destroy(writer->access);
    queue_finish(&writer->in);
}

/* --- For question.c and verbs.c ---------------------------------------------------------------------------------- */

void writer_out(struct writer *writer, struct queue *to, struct message *message)
{
    if (vec_reserve(&writer->outbox, 1))
        abort();
    writer->outbox.items[writer->outbox.count++] = (struct writer_letter){to, message};
}

void writer_later(struct writer *writer, struct message *message)
{
    message->next = NULL;
    *writer->later_end = message;
    writer->later_end = &message->next;
}

enum status writer_put(struct writer *writer, struct question *question, int type, json_t *header, struct span body,
                       char **text_out, struct error *err)
{
    struct stream_message kept = {.seq = question->next_seq, .type = type, .body = body};
    struct message *message;
    enum status s;
    char *text;

    if (text_out)
        *text_out = NULL;
    (void)json_object_set_new(header, "job", json_integer(question->job));
    (void)json_object_set_new(header, "seq", json_integer(question->next_seq));
    text = json_dumps(header, REQUEST_JSON);
    json_decref(header);
    if (!text)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a message of job %lld", (long long)question->job);
    kept.header = span_from_cstr(text);
    s = jobs_stream_put(writer->jobs, question->job, question->attempt, &kept, err);
    if (s) {
        free(text);
        return s;
    }
    question->next_seq++;
    message = message_create(MESSAGE_PUBLISH);
    message->job = question->job;
    message->seq = kept.seq;
    message->type = type;
    message->last = type == WIRE_FINAL || type == WIRE_ERROR;
    if (text_out)
        *text_out = strdup(text);
    message_set_header(message, text);
    if (body.len && !message_set_body(message, body)) {
        message_destroy(message);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a message");
    }
    writer_out(writer, writer->wire, message);
    return STATUS_OK;
}

void writer_progress(struct writer *writer, const struct question *question, const char *phase, int64_t done,
                     int64_t total)
{
    struct message *message = message_create(MESSAGE_PROGRESS);
    json_t *header = json_pack("{s:I, s:s, s:I, s:I}", "job", (json_int_t)question->job, "phase", phase, "done",
                               (json_int_t)done, "total", (json_int_t)total);

    message->job = question->job;
    message->type = WIRE_PROGRESS;
    message_set_header(message, json_dumps(header, REQUEST_JSON));
    json_decref(header);
    writer_out(writer, writer->wire, message);
}

enum status writer_adopt(struct writer *writer, struct question *question)
{
    if (writer->question_count == (size_t)writer->config->max_active)
        return STATUS_BUG;
    writer->questions[writer->question_count++] = question;
    return STATUS_OK;
}

static void remove_question(struct writer *writer, struct question *question)
{
    for (size_t i = 0; i < writer->question_count; i++) {
        if (writer->questions[i] != question)
            continue;
        writer->questions[i] = writer->questions[--writer->question_count];
        question_destroy(question);
        return;
    }
}

/* If the group fails the job still runs as far as the store knows, and nobody would look after it. */
void writer_forget(struct writer *writer, struct question *question)
{
    if (vec_reserve(&writer->settled, 1))
        abort();
    writer->settled.items[writer->settled.count++] = (struct writer_lost){question->job, question->attempt};
    remove_question(writer, question);
}

struct question *writer_find(struct writer *writer, int64_t job)
{
    for (size_t i = 0; i < writer->question_count; i++)
        if (writer->questions[i]->job == job)
            return writer->questions[i];
    return NULL;
}

/* --- What comes in ----------------------------------------------------------------------------------------------- */

/* Whether a message that retrieval or the engine sends was in hand there. */
static bool comes_back(const struct message *message)
{
    return message->kind == MESSAGE_PACKED || message->kind == MESSAGE_LOCATED || message->kind == MESSAGE_GENERATED;
}

static enum status handle_event(struct writer *writer, struct message *message, struct error *err)
{
    struct question *question = writer_find(writer, message->job);
    enum status s = STATUS_OK;

    /* Cancelled, parked or run again meanwhile: what an older attempt made is void. */
    if (!question || question->attempt != message->attempt)
        return STATUS_OK;
    switch (message->kind) {
    case MESSAGE_PACKED: s = question_packed(writer, question, message, err); break;
    case MESSAGE_TOKENS:
        if (message->count || message->body_len) /* it has not joined another */
            s = question_tokens(writer, question, message, err);
        break;
    case MESSAGE_QUOTE: s = question_quote(writer, question, message, err); break;
    case MESSAGE_LOCATED: s = question_located(writer, question, message, err); break;
    case MESSAGE_GENERATED: s = question_generated(writer, question, message, err); break;
    default: s = question_phase(writer, question, message, err); break;
    }
    return s;
}

static enum status handle(struct writer *writer, struct message *message, struct error *err)
{
    switch (message->kind) {
    case MESSAGE_PACKED:
    case MESSAGE_TOKENS:
    case MESSAGE_QUOTE:
    case MESSAGE_LOCATED:
    case MESSAGE_GENERATED:
    case MESSAGE_PHASE:
        return handle_event(writer, message, err);
    case MESSAGE_RELOAD:
        access_destroy(writer->access);
        writer->access = message->access;
        message->access = NULL;
        return STATUS_OK;
    case MESSAGE_FATAL:
        log_error("the engine is lost: %s", message->text);
        writer->fatal = true;
        return STATUS_OK;
    default:
        return verbs_handle(writer, message, err);
    }
}

/* --- Groups ------------------------------------------------------------------------------------------------------ */

static enum status requeue_lost(struct writer *writer, struct error *err)
{
    for (size_t i = 0; i < writer->lost.count; i++) {
        enum status s = jobs_requeue(writer->jobs, writer->lost.items[i].job, writer->lost.items[i].attempt, NULL, err);

        if (s && s != STATUS_CANCELLED && s != STATUS_NOT_FOUND)
            return s;
    }
    if (writer->lost.count)
        writer->claim_again = true;
    return STATUS_OK;
}

static enum status cancel_abandoned(struct writer *writer, struct error *err)
{
    int64_t now = clock_monotonic_ns();

    for (size_t i = 0; i < writer->abandoned.count;) {
        struct writer_abandoned abandoned = writer->abandoned.items[i];
        enum status s;

        if (now < abandoned.at_ns) {
            i++;
            continue;
        }
        writer->abandoned.items[i] = writer->abandoned.items[--writer->abandoned.count];
        s = verbs_cancel_job(writer, abandoned.job, err);
        if (s && s != STATUS_NOT_FOUND)
            return s;
    }
    return STATUS_OK;
}

static void retry_waiting(struct writer *writer)
{
    int64_t now = clock_monotonic_ns();

    for (size_t i = 0; i < writer->question_count; i++)
        if (writer->questions[i]->waiting && writer->questions[i]->retry_ns <= now)
            question_retry(writer, writer->questions[i]);
}

/* Attempts that have been on the engine for long: see jobs_mark_long(). */
static enum status mark_long(struct writer *writer, struct error *err)
{
    int64_t before = clock_monotonic_ns() - JOB_LONG_MS * INT64_C(1000000);

    for (size_t i = 0; i < writer->question_count; i++) {
        struct question *question = writer->questions[i];
        enum status s;

        if (question->engine_ns == 0 || question->engine_ns > before)
            continue;
        s = jobs_mark_long(writer->jobs, question->job, question->attempt, err);
        if (s && s != STATUS_CANCELLED && s != STATUS_NOT_FOUND)
            return s;
        question->engine_ns = 0;
    }
    return STATUS_OK;
}

/* The list of collections has changed since the job was accepted. */
static enum status deny(struct writer *writer, const struct job *job, struct error *err)
{
    char *header = verbs_error(WIRE_CODE_DENIED, "you may not see the collections of this job any more", false);
    int64_t id = job->id, count = 0;
    struct job ended = {0};
    enum status s = jobs_finish(writer->jobs, id, job->attempt, JOB_FAILED, span_from_cstr(header), err);

    free(header);
    if (!s)
        s = jobs_stream_count(writer->jobs, id, &count, err);
    if (!s)
        s = jobs_get(writer->jobs, id, &ended, err);
    if (!s)
        writer_out(writer, writer->wire, replay_last(id, &ended, count));
    return s;
}

static enum status claim(struct writer *writer, struct error *err)
{
    size_t most = (size_t)writer->config->max_active;

    while (writer->claim_again && !writer->draining && !writer->fatal && writer->question_count < most &&
           writer->out < (int64_t)most) {
        struct job job = {0};
        enum status s = jobs_claim(writer->jobs, &job, err);

        if (s == STATUS_NOT_FOUND) {
            writer->claim_again = false;
            writer->queued = 0;
            break;
        }
        if (!s && !authorise_run(writer->access, &job))
            s = deny(writer, &job, err);
        else if (!s)
            s = question_start(writer, &job, err);
        if (s)
            return s;
        if (writer->queued > 0)
            writer->queued--;
    }
    return STATUS_OK;
}

static enum status park_all(struct writer *writer, struct error *err)
{
    while (writer->question_count) {
        enum status s = question_park(writer, writer->questions[0], err);

        if (s)
            return s;
    }
    writer->parked = true;
    return STATUS_OK;
}

static bool time_to_park(const struct writer *writer)
{
    bool running = false;

    if (writer->fatal)
        return true;
    if (!writer->draining)
        return false;
    for (size_t i = 0; i < writer->question_count; i++)
        running |= writer->questions[i]->class == JOB_INTERACTIVE;
    return !running || clock_monotonic_ns() >= writer->drain_until_ns;
}

static bool join(struct message *first, const struct message *more)
{
    int32_t *ids;
    char *body;

    if (first->count + more->count > MOST_IDS || first->body_len + more->body_len > MOST_TOKEN_BYTES)
        return false;
    ids = realloc(first->ids, (size_t)(first->count + more->count + 1) * sizeof *ids);
    if (!ids)
        return false;
    first->ids = ids;
    body = realloc(first->body, first->body_len + more->body_len + 1);
    if (!body)
        return false;
    first->body = body;
    memcpy(ids + first->count, more->ids, (size_t)more->count * sizeof *ids);
    if (more->body_len)
        memcpy(body + first->body_len, more->body, more->body_len);
    first->count += more->count;
    first->body_len += more->body_len;
    body[first->body_len] = '\0';
    return true;
}

/* When commits take longer than steps of the engine, tokens of one answer wait here side by side: they become one
 * message, and the next group is no larger for it. Whatever else concerns the job keeps its place among them. */
static void join_tokens(struct writer *writer, struct message *list)
{
    for (size_t i = 0; i < writer->question_count; i++)
        writer->questions[i]->tokens = NULL;
    while (list) {
        struct question *question = list->job ? writer_find(writer, list->job) : NULL;
        struct message *next = list->next;

        if (question && list->kind == MESSAGE_TOKENS && question->tokens &&
            question->tokens->attempt == list->attempt && join(question->tokens, list)) {
            list->count = 0;
            list->body_len = 0;
        } else if (question && list->kind != MESSAGE_PHASE && list->kind != MESSAGE_READ) {
            question->tokens = list->kind == MESSAGE_TOKENS ? list : NULL;
        }
        list = next;
    }
}

static enum status run_group(struct writer *writer, struct message *list, struct error *err)
{
    int64_t changes = jobs_changes(writer->jobs);
    enum status s = jobs_begin(writer->jobs, err);

    if (s)
        return s;
    s = requeue_lost(writer, err);
    join_tokens(writer, list);
    for (struct message *message = list; message && !s; message = message->next)
        s = handle(writer, message, err);
    if (!s)
        s = cancel_abandoned(writer, err);
    if (!s)
        s = mark_long(writer, err);
    if (!s)
        retry_waiting(writer);
    if (!s && clock_monotonic_ns() >= writer->purge_at_ns) {
        int64_t purged = 0;

        s = jobs_purge(writer->jobs, clock_wall_ms() - writer->config->retention_ms, PURGED_A_GROUP, &purged, err);
        writer->purge_at_ns = clock_monotonic_ns();
        if (purged < PURGED_A_GROUP)
            writer->purge_at_ns += PURGE_EVERY_S * INT64_C(1000000000);
    }
    if (!s && time_to_park(writer))
        s = park_all(writer, err);
    if (!s)
        s = claim(writer, err);
    if (!s)
        s = jobs_commit(writer->jobs, err);
    if (s)
        jobs_rollback(writer->jobs);
    else
        writer->lost.count = writer->settled.count = 0;
    if (!s && writer->failing_since_ns && jobs_changes(writer->jobs) != changes) {
        log_info("the store can be written again, after %lld s",
                 (long long)(clock_monotonic_ns() - writer->failing_since_ns) / 1000000000);
        writer->failing_since_ns = 0;
    }
    return s;
}

/* A full disk fails every group until somebody makes space: said once, and then now and then. */
static void tell_failure(struct writer *writer, const struct error *err)
{
    int64_t now = clock_monotonic_ns();

    if (writer->failing_since_ns == 0)
        writer->failing_since_ns = now;
    else if (now - writer->failure_told_ns < FAILURE_TOLD_S * INT64_C(1000000000))
        return;
    writer->failure_told_ns = now;
    log_error("a commit failed: %s; %zu questions are put back until the store can be written", err->message,
              writer->question_count + writer->lost.count);
}

/* Nothing of the group is true. Whoever asked is told; questions in work are put back as soon as the store lets
 * us, and start again from what is on disk. */
static void undo_group(struct writer *writer, struct message *list, const struct error *err)
{
    tell_failure(writer, err);
    for (size_t i = 0; i < writer->outbox.count; i++) {
        struct message *message = writer->outbox.items[i].message;

        if (message->kind == MESSAGE_RETRIEVE || message->kind == MESSAGE_GENERATE || message->kind == MESSAGE_LOCATE)
            writer->out--;
        message_destroy(message);
    }
    writer->outbox.count = 0;
    if (vec_reserve(&writer->lost, writer->settled.count + writer->question_count))
        abort();
    for (size_t i = 0; i < writer->settled.count; i++)
        writer->lost.items[writer->lost.count++] = writer->settled.items[i];
    writer->settled.count = 0;
    while (writer->question_count) {
        struct question *question = writer->questions[writer->question_count - 1];

        writer->lost.items[writer->lost.count++] = (struct writer_lost){question->job, question->attempt};
        if (writer->engine) {
            struct message *stop = message_create(MESSAGE_STOP);

            stop->job = question->job;
            stop->attempt = question->attempt;
            writer_out(writer, writer->engine, stop);
        }
        remove_question(writer, question);
    }
    for (struct message *message = list; message; message = message->next)
        if (message->session)
            writer_out(writer, writer->wire,
                       message_reply(message, WIRE_ERROR, verbs_error(WIRE_CODE_STORE, err->message, true)));
    writer->claim_again = true;
}

static void send_outbox(struct writer *writer)
{
    for (size_t i = 0; i < writer->outbox.count; i++)
        if (!queue_push(writer->outbox.items[i].to, writer->outbox.items[i].message))
            message_destroy(writer->outbox.items[i].message);
    writer->outbox.count = 0;
}

/* Milliseconds until something is due without a message. */
static int wait_ms(const struct writer *writer)
{
    int64_t now = clock_monotonic_ns(), due = writer->purge_at_ns;

    if (writer->lost.count)
        return LOST_RETRY_MS;
    for (size_t i = 0; i < writer->abandoned.count; i++)
        if (writer->abandoned.items[i].at_ns < due)
            due = writer->abandoned.items[i].at_ns;
    for (size_t i = 0; i < writer->question_count; i++) {
        int64_t engine_ns = writer->questions[i]->engine_ns;

        if (writer->questions[i]->waiting && writer->questions[i]->retry_ns < due)
            due = writer->questions[i]->retry_ns;
        if (engine_ns && engine_ns + JOB_LONG_MS * INT64_C(1000000) < due)
            due = engine_ns + JOB_LONG_MS * INT64_C(1000000);
    }
    if (writer->draining && writer->drain_until_ns < due)
        due = writer->drain_until_ns;
    return due <= now ? 0 : (int)((due - now) / 1000000 + 1);
}

/* Streams that are read again from their beginning hold up nobody's tokens: few a group, the others in the next. */
static struct message *put_off_reads(struct writer *writer, struct message *list)
{
    struct message *first = NULL, **end = &first;
    int reads = 0;

    while (list) {
        struct message *next = list->next;

        list->next = NULL;
        if (list->kind == MESSAGE_READ && ++reads > READS_A_GROUP) {
            writer_later(writer, list);
        } else {
            *end = list;
            end = &list->next;
        }
        list = next;
    }
    return first;
}

/* What was put off, then what waits in the queue. */
static struct message *take_group(struct writer *writer)
{
    struct message *list = queue_take(&writer->in, writer->later ? 0 : wait_ms(writer));

    for (struct message *message = list; message; message = message->next)
        writer->out -= comes_back(message);
    *writer->later_end = list;
    list = writer->later;
    writer->later = NULL;
    writer->later_end = &writer->later;
    return put_off_reads(writer, list);
}

void *writer_run(void *context)
{
    static const uint64_t one = 1;
    struct writer *writer = context;

    while (!writer->parked) {
        struct message *list = take_group(writer);
        struct error err = {0};
        enum status s = run_group(writer, list, &err);
        if (s)
            undo_group(writer, list, &err);
        destroy_list(list);
        send_outbox(writer);
        if (s && writer->fatal)
            break;
        if (s)
            (void)usleep(COMMIT_RETRY_MS * 1000); /* a full disk is no better in a microsecond */
    }
    if (write(writer->done_fd, &one, sizeof one) < 0)
        log_error("the end of the job writer can't be told");
    return NULL;
}
