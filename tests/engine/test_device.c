/* test_device.c: the engine on a device with memory of its own: what it computes, what it plans, how it fails.
 *
 * Every test runs on each device backend that is there: on emulated CUDA anywhere, on a GPU where there is one (there
 * with more of everything). Failures are injected through kernels/cuda/faults.h. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>

#include "engine/forward_impl.h"
#include "kernels/cuda/faults.h"
#include "tests/engine/fixture.h"

static const char *const devices[] = {"cuda", "cuda-emulated"};
enum { DEVICES = 2 };

static bool is_hardware(const char *device)
{
    return !strcmp(device, "cuda");
}

/* Runs `test` on every device; a test that met none is skipped. */
static void on_devices(void (*test)(const char *device))
{
    bool any = false;

    for (int i = 0; i < DEVICES; i++) {
        if (have_backend(devices[i])) {
            any = true;
            test(devices[i]);
        }
    }
    if (!any)
        SKIP("no device, emulated or not");
}
#define DEVICE_TEST(name)                      \
    static void name##_on(const char *device); \
    TEST(name)                                 \
    {                                          \
        on_devices(name##_on);                 \
    }                                          \
    static void name##_on(const char *device)

static struct cuda_faults *faults_of(const char *device)
{
    char path[4096];
    void *handle;
    struct cuda_faults *faults;

    CHECK(getenv("DSA_PLUGIN_DIR") != NULL);
    snprintf(path, sizeof path, "%s/dsa-backend-%s.so", getenv("DSA_PLUGIN_DIR"), device);
    handle = dlopen(path, RTLD_NOW);
    CHECK(handle != NULL);
    faults = dlsym(handle, "dsa_cuda_faults");
    CHECK(faults != NULL);
    return faults;
}

/* Three layers, two of them of experts; index_topk 16, so that selection is at work after 16 positions. */
static struct random_model small_model(enum random_dtype dtype)
{
    struct random_model m = random_model_default(RANDOM_V32, dtype);

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

static struct sequence *start(struct engine *engine, const struct sequence_options *options)
{
    struct sequence *sequence = NULL;
    struct error err = {0};

    CHECK_OK(sequence_create(engine, options, &sequence, &err), &err);
    return sequence;
}

static void run_all(struct engine *engine)
{
    struct error err = {0};
    bool worked = true;

    while (worked)
        CHECK_OK(engine_step(engine, &worked, &err), &err);
}

static struct sequence_status status_of(const struct sequence *sequence)
{
    struct sequence_status status;

    sequence_get_status(sequence, &status);
    return status;
}

/* --- Many sequences -------------------------------------------------------------------------------------------- */

enum { MOST_REQUESTS = 24 };

struct request {
    struct sequence_options options;
    int32_t *prompt;
    struct sequence_token *got;
    size_t got_count;
};

static void make_requests(struct request *r, int count, size_t longest, size_t tokens, int32_t vocab)
{
    for (int i = 0; i < count; i++) {
        r[i] = (struct request){0};
        r[i].options.token_count = 1 + check_random() % longest;
        r[i].prompt = random_tokens(r[i].options.token_count, vocab);
        r[i].options.tokens = r[i].prompt;
        r[i].options.max_tokens = 1 + check_random() % tokens;
        r[i].options.sampling = sampler_default;
        r[i].options.owner = (uint64_t)i % 3;
        r[i].options.logprobs = true;
        if (i % 2) {
            r[i].options.sampling.temperature = 0.8f;
            r[i].options.sampling.top_p = 0.95f;
            r[i].options.sampling.seed = (uint64_t)i;
        }
    }
}

static void free_requests(struct request *r, int count)
{
    for (int i = 0; i < count; i++) {
        free(r[i].prompt);
        free(r[i].got);
    }
}

/* Runs them all at once, some started while others run. Keeps what they give, or compares it with what is kept. */
static void run_requests(struct engine *engine, struct request *r, int count, bool keep, const char *what)
{
    struct sequence *q[MOST_REQUESTS];
    struct error err = {0};
    bool worked;

    for (int i = 0; i < count; i++) {
        q[i] = start(engine, &r[i].options);
        CHECK_OK(engine_step(engine, &worked, &err), &err);
    }
    run_all(engine);
    for (int i = 0; i < count; i++) {
        const struct sequence_token *tokens = NULL;
        size_t n = sequence_tokens(q[i], 0, &tokens);

        CHECK_EQ_INT(status_of(q[i]).reason, REASON_LENGTH);
        if (keep) {
            r[i].got = malloc(n * sizeof *tokens);
            CHECK(r[i].got != NULL);
            memcpy(r[i].got, tokens, n * sizeof *tokens);
            r[i].got_count = n;
        }
        CHECK_EQ_INT(n, r[i].got_count);
        for (size_t j = 0; j < n; j++) {
            if (memcmp(&tokens[j], &r[i].got[j], sizeof *tokens))
                FAIL("%s: request %d, token %zu: %d (%.9g), expected %d (%.9g)", what, i, j, tokens[j].id,
                     tokens[j].logprob, r[i].got[j].id, r[i].got[j].logprob);
        }
        sequence_destroy(q[i]);
    }
    CHECK_EQ_INT(kv_cache_free_pages(engine->cache), kv_cache_pages(engine->cache));
}

static struct engine *open_on(const char *device, int chunk)
{
    return open_engine_with((struct engine_options){.backend = device, .prefill_chunk = chunk, .kv_tokens = 4096});
}

/* Chunked prefill beside decoding rows; recorded steps against launched ones; a run against the next. */
DEVICE_TEST(device_gives_the_same_recorded_or_launched_and_again)
{
    int count = is_hardware(device) ? MOST_REQUESTS : 5, repeats = is_hardware(device) ? 20 : 2;
    struct random_model m = small_model(RANDOM_FP8);
    struct request r[MOST_REQUESTS];
    struct forward_stats stats;
    struct engine *engine;

    write_model(&m);
    make_requests(r, count, is_hardware(device) ? 150 : 40, is_hardware(device) ? 40 : 12, m.vocab);
    engine = open_on(device, 16);
    forward_set_recording(engine->forward, false);
    run_requests(engine, r, count, true, "launched");
    forward_get_stats(engine->forward, &stats);
    CHECK_EQ_INT(stats.recorded, 0);
    CHECK(stats.launched > 0);
    engine_close(engine);

    engine = open_on(device, 16);
    run_requests(engine, r, count, false, "recorded");
    for (int i = 1; i < repeats; i++) /* their prompts are found in the cache now: chunks are cut elsewhere */
        run_requests(engine, r, count, false, "again");
    forward_get_stats(engine->forward, &stats);
    CHECK(stats.replayed > 0);
    CHECK(stats.recorded > 0 && stats.kept <= stats.recorded);
    CHECK_EQ_INT(stats.recorded, stats.kept + stats.dropped);
    engine_close(engine);
    free_requests(r, count);
}

/* Greedy choices are made on the device: they are those of the logits, which one pass over all tokens gives. */
DEVICE_TEST(device_greedy_choices_are_the_logits_own)
{
    enum { PROMPT = 20, MOST = 40 };
    size_t output = is_hardware(device) ? MOST : 8;
    struct random_model m = small_model(RANDOM_BF16);
    int32_t *all = random_tokens(PROMPT + MOST, m.vocab);
    struct sequence_options o = {.tokens = all, .token_count = PROMPT, .max_tokens = output,
                                 .sampling = sampler_default, .logprobs = true};
    const struct sequence_token *tokens = NULL;
    struct engine *engine;
    struct sequence *q;
    float *logits;

    m.layers = 2;
    write_model(&m);
    engine = open_on(device, 64);
    CHECK(engine->best != NULL);
    q = start(engine, &o);
    run_all(engine);
    CHECK_EQ_INT(sequence_tokens(q, 0, &tokens), output);
    for (size_t i = 0; i < output; i++)
        all[PROMPT + i] = tokens[i].id;
    logits = logits_of(engine, all, PROMPT + output - 1);
    for (size_t i = 0; i < output; i++) {
        const float *row = logits + (PROMPT - 1 + i) * (size_t)m.vocab;
        double largest = row[0], sum = 0;

        for (int32_t t = 1; t < m.vocab; t++)
            largest = fmax(largest, row[t]);
        for (int32_t t = 0; t < m.vocab; t++)
            sum += exp(row[t] - largest);
        CHECK_NEAR(row[tokens[i].id], largest, 1e-3); /* products of few rows may sum in another order */
        CHECK_NEAR(tokens[i].logprob, row[tokens[i].id] - largest - log(sum), 2e-3);
    }
    free(logits);
    free(all);
    engine_close(engine);
}

/* Tokens drawn from shortlists are those of whole rows, whether the list decides (steep rows, top-p, min-p) or the row
 * has to be asked for (flat ones without a filter); log probabilities agree to F32. */
DEVICE_TEST(device_draws_are_those_of_whole_rows)
{
    enum { COUNT = 6 };
    const size_t marked[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    size_t output = is_hardware(device) ? 40 : 6, decided;
    struct random_model m = small_model(RANDOM_BF16);
    struct request r[COUNT], again[COUNT];
    struct engine *engine;
    int32_t *best;

    m.layers = 2;
    write_model(&m);
    make_requests(r, COUNT, 12, 1, m.vocab);
    for (int i = 0; i < COUNT; i++) {
        struct sampler_params *p = &r[i].options.sampling;

        r[i].options.max_tokens = output;
        *p = (struct sampler_params){.temperature = i % 3 == 0 ? 1 : 0.02f,
                                     .top_p = i % 2 ? 1 : 0.9f,
                                     .min_p = i == 1 ? 0.1f : 0,
                                     .repetition_penalty = 1,
                                     .seed = (uint64_t)i};
    }
    /* The last one's marks are made where the others' logits were. */
    r[COUNT - 1].options.marks = (struct sequence_marks){marked, r[COUNT - 1].options.token_count, 1, 2};
    engine = open_on(device, 64);
    best = engine->best;
    CHECK(best != NULL);
    engine->best = NULL; /* whole rows, all on the host */
    run_requests(engine, r, COUNT, true, "whole rows");
    CHECK_EQ_INT(engine->rows_asked_for, 0);
    engine->best = best;
    memcpy(again, r, sizeof r);
    run_requests(engine, again, COUNT, true, "shortlists");
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ_INT(again[i].got_count, output);
        for (size_t j = 0; j < output; j++) {
            CHECK_EQ_INT(again[i].got[j].id, r[i].got[j].id);
            CHECK_NEAR(again[i].got[j].logprob, r[i].got[j].logprob, 1e-4);
        }
        free(again[i].got);
    }
    decided = COUNT * output - engine->rows_asked_for;
    CHECK(engine->rows_asked_for > 0 && decided > output);
    engine_close(engine);
    free_requests(r, COUNT);
}

/* A row's bits depend on its own inputs alone, here too: on Hopper up to 64 rows a pass (kernels/cuda/README.md). */
DEVICE_TEST(device_batch_gives_what_each_gives_alone)
{
    int count = is_hardware(device) ? MOST_REQUESTS : 4;
    struct random_model m = small_model(RANDOM_BF16);
    struct request r[MOST_REQUESTS];
    struct engine *engine;

    write_model(&m);
    make_requests(r, count, is_hardware(device) ? 60 : 40, is_hardware(device) ? 24 : 8, m.vocab);
    for (int i = 0; i < count; i++) {
        engine = open_on(device, 512);
        run_requests(engine, &r[i], 1, true, "alone");
        engine_close(engine);
    }
    engine = open_on(device, 7);
    run_requests(engine, r, count, false, "together");
    engine_close(engine);
    free_requests(r, count);
}

/* More shapes than are kept: the table stays bounded, and what is dropped is made again. */
DEVICE_TEST(device_keeps_a_bounded_number_of_recordings)
{
    enum { LONGEST = 36 };
    struct random_model m = small_model(RANDOM_BF16);
    struct sequence *q[LONGEST];
    struct forward_stats stats;
    struct engine *engine;

    if (!is_hardware(device))
        return; /* 2,500 rows take minutes in emulation; test_recordings.c looks at the table itself */
    m.index_topk = 128; /* no row selects: a shape's second step must not be another shape for that */
    write_model(&m);
    engine = open_on(device, 512);
    for (int i = 0; i < LONGEST; i++) { /* one of them ends with every other step: 36, 36, 35, 35, … rows */
        int32_t token = 5;
        struct sequence_options o = {.tokens = &token, .token_count = 1, .max_tokens = 3 + 2 * (size_t)i,
                                     .sampling = sampler_default};

        q[i] = start(engine, &o);
    }
    run_all(engine);
    forward_get_stats(engine->forward, &stats);
    CHECK_EQ_INT(stats.recorded, LONGEST);
    CHECK_EQ_INT(stats.kept, 32);
    CHECK_EQ_INT(stats.dropped, stats.recorded - stats.kept);
    for (int i = 0; i < LONGEST; i++)
        sequence_destroy(q[i]);
    engine_close(engine);
}

/* --- Against ref ----------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* The median of the rows' relative errors. */
static double median_error(const float *a, const float *b, size_t rows, size_t width)
{
    double *d = malloc(rows * sizeof *d), median;

    CHECK(d != NULL);
    for (size_t t = 0; t < rows; t++) {
        double difference = 0, norm = 0;

        for (size_t i = t * width; i < (t + 1) * width; i++) {
            difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            norm += (double)b[i] * b[i];
        }
        d[t] = sqrt(difference / norm);
    }
    qsort(d, rows, sizeof *d, by_value);
    median = d[rows / 2];
    free(d);
    return median;
}

/* Free-running, five families: no selection or route is put right on the way. tests/engine/test_forward.c compares
 * layer by layer. A model of Hopper's sums of 14 bits, put into ref, gives medians of 1.7e-2 (V3.2), 1.2e-2 (GLM-5) and
 * 4e-3 at most (the others) by its roundings and selections alone. */
DEVICE_TEST(device_whole_models_against_ref)
{
    static const struct {
        enum random_family family;
        enum random_dtype dtype;
        const char *types;
    } cases[] = {{RANDOM_V32, RANDOM_FP8, NULL},     {RANDOM_GLM5, RANDOM_FP8, "FSSF"}, {RANDOM_V3, RANDOM_BF16, NULL},
                 {RANDOM_V2LITE, RANDOM_FP8, NULL}, {RANDOM_GLM4LITE, RANDOM_BF16, NULL}};
    size_t count = is_hardware(device) ? 200 : 24; /* of ref's two runs a family 600 took 24 s */

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int plain = 0; plain < 2; plain++) {
            struct random_model m = random_model_default(cases[i].family, cases[i].dtype);
            double allowed = plain ? 1e-4 : is_hardware(device) ? 3e-2 : 2e-2, error;
            struct engine *engine;
            int32_t *tokens;
            float *want, *got;

            m.indexer_types = cases[i].types;
            m.layers = m.indexer_types ? 4 : 2 + is_hardware(device);
            if (!is_hardware(device) && plain)
                continue;
            write_model(&m);
            tokens = random_tokens(count, m.vocab);
            engine = open_engine("ref", 0, plain);
            want = logits_of(engine, tokens, count);
            engine_close(engine);
            engine = open_engine(device, 144, plain); /* on Hopper attention has a border at 128 rows */
            got = logits_of(engine, tokens, count);
            engine_close(engine);
            error = median_error(got, want, count, (size_t)m.vocab);
            printf("# %s: family %zu %s: median relative error of the logits %.2g\n", device, i,
                   plain ? "plain" : "as deployed", error);
            if (!(error <= allowed))
                FAIL("%s: family %zu%s: median relative error %.3g, allowed %.3g", device, i, plain ? ", plain" : "",
                     error, allowed);
            free(tokens);
            free(want);
            free(got);
        }
    }
}

/* The shapes that the fast kernels are for: 512 + 64, 128-wide index heads, 64 of them. One layer of each kind. The
 * rows of both passes lie on two sides of the borders of Hopper's forms. ref's arithmetic decides how large all this
 * is: 400 rows of 64 heads took it two and a half minutes. */
DEVICE_TEST(device_published_head_shapes_against_ref)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_FP8);
    size_t count = is_hardware(device) ? 150 : 20;
    struct engine *engine;
    struct error err = {0};
    int32_t *tokens;
    float *want, *got, *wide;
    double error;

    m.hidden = 256;
    m.layers = 2;
    m.heads = is_hardware(device) ? 8 : 2;
    m.q_lora = 128;
    m.kv_lora = 512;
    m.nope = m.v = 128;
    m.rope = 64;
    m.inter = m.moe_inter = 256;
    m.index_heads = is_hardware(device) ? 64 : 8;
    m.index_dim = 128;
    m.index_topk = is_hardware(device) ? 128 : 16;
    write_model(&m);
    tokens = random_tokens(count, m.vocab);
    engine = open_engine("ref", 0, false);
    want = logits_of(engine, tokens, count);
    engine_close(engine);
    engine = open_engine(device, 136, false);
    CHECK_EQ_STR(dtype_name(engine->model.latent), "bf16");
    CHECK_EQ_INT(forward_bytes(engine->forward),
                 forward_bytes_of(&engine->model.config, DTYPE_BF16, &engine->sizes));
    got = logits_of(engine, tokens, count);

    /* F32 between the products and attention: the same bits. */
    forward_destroy(engine->forward);
    engine->forward = NULL;
    engine->model.latent = DTYPE_F32;
    CHECK_OK(forward_create(&engine->model, engine->cache, &engine->sizes, &engine->forward, &err), &err);
    wide = logits_of(engine, tokens, count);
    CHECK(memcmp(wide, got, count * (size_t)m.vocab * sizeof *got) == 0);
    free(wide);
    engine_close(engine);
    error = median_error(got, want, count, (size_t)m.vocab);
    printf("# %s: median relative error of the logits %.2g\n", device, error);
    CHECK(error <= 2e-2);
    free(tokens);
    free(want);
    free(got);
}

/* --- Memory ---------------------------------------------------------------------------------------------------- */

static void remember_plan(void *context, const struct engine_memory *memory)
{
    *(struct engine_memory *)context = *memory;
}

TEST(memory_streams_as_few_layers_as_will_do_and_spreads_them)
{
    int64_t bytes[12];
    bool streamed[12];

    for (int i = 0; i < 12; i++)
        bytes[i] = 10;
    CHECK_EQ_INT(memory_choose_streamed(bytes, 12, 120, streamed), 0);
    CHECK_EQ_INT(memory_choose_streamed(bytes, 12, 119, streamed), 3); /* one or two less save nothing: two slots */
    CHECK(streamed[3] && streamed[7] && streamed[11] && !streamed[0] && !streamed[4]);
    CHECK_EQ_INT(memory_choose_streamed(bytes, 12, 20, streamed), 12);
    CHECK_EQ_INT(memory_choose_streamed(bytes, 12, 19, streamed), -1);
    bytes[5] = 30; /* the slots are as large as the largest streamed layer */
    CHECK_EQ_INT(memory_choose_streamed(bytes, 12, 139, streamed), 3);
    CHECK(!streamed[5]);
}

DEVICE_TEST(device_takes_longer_steps_where_there_is_room)
{
    struct random_model m = small_model(RANDOM_FP8);
    struct engine_memory memory = {0};
    struct engine_options o = {.backend = device, .kv_tokens = 4096, .planned = remember_plan,
                               .progress_context = &memory};
    struct engine *engine;

    write_model(&m);
    engine = open_engine_with(o);
    CHECK_EQ_INT(memory.step_tokens, 4096);
    CHECK_EQ_INT(engine->prefill_chunk, 4096);
    engine_close(engine);

    o.kv_tokens = 1024; /* no more tokens than that can be in a step */
    engine = open_engine_with(o);
    CHECK_EQ_INT(memory.step_tokens, 1024);
    engine_close(engine);

    o.prefill_chunk = 512;
    engine = open_engine_with(o);
    CHECK_EQ_INT(memory.step_tokens, 512);
    engine_close(engine);

    /* As much as steps of 512 take: no layer is streamed for the sake of longer ones. */
    o.prefill_chunk = 0;
    o.device_bytes = memory.table_bytes + memory.cache_bytes + memory.work_bytes + memory.scratch_bytes +
                     memory.head_bytes + memory.layer_bytes;
    o.device_bytes = o.device_bytes * 128 / 127 + (1 << 16);
    engine = open_engine_with(o);
    CHECK_EQ_INT(memory.step_tokens, 512);
    CHECK_EQ_INT(memory.streamed_layers, 0);
    engine_close(engine);
}

/* The same tokens with every layer resident, with some streamed, and with all. Passes of at most 64 rows. */
DEVICE_TEST(device_streamed_layers_change_no_bit)
{
    enum { SWEEP = 40, KV_TOKENS = 4096 }; /* all requests at once: twelve of three pages */
    struct random_model m = small_model(RANDOM_FP8);
    struct engine_memory memory = {0};
    struct request r[MOST_REQUESTS];
    int count = is_hardware(device) ? 12 : 2, streamed_before = 0;
    int64_t fixed, each, all, largest = 0;
    struct engine *engine;

    m.layers = is_hardware(device) ? 8 : 4;
    m.window = 256;
    write_model(&m);
    make_requests(r, count, is_hardware(device) ? 150 : 20, is_hardware(device) ? 6 : 2, m.vocab);
    engine = open_engine_with((struct engine_options){.backend = device, .prefill_chunk = 8, .kv_tokens = KV_TOKENS,
                                                      .planned = remember_plan, .progress_context = &memory});
    CHECK_EQ_INT(memory.streamed_layers, 0);
    CHECK_EQ_INT(memory.resident_layers, m.layers);
    CHECK_EQ_INT(memory.layer_bytes, memory.resident_bytes);
    for (int i = 0; i < m.layers; i++) {
        int64_t bytes = ops_group_bytes(engine->ops, engine->model.layer[i].group);

        largest = bytes > largest ? bytes : largest;
    }
    run_requests(engine, r, count, true, "resident");
    engine_close(engine);
    fixed = memory.table_bytes + memory.cache_bytes + memory.work_bytes + memory.scratch_bytes + memory.head_bytes;
    fixed += SWEEP * (4 * m.hidden + 5 * 4); /* more rows of a sweep */
    all = memory.layer_bytes;
    each = all / m.layers;
    for (int less = 1; less < m.layers; less += is_hardware(device) ? 1 : 2) { /* room for all but `less` layers */
        int64_t room = all - less * each > 2 * largest ? all - less * each : 2 * largest;
        struct error err = {0};

        engine = NULL;
        memory = (struct engine_memory){0};
        CHECK_OK(engine_open(&(struct engine_options){.backend = device,
                                                      .model_dir = check_temp_dir(),
                                                      .plugin_dir = getenv("DSA_PLUGIN_DIR"),
                                                      .prefill_chunk = 8,
                                                      .sweep_tokens = SWEEP,
                                                      .kv_tokens = KV_TOKENS,
                                                      .device_bytes = (fixed + room) * 128 / 127 + 128,
                                                      .planned = remember_plan,
                                                      .progress_context = &memory},
                             &engine, &err),
                 &err);
        CHECK(memory.streamed_layers > less || memory.streamed_layers == m.layers);
        CHECK(memory.streamed_layers >= streamed_before);
        CHECK_EQ_INT(memory.streamed_layers + memory.resident_layers, m.layers);
        CHECK_EQ_INT(engine->prefill_chunk, SWEEP);
        streamed_before = memory.streamed_layers;
        run_requests(engine, r, count, false, "streamed");
        engine_close(engine);
    }
    free_requests(r, count);
}

/* --- Sweeps ---------------------------------------------------------------------------------------------------- */

enum { SWEEP_SEQUENCES = 3, SWEEP_ROWS = 56, SWEEP_MARKS = 4 };

struct sweep_rows {
    int32_t token[SWEEP_ROWS], position[SWEEP_ROWS], slot[SWEEP_ROWS], sequence[SWEEP_ROWS];
    int32_t page_table[SWEEP_SEQUENCES], pair[SWEEP_MARKS][2];
    float mark[SWEEP_MARKS];
    struct forward_batch batch;
};

/* Three prompts, in the order of the scheduler: the last rows, then marked ones, then the rest. */
static void lay_out(struct sweep_rows *r, const int32_t *tokens, struct kv_cache *cache)
{
    static const int lengths[SWEEP_SEQUENCES] = {30, 17, 9};
    int next[3] = {0, SWEEP_SEQUENCES, SWEEP_SEQUENCES + SWEEP_MARKS}, at = 0;

    *r = (struct sweep_rows){0};
    CHECK(kv_cache_reserve(cache, SWEEP_SEQUENCES));
    for (int s = 0; s < SWEEP_SEQUENCES; s++) {
        r->page_table[s] = kv_cache_take(cache);
        for (int i = 0; i < lengths[s]; i++, at++) {
            bool marked = (s == 0 && (i == 0 || i == 14 || i == 28)) || (s == 2 && i == 3);
            int row = next[i == lengths[s] - 1 ? 0 : marked ? 1 : 2]++;

            r->token[row] = tokens[at];
            r->position[row] = i;
            r->slot[row] = r->page_table[s] * CACHE_PAGE_TOKENS + i;
            r->sequence[row] = s;
        }
    }
    CHECK(at == SWEEP_ROWS && next[2] == SWEEP_ROWS);
    for (int i = 0; i < SWEEP_MARKS; i++) {
        r->pair[i][0] = 7 + i;
        r->pair[i][1] = 90;
    }
    r->batch = (struct forward_batch){.rows = SWEEP_ROWS, .token = r->token, .position = r->position, .slot = r->slot,
                                      .sequence = r->sequence, .page_table = r->page_table,
                                      .sequences = SWEEP_SEQUENCES, .pages = 1, .logit_rows = SWEEP_SEQUENCES,
                                      .mark_rows = SWEEP_MARKS, .mark_pair = (const int32_t(*)[2])r->pair,
                                      .mark = r->mark};
}

/* Logits and marks of one pass over all rows, and the pages that it wrote. */
static void run_in(struct engine *engine, int rows, const int32_t *tokens, float *logits, float *marks, char *pages)
{
    struct forward_sizes sizes = {.rows = rows, .sweep_rows = SWEEP_ROWS, .logit_rows = SWEEP_SEQUENCES};
    size_t page_bytes = (size_t)kv_cache_page_bytes(engine->cache);
    struct forward *forward = NULL;
    struct error err = {0};
    struct sweep_rows r;

    CHECK_OK(forward_create(&engine->model, engine->cache, &sizes, &forward, &err), &err);
    lay_out(&r, tokens, engine->cache);
    for (int s = 0; s < SWEEP_SEQUENCES; s++) {
        memset(pages, 0, page_bytes);
        CHECK_STATUS(kv_cache_load_page(engine->cache, r.page_table[s], pages), STATUS_OK);
    }
    CHECK_OK(forward_run(forward, &r.batch, logits, &err), &err);
    memcpy(marks, r.mark, sizeof r.mark);
    for (int s = 0; s < SWEEP_SEQUENCES; s++) {
        CHECK_STATUS(kv_cache_save_page(engine->cache, r.page_table[s], pages + (size_t)s * page_bytes), STATUS_OK);
        kv_cache_unref(engine->cache, r.page_table[s]);
    }
    forward_destroy(forward);
}

/* Layer by layer over all rows, a few at a time, against all rows at once: logits, marks and caches to the bit. On
 * every backend. */
TEST(sweep_gives_what_one_pass_gives)
{
    static const int parts[] = {16, 3, 55};
    struct random_model m = small_model(RANDOM_FP8);
    int32_t *tokens = random_tokens(SWEEP_ROWS, m.vocab);
    size_t logit_bytes = SWEEP_SEQUENCES * (size_t)m.vocab * sizeof(float);
    float *want = malloc(logit_bytes), *got = malloc(logit_bytes), want_marks[SWEEP_MARKS], got_marks[SWEEP_MARKS];

    CHECK(want && got);
    write_model(&m);
    for (int b = 0; b < BACKENDS; b++) {
        struct engine *engine;
        char *want_pages, *got_pages;
        size_t bytes;

        if (!have_backend(backends[b]))
            continue;
        engine = open_engine(backends[b], 64, false);
        bytes = SWEEP_SEQUENCES * (size_t)kv_cache_page_bytes(engine->cache);
        want_pages = malloc(bytes);
        got_pages = malloc(bytes);
        CHECK(want_pages && got_pages);
        run_in(engine, SWEEP_ROWS, tokens, want, want_marks, want_pages);
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            if (!strcmp(backends[b], "cuda-emulated") && i)
                break;
            run_in(engine, parts[i], tokens, got, got_marks, got_pages);
            if (memcmp(got, want, logit_bytes) || memcmp(got_marks, want_marks, sizeof got_marks) ||
                memcmp(got_pages, want_pages, bytes))
                FAIL("%s: %d rows at a time give something else", backends[b], parts[i]);
        }
        free(want_pages);
        free(got_pages);
        engine_close(engine);
    }
    free(want);
    free(got);
    free(tokens);
}

DEVICE_TEST(device_too_small_is_refused_with_the_numbers)
{
    struct random_model m = small_model(RANDOM_FP8);
    struct engine_options o = {.backend = device, .prefill_chunk = 8};
    struct engine *engine = NULL;
    struct error err = {0};

    write_model(&m);
    o.model_dir = check_temp_dir();
    o.plugin_dir = getenv("DSA_PLUGIN_DIR");
    o.device_bytes = 1 << 20;
    CHECK_STATUS(engine_open(&o, &engine, &err), STATUS_NO_MEMORY);
    CHECK(engine == NULL);
    CHECK(strstr(err.message, "MiB are missing") && strstr(err.message, "caches of 1024 tokens"));
    o.device_bytes = 4096; /* not even the tables */
    CHECK_STATUS(engine_open(&o, &engine, &err), STATUS_NO_MEMORY);
    CHECK(strstr(err.message, "no device memory"));
}

/* --- Saved pages ----------------------------------------------------------------------------------------------- */

DEVICE_TEST(device_pages_come_back_from_disk)
{
    struct random_model m = small_model(RANDOM_FP8);
    int32_t *prompt = random_tokens(200, m.vocab);
    struct sequence_options o = {.tokens = prompt, .token_count = 200, .max_tokens = 5, .sampling = sampler_default,
                                 .logprobs = true};
    struct sequence_token first[5];
    char dir[4096];

    m.layers = is_hardware(device) ? 3 : 2;
    write_model(&m);
    snprintf(dir, sizeof dir, "%s/kv-%s", check_temp_dir(), device);
    for (int round = 0; round < 2; round++) {
        struct engine *engine =
            open_engine_with((struct engine_options){.backend = device, .kv_tokens = 512, .cache_dir = dir});
        const struct sequence_token *tokens = NULL;
        struct sequence *q = start(engine, &o);

        run_all(engine);
        CHECK_EQ_INT(status_of(q).cached_tokens, round ? 192 : 0);
        CHECK_EQ_INT(sequence_tokens(q, 0, &tokens), 5);
        if (round == 0)
            memcpy(first, tokens, sizeof first);
        CHECK(!memcmp(first, tokens, sizeof first));
        prefix_cache_flush(engine->prefix);
        engine_close(engine);
    }
    free(prompt);
}

/* --- Failures -------------------------------------------------------------------------------------------------- */

DEVICE_TEST(device_cancels_within_a_step)
{
    struct random_model m = small_model(RANDOM_BF16);
    int32_t prompt[40] = {0};
    struct sequence_options o = {.tokens = prompt, .token_count = 40, .max_tokens = 100, .sampling = sampler_default};
    struct engine *engine;
    struct sequence *q, *other;
    struct error err = {0};
    bool worked;

    m.layers = 1;
    write_model(&m);
    engine = open_on(device, 16);
    q = start(engine, &o);
    o.max_tokens = 8;
    other = start(engine, &o);
    for (int i = 0; i < 6; i++)
        CHECK_OK(engine_step(engine, &worked, &err), &err);
    sequence_cancel(q);
    CHECK_OK(engine_step(engine, &worked, &err), &err);
    CHECK_EQ_INT(status_of(q).reason, REASON_CANCELLED);
    run_all(engine);
    CHECK_EQ_INT(status_of(other).reason, REASON_LENGTH);
    engine_close(engine);
}

static void check_open_error(const char *device, int error, int driver, const char *words)
{
    struct cuda_faults *faults = faults_of(device);
    struct ops_options options = {.backend = device, .plugin_dir = getenv("DSA_PLUGIN_DIR")};
    struct error err = {0};
    struct ops *ops = NULL;
    enum status s;

    faults->open_error = error;
    faults->driver_version = driver;
    s = ops_open(&options, &ops, &err);
    *faults = (struct cuda_faults){0};
    CHECK_EQ_INT(s, STATUS_UNSUPPORTED);
    if (!strstr(err.message, words))
        FAIL("'%s' does not say '%s'", err.message, words);
}

DEVICE_TEST(device_that_cannot_be_opened_says_why)
{
    struct cuda_faults *faults = faults_of(device);
    struct ops_options options = {.backend = device, .plugin_dir = getenv("DSA_PLUGIN_DIR"), .device = 99};
    struct error err = {0};
    struct ops *ops = NULL;

    check_open_error(device, 100, 13000, "there is no CUDA device 0");
    check_open_error(device, 100, 0, "no NVIDIA driver is installed");
    check_open_error(device, 35, 0, "no NVIDIA driver is installed");
    check_open_error(device, 35, 12040, "the NVIDIA driver is for CUDA 12.4");
    CHECK_STATUS(ops_open(&options, &ops, &err), STATUS_UNSUPPORTED);
    CHECK(strstr(err.message, "there is no CUDA device 99"));
    options.device = 0;
    faults->compute_major = 7;
    CHECK_STATUS(ops_open(&options, &ops, &err), STATUS_UNSUPPORTED);
    *faults = (struct cuda_faults){0};
    CHECK(strstr(err.message, "has compute capability 7."));
}

/* Every allocation of opening fails in turn: an error with the cause, nothing held, and the next one works. */
DEVICE_TEST(device_out_of_memory_while_opening)
{
    struct cuda_faults *faults = faults_of(device);
    struct random_model m = small_model(RANDOM_FP8);
    struct engine_options o = {.backend = device, .prefill_chunk = 8};
    int64_t nth = 1;

    m.layers = 2;
    write_model(&m);
    o.model_dir = check_temp_dir();
    o.plugin_dir = getenv("DSA_PLUGIN_DIR");
    for (;; nth += 1 + nth / 4) {
        struct engine *engine = NULL;
        struct error err = {0};
        enum status s;

        faults->allocations = nth;
        s = engine_open(&o, &engine, &err);
        if (!s && faults->allocations) {
            *faults = (struct cuda_faults){0};
            engine_close(engine);
            break;
        }
        CHECK_EQ_INT(s, STATUS_NO_MEMORY);
        CHECK(strstr(err.message, "memory") != NULL);
        CHECK(engine == NULL);
    }
    CHECK(nth > 20);
}

/* Out of memory in mid-run ends the sequences of that pass; the engine goes on. */
DEVICE_TEST(device_out_of_memory_in_mid_run)
{
    struct cuda_faults *faults = faults_of(device);
    struct random_model m = small_model(RANDOM_BF16);
    int32_t prompt[70] = {0};
    struct sequence_options o = {.tokens = prompt, .token_count = 70, .max_tokens = 4, .sampling = sampler_default};
    struct engine *engine;
    struct sequence *q[12], *after;
    struct error err = {0};
    bool worked;

    m.layers = 1;
    m.window = 512;
    write_model(&m);
    engine = open_engine_with((struct engine_options){.backend = device, .prefill_chunk = 4, .kv_tokens = 4096});
    engine->forward->rows_cap = 0; /* as if page tables had outgrown the block: the next pass must allocate */
    for (int i = 0; i < 2; i++)
        q[i] = start(engine, &o);
    faults->allocations = 1;
    CHECK_OK(engine_step(engine, &worked, &err), &err);
    CHECK_EQ_INT(faults->allocations, 0);
    CHECK_EQ_INT(status_of(q[0]).reason, REASON_FAILED);
    CHECK(strstr(sequence_error(q[0]), "no device memory") != NULL);
    after = start(engine, &o);
    run_all(engine);
    CHECK_EQ_INT(status_of(after).reason, REASON_LENGTH);
    CHECK_EQ_INT(kv_cache_free_pages(engine->cache), kv_cache_pages(engine->cache));
    engine_close(engine);
}

/* A lost device fails the step, names the cause, and stays lost; another engine in the same process is untouched. */
DEVICE_TEST(device_lost_in_mid_run)
{
    struct cuda_faults *faults = faults_of(device);
    struct random_model m = small_model(RANDOM_BF16);
    int32_t prompt[70] = {0};
    struct sequence_options o = {.tokens = prompt, .token_count = 70, .max_tokens = 4, .sampling = sampler_default};

    m.layers = 1;
    write_model(&m);
    for (int64_t launch = 1; launch < 200; launch *= 3) {
        struct engine *engine = open_on(device, 16);
        struct sequence *q = start(engine, &o);
        struct error err = {0};
        enum status s = STATUS_OK;
        bool worked = true;

        faults->launches = launch;
        while (!s && worked)
            s = engine_step(engine, &worked, &err);
        CHECK_EQ_INT(s, STATUS_IO);
        CHECK(strstr(err.message, "the device is lost") != NULL);
        *faults = (struct cuda_faults){0};
        CHECK_STATUS(engine_step(engine, &worked, &err), STATUS_IO);
        CHECK(status_of(q).state != SEQUENCE_DONE); /* interrupted is not failed */
        engine_close(engine);
        engine = open_on(device, 16);
        q = start(engine, &o);
        run_all(engine);
        CHECK_EQ_INT(status_of(q).reason, REASON_LENGTH);
        engine_close(engine);
    }
}
