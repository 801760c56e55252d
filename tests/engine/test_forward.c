/* test_forward.c: the whole forward pass against two implementations that are not ours or not in C: Hugging Face
 * transformers (plain mode) and tools/dsa-reference.py (with the deployed rounding), on checkpoints of every family.
 *
 * tests/vectors/engine/README.md says how the vectors are made. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/safetensors.h"
#include "tests/engine/fixture.h"

/* --- Vectors --------------------------------------------------------------------------------------------------- */

struct vector {
    struct safetensors *file;
    const int32_t *tokens;
    const float *logits;
    size_t count, rows, vocab; /* rows of logits: one a token, but for MTP none of the last */
};

static struct vector open_vector(const char *name)
{
    struct vector v = {0};
    struct error err = {0};
    const struct tensor *tokens, *logits;
    char path[4096];

    snprintf(path, sizeof path, "%s/%s.safetensors", VECTORS_DIR, name);
    CHECK_OK(safetensors_open_file(path, &v.file, &err), &err);
    tokens = safetensors_find(v.file, "tokens");
    logits = safetensors_find(v.file, "logits");
    CHECK(tokens && logits);
    v.tokens = tokens->data;
    v.logits = logits->data;
    v.count = (size_t)tokens->dims[0];
    v.rows = (size_t)logits->dims[0];
    v.vocab = (size_t)logits->dims[1];
    return v;
}

/* Relative distance of two rows in the 2-norm. */
static double distance(const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* A rounding to e4m3 or BF16 that falls the other way moves one activation by up to 1/16 or 1/256, so single rows may
 * be off by more than arithmetic explains; most rows may not, since every layer starts from the reference's input. */
static void check_rows(const char *what, const float *actual, const float *expected, size_t rows, size_t width,
                       double median, double most)
{
    double *d = malloc(rows * sizeof *d);

    CHECK(d != NULL);
    for (size_t t = 0; t < rows; t++)
        d[t] = distance(actual + t * width, expected + t * width, width);
    qsort(d, rows, sizeof *d, by_value);
    if (!(d[rows / 2] <= median && d[rows - 1] <= most))
        FAIL("%s: relative error of the rows: median %.3g (allowed %.3g), most %.3g (allowed %.3g)", what, d[rows / 2],
             median, d[rows - 1], most);
    free(d);
}

/* --- A trace that compares and replaces ------------------------------------------------------------------------ */

enum { MOST_ROWS = 256 };
static const double short_sums_budget = 1e-4; /* of a score on Hopper's FP8 tensor cores: kernels/README.md */

struct comparison {
    const struct safetensors *file;
    size_t row;                   /* of the pass's first row */
    bool replace;                 /* feed the reference's selections, routes and inputs of every layer */
    double median, most;          /* for hidden states */
    double score_error;           /* allowed difference of index scores; with short sums a share of `reach` instead */
    double tie_band;              /* how far from the threshold a selection may differ; likewise */
    bool short_sums;
    int compared, wrong_sets, rows;
    /* Of the layer at hand: */
    double reach[MOST_ROWS]; /* the largest score that row's query could give: sum_h |w_h| |q_h| 1.5 sqrt(Di) */
    float *norm, *scores;    /* |q_h| 1.5 sqrt(Di) [T, Hi]; own scores [T, positions] */
    int64_t positions;
};

/* What one row's scores and selections may be off by: `share`, of the row's reach on a device of short sums. */
static double row_allowance(const struct comparison *c, int64_t row, double share)
{
    return c->short_sums ? share * c->reach[row] : share;
}

static const struct tensor *expected(const struct comparison *c, const char *name, int layer)
{
    char key[64];

    snprintf(key, sizeof key, "%s.%d", name, layer);
    return safetensors_find(c->file, key);
}

static void keep_query_norms(struct comparison *c, const struct tensor *q)
{
    int64_t heads = q->dims[0] * q->dims[1], Di = q->dims[2];
    const float *at = q->data;

    CHECK(q->dims[0] <= MOST_ROWS);
    free(c->norm);
    c->norm = malloc((size_t)heads * sizeof *c->norm);
    CHECK(c->norm != NULL);
    for (int64_t i = 0; i < heads; i++, at += Di) {
        double sum = 0;

        for (int64_t d = 0; d < Di; d++)
            sum += (double)at[d] * at[d];
        c->norm[i] = (float)(sqrt(sum) * 1.5 * sqrt((double)Di)); /* keys are normed: |k| is about sqrt(Di) */
    }
}

static void keep_reach(struct comparison *c, const struct tensor *w)
{
    int64_t Hi = w->dims[1];

    for (int64_t t = 0; t < w->dims[0]; t++) {
        c->reach[t] = 0;
        for (int64_t h = 0; h < Hi; h++)
            c->reach[t] += fabs((double)((const float *)w->data)[t * Hi + h]) * c->norm[t * Hi + h];
    }
}

static void keep_scores(struct comparison *c, const struct tensor *scores)
{
    size_t bytes = (size_t)tensor_count(scores) * sizeof(float);

    free(c->scores);
    c->scores = malloc(bytes);
    CHECK(c->scores != NULL);
    memcpy(c->scores, scores->data, bytes);
    c->positions = scores->dims[1];
}

/* Short sums move every score by no more than the indexer's budget, and a few by a step of an activation's, a query's
 * or a key's e4m3 that falls the other way before: half the scores are within the one, all within the other. */
static void check_median_score(const struct comparison *c, int layer, const struct tensor *value, const float *want)
{
    size_t count = (size_t)tensor_count(value), used = 0;
    double *share = malloc(count * sizeof *share);
    const float *is = value->data;

    CHECK(share != NULL);
    for (size_t i = 0; i < count; i++) {
        if (!isinf(want[i]))
            share[used++] = fabs((double)is[i] - want[i]) / c->reach[i / (size_t)value->dims[1]];
    }
    qsort(share, used, sizeof *share, by_value);
    if (used && !(share[used / 2] <= short_sums_budget))
        FAIL("layer %d: the median error of the scores is %.3g of their reach, allowed %.3g", layer, share[used / 2],
             short_sums_budget);
    free(share);
}

static void compare_scores(struct comparison *c, int layer, const struct tensor *value, const struct tensor *want)
{
    const float *a = value->data, *b = want->data;
    int64_t S = value->dims[1];

    if (c->short_sums)
        check_median_score(c, layer, value, b);
    for (int64_t i = 0; i < tensor_count(value); i++) {
        if (isinf(b[i]) ? a[i] != b[i] : !(fabs((double)a[i] - b[i]) <= row_allowance(c, i / S, c->score_error)))
            FAIL("layer %d, row %lld: the score of position %lld is %.9g, expected %.9g, allowed %.3g", layer,
                 (long long)(i / S), (long long)(i % S), a[i], b[i], row_allowance(c, i / S, c->score_error));
    }
}

/* The passes of these tests take all rows at once. */
static void compare(void *context, const char *name, int layer, const struct tensor *value)
{
    struct comparison *c = context;
    const struct tensor *want = expected(c, name, layer);
    char what[64];

    if (!strcmp(name, "index_q"))
        keep_query_norms(c, value);
    if (!strcmp(name, "index_w"))
        keep_reach(c, value);
    if (!strcmp(name, "scores"))
        keep_scores(c, value);
    if (!want)
        return;
    c->compared++;
    CHECK_EQ_INT(value->dims[0], want->dims[0]);
    CHECK_EQ_INT(value->dims[1], want->dims[1]);
    snprintf(what, sizeof what, "%s of layer %d", name, layer);
    if (!strcmp(name, "hidden")) {
        check_rows(what, value->data, want->data, (size_t)value->dims[0], (size_t)value->dims[1], c->median, c->most);
    } else if (!strcmp(name, "scores")) {
        compare_scores(c, layer, value, want);
    }
}

/* Whether a position that only one of the sets holds has a score within `band` of the row's threshold, the smallest
 * selected score: such a position may fall either way. */
static bool within_tie_band(const float *scores, const int32_t *want, int64_t k, int32_t position, double band)
{
    float threshold = INFINITY;

    for (int64_t j = 0; j < k && want[j] >= 0; j++)
        threshold = fminf(threshold, scores[want[j]]);
    return fabs((double)scores[position] - threshold) <= band;
}

static bool holds(const int32_t *set, int64_t k, int32_t position)
{
    for (int64_t j = 0; j < k; j++) {
        if (set[j] == position)
            return true;
    }
    return false;
}

/* A row's selection is the top k of the backend's own scores, without any band: nothing left out is above the least
 * that was taken, or as high and earlier. */
static void check_own_selection(int layer, int64_t row, const float *scores, int64_t S, const int32_t *set, int64_t k)
{
    int64_t taken = 0;

    for (int64_t j = 0; j < k && set[j] >= 0; j++, taken++) {
        if (set[j] >= S || scores[set[j]] == -INFINITY || (j && set[j] <= set[j - 1]))
            FAIL("layer %d, row %lld: position %d is no choice", layer, (long long)row, set[j]);
    }
    for (int64_t s = 0; s < S; s++) {
        if (scores[s] == -INFINITY || holds(set, taken, (int32_t)s))
            continue;
        if (taken < k)
            FAIL("layer %d, row %lld: position %lld is left out, and there is room", layer, (long long)row,
                 (long long)s);
        for (int64_t j = 0; j < taken; j++) {
            if (scores[s] > scores[set[j]] || (scores[s] == scores[set[j]] && s < set[j]))
                FAIL("layer %d, row %lld: position %d is taken, %lld is better", layer, (long long)row, set[j],
                     (long long)s);
        }
    }
}

static void compare_selections(struct comparison *c, int layer, const struct tensor *value, const struct tensor *want)
{
    const struct tensor *scores = expected(c, "scores", layer);
    int64_t k = value->dims[1];

    for (int64_t t = 0; t < value->dims[0]; t++) {
        const int32_t *a = (const int32_t *)value->data + t * k, *b = (const int32_t *)want->data + t * k;
        const float *row = scores ? (const float *)scores->data + t * scores->dims[1] : NULL;

        c->rows++;
        if (!memcmp(a, b, (size_t)k * sizeof *a))
            continue;
        c->wrong_sets++;
        for (int64_t j = 0; row && j < k; j++) {
            if (a[j] >= 0 && !holds(b, k, a[j]) && !within_tie_band(row, b, k, a[j], row_allowance(c, t, c->tie_band)))
                FAIL("layer %d, row %lld: position %d is selected and is no tie", layer, (long long)t, a[j]);
        }
    }
}

static bool replace(void *context, const char *name, int layer, struct tensor *value)
{
    struct comparison *c = context;
    const struct tensor *want = expected(c, name, layer);

    for (int64_t t = 0; !strcmp(name, "selected") && t < value->dims[0]; t++)
        check_own_selection(layer, t, c->scores + t * c->positions, c->positions,
                            (const int32_t *)value->data + t * value->dims[1], value->dims[1]);
    if (!want)
        return false;
    CHECK_EQ_INT(tensor_count(value), tensor_count(want));
    if (!strcmp(name, "selected"))
        compare_selections(c, layer, value, want);
    if (!c->replace)
        return false;
    memcpy(value->data, want->data, (size_t)tensor_count(value) * 4);
    return true;
}

/* --- Cases ----------------------------------------------------------------------------------------------------- */

struct tolerance {
    double logit_median, logit_most, score_error, tie_band;
};

/* Hopper's FP8 tensor cores keep about 14 bits of a product inside a group of 128 (kernels/README.md). An e4m3 value of
 * a key that therefore rounds the other way moves by an eighth of itself at most: |q_h,d| |k_d| / 8 of a head's score,
 * and with |q_h,d| = 2 |q_h| / sqrt(Di) and |k_d| = 3 that is 1/64 of 1.5 |q_h| sqrt(Di) for the 32 values of these
 * keys. A position and a threshold whose scores are each off by that much may change places. Sums of that kind modelled
 * in `ref` (13 bits below the largest of 32 products) gave 1/150 at most, and medians of 3e-5, over the four models
 * below; logits are judged as on every backend. */
static const struct tolerance short_sums = {3e-3, 2e-2, 1.0 / 64, 2.0 / 64};

static bool has_short_sums(const struct engine *engine)
{
    return !strncmp(ops_description(engine->ops), "cuda sm_9", 9);
}

/* `fast` is for backends that round to BF16 inside attention (kernels/README.md, error budgets). */
static void check_case(const char *vector_name, struct random_model model, bool plain, struct tolerance exact,
                       struct tolerance fast)
{
    struct vector v = open_vector(vector_name);

    write_model(&model);
    for (int b = 0; b < BACKENDS; b++) {
        struct tolerance allowed = strcmp(backends[b], "ref") ? fast : exact;
        struct comparison c = {.file = v.file, .replace = true};
        struct forward_trace trace = {&c, compare, replace};
        struct error err = {0};
        struct engine *engine;
        float *logits = malloc(v.count * v.vocab * sizeof *logits);

        CHECK(logits != NULL);
        if (!have_backend(backends[b])) {
            free(logits);
            continue;
        }
        engine = open_engine_with((struct engine_options){.backend = backends[b], .plain = plain, .threads = 2,
                                                          .draft_tokens = model.mtp});
        c.short_sums = !plain && has_short_sums(engine);
        if (c.short_sums)
            allowed = short_sums;
        c.median = allowed.logit_median;
        c.most = allowed.logit_most;
        c.score_error = allowed.score_error;
        c.tie_band = allowed.tie_band;
        if (model.mtp)
            CHECK_OK(engine_mtp_logits(engine, v.tokens, v.count, logits, &trace, &err), &err);
        else
            CHECK_OK(engine_logits_traced(engine, v.tokens, v.count, logits, &trace, &err), &err);
        check_rows(backends[b], logits, v.logits, v.rows, v.vocab, allowed.logit_median, allowed.logit_most);
        /* more than one row in ten with another selection would be no matter of ties */
        if (c.wrong_sets * 10 > c.rows)
            FAIL("%s: %d of %d selections differ", backends[b], c.wrong_sets, c.rows);
        free(logits);
        free(c.norm);
        free(c.scores);
        engine_close(engine);
    }
    safetensors_close(v.file);
}

static const struct tolerance arithmetic = {1e-6, 1e-5, 1e-5, 1e-4};
static const struct tolerance rounded = {1e-5, 2e-2, 1e-1, 1e-4}, fast = {3e-3, 2e-2, 1e-1, 1e-4};

TEST(forward_v32_with_fp8_rounding)
{
    check_case("v32-fp8", random_model_default(RANDOM_V32, RANDOM_FP8), false, rounded, fast);
}

TEST(forward_v32_plain_on_fp8_weights)
{
    check_case("v32-plain", random_model_default(RANDOM_V32, RANDOM_FP8), true, arithmetic, arithmetic);
}

TEST(forward_glm5_with_shared_indexers)
{
    struct random_model m = random_model_default(RANDOM_GLM5, RANDOM_FP8);

    m.layers = 4;
    m.indexer_types = "FSSF";
    check_case("glm5-fp8", m, false, rounded, fast);
}

TEST(forward_v3_bf16)
{
    check_case("v3-bf16", random_model_default(RANDOM_V3, RANDOM_BF16), false, rounded, fast);
}

TEST(forward_v2_lite_fp8)
{
    check_case("v2lite-fp8", random_model_default(RANDOM_V2LITE, RANDOM_FP8), false, rounded, fast);
}

TEST(forward_glm4_moe_lite_bf16)
{
    check_case("glm4lite-bf16", random_model_default(RANDOM_GLM4LITE, RANDOM_BF16), false, rounded, fast);
}

TEST(forward_equals_transformers_v32)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_F32);

    m.index_heads = 16;
    check_case("hf-v32", m, true, arithmetic, arithmetic);
}

TEST(forward_equals_transformers_glm5)
{
    struct random_model m = random_model_default(RANDOM_GLM5, RANDOM_F32);

    m.index_heads = 16;
    m.layers = 4;
    m.indexer_types = "FSSF";
    check_case("hf-glm5", m, true, arithmetic, arithmetic);
}

TEST(forward_equals_transformers_v3)
{
    check_case("hf-v3", random_model_default(RANDOM_V3, RANDOM_F32), true, arithmetic, arithmetic);
}

TEST(forward_equals_transformers_v2_lite)
{
    check_case("hf-v2lite", random_model_default(RANDOM_V2LITE, RANDOM_F32), true, arithmetic, arithmetic);
}

TEST(forward_equals_transformers_glm4_moe_lite)
{
    check_case("hf-glm4lite", random_model_default(RANDOM_GLM4LITE, RANDOM_F32), true, arithmetic, arithmetic);
}

/* --- Multi-token prediction ------------------------------------------------------------------------------------ */

static struct random_model with_mtp(enum random_family family, enum random_dtype dtype, bool shared)
{
    struct random_model m = random_model_default(family, dtype);

    m.mtp = 1;
    m.mtp_shared = shared;
    m.index_heads = dtype == RANDOM_F32 && m.index_heads ? 16 : m.index_heads;
    return m;
}

TEST(mtp_v32_with_fp8_rounding)
{
    check_case("v32-mtp", with_mtp(RANDOM_V32, RANDOM_FP8, false), false, rounded, fast);
}

TEST(mtp_glm5_with_fp8_rounding)
{
    check_case("glm5-mtp", with_mtp(RANDOM_GLM5, RANDOM_FP8, true), false, rounded, fast);
}

TEST(mtp_equals_transformers_v3)
{
    check_case("hf-v3-mtp", with_mtp(RANDOM_V3, RANDOM_F32, true), true, arithmetic, arithmetic);
}

TEST(mtp_equals_transformers_v32)
{
    check_case("hf-v32-mtp", with_mtp(RANDOM_V32, RANDOM_F32, true), true, arithmetic, arithmetic);
}

TEST(mtp_equals_transformers_glm5)
{
    check_case("hf-glm5-mtp", with_mtp(RANDOM_GLM5, RANDOM_F32, true), true, arithmetic, arithmetic);
}

/* Loading the layer changes nothing for who does not use it, and it must be there for who does. */
TEST(mtp_is_off_unless_asked_for)
{
    struct random_model m = with_mtp(RANDOM_V32, RANDOM_FP8, false);
    struct engine_options options = {.model_dir = check_temp_dir(), .backend = "ref", .draft_tokens = 1};
    int32_t *tokens = random_tokens(40, m.vocab);
    struct engine *engine, *drafting;
    struct error err = {0};
    float *want, *logits;

    write_model(&m);
    engine = open_engine("ref", 0, false);
    drafting = open_engine_with(options);
    CHECK(engine_info(drafting)->parameter_count > engine_info(engine)->parameter_count);
    CHECK(kv_cache_page_bytes(drafting->cache) * 3 == kv_cache_page_bytes(engine->cache) * 4); /* a fourth layer */
    want = logits_of(engine, tokens, 40);
    logits = logits_of(drafting, tokens, 40);
    CHECK(!memcmp(want, logits, 40 * (size_t)m.vocab * sizeof *want));
    CHECK_STATUS(engine_mtp_logits(engine, tokens, 40, logits, NULL, &err), STATUS_UNSUPPORTED);
    free(want);
    free(logits);
    free(tokens);
    engine_close(engine);
    engine_close(drafting);

    m.mtp = 0;
    write_model(&m);
    CHECK_STATUS(engine_open(&options, &engine, &err), STATUS_UNSUPPORTED);
    CHECK(strstr(err.message, "multi-token") != NULL);
    options.draft_tokens = ENGINE_MAX_DRAFT + 1;
    CHECK_STATUS(engine_open(&options, &engine, &err), STATUS_BAD_INPUT);
}

/* The wrong rotary style of the indexer does not crash: it corrupts. The vectors must notice it. */
TEST(forward_notices_a_wrong_indexer_rope)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_F32);
    struct vector v = open_vector("hf-v32");
    struct engine *engine;
    float *logits;
    double worst = 0;

    m.index_heads = 16;
    write_model(&m);
    engine = open_engine("ref", 0, true);
    engine->config.index_rope = engine->model.config.index_rope = ROPE_INTERLEAVED;
    logits = logits_of(engine, v.tokens, v.count);
    for (size_t t = 0; t < v.count; t++)
        worst = fmax(worst, distance(logits + t * v.vocab, v.logits + t * v.vocab, v.vocab));
    CHECK(worst > 1e-3);
    free(logits);
    engine_close(engine);
    safetensors_close(v.file);
}

/* --- Bit for bit ----------------------------------------------------------------------------------------------- */

static void check_equal(const float *a, const float *b, size_t count, size_t vocab, const char *what, int chunk)
{
    for (size_t i = 0; i < count * vocab; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a))
            FAIL("%s: chunk %d: position %zu, token %zu: %.9g, expected %.9g", what, chunk, i / vocab, i % vocab, a[i],
                 b[i]);
    }
}

static void check_chunks(struct random_model model, bool plain)
{
    static const int chunks[] = {1, 7, 64};
    static const size_t lengths[] = {15, 16, 17, 63, 64};

    write_model(&model);
    for (int b = 0; b < HOST_BACKENDS; b++) {
        size_t vocab = (size_t)model.vocab, most = 70;
        int32_t *tokens = random_tokens(most, model.vocab);
        struct engine *whole;
        float *want;

        if (!have_backend(backends[b])) {
            free(tokens);
            continue;
        }
        whole = open_engine(backends[b], 512, plain);
        want = logits_of(whole, tokens, most);
        for (size_t i = 0; i < most * vocab; i++) /* free pages hold NaN: a read of an unwritten row would show */
            CHECK(isfinite(want[i]));
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) { /* a shorter prompt gives the same rows */
            float *part = logits_of(whole, tokens, lengths[i]);

            check_equal(part, want, lengths[i], vocab, backends[b], (int)lengths[i]);
            free(part);
        }
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            struct engine *engine = open_engine(backends[b], chunks[i], plain);
            float *part = logits_of(engine, tokens, most);

            check_equal(part, want, most, vocab, backends[b], chunks[i]);
            free(part);
            engine_close(engine);
        }
        free(want);
        free(tokens);
        engine_close(whole);
    }
}

TEST(chunked_prefill_equals_one_shot_v32)
{
    check_chunks(random_model_default(RANDOM_V32, RANDOM_FP8), false);
}

TEST(chunked_prefill_equals_one_shot_glm5)
{
    struct random_model m = random_model_default(RANDOM_GLM5, RANDOM_BF16);

    m.indexer_types = "FSF";
    check_chunks(m, false);
}

TEST(chunked_prefill_equals_one_shot_plain)
{
    check_chunks(random_model_default(RANDOM_V32, RANDOM_F32), true);
}

TEST(chunked_prefill_equals_one_shot_dense)
{
    check_chunks(random_model_default(RANDOM_V2LITE, RANDOM_FP8), false);
}

/* 576 = 4.5 blocks of 128 rows, as V3.2's kv_a_proj has: the last scale row covers 64 rows. */
TEST(forward_with_a_half_block_of_scales)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_FP8);

    m.kv_lora = 512;
    m.rope = 64;
    m.index_dim = 128;
    m.layers = 1;
    m.heads = 2;
    check_chunks(m, false);
}

TEST(threads_change_no_bit)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_FP8);
    int32_t *tokens = random_tokens(100, m.vocab);
    float *want = NULL;

    if (!have_backend("cpu"))
        SKIP("no cpu backend");
    write_model(&m);
    for (int threads = 1; threads <= 3; threads++) {
        struct engine *engine = open_engine_with((struct engine_options){.backend = "cpu", .threads = threads});
        float *logits = logits_of(engine, tokens, 100);

        if (want)
            check_equal(logits, want, 100, (size_t)m.vocab, "threads", threads);
        if (!want)
            want = logits;
        else
            free(logits);
        engine_close(engine);
    }
    free(want);
    free(tokens);
}
