/* test_determinism.c: a row's bits depend on nothing but its own inputs.
 *
 * Each op runs on T rows at once and then on every split of them, on 1, 2 and 3 threads and on every instruction
 * set of this machine; the outputs must be the same bytes. This is the contract of ops.h that chunked prefill,
 * batching and prefix caches rest on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fp8.h"
#include "kernels/ops.h"
#include "tests/harness/check.h"

enum { MOST_VARIANTS = 12, ROWS = 130 };

struct variants {
    struct ops *ops[MOST_VARIANTS];
    int count;
};

/* The reference bits come from variant 0; all others must give the same. */
static void open_variants(struct variants *v)
{
    static const unsigned features[] = {CPU_PORTABLE, CPU_AVX2, CPU_AVX512 | CPU_AVX512_BF16 | CPU_AVX512_VBMI};
    static const int threads[] = {1, 2, 3};

    v->count = 0;
    for (size_t f = 0; f < 3; f++)
        for (size_t t = 0; t < 3; t++) {
            struct ops_options options = {.backend = "cpu", .threads = threads[t], .cpu_features = features[f]};

#if defined(__x86_64__)
            if (f == 0 && t != 1)
                continue; /* the portable set is slow: two threads will do, in two steps */
#endif
            if (ops_open(&options, &v->ops[v->count], NULL) == STATUS_OK)
                v->count++;
        }
    CHECK(v->count >= 2);
}

static void close_variants(struct variants *v)
{
    for (int i = 0; i < v->count; i++)
        ops_close(v->ops[i]);
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);

    CHECK(memory != NULL);
    return memory;
}

static float *normals(int64_t count, double deviation)
{
    float *values = allocate(sizeof *values * (size_t)count);

    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(check_random_normal() * deviation);
    return values;
}

/* What a test computes for rows [first, first + count) into `out`, `row_bytes` a row. */
struct job {
    void (*run)(struct ops *ops, const struct job *job, int64_t first, int64_t count, void *out);
    size_t row_bytes;
    const void *context;
};

static void check_all_splits(const struct job *job)
{
    static const int64_t steps[] = {1, 13, 63, 64, 65, ROWS};
    struct variants v;
    char *whole = allocate(job->row_bytes * ROWS), *split = allocate(job->row_bytes * ROWS);

    open_variants(&v);
    job->run(v.ops[v.count - 1], job, 0, ROWS, whole);
    for (int i = 0; i < v.count; i++)
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            if (strstr(ops_description(v.ops[i]), "portable") && steps[s] != 13 && steps[s] != ROWS)
                continue;
            memset(split, 0x5a, job->row_bytes * ROWS);
            for (int64_t first = 0; first < ROWS; first += steps[s]) {
                int64_t count = ROWS - first < steps[s] ? ROWS - first : steps[s];

                job->run(v.ops[i], job, first, count, split + (size_t)first * job->row_bytes);
            }
            for (int64_t t = 0; t < ROWS; t++)
                if (memcmp(whole + (size_t)t * job->row_bytes, split + (size_t)t * job->row_bytes, job->row_bytes) != 0)
                    FAIL("row %lld differs on '%s' in steps of %lld", (long long)t, ops_description(v.ops[i]),
                         (long long)steps[s]);
        }
    close_variants(&v);
    free(whole);
    free(split);
}

static void ok(struct ops *ops, enum status status)
{
    if (status)
        FAIL("%s: %s", status_name(status), ops_last_error(ops));
}

/* --- Products ----------------------------------------------------------------------------------------- */

struct product {
    struct tensor w, scale;
    enum numerics numerics;
    float *x;
    int64_t N, K;
};

static void run_product(struct ops *ops, const struct job *job, int64_t first, int64_t count, void *out)
{
    const struct product *p = job->context;
    struct ops_weight_args args = {p->w, p->w.dtype == DTYPE_F8E4M3 ? &p->scale : NULL, p->numerics};
    struct tensor x = tensor_2d(DTYPE_F32, p->x + first * p->K, count, p->K),
                  y = tensor_2d(DTYPE_F32, out, count, p->N);
    struct ops_weight *weight;

    ok(ops, ops_weight_create(ops, &args, &weight));
    ok(ops, ops_linear(ops, &(struct ops_linear_args){&x, weight, &y, false}));
    ops_weight_destroy(ops, weight);
}

static void check_product(enum dtype dtype, enum numerics numerics, int64_t N, int64_t K)
{
    struct product p = {.numerics = numerics, .N = N, .K = K, .x = normals(ROWS * K, 1)};
    float *values = normals(N * K, 1), *scales = normals(((N + 127) / 128) * ((K + 127) / 128), 1);
    uint16_t *halves = allocate(2 * (size_t)(N * K));
    uint8_t *codes = allocate((size_t)(N * K));

    for (int64_t i = 0; i < N * K; i++) {
        halves[i] = bf16_from_f32(values[i]);
        codes[i] = e4m3_from_f32(values[i] * 60);
    }
    p.w = tensor_2d(dtype,
                    dtype == DTYPE_F32    ? (void *)values
                    : dtype == DTYPE_BF16 ? (void *)halves
                                          : (void *)codes,
                    N, K);
    p.scale = tensor_2d(DTYPE_F32, scales, (N + 127) / 128, (K + 127) / 128);
    check_all_splits(&(struct job){run_product, sizeof(float) * (size_t)N, &p});
    free(p.x);
    free(values);
    free(scales);
    free(halves);
    free(codes);
}

TEST(products_of_fp8_weights)
{
    check_product(DTYPE_F8E4M3, NUMERICS_FP8, 70, 700);
}

TEST(products_of_bf16_weights)
{
    check_product(DTYPE_BF16, NUMERICS_FP8, 70, 601);
}

TEST(products_of_f32_weights)
{
    check_product(DTYPE_F32, NUMERICS_FP8, 70, 300);
}

TEST(plain_products)
{
    check_product(DTYPE_F8E4M3, NUMERICS_PLAIN, 33, 300);
    check_product(DTYPE_BF16, NUMERICS_PLAIN, 33, 300);
}

/* --- Rows --------------------------------------------------------------------------------------------- */

static void run_rows(struct ops *ops, const struct job *job, int64_t first, int64_t count, void *out)
{
    const float *all = job->context;
    int64_t D = 130;
    struct tensor x = tensor_2d(DTYPE_F32, (float *)(uintptr_t)all + first * D, count, D);
    struct tensor weight = tensor_1d(DTYPE_F32, (float *)(uintptr_t)all + ROWS * D, D),
                  y = tensor_2d(DTYPE_F32, out, count, D);

    ok(ops, ops_rmsnorm(ops, &(struct ops_rmsnorm_args){&x, NULL, &weight, 1e-6f, &y}));
    ok(ops, ops_swiglu(ops, &y, &x, &y));
    ok(ops, ops_layernorm(ops, &(struct ops_layernorm_args){&y, &weight, &weight, 1e-6f, &y}));
}

TEST(norms_and_swiglu)
{
    float *all = normals((ROWS + 1) * 130, 1);

    check_all_splits(&(struct job){run_rows, 130 * sizeof(float), all});
    free(all);
}

static void run_router(struct ops *ops, const struct job *job, int64_t first, int64_t count, void *out)
{
    int32_t experts[ROWS * 4];
    float weights[ROWS * 4];
    struct tensor logits = tensor_2d(DTYPE_F32, (float *)(uintptr_t)job->context + first * 48, count, 48);
    struct tensor e = tensor_2d(DTYPE_I32, experts, count, 4), w = tensor_2d(DTYPE_F32, weights, count, 4);
    struct ops_router_args args = {.logits = &logits,
                                   .scoring = ROUTER_SIGMOID,
                                   .groups = 4,
                                   .kept_groups = 2,
                                   .normalise = true,
                                   .scaling = 2.5f,
                                   .experts = &e,
                                   .weights = &w};

    ok(ops, ops_router(ops, &args));
    for (int64_t t = 0; t < count; t++) {
        memcpy((char *)out + t * 32, experts + t * 4, 16);
        memcpy((char *)out + t * 32 + 16, weights + t * 4, 16);
    }
}

TEST(router)
{
    float *logits = normals(ROWS * 48, 1);

    check_all_splits(&(struct job){run_router, 32, logits});
    free(logits);
}

/* --- Experts ------------------------------------------------------------------------------------------ */

enum { EXPERTS = 6, MOE_D = 136, MOE_J = 72, MOE_K = 2 };

struct mixture {
    uint8_t *codes[3][EXPERTS];
    float scale[4], *x, *weights;
    int32_t *experts;
};

static void run_moe(struct ops *ops, const struct job *job, int64_t first, int64_t count, void *out)
{
    const struct mixture *m = job->context;
    struct tensor scale = tensor_2d(DTYPE_F32, (float *)(uintptr_t)m->scale, 1, 2),
                  down_scale = tensor_2d(DTYPE_F32, (float *)(uintptr_t)m->scale, 2, 1);
    struct tensor x = tensor_2d(DTYPE_F32, m->x + first * MOE_D, count, MOE_D),
                  y = tensor_2d(DTYPE_F32, out, count, MOE_D);
    struct tensor experts = tensor_2d(DTYPE_I32, m->experts + first * MOE_K, count, MOE_K);
    struct tensor weights = tensor_2d(DTYPE_F32, m->weights + first * MOE_K, count, MOE_K);
    struct ops_weight *w[3][EXPERTS];

    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++) {
            struct ops_weight_args args = {
                tensor_2d(DTYPE_F8E4M3, m->codes[i][e], i == 2 ? MOE_D : MOE_J, i == 2 ? MOE_J : MOE_D),
                i == 2 ? &down_scale : &scale, NUMERICS_FP8};

            ok(ops, ops_weight_create(ops, &args, &w[i][e]));
        }
    memset(out, 0, sizeof(float) * (size_t)(count * MOE_D));
    ok(ops, ops_moe(ops, &(struct ops_moe_args){&x, &experts, &weights, (const struct ops_weight *const *)w[0],
                                                (const struct ops_weight *const *)w[1],
                                                (const struct ops_weight *const *)w[2], EXPERTS, &y}));
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++)
            ops_weight_destroy(ops, w[i][e]);
}

TEST(experts)
{
    struct mixture m = {
        .scale = {0.01f, 0.02f, 0.015f, 0.03f}, .x = normals(ROWS * MOE_D, 1), .weights = normals(ROWS * MOE_K, 1)};

    m.experts = allocate(sizeof(int32_t) * ROWS * MOE_K);
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < EXPERTS; e++) {
            m.codes[i][e] = allocate(MOE_D * MOE_J);
            for (int j = 0; j < MOE_D * MOE_J; j++)
                m.codes[i][e][j] = e4m3_from_f32((float)check_random_normal() * 10);
        }
    for (int t = 0; t < ROWS; t++) {
        m.experts[2 * t] = (int32_t)(check_random() % EXPERTS);
        m.experts[2 * t + 1] = (m.experts[2 * t] + 1 + (int32_t)(check_random() % (EXPERTS - 1))) % EXPERTS;
    }
    check_all_splits(&(struct job){run_moe, sizeof(float) * MOE_D, &m});
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < EXPERTS; e++)
            free(m.codes[i][e]);
    free(m.x);
    free(m.weights);
    free(m.experts);
}

/* --- Caches, indexer, attention ------------------------------------------------------------------------- */

enum { TOKENS = 333, PAGES = 14, HEADS = 5, DV = 192, DR = 16, HI = 3, DI = 64, TOP = 70 };

struct attending {
    struct cache_shape shape;
    float *q, *q_pe, *index_q, *index_w;
    uint8_t *latent, *index;
    int32_t *page_table, *sequence, *visible, *selected;
};

static struct ops_rows rows_of(const struct attending *a, int64_t first, int64_t count, struct tensor t[3])
{
    struct ops_rows rows = {0};

    t[0] = tensor_1d(DTYPE_I32, a->sequence + first, count);
    t[1] = tensor_1d(DTYPE_I32, a->visible + first, count);
    t[2] = tensor_2d(DTYPE_I32, a->page_table, 2, PAGES / 2);
    rows.sequence = &t[0];
    rows.visible = &t[1];
    rows.page_table = &t[2];
    for (int64_t i = 0; i < count; i++)
        if (a->visible[first + i] > rows.visible_max)
            rows.visible_max = a->visible[first + i];
    return rows;
}

static void attend(struct ops *ops, const struct attending *a, int64_t first, int64_t count, int32_t *selected,
                   float *out, float *lse)
{
    struct tensor views[3], q = tensor_3d(DTYPE_F32, a->q + first * HEADS * DV, count, HEADS, DV);
    struct tensor q_pe = tensor_3d(DTYPE_F32, a->q_pe + first * HEADS * DR, count, HEADS, DR);
    struct tensor pool = tensor_3d(DTYPE_U8, a->latent, PAGES, 64, (int64_t)cache_record_bytes(&a->shape));
    struct tensor to = tensor_3d(DTYPE_F32, out, count, HEADS, DV), tl = tensor_2d(DTYPE_F32, lse, count, HEADS);
    struct tensor ts = tensor_2d(DTYPE_I32, selected, count, selected ? TOP : 0);
    struct ops_rows rows = rows_of(a, first, count, views);
    struct ops_attention_args args = {&q, &q_pe, selected ? &ts : NULL, &rows, a->shape, &pool, 0.1f, &to, &tl};

    ok(ops, ops_attention(ops, &args));
}

/* Row: selected positions, attention over them, dense attention, both lse. */
static void run_attention(struct ops *ops, const struct job *job, int64_t first, int64_t count, void *out)
{
    const struct attending *a = job->context;
    struct tensor views[3], q = tensor_3d(DTYPE_F32, a->index_q + first * HI * DI, count, HI, DI);
    struct tensor w = tensor_2d(DTYPE_F32, a->index_w + first * HI, count, HI);
    struct tensor pool = tensor_2d(DTYPE_U8, a->index, PAGES, (int64_t)cache_index_page_bytes(&a->shape));
    struct ops_rows rows = rows_of(a, first, count, views);
    int32_t *selected = allocate(sizeof(int32_t) * (size_t)count * TOP);
    float *sparse = allocate(4 * (size_t)count * HEADS * (DV + 1)),
          *dense = allocate(4 * (size_t)count * HEADS * (DV + 1));
    struct tensor ts = tensor_2d(DTYPE_I32, selected, count, TOP);

    ok(ops, ops_indexer_topk(ops, &(struct ops_indexer_args){&q, &w, &rows, a->shape, &pool}, &ts));
    attend(ops, a, first, count, selected, sparse, sparse + count * HEADS * DV);
    attend(ops, a, first, count, NULL, dense, dense + count * HEADS * DV);
    for (int64_t t = 0; t < count; t++) {
        char *row = (char *)out + (size_t)t * job->row_bytes;
        size_t wide = 4 * HEADS * DV;

        memcpy(row, selected + t * TOP, 4 * TOP);
        memcpy(row + 4 * TOP, sparse + t * HEADS * DV, wide);
        memcpy(row + 4 * TOP + wide, dense + t * HEADS * DV, wide);
        memcpy(row + 4 * TOP + 2 * wide, sparse + count * HEADS * DV + t * HEADS, 4 * HEADS);
        memcpy(row + 4 * TOP + 2 * wide + 4 * HEADS, dense + count * HEADS * DV + t * HEADS, 4 * HEADS);
        if (a->visible[first + t] <= TOP && memcmp(row + 4 * TOP, row + 4 * TOP + wide, wide) != 0)
            FAIL("row %lld: everything selected and dense differ on '%s'", (long long)(first + t),
                 ops_description(ops));
    }
    free(selected);
    free(sparse);
    free(dense);
}

static void attending_init(struct attending *a, enum numerics numerics)
{
    struct ops *ops = NULL;
    float *c = normals(2 * TOKENS * DV, 1), *k_pe = normals(2 * TOKENS * DR, 1), *k = normals(2 * TOKENS * DI, 1);
    int32_t *slots = allocate(sizeof(int32_t) * 2 * TOKENS);
    struct tensor tc = tensor_2d(DTYPE_F32, c, 2 * TOKENS, DV), tk_pe = tensor_2d(DTYPE_F32, k_pe, 2 * TOKENS, DR);
    struct tensor tk = tensor_2d(DTYPE_F32, k, 2 * TOKENS, DI), tslots = tensor_1d(DTYPE_I32, slots, 2 * TOKENS);
    struct tensor latent, index;
    struct ops_rows rows = {.slot = &tslots};

    a->shape = (struct cache_shape){DV, DR, DI, numerics};
    a->q = normals(ROWS * HEADS * DV, 1);
    a->q_pe = normals(ROWS * HEADS * DR, 1);
    a->index_q = normals(ROWS * HI * DI, 1);
    a->index_w = normals(ROWS * HI, 0.1);
    a->latent = allocate(PAGES * 64 * cache_record_bytes(&a->shape));
    a->index = allocate(PAGES * cache_index_page_bytes(&a->shape));
    a->page_table = allocate(sizeof(int32_t) * PAGES);
    a->sequence = allocate(sizeof(int32_t) * ROWS);
    a->visible = allocate(sizeof(int32_t) * ROWS);
    for (int p = 0; p < PAGES; p++)
        a->page_table[p] = (p * 5 + 3) % PAGES;
    for (int i = 0; i < 2 * TOKENS; i++)
        slots[i] = a->page_table[i / TOKENS * PAGES / 2 + i % TOKENS / 64] * 64 + i % TOKENS % 64;
    for (int t = 0; t < ROWS; t++) { /* the second sequence begins short, across 63 64 65 */
        a->sequence[t] = t >= 60;
        a->visible[t] = t < 60 ? TOKENS - 59 + t : t - 60 + (t >= 120 ? 200 : 0);
    }
    ok(NULL, ops_open(&(struct ops_options){.backend = "ref"}, &ops, NULL));
    latent = tensor_3d(DTYPE_U8, a->latent, PAGES, 64, (int64_t)cache_record_bytes(&a->shape));
    index = tensor_2d(DTYPE_U8, a->index, PAGES, (int64_t)cache_index_page_bytes(&a->shape));
    ok(ops, ops_latent_write(ops, &(struct ops_latent_write_args){
                                      .c = &tc, .k_pe = &tk_pe, .rows = &rows, .shape = a->shape, .pool = &latent}));
    ok(ops, ops_index_write(
                ops, &(struct ops_index_write_args){.k = &tk, .rows = &rows, .shape = a->shape, .pool = &index}));
    ops_close(ops);
    free(c);
    free(k_pe);
    free(k);
    free(slots);
}

static void check_attention(enum numerics numerics)
{
    struct attending a;

    attending_init(&a, numerics);
    check_all_splits(&(struct job){run_attention, 4 * TOP + 8 * HEADS * DV + 8 * HEADS, &a});
    free(a.q);
    free(a.q_pe);
    free(a.index_q);
    free(a.index_w);
    free(a.latent);
    free(a.index);
    free(a.page_table);
    free(a.sequence);
    free(a.visible);
}

TEST(indexer_and_attention_over_fp8_caches)
{
    check_attention(NUMERICS_FP8);
}

TEST(indexer_and_attention_over_plain_caches)
{
    check_attention(NUMERICS_PLAIN);
}
