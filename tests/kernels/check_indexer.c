/* check_indexer.c: indexer scores, top-k, and both fused.
 *
 * Scores: |score - ref| <= 1e-6 * sum_h |w_h| |q_h| |k| (norms), 1e-4 on Hopper's FP8 tensor cores. Top-k on given
 * scores: exact. Fused: exact against the backend's own scores, and against ref within the tie band that the score
 * budget leaves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/plans.h"
#include "tests/kernels/check_kernels.h"

enum { MOST_ROWS = 64 };

struct indexer_case {
    int Hi, Di;
    enum numerics numerics;
    int B;
    int32_t tokens;
    int64_t T, k;
    int32_t visible[4]; /* of the last rows; earlier rows see fewer, one by one */
    bool ties;          /* few distinct scores: queries of few values, one key repeated */
    bool sampled;
};

static enum status run_selection(struct ops *ops, void *context)
{
    const void *const *c = context;

    return ops_indexer_topk(ops, c[0], (struct tensor *)(uintptr_t)c[1]);
}

static enum status run_scores(struct ops *ops, void *context)
{
    const void *const *c = context;

    return ops_indexer_scores(ops, c[0], (struct tensor *)(uintptr_t)c[1]);
}

/* Selected positions ascend, are as many as they should be, and nothing outside exceeds anything inside by more
 * than both errors. */
static void check_selection(struct check *check, struct box *selected, const struct box *scores, const int32_t *visible,
                            int64_t T, int64_t k, const double *bounds, int64_t width)
{
    struct tensor view;

    box_download(check, selected, &view);
    for (int64_t t = 0; t < T; t++) {
        const int32_t *chosen = (const int32_t *)view.data + t * view.strides[0];
        const float *score = (const float *)scores->host.data + t * scores->host.strides[0];
        int64_t count = visible[t] < k ? visible[t] : k;
        double lowest = INFINITY, bound = 0;
        char *inside = calloc((size_t)visible[t] + 1, 1);

        for (int64_t j = 0; j < k; j++) {
            bool ok = j < count ? chosen[j] >= 0 && chosen[j] < visible[t] && (j == 0 || chosen[j] > chosen[j - 1])
                                : chosen[j] == -1;

            if (!ok) {
                free(inside);
                check_case_fail(check, "selected[%lld,%lld] is %d, out of place", (long long)t, (long long)j,
                                chosen[j]);
            }
            if (j < count) {
                inside[chosen[j]] = 1;
                lowest = fmin(lowest, score[chosen[j]]);
                bound = fmax(bound, bounds[t * width + chosen[j]]);
            }
        }
        for (int32_t s = 0; s < visible[t]; s++)
            if (!inside[s] && score[s] > lowest + 2 * fmax(bound, bounds[t * width + s])) {
                free(inside);
                check_case_fail(check, "row %lld leaves out %d with %.9g and takes one with %.9g", (long long)t, s,
                                (double)score[s], lowest);
            }
        free(inside);
    }
}

/* What the scores of row t may be off by. */
static double row_bound(struct check *check, const struct indexer_case *c, struct box *q, struct box *w, int64_t t)
{
    double sum = 0, budget = check_short_sums(check, DTYPE_F8E4M3, c->numerics) ? 1e-4 : 1e-6;

    for (int h = 0; h < c->Hi; h++) {
        const float *row = box_f32(q, t) + h * q->host.strides[1];
        double norm = 0;

        for (int d = 0; d < c->Di; d++)
            norm += (double)row[d] * row[d];
        sum += fabs((double)box_f32(w, t)[h]) * sqrt(norm);
    }
    return budget * sum * 1.5 * sqrt(c->Di);
}

/* A few rows of a large case: scores and selection, each as a case of one row. */
static void compare_sample(struct check *check, const struct indexer_case *c, const struct ops_indexer_args *host,
                           struct box *q, struct box *w, struct box *score, struct box *selected, int64_t width)
{
    struct box *one = BOX(check, DTYPE_F32, 2, 1, width), *chosen = BOX(check, DTYPE_I32, 0, 1, c->k);
    double *bounds = calloc((size_t)width + 1, sizeof *bounds);
    int64_t rows[CHECK_SAMPLES];
    int count = check_sample_rows(check, c->T, rows);

    if (!bounds)
        check_case_fail(check, "no memory");
    for (int i = 0; i < count; i++) {
        struct tensor row_q = tensor_rows(&q->host, rows[i], 1), row_w = tensor_rows(&w->host, rows[i], 1);
        struct tensor slot = tensor_rows(host->rows->slot, rows[i], 1);
        struct tensor sequence = tensor_rows(host->rows->sequence, rows[i], 1);
        struct tensor visible = tensor_rows(host->rows->visible, rows[i], 1);
        struct ops_rows host_rows = *host->rows;
        double bound = row_bound(check, c, q, w, rows[i]);

        host_rows.slot = &slot;
        host_rows.sequence = &sequence;
        host_rows.visible = &visible;
        for (int64_t s = 0; s < width; s++)
            bounds[s] = bound;
        box_download_row(check, score, rows[i], one);
        box_upload(check, one);
        check_status(check, check_ref(check),
                     ops_indexer_scores(check_ref(check),
                                        &(struct ops_indexer_args){&row_q, &row_w, &host_rows, host->shape, host->pool},
                                        &one->host));
        box_compare_bounds(check, one, "score", bounds);
        box_download_row(check, selected, rows[i], chosen);
        box_upload(check, chosen);
        check_selection(check, chosen, one, (const int32_t *)visible.data, 1, c->k, bounds, width);
    }
    free(bounds);
}

static void run_indexer(struct check *check, const void *parameters)
{
    const struct indexer_case *c = parameters;
    struct cache_shape shape = {.Di = c->Di, .numerics = c->numerics};
    struct box *q = BOX(check, DTYPE_F32, 3, c->T, c->Hi, c->Di), *w = BOX(check, DTYPE_F32, 1, c->T, c->Hi);
    struct box *score, *selected, *own;
    struct cache_box cache;
    int32_t *visible = box_i32(BOX(check, DTYPE_I32, 0, c->T), 0); /* a box, as a case that is skipped frees none */
    double *bounds;
    int64_t width;
    struct ops_indexer_args host, device;

    for (int64_t t = 0; t < c->T; t++) {
        int64_t back = c->T - 1 - t;

        visible[t] = back < 4 && c->visible[3 - back] >= 0 ? c->visible[3 - back] : (int32_t)(c->tokens - back);
        if (visible[t] < 0)
            visible[t] = 0;
        if (visible[t] > c->tokens)
            visible[t] = c->tokens;
    }
    cache_box_init(check, &cache, &shape, c->B, c->tokens, c->T, visible);
    box_fill_normal(check, q, 1);
    box_fill_normal(check, w, 0.01);
    if (c->ties)
        for (int64_t i = 0; i < c->T * c->Hi * (c->Di + 3); i++)
            ((float *)q->host.data)[i] = i % 5 ? 0 : -1;
    box_upload(check, q);
    box_upload(check, w);
    width = cache.host.visible_max;
    score = BOX(check, DTYPE_F32, 2, c->T, width);
    selected = BOX(check, DTYPE_I32, 0, c->T, c->k);
    own = BOX(check, DTYPE_I32, 0, c->T, c->k);
    box_upload(check, score);
    box_upload(check, selected);
    box_upload(check, own);
    host = (struct ops_indexer_args){&q->host, &w->host, &cache.host, shape, &cache.index->host};
    device = (struct ops_indexer_args){&q->device, &w->device, &cache.device, shape, &cache.index->device};
    if (check_is_bench(check)) {
        const void *context[] = {&device, &selected->device};
        double pairs = 0;

        for (int64_t t = 0; t < c->T; t++)
            pairs += visible[t] > c->k ? visible[t] : 0;
        check_bench(check, run_selection, (void *)context, 2.0 * c->Hi * c->Di * pairs,
                    (double)c->tokens * (double)(c->Di + 4), c->numerics == NUMERICS_FP8 ? "bf16" : "f32");
        return;
    }
    check_status(check, check_device(check), ops_indexer_scores(check_device(check), &device, &score->device));
    check_repeat(check, run_scores, (void *)(const void *[]){&device, &score->device}, (struct box *[]){score, NULL});
    if (c->sampled) {
        check_status(check, check_device(check), ops_indexer_topk(check_device(check), &device, &selected->device));
        check_repeat(check, run_selection, (void *)(const void *[]){&device, &selected->device},
                     (struct box *[]){selected, NULL});
        compare_sample(check, c, &host, q, w, score, selected, width);
        return;
    }
    check_status(check, check_ref(check), ops_indexer_scores(check_ref(check), &host, &score->host));
    bounds = calloc((size_t)(c->T * width) + 1, sizeof *bounds);
    for (int64_t t = 0; t < c->T; t++) {
        double bound = row_bound(check, c, q, w, t);

        for (int64_t s = 0; s < width; s++)
            bounds[t * width + s] = bound;
    }
    box_compare_bounds(check, score, "score", bounds);
    check_status(check, check_device(check), ops_indexer_topk(check_device(check), &device, &selected->device));
    check_selection(check, selected, score, visible, c->T, c->k, bounds, width);
    free(bounds);
    /* The same selection from the backend's own scores, through its top-k: bit for bit. */
    check_status(check, check_device(check),
                 ops_topk(check_device(check), &score->device, cache.device.visible, &own->device));
    {
        struct tensor a, b;

        box_download(check, selected, &a);
        box_download(check, own, &b);
        if (memcmp(a.data, b.data, sizeof(int32_t) * (size_t)(c->T * c->k)) != 0)
            check_case_fail(check, "indexer_topk differs from topk of indexer_scores");
    }
}

#define INDEXER(label, ...)                                     \
    {                                                           \
        label, &(const struct indexer_case){__VA_ARGS__}, false \
    }
#define SLOW(label, ...)                                       \
    {                                                          \
        label, &(const struct indexer_case){__VA_ARGS__}, true \
    }
#define FULL(label, ...)                                                     \
    {                                                                        \
        "full " label, &(const struct indexer_case){__VA_ARGS__}, CHECK_FULL \
    }
#define ALL            \
    {                  \
        -1, -1, -1, -1 \
    }
static const struct check_case indexer_cases[] = {
    INDEXER("T=1 one key", 1, 128, NUMERICS_FP8, 1, 1, 1, 4, ALL),
    INDEXER("visible 0", 4, 128, NUMERICS_FP8, 1, 70, 4, 8, {0, 1, 64, 65}),
    INDEXER("lengths 63 64 65", 8, 128, NUMERICS_FP8, 1, 66, 4, 16, {63, 64, 65, 66}),
    INDEXER("S < k", 8, 128, NUMERICS_FP8, 1, 50, 3, 64, ALL),
    INDEXER("S = k = 64", 8, 128, NUMERICS_FP8, 1, 65, 3, 64, {-1, 63, 64, 65}),
    INDEXER("V3.2 heads", 64, 128, NUMERICS_FP8, 2, 200, 6, 64, ALL),
    INDEXER("lengths 2047 2048 2049", 4, 128, NUMERICS_FP8, 1, 2100, 4, 2048, {2047, 2048, 2049, 2100}),
    INDEXER("4096 keys, 256 of them", 4, 128, NUMERICS_FP8, 1, 4200, 5, 256, ALL),
    INDEXER("V3.2 heads, several tiles of keys", 64, 128, NUMERICS_FP8, 1, 1700, 7, 64, {300, 1500, -1, 1700}),
    INDEXER("33 heads", 33, 128, NUMERICS_FP8, 1, 200, 3, 64, ALL),
    INDEXER("16 heads, 20 rows", 16, 128, NUMERICS_FP8, 2, 700, 20, 64, ALL),
    INDEXER("12 heads", 12, 128, NUMERICS_FP8, 1, 300, 5, 64, ALL),
    INDEXER("32 heads, 3 sequences", 32, 128, NUMERICS_FP8, 3, 200, 9, 64, ALL),
    INDEXER("4 heads, 70 rows", 4, 128, NUMERICS_FP8, 1, 300, 70, 64, ALL),
    INDEXER("2 heads, 9 rows, 4 sequences", 2, 128, NUMERICS_FP8, 4, 300, 9, 64, ALL),
    INDEXER("8 heads, 40 rows", 8, 128, NUMERICS_FP8, 1, 300, 40, 64, ALL),
    INDEXER("20 rows, 3 sequences", 5, 64, NUMERICS_FP8, 3, 300, 20, 32, ALL),
    INDEXER("Di=32 Hi=3", 3, 32, NUMERICS_FP8, 2, 130, 5, 16, ALL),
    INDEXER("Di=256", 3, 256, NUMERICS_FP8, 1, 130, 5, 16, ALL),
    INDEXER("Di=7", 3, 7, NUMERICS_FP8, 1, 130, 5, 16, ALL),
    INDEXER("ties", 4, 128, NUMERICS_FP8, 1, 300, 5, 100, ALL, true),
    INDEXER("plain", 4, 128, NUMERICS_PLAIN, 2, 300, 9, 64, ALL),
    INDEXER("plain Di=33 Hi=7", 7, 33, NUMERICS_PLAIN, 1, 129, 4, 64, ALL),
    /* DeepGEMM's logits in small: prefill of a causal chunk, decode of one and two rows a sequence. */
    INDEXER("DeepGEMM 18 rows, 600 keys", 64, 128, NUMERICS_FP8, 1, 600, 18, 512, ALL),
    INDEXER("DeepGEMM 34 rows, 200 keys, 32 heads", 32, 128, NUMERICS_FP8, 1, 200, 34, 64, {0, 1, -1, -1}),
    INDEXER("DeepGEMM paged, 5 sequences", 64, 128, NUMERICS_FP8, 5, 700, 5, 256, {1, 0, 129, 700}),
    INDEXER("DeepGEMM paged, 2 rows of 4 sequences", 64, 128, NUMERICS_FP8, 4, 500, 8, 256, {64, 65, 256, 257}),
    FULL("DeepGEMM 2048 x 8192", 64, 128, NUMERICS_FP8, 1, 8192, 2048, 2048, ALL, false, true),
    FULL("DeepGEMM 8192 x 8192", 64, 128, NUMERICS_FP8, 1, 8192, 8192, 2048, ALL, false, true),
    FULL("DeepGEMM 2048 x 65536", 64, 128, NUMERICS_FP8, 1, 65536, 2048, 2048, ALL, false, true),
    FULL("DeepGEMM paged b=64 x 2300", 64, 128, NUMERICS_FP8, 64, 2300, 64, 2048, {0, 1, 2048, 2049}, false, true),
    FULL("DeepGEMM paged b=2 x 65536", 64, 128, NUMERICS_FP8, 2, 65536, 2, 2048, ALL, false, true),
    SLOW("Hi=64 32K keys T=1 k=2048", 64, 128, NUMERICS_FP8, 1, 32768, 1, 2048, ALL),
    SLOW("Hi=64 32K keys T=16 k=2048", 64, 128, NUMERICS_FP8, 1, 32768, 16, 2048, ALL),
    SLOW("Hi=4 8K keys T=1 k=512", 4, 128, NUMERICS_FP8, 1, 8192, 1, 512, ALL),
    SLOW("Hi=4 8K keys T=512 k=512", 4, 128, NUMERICS_FP8, 1, 8192, 512, 512, ALL),
};
const struct check_op check_op_indexer = {"indexer", indexer_cases, sizeof indexer_cases / sizeof *indexer_cases,
                                          run_indexer};

/* --- Top-k -------------------------------------------------------------------------------------------- */

enum pattern {
    NORMAL,
    ZEROS_60,
    ZEROS_995,
    EQUAL,
    ASCENDING,
    DESCENDING,
    SPECIAL,
    HIGH_SAMPLES,
    LOW_SAMPLES,
    TWO_VALUES,
    ROUNDED,      /* to a 64th: equal keys at the threshold, some wanted and some not */
    CUDA_HIGH,    /* the places that topk_sampled.cu looks at: the bound is too high, too few reach it */
    CUDA_LOW,     /* too low: more reach it than fit */
    CUDA_HIGH_NAN /* as the first, and so many NaNs that it looks like enough */
};

struct topk_case {
    enum pattern pattern;
    int64_t T, S, k;
    bool aligned; /* else each row of scores starts at another place within 16 bytes */
};

/* Whether position s of a row of `count` is one of the sample's. */
static bool in_cuda_sample(int64_t s, int64_t count, int64_t k)
{
    int step = topk_sample_step((int)count, (int)k);

    return s / step < count / step && topk_sample_place((int)(s / step), step) == (int)s;
}

static float topk_value(struct check *check, enum pattern pattern, int64_t s, int64_t S, bool sampled)
{
    static const float special[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, -1e-40f, 3.4e38f, -3.4e38f};
    int64_t step = S / 1024 ? S / 1024 : 1; /* the places that a strided sample of 1024 would look at */

    switch (pattern) {
    case NORMAL: return (float)check_normal(check);
    case ZEROS_60: return check_unit(check) < 0.6 ? 0 : (float)check_normal(check);
    case ZEROS_995: return check_unit(check) < 0.995 ? 0 : (float)check_normal(check);
    case ROUNDED: return rintf((float)check_normal(check) * 64) / 64;
    case EQUAL: return -1.5f;
    case ASCENDING: return (float)s;
    case DESCENDING: return (float)(S - s);
    case SPECIAL: return special[check_int(check, 0, 10)];
    case HIGH_SAMPLES: return s % step == 0 ? 1e6f + (float)s : (float)check_normal(check);
    case CUDA_HIGH: return sampled ? 1e6f + (float)s : (float)check_normal(check);
    case CUDA_LOW: return sampled ? -1e6f : (float)check_normal(check);
    case CUDA_HIGH_NAN: return sampled ? 1e6f : check_unit(check) < 0.3 ? NAN : (float)check_normal(check);
    case LOW_SAMPLES: return s % step == 0 ? -1e6f : (float)check_normal(check);
    default: return check_unit(check) < 0.5 ? 1.0f : 2.0f;
    }
}

static enum status run_topk_op(struct ops *ops, void *context)
{
    const struct tensor *const *c = context;

    return ops_topk(ops, c[0], c[1], (struct tensor *)(uintptr_t)c[2]);
}

static void run_topk(struct check *check, const void *parameters)
{
    const struct topk_case *c = parameters;
    struct box *score = BOX(check, DTYPE_F32, c->aligned ? 0 : 1, c->T, c->S),
               *visible = BOX(check, DTYPE_I32, 0, c->T);
    struct box *selected = BOX(check, DTYPE_I32, 3, c->T, c->k);
    const struct tensor *context[] = {&score->device, &visible->device, &selected->device};

    for (int64_t t = 0; t < c->T; t++) {
        int64_t hidden = t % 4 == 3 ? t * 3 : t % 4 == 2 ? c->S : 0; /* all, all, none, a few less */

        *box_i32(visible, t) = (int32_t)(hidden > c->S ? 0 : c->S - hidden);
        for (int64_t s = 0; s < c->S; s++)
            box_f32(score, t)[s] =
                topk_value(check, c->pattern, s, c->S, in_cuda_sample(s, *box_i32(visible, t), c->k));
    }
    box_upload(check, score);
    box_upload(check, visible);
    box_upload(check, selected);
    check_status(check, check_device(check), run_topk_op(check_device(check), context));
    if (check_is_bench(check)) {
        check_bench(check, run_topk_op, context, 0, 4.0 * (double)(c->T * c->S), "f32");
        return;
    }
    check_repeat(check, run_topk_op, context, (struct box *[]){selected, NULL});
    check_status(check, check_ref(check), ops_topk(check_ref(check), &score->host, &visible->host, &selected->host));
    box_compare_exact(check, selected, "selected");
}

#define TOPK(label, ...)                                     \
    {                                                        \
        label, &(const struct topk_case){__VA_ARGS__}, false \
    }
#define SLOW_TOPK(label, ...)                               \
    {                                                       \
        label, &(const struct topk_case){__VA_ARGS__}, true \
    }
#define FULL_TOPK(label, ...)                                             \
    {                                                                     \
        "full " label, &(const struct topk_case){__VA_ARGS__}, CHECK_FULL \
    }
static const struct check_case topk_cases[] = {
    TOPK("S=1 k=1", NORMAL, 4, 1, 1),
    TOPK("S=17 k=5", NORMAL, 4, 17, 5),
    TOPK("S=63 k=64", NORMAL, 4, 63, 64),
    TOPK("S=65 k=64", NORMAL, 4, 65, 64),
    TOPK("normal 2049 k=2048", NORMAL, 4, 2049, 2048),
    TOPK("normal 4096 k=512", NORMAL, 4, 4096, 512),
    TOPK("normal 33000 k=2048", NORMAL, 4, 33000, 2048),
    TOPK("60% zeros", ZEROS_60, 4, 20000, 2048),
    TOPK("60% zeros, threshold among them", ZEROS_60, 4, 5000, 2048),
    TOPK("99.5% zeros", ZEROS_995, 4, 20000, 2048),
    TOPK("all equal", EQUAL, 4, 20000, 2048),
    TOPK("all equal, short", EQUAL, 4, 70, 64),
    TOPK("two values", TWO_VALUES, 4, 9000, 300),
    TOPK("ascending", ASCENDING, 4, 20000, 2048),
    TOPK("descending", DESCENDING, 4, 20000, 2048),
    TOPK("NaN, infinities, both zeros, subnormals", SPECIAL, 8, 5000, 700),
    TOPK("NaN, infinities, short", SPECIAL, 8, 40, 33),
    TOPK("sample sees only the largest", HIGH_SAMPLES, 4, 20480, 2048),
    TOPK("sample sees only the smallest", LOW_SAMPLES, 4, 20480, 2048),
    TOPK("its own sample sees only the largest", CUDA_HIGH, 3, 20480, 2048, true),
    TOPK("its own sample sees only the smallest", CUDA_LOW, 3, 20480, 2048, true),
    TOPK("its own sample sees only the largest, NaNs", CUDA_HIGH_NAN, 3, 20480, 2048, true),
    TOPK("more than 2 k, rows aligned", NORMAL, 5, 16384, 512, true),
    TOPK("ties at the threshold, more rows than SMs", ROUNDED, 140, 3000, 300),
    TOPK("rows that are candidates whole", NORMAL, 140, 1500, 300),
    TOPK("k=1", NORMAL, 4, 9000, 1),
    TOPK("huge T", NORMAL, 70000, 20, 4),
    FULL_TOPK("normal 64 x 131072", NORMAL, 64, 131072, 2048),
    FULL_TOPK("60% zeros 64 x 131072", ZEROS_60, 64, 131072, 2048),
    FULL_TOPK("all equal 4 x 1048576", EQUAL, 4, 1048576, 2048),
    FULL_TOPK("ascending 4 x 1000001", ASCENDING, 4, 1000001, 2048),
    FULL_TOPK("normal 1000 x 9000", NORMAL, 1000, 9000, 2048),
    SLOW_TOPK("normal 32K k=2048", NORMAL, 16, 32768, 2048),
    SLOW_TOPK("normal 128K k=2048", NORMAL, 16, 131072, 2048),
    SLOW_TOPK("60% zeros 128K k=2048", ZEROS_60, 16, 131072, 2048),
    SLOW_TOPK("normal 8K k=512", NORMAL, 64, 8192, 512),
};
const struct check_op check_op_topk = {"topk", topk_cases, sizeof topk_cases / sizeof *topk_cases, run_topk};
