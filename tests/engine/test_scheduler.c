/* test_scheduler.c: many sequences at once give what each gives alone; who is served when; how work ends. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "tests/engine/fixture.h"

/* Two layers, one of them of experts, small enough that a test of hundreds of steps takes a second or two. */
static struct random_model small_model(void)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_BF16);

    m.layers = 2;
    m.hidden = 64;
    m.heads = 2;
    m.q_lora = 32;
    m.kv_lora = 32;
    m.inter = 64;
    m.moe_inter = 32;
    m.experts = 4;
    m.window = 1024;
    return m;
}

static struct engine *open_small(int chunk, int64_t kv_tokens)
{
    return open_engine_with((struct engine_options){.backend = best_backend(), .prefill_chunk = chunk,
                                                    .kv_tokens = kv_tokens, .threads = 2});
}

static struct sequence *start(struct engine *engine, const struct sequence_options *options)
{
    struct sequence *sequence = NULL;
    struct error err = {0};

    CHECK_OK(sequence_create(engine, options, &sequence, &err), &err);
    return sequence;
}

static bool step(struct engine *engine)
{
    struct error err = {0};
    bool worked;

    CHECK_OK(engine_step(engine, &worked, &err), &err);
    return worked;
}

static bool done(const struct sequence *sequence)
{
    struct sequence_status status;

    sequence_get_status(sequence, &status);
    return status.state == SEQUENCE_DONE;
}

static enum sequence_reason reason(const struct sequence *sequence)
{
    struct sequence_status status;

    sequence_get_status(sequence, &status);
    return status.reason;
}

static void run_to_end(struct engine *engine, const struct sequence *sequence)
{
    while (!done(sequence))
        CHECK(step(engine));
}

/* --- One request, kept so that it can be asked again ----------------------------------------------------------- */

struct request {
    struct sequence_options options;
    int32_t *prompt;
    struct sequence_token *want; /* what it gives alone */
    size_t want_count;
};

static struct request random_request(int32_t vocab, size_t longest)
{
    struct request r = {0};

    r.options.token_count = 1 + check_random() % longest;
    r.prompt = random_tokens(r.options.token_count, vocab);
    r.options.tokens = r.prompt;
    r.options.max_tokens = 1 + check_random() % 12;
    r.options.sampling = sampler_default;
    if (check_random() % 2) {
        r.options.sampling.temperature = 0.8f;
        r.options.sampling.top_p = 0.95f;
        r.options.sampling.seed = check_random();
    }
    r.options.class = check_random() % 2 ? SEQUENCE_BATCH : SEQUENCE_INTERACTIVE;
    r.options.owner = check_random() % 3;
    r.options.logprobs = check_random() % 2;
    return r;
}

static void finish_request(struct request *r)
{
    free(r->prompt);
    free(r->want);
}

static void ask_alone(struct engine *engine, struct request *r)
{
    struct sequence *q = start(engine, &r->options);
    const struct sequence_token *tokens;

    run_to_end(engine, q);
    CHECK_EQ_INT(reason(q), REASON_LENGTH);
    r->want_count = sequence_tokens(q, 0, &tokens);
    CHECK_EQ_INT(r->want_count, r->options.max_tokens);
    r->want = malloc(r->want_count * sizeof *r->want);
    CHECK(r->want != NULL);
    memcpy(r->want, tokens, r->want_count * sizeof *r->want);
    sequence_destroy(q);
}

/* Every token and every bit of its logprob. */
static void check_same(const struct sequence *q, const struct request *r)
{
    const struct sequence_token *tokens = NULL;
    size_t count = sequence_tokens(q, 0, &tokens);

    CHECK_EQ_INT(count, r->want_count);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ_INT(tokens[i].id, r->want[i].id);
        CHECK(!memcmp(&tokens[i].logprob, &r->want[i].logprob, sizeof tokens[i].logprob));
    }
}

/* --- Exactness ------------------------------------------------------------------------------------------------- */

TEST(scheduler_batch_gives_what_each_gives_alone)
{
    enum { REQUESTS = 24 };
    static const int chunks[] = {5, 64, 512};
    struct random_model m = small_model();
    struct request r[REQUESTS];
    struct sequence *q[REQUESTS];

    write_model(&m);
    for (int i = 0; i < REQUESTS; i++)
        r[i] = random_request(m.vocab, 150);
    for (int i = 0; i < REQUESTS; i++) { /* an engine of its own, so that no page is found in the cache */
        struct engine *alone = open_small(512, 0);

        ask_alone(alone, &r[i]);
        engine_close(alone);
    }
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        struct engine *engine = open_small(chunks[c], 8192);

        for (int i = 0; i < REQUESTS; i++) {
            q[i] = start(engine, &r[i].options);
            for (uint64_t n = check_random() % 3; n; n--)
                step(engine);
        }
        while (step(engine))
            ;
        for (int i = 0; i < REQUESTS; i++) {
            check_same(q[i], &r[i]);
            sequence_destroy(q[i]);
        }
        CHECK_EQ_INT(kv_cache_free_pages(engine->cache), kv_cache_pages(engine->cache));
        engine_close(engine);
    }
    for (int i = 0; i < REQUESTS; i++)
        finish_request(&r[i]);
}

TEST(scheduler_decode_equals_prefill)
{
    struct random_model m = small_model();
    struct sequence_options o = {.token_count = 50, .max_tokens = 40, .sampling = sampler_default, .logprobs = true};
    int32_t *all = random_tokens(90, 320);
    const struct sequence_token *tokens = NULL;
    struct engine *engine;
    struct sequence *q;
    float *logits;

    write_model(&m);
    engine = open_small(0, 0);
    o.tokens = all;
    q = start(engine, &o);
    run_to_end(engine, q);
    CHECK_EQ_INT(sequence_tokens(q, 0, &tokens), 40);
    for (int i = 0; i < 40; i++)
        all[50 + i] = tokens[i].id;
    logits = logits_of(engine, all, 89);
    for (int i = 0; i < 40; i++) {
        const float *row = logits + (size_t)(49 + i) * (size_t)m.vocab;
        int32_t best = 0;

        for (int32_t t = 1; t < m.vocab; t++)
            best = row[t] > row[best] ? t : best;
        CHECK_EQ_INT(tokens[i].id, best);
    }
    free(logits);
    free(all);
    engine_close(engine);
}

TEST(scheduler_resumes_a_sampled_sequence_from_its_tokens)
{
    struct random_model m = small_model();
    struct request r = {0};
    struct engine *engine;
    int32_t forced[30];

    write_model(&m);
    engine = open_small(0, 0);
    r.options.token_count = 70;
    r.prompt = random_tokens(70, m.vocab);
    r.options.tokens = r.prompt;
    r.options.max_tokens = 30;
    r.options.sampling = sampler_default;
    r.options.sampling.temperature = 1;
    r.options.sampling.repetition_penalty = 1.2f;
    r.options.sampling.seed = 99;
    r.options.logprobs = true;
    ask_alone(engine, &r);
    for (size_t i = 0; i < 30; i++)
        forced[i] = r.want[i].id;
    r.options.forced = forced;
    for (size_t given = 0; given <= 30; given += 10) {
        struct sequence *q;

        r.options.forced_count = given;
        r.options.logprobs = true;
        q = start(engine, &r.options);
        run_to_end(engine, q);
        check_same(q, &r);
        sequence_destroy(q);
        r.options.logprobs = false; /* forced tokens then go with the prompt, in one piece */
        q = start(engine, &r.options);
        while (!done(q))
            CHECK(step(engine));
        for (size_t i = 0; i < 30; i++) {
            const struct sequence_token *token = NULL;

            CHECK(sequence_tokens(q, i, &token) > 0);
            CHECK_EQ_INT(token->id, r.want[i].id);
        }
        sequence_destroy(q);
    }
    finish_request(&r);
    engine_close(engine);
}

/* --- Who is served when ---------------------------------------------------------------------------------------- */

static struct sequence *start_plain(struct engine *engine, size_t prompt, size_t output, enum sequence_class class,
                                    uint64_t owner)
{
    int32_t *tokens = random_tokens(prompt, 256);
    struct sequence_options o = {.tokens = tokens, .token_count = prompt, .max_tokens = output, .class = class,
                                 .owner = owner, .sampling = sampler_default};
    struct sequence *q = start(engine, &o);

    free(tokens);
    return q;
}

static size_t progress(const struct sequence *q)
{
    struct sequence_status status;

    sequence_get_status(q, &status);
    return status.prompt_done + status.output_tokens;
}

TEST(scheduler_parks_batch_work_while_people_wait)
{
    struct random_model m = small_model();
    struct sequence *night, *person;
    struct engine *engine;
    size_t before;

    write_model(&m);
    engine = open_small(32, 4096);
    night = start_plain(engine, 200, 5, SEQUENCE_BATCH, 1);
    step(engine);
    before = progress(night);
    CHECK_EQ_INT(before, 32);
    person = start_plain(engine, 40, 4, SEQUENCE_INTERACTIVE, 2);
    while (!done(person)) {
        CHECK(step(engine));
        CHECK_EQ_INT(progress(night), before);
    }
    run_to_end(engine, night);
    CHECK_EQ_INT(reason(night), REASON_LENGTH);
    engine_close(engine);
}

TEST(scheduler_is_fair_between_owners)
{
    struct random_model m = small_model();
    struct sequence *greedy[6], *other;
    struct engine *engine;

    write_model(&m);
    engine = open_small(32, 4096);
    for (int i = 0; i < 6; i++)
        greedy[i] = start_plain(engine, 160, 1, SEQUENCE_INTERACTIVE, 1);
    step(engine);
    other = start_plain(engine, 160, 1, SEQUENCE_INTERACTIVE, 2);
    run_to_end(engine, other);
    CHECK(done(greedy[0]) || progress(greedy[0]) > 32); /* both went on */
    CHECK(!done(greedy[2]));                            /* and the one did not wait for the six */
    while (step(engine))
        ;
    for (int i = 0; i < 6; i++)
        CHECK_EQ_INT(reason(greedy[i]), REASON_LENGTH);
    engine_close(engine);
}

TEST(scheduler_cancels_within_one_step)
{
    struct random_model m = small_model();
    struct sequence *prefilling, *decoding;
    struct engine *engine;

    write_model(&m);
    engine = open_small(16, 4096);
    decoding = start_plain(engine, 10, 100, SEQUENCE_INTERACTIVE, 1);
    prefilling = start_plain(engine, 300, 1, SEQUENCE_INTERACTIVE, 1);
    for (int i = 0; i < 4; i++)
        step(engine);
    sequence_cancel(prefilling);
    sequence_cancel(decoding);
    step(engine);
    CHECK_EQ_INT(reason(prefilling), REASON_CANCELLED);
    CHECK_EQ_INT(reason(decoding), REASON_CANCELLED);
    CHECK_EQ_INT(kv_cache_free_pages(engine->cache), kv_cache_pages(engine->cache));
    CHECK(!step(engine));
    engine_close(engine);
}

/* More than one pass decodes at once: they take turns, and none is forgotten. */
TEST(scheduler_decodes_hundreds_in_turn)
{
    enum { MANY = 300 };
    struct random_model m = small_model();
    struct sequence *q[MANY];
    struct engine *engine;
    int steps = 0;

    write_model(&m);
    engine = open_small(1024, MANY * 64);
    for (int i = 0; i < MANY; i++)
        q[i] = start_plain(engine, 3, 3, SEQUENCE_INTERACTIVE, (uint64_t)i % 7);
    while (step(engine))
        steps++;
    for (int i = 0; i < MANY; i++)
        CHECK_EQ_INT(reason(q[i]), REASON_LENGTH);
    CHECK(steps < 12); /* one of prefill, five or six of 128 rows */
    engine_close(engine);
}

/* --- Admission ------------------------------------------------------------------------------------------------- */

TEST(scheduler_refuses_what_does_not_fit)
{
    struct random_model m = small_model();
    struct sequence *first, *second = NULL;
    int32_t tokens[600] = {0};
    struct sequence_options o = {.tokens = tokens, .token_count = 300, .max_tokens = 10, .sampling = sampler_default};
    struct engine *engine;

    write_model(&m);
    engine = open_small(0, 512);
    CHECK_EQ_INT(engine_info(engine)->window_tokens, 512);
    first = start(engine, &o);
    CHECK_STATUS(sequence_create(engine, &o, &second, NULL), STATUS_BUSY);
    CHECK_EQ_INT(kv_cache_free_pages(engine->cache), 3); /* what was refused took nothing */
    o.token_count = 510;
    CHECK_STATUS(sequence_create(engine, &o, &second, NULL), STATUS_LIMIT);
    o.token_count = SIZE_MAX;
    CHECK_STATUS(sequence_create(engine, &o, &second, NULL), STATUS_LIMIT);
    o.token_count = 0;
    CHECK_STATUS(sequence_create(engine, &o, &second, NULL), STATUS_BAD_INPUT);
    o.token_count = 300;
    tokens[299] = m.vocab;
    CHECK_STATUS(sequence_create(engine, &o, &second, NULL), STATUS_BAD_INPUT);
    tokens[299] = -1;
    CHECK_STATUS(sequence_create(engine, &o, &second, NULL), STATUS_BAD_INPUT);
    tokens[299] = 0;
    run_to_end(engine, first);
    second = start(engine, &o); /* the first has ended, though it is not destroyed yet */
    run_to_end(engine, second);
    engine_close(engine);
}

/* Sequences that have ended and are not destroyed yet hold no page, and yet they are not without number. */
TEST(scheduler_refuses_more_sequences_than_it_holds)
{
    struct random_model m = small_model();
    int32_t token = 7;
    struct sequence_options o = {.tokens = &token, .token_count = 1, .max_tokens = 2, .forced = &token,
                                 .forced_count = 1, .stop_ids = &token, .stop_id_count = 1,
                                 .sampling = sampler_default};
    struct sequence *q[MAX_LIVE_SEQUENCES], *more = NULL;
    struct error err = {0};
    struct engine *engine;

    write_model(&m);
    engine = open_small(0, 512);
    for (int i = 0; i < MAX_LIVE_SEQUENCES; i++)
        q[i] = start(engine, &o);
    CHECK(done(q[0]));
    CHECK_STATUS(sequence_create(engine, &o, &more, &err), STATUS_BUSY);
    CHECK(strstr(err.message, "4096") != NULL);
    CHECK_EQ_INT(kv_cache_free_pages(engine->cache), kv_cache_pages(engine->cache));
    sequence_destroy(q[17]);
    q[17] = start(engine, &o);
    engine_close(engine);
}

TEST(scheduler_keeps_room_for_people)
{
    struct random_model m = small_model();
    int32_t tokens[64] = {0};
    struct sequence_options o = {.tokens = tokens, .token_count = 60, .max_tokens = 5, .class = SEQUENCE_BATCH,
                                 .sampling = sampler_default};
    struct sequence *q;
    struct engine *engine;
    int batch = 0;

    write_model(&m);
    engine = open_small(0, 512);
    while (!sequence_create(engine, &o, &q, NULL))
        batch++;
    CHECK_EQ_INT(batch, 6); /* of 8 pages */
    o.class = SEQUENCE_INTERACTIVE;
    q = start(engine, &o);
    run_to_end(engine, q);
    while (step(engine))
        ;
    engine_close(engine);
}

/* --- How a sequence ends --------------------------------------------------------------------------------------- */

TEST(scheduler_stops_at_ids_and_strings)
{
    struct random_model m = small_model();
    struct sequence_options o = {.token_count = 20, .max_tokens = 30, .sampling = sampler_default};
    int32_t *prompt = random_tokens(20, 256), stop_id;
    const struct sequence_token *tokens = NULL;
    char stop[8], whole[512];
    const char *stops[] = {stop};
    struct sequence *q;
    struct engine *engine;
    size_t count, at, len, shown = 0, from = 6;
    struct span text;

    write_model(&m);
    engine = open_small(0, 0);
    o.tokens = prompt;
    o.sampling.temperature = 3; /* varied output: a random model repeats itself when it is greedy */
    o.sampling.seed = 3;
    q = start(engine, &o);
    run_to_end(engine, q);
    count = sequence_tokens(q, 0, &tokens);
    stop_id = tokens[9].id;
    text = sequence_text(q);
    CHECK(text.len > 12 && text.len < sizeof whole);
    memcpy(whole, text.ptr, text.len);
    len = text.len;
    sequence_destroy(q);

    o.stop_ids = &stop_id;
    o.stop_id_count = 1;
    q = start(engine, &o);
    run_to_end(engine, q);
    CHECK_EQ_INT(reason(q), REASON_STOP);
    count = sequence_tokens(q, 0, &tokens);
    CHECK(count <= 10);
    CHECK_EQ_INT(tokens[count - 1].id, stop_id);
    sequence_destroy(q);

    o.stop_id_count = 0;
    while (from + 3 < len && memchr(whole + from, 0, 3)) /* a token's text may be that byte */
        from++;
    memcpy(stop, whole + from, 3);
    stop[3] = 0;
    CHECK(strlen(stop) == 3);
    o.stop_strings = stops;
    o.stop_string_count = 1;
    at = (size_t)((char *)memmem(whole, len, stop, 3) - whole);
    q = start(engine, &o);
    while (!done(q)) { /* what was shown once stays, and never goes beyond the stop */
        CHECK(step(engine));
        text = sequence_text(q);
        CHECK(text.len >= shown && text.len <= at);
        CHECK(!memcmp(text.ptr, whole, text.len));
        shown = text.len;
    }
    CHECK_EQ_INT(reason(q), REASON_STOP);
    CHECK_EQ_INT(sequence_text(q).len, at);
    sequence_destroy(q);
    free(prompt);
    engine_close(engine);
}

TEST(scheduler_quotes_only_what_stands_in_a_block)
{
    static const char first[] = "The mill burnt down in 1871 and was never rebuilt.";
    static const char second[] = "Water rights went to the town in the following year.";
    struct random_model m = small_model();
    struct quote_block blocks[] = {{1, {first, sizeof first - 1}}, {2, {second, sizeof second - 1}}};
    struct prompt_block packed[] = {{.id = 1, .text = blocks[0].text}, {.id = 2, .text = blocks[1].text}};
    struct quote_params params = {.none = NULL, .min_bytes = 5, .max_bytes = 40, .max_quotations = 2};
    struct quote_index *index = NULL;
    const struct quote_span *spans = NULL;
    struct prompt prompt = {0};
    struct error err = {0};
    struct engine *engine;
    struct buf shown;
    int32_t stop[8];

    m.reader = true;
    write_model(&m);
    engine = open_small(0, 0);
    CHECK(engine_quote_vocab(engine) != NULL);
    CHECK_EQ_INT(engine_info(engine)->prompt_style, PROMPT_READER);
    CHECK_OK(quote_index_create(engine_quote_vocab(engine), blocks, 2, &params, &index, &err), &err);
    CHECK_OK(prompt_build(engine_tokenizer(engine), PROMPT_READER, PROMPT_ANSWER, packed, 2,
                          span_from_cstr("When did the mill burn?"), 512, &prompt, &err), &err);
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct sequence_options o = {.tokens = prompt.tokens.ids, .token_count = prompt.tokens.count, .max_tokens = 150,
                                     .sampling = sampler_default, .stop_ids = stop, .quotes = index};
        struct sequence *q;
        size_t count;

        o.sampling.temperature = seed ? 1.5f : 0;
        o.sampling.seed = seed;
        o.stop_id_count = prompt_stop_ids(engine_tokenizer(engine), PROMPT_READER, stop, 8);
        CHECK(o.stop_id_count > 0);
        q = start(engine, &o);
        run_to_end(engine, q);
        CHECK_EQ_STR(sequence_error(q), "");
        CHECK_EQ_INT(reason(q), REASON_STOP);
        count = sequence_quotes(q, &spans);
        CHECK(count >= 1 && count <= 2);
        buf_init(&shown, 4096);
        for (size_t i = 0; i < count; i++) {
            struct span quoted = span_slice(blocks[spans[i].block_id - 1].text, spans[i].start, spans[i].end);

            CHECK(spans[i].block_id == 1 || spans[i].block_id == 2);
            CHECK_STATUS(buf_printf(&shown, "%s\u201c%.*s\u201d [%d]", i ? " " : "", (int)quoted.len, quoted.ptr,
                                    spans[i].block_id), STATUS_OK);
        }
        CHECK_EQ_SPAN(sequence_text(q), buf_span(&shown)); /* what a person reads: no special token shows */
        buf_finish(&shown);
        sequence_destroy(q);
    }
    quote_index_destroy(index);
    prompt_finish(&prompt);
    engine_close(engine);
}

/* --- Soak ------------------------------------------------------------------------------------------------------ */

/* Random requests, cancels, classes and owners over a cache too small for them; every output equal to the same request
 * alone, and every page back at the end. DSA_SOAK names another number of requests. */
TEST(scheduler_soak)
{
    enum { KINDS = 40, LIVE = 16 };
    const char *asked = getenv("DSA_SOAK");
    long total = asked ? atol(asked) : 300, started = 0, ended = 0, refused = 0, cancelled = 0, cached = 0;
    size_t heap_at_half = 0, heap_most = 0;
    struct random_model m = small_model();
    struct request r[KINDS];
    struct {
        struct sequence *sequence;
        int kind;
    } live[LIVE] = {0};
    struct engine *engine, *alone;

    write_model(&m);
    alone = open_small(512, 0);
    engine = open_small(48, 1024);
    for (int i = 0; i < KINDS; i++) {
        r[i] = random_request(m.vocab, 200);
        if (i % 4 == 3) { /* shares a beginning with the one before, so that pages are found in the cache */
            size_t shared = r[i - 1].options.token_count < r[i].options.token_count ? r[i - 1].options.token_count
                                                                                    : r[i].options.token_count;

            memcpy(r[i].prompt, r[i - 1].prompt, shared * sizeof *r[i].prompt);
        }
        ask_alone(alone, &r[i]);
    }
    engine_close(alone);
    while (ended < total) {
        for (int i = 0; i < LIVE; i++) {
            struct sequence_status status;

            if (!live[i].sequence) {
                int kind = (int)(check_random() % KINDS);
                enum status s;

                if (started >= total || check_random() % 4)
                    continue;
                s = sequence_create(engine, &r[kind].options, &live[i].sequence, NULL);
                CHECK(s == STATUS_OK || s == STATUS_BUSY);
                refused += s == STATUS_BUSY;
                started += s == STATUS_OK;
                live[i].kind = kind;
                continue;
            }
            sequence_get_status(live[i].sequence, &status);
            if (status.state != SEQUENCE_DONE) {
                if (check_random() % 64 == 0)
                    sequence_cancel(live[i].sequence);
                continue;
            }
            CHECK(status.reason == REASON_LENGTH || status.reason == REASON_CANCELLED);
            if (status.reason == REASON_LENGTH)
                check_same(live[i].sequence, &r[live[i].kind]);
            cancelled += status.reason == REASON_CANCELLED;
            cached += status.cached_tokens > 0;
            sequence_destroy(live[i].sequence);
            live[i].sequence = NULL;
            ended++;
        }
        step(engine);
        if (mallinfo2().uordblks > heap_most)
            heap_most = mallinfo2().uordblks;
        if (ended < total / 2)
            heap_at_half = heap_most;
    }
    printf("# %ld requests: %ld cancelled, %ld refused at first, %ld found pages in the cache\n", ended, cancelled,
           refused, cached);
    CHECK(cancelled > 0 && refused > 0 && cached > 0);
    CHECK(heap_most < heap_at_half + (1 << 20)); /* what the first half needed is enough for the second */
    CHECK_EQ_INT(kv_cache_free_pages(engine->cache), kv_cache_pages(engine->cache));
    engine_close(engine);
    for (int i = 0; i < KINDS; i++)
        finish_request(&r[i]);
}
