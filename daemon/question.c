/* question.c: the transitions of a question. See question.h for the picture.
 *
 * Everything here runs on the writer thread, inside its transaction; what goes to other threads leaves after the
 * commit. A status other than STATUS_OK means that the store failed and the whole group is undone. */
#include "daemon/question.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/restore.h"
#include "daemon/writer.h"

enum {
    SPACE_RETRY_MS = 1000,         /* how often a full disk is tried */
    FINAL_HEADER_BYTES = 56 * 1024 /* leaves room under WIRE_MAX_HEADER_BYTES */
};

const char *question_state_name(enum question_state state)
{
    static const char *const names[] = {"received", "accepted", "retrieving", "packed",
                                        "prefill",  "decode",   "final",      "failed"};

    return names[state];
}

/* The arrows of the picture. */
static void advance(struct question *question, enum question_state to)
{
    static const unsigned char from[] = {
        [QUESTION_RETRIEVING] = 1 << QUESTION_ACCEPTED | 1 << QUESTION_PREFILL | 1 << QUESTION_DECODE,
        [QUESTION_PACKED] = 1 << QUESTION_RETRIEVING,
        [QUESTION_PREFILL] = 1 << QUESTION_PACKED | 1 << QUESTION_PREFILL,
        [QUESTION_DECODE] = 1 << QUESTION_PACKED | 1 << QUESTION_PREFILL | 1 << QUESTION_DECODE,
        [QUESTION_FINAL] =
            1 << QUESTION_RETRIEVING | 1 << QUESTION_PACKED | 1 << QUESTION_PREFILL | 1 << QUESTION_DECODE,
        [QUESTION_FAILED] = 1 << QUESTION_ACCEPTED | 1 << QUESTION_RETRIEVING | 1 << QUESTION_PACKED |
                            1 << QUESTION_PREFILL | 1 << QUESTION_DECODE,
    };

    assert(from[to] & 1 << question->state);
    question->state = to;
}

void work_destroy(struct work *work)
{
    if (!work)
        return;
    packed_unref(work->packed);
    arena_finish(&work->arena);
    buf_finish(&work->kept);
    buf_finish(&work->said);
    buf_finish(&work->made);
    vec_finish(&work->made_quotes);
    passes_destroy(work->passes);
    free(work->forced);
    free(work);
}

void question_destroy(struct question *question)
{
    if (!question)
        return;
    work_destroy(question->finished);
    work_destroy(question->waiting);
    packed_unref(question->packed);
    json_decref(question->citations);
    buf_finish(&question->answer);
    vec_finish(&question->quotes);
    free(question->principal);
    free(question);
}

/* --- Ends -------------------------------------------------------------------------------------------------------- */

static enum status end(struct writer *writer, struct question *question, int type, json_t *header,
                       enum job_state state, struct error *err)
{
    char *text = NULL;
    enum status s = writer_put(writer, question, type, header, span_of(NULL, 0), &text, err);

    if (!s)
        s = jobs_finish(writer->jobs, question->job, question->attempt, state, span_from_cstr(text), err);
    free(text);
    if (s)
        return s;
    advance(question, state == JOB_FINAL ? QUESTION_FINAL : QUESTION_FAILED);
    writer_forget(writer, question);
    return STATUS_OK;
}

static json_t *error_header(const char *code, const char *message, bool retryable)
{
    return json_pack("{s:s, s:s, s:b}", "code", code, "message", message, "retryable", (int)retryable);
}

/* Ours, and so worth another attempt: not the question's own fault. */
static bool is_transient(const char *code)
{
    return strcmp(code, WIRE_CODE_ENGINE) == 0 || strcmp(code, WIRE_CODE_STORE) == 0 ||
           strcmp(code, WIRE_CODE_INTERNAL) == 0;
}

static enum status fail(struct writer *writer, struct question *question, const char *code, const char *message,
                        bool retryable, struct error *err)
{
    json_t *header = error_header(code, message, retryable);
    enum status s;

    if (!is_transient(code))
        return end(writer, question, WIRE_ERROR, header, JOB_FAILED, err);
    if (question->errors + 1 < JOB_MAX_ERRORS) {
        json_decref(header);
    } else {
        s = writer_put(writer, question, WIRE_ERROR, header, span_of(NULL, 0), NULL, err);
        if (s)
            return s;
    }
    s = jobs_requeue(writer->jobs, question->job, question->attempt, message, err);
    if (s)
        return s;
    advance(question, QUESTION_FAILED);
    writer->claim_again = true;
    writer->queued++;
    writer_forget(writer, question);
    return STATUS_OK;
}

/* What a summary was made of, and what was left out of it. */
static json_t *summary_json(const struct summary_facts *facts)
{
    const struct passes_counts *counts = &facts->counts;
    json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "by", summariser_by_name(facts->by), "statements",
                             (json_int_t)facts->statements, "sections", (json_int_t)counts->sections, "levels",
                             (json_int_t)counts->levels, "passes", (json_int_t)counts->passes, "passes_before",
                             (json_int_t)counts->passes_before, "unreduced", (json_int_t)counts->unreduced);
    json_t *dropped = json_object();

    for (int i = CLAIM_UNCITED; i < CLAIM_FAULTS; i++)
        (void)json_object_set_new(dropped, retrieval_claim_fault_name((enum claim_fault)i),
                                  json_integer((json_int_t)counts->claims[i]));
    (void)json_object_set_new(json, "dropped", dropped);
    return json;
}

static json_t *final_header(const struct writer *writer, struct question *question, const struct work *work)
{
    int64_t total_ms = clock_wall_ms() - question->submitted_ms;
    bool none = question->kind != JOB_BATCH && question->packed->pack.count == 0;
    bool extractive = question->kind == JOB_SUMMARISE && work->summary.by == SUMMARISER_EXTRACTIVE;
    json_t *header = json_pack(
        "{s:s, s:s, s:I, s:I, s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I}}", "reason",
        none ? "no-evidence" : work->reason ? work->reason : "stop", "answered_by",
        none          ? "none"
        : extractive  ? "extractive-baseline"
                      : writer->answered_by,
        "attempt", (json_int_t)question->attempt, "generation", (json_int_t)question->packed->generation, "usage",
        "pack_tokens", (json_int_t)question->packed->pack.tokens, "prompt_tokens", (json_int_t)work->prompt_tokens,
        "cached_tokens", (json_int_t)work->cached_tokens, "output_tokens", (json_int_t)work->output_tokens,
        "timings_ms", "total", (json_int_t)total_ms, "retrieve", (json_int_t)(work->retrieve_ns / 1000000), "prefill",
        (json_int_t)(work->prefill_ns / 1000000), "decode", (json_int_t)(work->decode_ns / 1000000));
    size_t room = FINAL_HEADER_BYTES;
    char *citations;

    if (question->kind == JOB_SUMMARISE) {
        (void)json_object_set_new(header, "summary", summary_json(&work->summary));
        if (work->summary.cached)
            (void)json_object_set_new(header, "cached", json_true());
    }
    if (*writer->model_hash && !extractive)
        (void)json_object_set_new(header, "model", json_string(writer->model_hash));
    citations = json_dumps(question->citations, JSON_COMPACT);
    if (citations && strlen(citations) < room / 2) {
        (void)json_object_set(header, "citations", question->citations);
        room -= strlen(citations);
    }
    free(citations);
    /* The answer as a whole, for those who come later; a long one is in the stream only, and so is one with a NUL,
     * which headers never hold. Escapes at most sixfold. */
    if (question->answer.len < room / 6 && !memchr(buf_cstr(&question->answer), '\0', question->answer.len))
        (void)json_object_set_new(header, "answer", json_stringn(buf_cstr(&question->answer), question->answer.len));
    return header;
}

static enum status finish_if_complete(struct writer *writer, struct question *question, struct error *err)
{
    struct work *work = question->finished;

    if (!work || question->locating || question->quotes_located < question->quotes.count)
        return STATUS_OK;
    if (work->code)
        return fail(writer, question, work->code, work->error, work->retryable, err);
    return end(writer, question, WIRE_FINAL, final_header(writer, question, work), JOB_FINAL, err);
}

/* --- Start and second attempt ------------------------------------------------------------------------------------ */

static uint64_t owner_hash(const char *principal)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */

    for (; *principal; principal++)
        hash = (hash ^ (unsigned char)*principal) * 0x100000001B3u;
    return hash;
}

static void to_retrieval(struct writer *writer, struct question *question, struct work *work)
{
    struct message *message = message_create(MESSAGE_RETRIEVE);

    message->job = work->job;
    message->attempt = work->attempt;
    message->work = work;
    if (question->state != QUESTION_RETRIEVING) /* it waited there */
        advance(question, QUESTION_RETRIEVING);
    writer->out++;
    writer_out(writer, writer->retrieval, message);
}

/* The stream has its end, but the row does not: a crash, or a full disk, came between the two commits. */
static enum status finish_again(struct writer *writer, struct question *question, struct error *err);

enum status question_start(struct writer *writer, const struct job *job, struct error *err)
{
    struct question *question = calloc(1, sizeof *question);
    struct work *work = calloc(1, sizeof *work);
    struct error why = {0};
    enum status s, parsed;

    if (!question || !work) {
        free(question);
        free(work);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a question");
    }
    arena_init(&work->arena, WORK_ARENA_BYTES);
    buf_init(&work->kept, PACKED_MAX_BYTES);
    buf_init(&work->said, ANSWER_MAX_BYTES);
    buf_init(&work->made, ANSWER_MAX_BYTES);
    buf_init(&question->answer, ANSWER_MAX_BYTES);
    question->job = work->job = job->id;
    question->attempt = work->attempt = job->attempt;
    question->errors = job->errors;
    question->class = job->class;
    question->kind = job->kind;
    question->detached = job->detached;
    question->submitted_ms = job->submitted_ms;
    question->started_ns = clock_monotonic_ns();
    question->state = QUESTION_ACCEPTED;
    question->principal = strdup(job->principal);
    question->citations = json_array();
    if (!question->principal || !question->citations) {
        s = error_set(err, STATUS_NO_MEMORY, "no memory for a question");
        goto fail;
    }
    work->owner = owner_hash(job->principal);
    parsed = request_parse(job->request, writer->config, &work->arena, &work->request, &why);
    s = restore(writer, question, work, err);
    if (!s)
        s = writer_adopt(writer, question);
    if (s)
        goto fail;
    /* From here on the question is on the table. */
    if (question->ended_before) {
        work_destroy(work);
        return finish_again(writer, question, err);
    }
    if (parsed) {
        work_destroy(work);
        return fail(writer, question, WIRE_CODE_BAD_REQUEST, why.message, false, err);
    }
    work->quotes_said = question->citations_given;
    to_retrieval(writer, question, work);
    writer_progress(writer, question, "retrieve", 0, 0);
    return STATUS_OK;
fail:
    question_destroy(question);
    work_destroy(work);
    return s;
}

struct last_message {
    int type;
    struct buf header;
};

static bool take_last(void *context, const struct stream_message *message)
{
    struct last_message *last = context;

    last->type = message->type;
    buf_clear(&last->header);
    return buf_append_span(&last->header, message->header) == STATUS_OK;
}

static enum status finish_again(struct writer *writer, struct question *question, struct error *err)
{
    struct last_message last = {0};
    struct message *message;
    enum status s;

    buf_init(&last.header, WIRE_MAX_HEADER_BYTES);
    s = jobs_stream_read(writer->jobs, question->job, question->next_seq - 1, 1, take_last, &last, err);
    if (!s)
        s = jobs_finish(writer->jobs, question->job, question->attempt,
                        last.type == WIRE_FINAL ? JOB_FINAL : JOB_FAILED, buf_span(&last.header), err);
    if (!s) {
        /* Without a restart between, somebody waits for it: what went out with the failed commit was held back. */
        message = message_create(MESSAGE_PUBLISH);
        message->job = question->job;
        message->seq = question->next_seq - 1;
        message->type = last.type;
        message->last = true;
        message_set_header(message, strndup(buf_cstr(&last.header), last.header.len));
        writer_out(writer, writer->wire, message);
        writer_forget(writer, question);
    }
    buf_finish(&last.header);
    return s;
}

/* --- Events ------------------------------------------------------------------------------------------------------ */

static enum status give_evidence(struct writer *writer, struct question *question, struct error *err)
{
    const struct packed *packed = question->packed;

    while (question->evidence_given < packed->evidence_count) {
        const struct packed_evidence *evidence = &packed->evidence[question->evidence_given];
        enum status s =
            writer_put(writer, question, WIRE_EVIDENCE, json_loadb(evidence->header.ptr, evidence->header.len, 0, NULL),
                       evidence->body, NULL, err);

        if (s)
            return s;
        question->evidence_given++;
    }
    return STATUS_OK;
}

static enum status give_tokens(struct writer *writer, struct question *question, const int32_t *ids, size_t count,
                               struct span text, struct error *err)
{
    json_t *header = json_object(), *list = json_array();
    enum status s;

    for (size_t i = 0; i < count; i++)
        (void)json_array_append_new(list, json_integer(ids[i]));
    (void)json_object_set_new(header, "n", json_integer((json_int_t)count));
    (void)json_object_set_new(header, "ids", list);
    s = writer_put(writer, question, WIRE_TOKENS, header, text, NULL, err);
    return s ? s : buf_append_span(&question->answer, text);
}

/* One quotation at a time goes to the pool, so that citations keep the order of the answer. */
static void locate_next(struct writer *writer, struct question *question)
{
    const struct packed_quote *quote;
    struct message *message;

    if (question->locating || question->quotes_located == question->quotes.count)
        return;
    quote = &question->quotes.items[question->quotes_located];
    message = message_create(MESSAGE_LOCATE);
    message->job = question->job;
    message->attempt = question->attempt;
    message->packed = packed_ref(question->packed);
    message->block = (int)quote->block;
    message->start = quote->start;
    message->end = quote->end;
    question->locating = true;
    writer->out++;
    writer_out(writer, writer->retrieval, message);
}

static enum status add_quote(struct question *question, struct packed_quote quote)
{
    if (vec_reserve(&question->quotes, 1))
        return STATUS_NO_MEMORY;
    question->quotes.items[question->quotes.count++] = quote;
    return STATUS_OK;
}

/* Without a model the answer came with the pack. */
static enum status give_answer(struct writer *writer, struct question *question, struct work *work, struct error *err)
{
    const struct packed *packed = question->packed;
    enum status s = STATUS_OK;

    if (packed->answer.len && question->answer.len == 0)
        s = give_tokens(writer, question, NULL, 0, packed->answer, err);
    for (size_t i = question->citations_given; i < packed->quote_count && !s; i++)
        s = add_quote(question, packed->quotes[i]);
    if (s)
        return s;
    question->finished = work;
    locate_next(writer, question);
    return finish_if_complete(writer, question, err);
}

/* To the engine with the prompt that is in `work`. */
static void to_engine(struct writer *writer, struct question *question, struct work *work)
{
    struct message *message = message_create(MESSAGE_GENERATE);

    message->job = work->job;
    message->attempt = work->attempt;
    message->work = work;
    advance(question, QUESTION_PREFILL);
    question->engine_ns = clock_monotonic_ns();
    writer->out++;
    writer_out(writer, writer->engine, message);
}

/* One pass of a summary: nothing of it is kept with the job or told but how far it is. */
static enum status begin_pass(struct writer *writer, struct question *question, struct work *work)
{
    size_t made, all;

    passes_progress(work->passes, &made, &all);
    advance(question, QUESTION_PACKED);
    to_engine(writer, question, work);
    writer_progress(writer, question, "summarise", (int64_t)made, (int64_t)all);
    return STATUS_OK;
}

/* A full disk is nobody's failure: what was made stays in hand, and is stored when there is room. */
static void wait_for_space(struct writer *writer, struct question *question, struct work *work)
{
    if (!question->retry_ns)
        log_warning("job %lld waits: %s", (long long)question->job, work->error);
    question->waiting = work;
    question->retry_ns = clock_monotonic_ns() + SPACE_RETRY_MS * INT64_C(1000000);
    writer_progress(writer, question, "no-space", 0, 0);
}

void question_retry(struct writer *writer, struct question *question)
{
    struct work *work = question->waiting;

    question->waiting = NULL;
    work->code = NULL;
    work->retryable = work->no_space = false;
    to_retrieval(writer, question, work);
}

enum status question_packed(struct writer *writer, struct question *question, struct message *message,
                            struct error *err)
{
    struct work *work = message->work;
    struct message *next;
    enum status s;

    if (work->no_space) {
        message->work = NULL;
        wait_for_space(writer, question, work);
        return STATUS_OK;
    }
    if (work->code)
        return fail(writer, question, work->code, work->error, work->retryable, err);
    if (work->pass) {
        message->work = NULL;
        return begin_pass(writer, question, work);
    }
    if (!work->was_kept) {
        /* streams.db is committed before jobs.db: the first evidence waits for the next group, so that no stream
         * ever shows what a pack that was lost had in it. */
        s = jobs_put_pack(writer->jobs, question->job, question->attempt, buf_span(&work->kept), err);
        if (s)
            return s;
        work->was_kept = true;
        next = message_create(MESSAGE_PACKED);
        next->job = work->job;
        next->attempt = work->attempt;
        next->work = work;
        message->work = NULL;
        writer_later(writer, next);
        return STATUS_OK;
    }
    advance(question, QUESTION_PACKED);
    buf_finish(&work->kept);
    question->packed = packed_ref(work->packed);
    s = give_evidence(writer, question, err);
    if (s)
        return s;
    message->work = NULL;
    if (work->packed->token_count == 0)
        return give_answer(writer, question, work, err);
    to_engine(writer, question, work);
    writer_progress(writer, question, "prefill", 0, (int64_t)work->packed->token_count);
    return STATUS_OK;
}

enum status question_tokens(struct writer *writer, struct question *question, struct message *message,
                            struct error *err)
{
    advance(question, QUESTION_DECODE);
    return give_tokens(writer, question, message->ids, (size_t)message->count,
                       span_of(message->body, message->body_len), err);
}

enum status question_quote(struct writer *writer, struct question *question, struct message *message, struct error *err)
{
    struct packed_quote quote = {.block = (size_t)message->block, .start = message->start, .end = message->end};

    if (quote.block >= question->packed->pack.count)
        return STATUS_OK;
    if (add_quote(question, quote))
        return error_set(err, STATUS_NO_MEMORY, "no memory for a quotation");
    locate_next(writer, question);
    return STATUS_OK;
}

enum status question_located(struct writer *writer, struct question *question, struct message *message,
                             struct error *err)
{
    json_t *header = json_loadb(message->header, message->header_len, 0, NULL), *brief;
    enum status s;

    question->locating = false;
    question->quotes_located++;
    question->citations_given++;
    brief = json_copy(header);
    restore_quote(brief, span_of(message->body, message->body_len));
    (void)json_array_append_new(question->citations, brief);
    s = writer_put(writer, question, WIRE_CITATION, header, span_of(message->body, message->body_len), NULL, err);
    if (s)
        return s;
    locate_next(writer, question);
    return finish_if_complete(writer, question, err);
}

enum status question_generated(struct writer *writer, struct question *question, struct message *message,
                               struct error *err)
{
    struct work *work = message->work;

    message->work = NULL;
    if (work->pass && !work->code) {
        to_retrieval(writer, question, work);
        return STATUS_OK;
    }
    question->finished = work;
    return finish_if_complete(writer, question, err);
}

enum status question_phase(struct writer *writer, struct question *question, struct message *message, struct error *err)
{
    (void)err;
    if (question->state == QUESTION_PREFILL)
        writer_progress(writer, question, "prefill", message->done, message->total);
    return STATUS_OK;
}

static void stop_engine(struct writer *writer, const struct question *question)
{
    struct message *message;

    if (!writer->engine || (question->state != QUESTION_PREFILL && question->state != QUESTION_DECODE))
        return;
    message = message_create(MESSAGE_STOP);
    message->job = question->job;
    message->attempt = question->attempt;
    writer_out(writer, writer->engine, message);
}

enum status question_cancel(struct writer *writer, struct question *question, struct error *err)
{
    stop_engine(writer, question);
    return end(writer, question, WIRE_ERROR, error_header(WIRE_CODE_CANCELLED, "cancelled on request", false),
               JOB_CANCELLED, err);
}

enum status question_park(struct writer *writer, struct question *question, struct error *err)
{
    enum status s = jobs_requeue(writer->jobs, question->job, question->attempt, NULL, err);

    if (s)
        return s;
    stop_engine(writer, question);
    writer->queued++;
    writer_forget(writer, question);
    return STATUS_OK;
}
