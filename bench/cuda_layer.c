/* cuda_layer.c: one DeepSeek-V3.2 MoE layer as the engine runs it (engine/layer_*.c), with random FP8 weights:
 * prefill of 128K positions in chunks of bench->chunk rows, then decode steps of 1, 8 and 64 sequences at 128K.
 *
 * Prefill's floor is facts' 225 ms (FP8 at 1979 TFLOPS, BF16 at 989): indexer 71, logits through memory 14, attention
 * 76, linears 78, less overlap. Decode's is the bytes of weights, index keys and records over the copy rate. Prefill's
 * parts are timed with a wait after each op; a decode step's, where a wait would cost more than an op, as a graph of
 * that part's ops alone. A norm that FP8 products follow, and o's expansion per head, count as FP8 products: the engine
 * calls them as one op. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/cuda_bench.h"

enum {
    D = 7168,
    H = 128,
    Q_RANK = 1536,
    LATENT = 512,
    ROPE = 64,
    NOPE = 128,
    V_DIM = 128,
    INDEX_HEADS = 64,
    INDEX_DIM = 128,
    TOP_K = 2048,
    EXPERTS = 256,
    CHOSEN = 8,
    INTER = 2048,
    LENGTH = 131072,
    DECODE_MOST = 64
};
static const double floor_ms = 225;

enum part {
    PART_FP8,
    PART_HEADS,
    PART_F32,
    PART_ROWS,
    PART_INDEXER,
    PART_ATTENTION,
    PART_ROUTER,
    PART_MOE,
    PART_COUNT
};
static const char *const part_names[] = {"products, FP8",   "products, BF16", "products, F32", "rows and caches",
                                         "indexer + top-k", "attention",      "router",        "experts"};

struct layer {
    struct cuda_bench *bench;
    struct ops *ops;
    struct ops_weight *q_a, *q_b, *kv_a, *uk, *uv, *o, *index_q, *index_k, *index_w, *router;
    struct ops_weight *shared[3], *expert[3][EXPERTS];
    struct tensor norm, norm_q, norm_kv, index_norm, index_bias, rope, bias;
    struct tensor x, normed, qr, q, kv, q_latent, o_latent, heads, delta, index_q_rows, index_k_rows, index_w_rows;
    struct tensor selected, gate, up, logits, experts, weights;
    struct bench_cache cache;
    struct tensor position;
    bool by_parts;  /* wait after each op */
    enum part only; /* PART_COUNT: all; others' results stay as they were */
    double us[PART_COUNT], since;
};

static void done(struct layer *l, enum part part, enum status status)
{
    bench_check(l->bench, status, part_names[part]);
    if (!l->by_parts)
        return;
    bench_check(l->bench, ops_sync(l->ops), part_names[part]);
    l->us[part] += bench_now_us() - l->since;
    l->since = bench_now_us();
}

/* One op of a part, where that is wanted. */
#define OP(layer, part, call)                                       \
    do {                                                            \
        if ((layer)->only == PART_COUNT || (layer)->only == (part)) \
            done((layer), (part), (call));                          \
    } while (0)

static void linear(struct layer *l, enum part part, const struct tensor *x, const struct ops_weight *w,
                   struct tensor *y)
{
    OP(l, part, ops_linear(l->ops, &(struct ops_linear_args){.x = x, .w = w, .y = y}));
}

static void norm_linears(struct layer *l, const struct ops_rmsnorm_args *norm, const struct ops_linear_args *products,
                         int count)
{
    OP(l, PART_FP8, ops_norm_linears(l->ops, norm, products, count));
}

static void rope(struct layer *l, struct tensor x, const struct tensor *position, enum rope_style style)
{
    OP(l, PART_ROWS, ops_rope(l->ops, &(struct ops_rope_args){&x, &l->rope, position, style}));
}

static struct tensor flat(const struct tensor *heads)
{
    return tensor_2d(DTYPE_F32, heads->data, heads->dims[0], heads->dims[1] * heads->dims[2]);
}

static struct tensor by_head(const struct tensor *heads)
{
    return tensor_2d(DTYPE_F32, heads->data, heads->dims[0] * heads->dims[1], heads->dims[2]);
}

/* The rows in use: the first T of every buffer. */
struct pass {
    struct tensor x, normed, qr, q, kv, q_latent, o_latent, heads, delta, index_q, index_k, index_w, selected, gate, up,
        logits, experts, weights, position, slot, sequence, visible;
    struct ops_rows rows;
};

static void index_part(struct layer *l, struct pass *p)
{
    struct tensor all = by_head(&p->index_q);
    struct ops_indexer_args args = {&p->index_q, &p->index_w, &p->rows, l->cache.shape, &l->cache.index};
    struct ops_index_write_args write = {&p->index_k, &p->rows, l->cache.shape, &l->cache.index,
                                         &l->index_norm, &l->index_bias, 1e-6f,
                                         {&l->rope, &p->position, ROPE_HALF_SPLIT}, true};

    OP(l, PART_ROWS, ops_index_write(l->ops, &write));
    if (p->rows.visible_max <= TOP_K)
        return;
    linear(l, PART_F32, &p->normed, l->index_w, &p->index_w);
    rope(l, tensor_columns(&p->index_q, 0, ROPE), &p->position, ROPE_HALF_SPLIT);
    OP(l, PART_ROWS, ops_hadamard(l->ops, &all));
    OP(l, PART_INDEXER, ops_indexer_topk(l->ops, &args, &p->selected));
}

static void attention_part(struct layer *l, struct pass *p)
{
    struct tensor q = flat(&p->q), q_nope = tensor_columns(&p->q, 0, NOPE), q_pe = tensor_columns(&p->q, NOPE, ROPE);
    struct tensor latent = tensor_columns(&p->kv, 0, LATENT), k_pe = tensor_columns(&p->kv, LATENT, ROPE);
    struct tensor heads = flat(&p->heads), index_q = flat(&p->index_q);
    struct ops_linear_args of_normed[] = {{.x = &p->normed, .w = l->q_a, .y = &p->qr},
                                          {.x = &p->normed, .w = l->kv_a, .y = &p->kv},
                                          {.x = &p->normed, .w = l->index_k, .y = &p->index_k}};
    struct ops_linear_args of_qr[] = {{.x = &p->qr, .w = l->q_b, .y = &q},
                                      {.x = &p->qr, .w = l->index_q, .y = &index_q}};
    struct ops_rmsnorm_args norm = {&p->x, NULL, &l->norm, 1e-6f, &p->normed};
    struct ops_rmsnorm_args norm_q = {&p->qr, NULL, &l->norm_q, 1e-6f, &p->qr};
    struct ops_rmsnorm_args norm_kv = {&latent, NULL, &l->norm_kv, 1e-6f, &latent};
    struct ops_latent_write_args write = {&latent, &k_pe, &p->rows, l->cache.shape, &l->cache.latent,
                                          {&l->rope, &p->position, ROPE_INTERLEAVED}};
    struct ops_linear_args expand = {.x = &p->o_latent, .w = l->uv, .y = &p->heads};
    struct ops_linear_args output = {.x = &heads, .w = l->o, .y = &p->delta};
    struct ops_attention_args args = {&p->q_latent,     &q_pe,   NULL,         &p->rows, l->cache.shape,
                                      &l->cache.latent, 0.1352f, &p->o_latent, NULL};

    norm_linears(l, &norm, of_normed, 3);
    norm_linears(l, &norm_q, of_qr, p->rows.visible_max > TOP_K ? 2 : 1);
    OP(l, PART_ROWS, ops_rmsnorm(l->ops, &norm_kv));
    OP(l, PART_ROWS, ops_latent_write(l->ops, &write));
    rope(l, q_pe, &p->position, ROPE_INTERLEAVED);
    index_part(l, p);
    args.selected = p->rows.visible_max > TOP_K ? &p->selected : NULL;
    linear(l, PART_HEADS, &q_nope, l->uk, &p->q_latent);
    OP(l, PART_ATTENTION, ops_attention(l->ops, &args));
    OP(l, PART_FP8, ops_linear_pair(l->ops, &expand, &output));
}

static void experts_part(struct layer *l, struct pass *p)
{
    struct ops_router_args route = {&p->logits, &l->bias, ROUTER_SIGMOID, 8, 4, true, 2.5f, &p->experts, &p->weights};
    struct ops_moe_args moe = {&p->normed,
                               &p->experts,
                               &p->weights,
                               (const struct ops_weight *const *)l->expert[0],
                               (const struct ops_weight *const *)l->expert[1],
                               (const struct ops_weight *const *)l->expert[2],
                               EXPERTS,
                               &p->delta};
    struct ops_rmsnorm_args norm = {&p->x, &p->delta, &l->norm, 1e-6f, &p->normed};
    struct ops_linear_args shared[] = {{.x = &p->normed, .w = l->shared[0], .y = &p->gate},
                                       {.x = &p->normed, .w = l->shared[1], .y = &p->up}};

    norm_linears(l, &norm, shared, 2);
    OP(l, PART_ROWS, ops_swiglu(l->ops, &p->gate, &p->up, &p->gate));
    linear(l, PART_FP8, &p->gate, l->shared[2], &p->delta);
    linear(l, PART_F32, &p->normed, l->router, &p->logits);
    OP(l, PART_ROUTER, ops_router(l->ops, &route));
    OP(l, PART_MOE, ops_moe(l->ops, &moe));
}

/* Rows [first, first + T) of the host's list of rows; positions up to visible_max. */
static void run_pass(struct layer *l, int64_t first, int64_t T, int32_t visible_max)
{
    struct pass p = {tensor_rows(&l->x, 0, T),
                     tensor_rows(&l->normed, 0, T),
                     tensor_rows(&l->qr, 0, T),
                     tensor_rows(&l->q, 0, T),
                     tensor_rows(&l->kv, 0, T),
                     tensor_rows(&l->q_latent, 0, T),
                     tensor_rows(&l->o_latent, 0, T),
                     tensor_rows(&l->heads, 0, T),
                     tensor_rows(&l->delta, 0, T),
                     tensor_rows(&l->index_q_rows, 0, T),
                     tensor_rows(&l->index_k_rows, 0, T),
                     tensor_rows(&l->index_w_rows, 0, T),
                     tensor_rows(&l->selected, 0, T),
                     tensor_rows(&l->gate, 0, T),
                     tensor_rows(&l->up, 0, T),
                     tensor_rows(&l->logits, 0, T),
                     tensor_rows(&l->experts, 0, T),
                     tensor_rows(&l->weights, 0, T),
                     tensor_rows(&l->position, first, T),
                     tensor_rows(&l->cache.slot, first, T),
                     tensor_rows(&l->cache.sequence, first, T),
                     tensor_rows(&l->cache.visible, first, T),
                     {0}};

    p.rows = (struct ops_rows){&p.slot, &p.sequence, &p.visible, &l->cache.page_table, visible_max};
    l->since = bench_now_us();
    attention_part(l, &p);
    experts_part(l, &p);
    OP(l, PART_ROWS, ops_add(l->ops, &p.x, &p.delta));
}

static void make_weights(struct layer *l)
{
    struct cuda_bench *b = l->bench;
    static const int64_t ffn[3][2] = {{INTER, D}, {INTER, D}, {D, INTER}};

    l->q_a = bench_weight(b, DTYPE_F8E4M3, 0, Q_RANK, D);
    l->q_b = bench_weight(b, DTYPE_F8E4M3, 0, H * (NOPE + ROPE), Q_RANK);
    l->kv_a = bench_weight(b, DTYPE_F8E4M3, 0, LATENT + ROPE, D);
    l->uk = bench_weight(b, DTYPE_BF16, H, LATENT, NOPE);
    l->uv = bench_weight(b, DTYPE_BF16, H, V_DIM, LATENT);
    l->o = bench_weight(b, DTYPE_F8E4M3, 0, D, H * V_DIM);
    l->index_q = bench_weight(b, DTYPE_F8E4M3, 0, INDEX_HEADS * INDEX_DIM, Q_RANK);
    l->index_k = bench_weight(b, DTYPE_F8E4M3, 0, INDEX_DIM, D);
    l->index_w = bench_weight(b, DTYPE_F32, 0, INDEX_HEADS, D);
    l->router = bench_weight(b, DTYPE_F32, 0, EXPERTS, D);
    for (int m = 0; m < 3; m++) {
        l->shared[m] = bench_weight(b, DTYPE_F8E4M3, 0, ffn[m][0], ffn[m][1]);
        for (int e = 0; e < EXPERTS; e++)
            l->expert[m][e] = bench_weight(b, DTYPE_F8E4M3, 0, ffn[m][0], ffn[m][1]);
    }
}

static void free_weights(struct layer *l)
{
    struct ops_weight *all[] = {l->q_a,     l->q_b,     l->kv_a,   l->uk,        l->uv,        l->o,        l->index_q,
                                l->index_k, l->index_w, l->router, l->shared[0], l->shared[1], l->shared[2]};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ops_weight_destroy(l->ops, all[i]);
    for (int m = 0; m < 3; m++)
        for (int e = 0; e < EXPERTS; e++)
            ops_weight_destroy(l->ops, l->expert[m][e]);
}

static void make_rows(struct layer *l)
{
    struct cuda_bench *b = l->bench;
    int64_t T = b->chunk;

    l->norm = NORMAL(b, 1.0, D);
    l->norm_q = NORMAL(b, 1.0, Q_RANK);
    l->norm_kv = NORMAL(b, 1.0, LATENT);
    l->index_norm = NORMAL(b, 1.0, INDEX_DIM);
    l->index_bias = NORMAL(b, 0.1, INDEX_DIM);
    l->bias = NORMAL(b, 0.01, EXPERTS);
    l->rope = NORMAL(b, 0.7, LENGTH, ROPE);
    l->x = NORMAL(b, 1.0, T, D);
    l->normed = NORMAL(b, 1.0, T, D);
    l->qr = NORMAL(b, 1.0, T, Q_RANK);
    l->q = NORMAL(b, 1.0, T, H, NOPE + ROPE);
    l->kv = NORMAL(b, 1.0, T, LATENT + ROPE);
    l->q_latent = bench_latent(b, T, H, LATENT);
    l->o_latent = bench_latent(b, T, H, LATENT);
    l->heads = NORMAL(b, 1.0, T, H, V_DIM);
    l->delta = NORMAL(b, 1.0, T, D);
    l->index_q_rows = NORMAL(b, 1.0, T, INDEX_HEADS, INDEX_DIM);
    l->index_k_rows = NORMAL(b, 1.0, T, INDEX_DIM);
    l->index_w_rows = NORMAL(b, 1.0, T, INDEX_HEADS);
    l->gate = NORMAL(b, 1.0, T, INTER);
    l->up = NORMAL(b, 1.0, T, INTER);
    l->logits = NORMAL(b, 1.0, T, EXPERTS);
    l->weights = NORMAL(b, 1.0, T, CHOSEN);
    l->selected = tensor_2d(DTYPE_I32, bench_memory(b, (size_t)T * TOP_K * 4), T, TOP_K);
    l->experts = tensor_2d(DTYPE_I32, bench_memory(b, (size_t)T * CHOSEN * 4), T, CHOSEN);
}

static void positions(struct layer *l, int64_t T, int32_t first, int32_t step)
{
    int32_t *values = malloc((size_t)T * sizeof *values);

    if (!values)
        exit(1);
    for (int64_t t = 0; t < T; t++)
        values[t] = first + (int32_t)t * step;
    l->position = bench_upload_i32(l->bench, T, 0, values);
    free(values);
}

static void prefill(struct layer *l)
{
    int32_t chunk = l->bench->chunk;
    double us, total;
    char name[64];

    bench_cache_init(l->bench, &l->cache, &(struct cache_shape){LATENT, ROPE, INDEX_DIM, NUMERICS_FP8}, 1, LENGTH,
                     LENGTH, 0);
    positions(l, LENGTH, 0, 1);
    run_pass(l, LENGTH - chunk, chunk, LENGTH); /* grows every scratch buffer */
    bench_check(l->bench, ops_sync(l->ops), "warm-up");
    total = bench_now_us();
    for (int32_t first = 0; first < LENGTH; first += chunk)
        run_pass(l, first, chunk, first + chunk);
    bench_check(l->bench, ops_sync(l->ops), "prefill");
    us = bench_now_us() - total;
    (void)snprintf(name, sizeof name, "layer V3.2 prefill 128K by %d", (int)chunk);
    printf("%-40s %10.1f ms  %.2f x the floor of %.0f ms, %.0f tokens/s of 61 such layers\n", name, us * 1e-3,
           us * 1e-3 / floor_ms, floor_ms, LENGTH / (us * 1e-6) / 61);
    l->by_parts = true;
    for (int32_t first = 0; first < LENGTH; first += chunk)
        run_pass(l, first, chunk, first + chunk);
    l->by_parts = false;
    for (int i = 0; i < PART_COUNT; i++)
        printf("  %-18s %9.1f ms\n", part_names[i], l->us[i] * 1e-3);
    (void)fflush(stdout);
}

struct step {
    struct layer *layer;
    int64_t B;
};

static enum status run_step(struct ops *ops, void *context)
{
    const struct step *step = context;

    run_pass(step->layer, 0, step->B, LENGTH);
    return STATUS_OK;
}

static enum status run_replay(struct ops *ops, void *context)
{
    return ops_replay(ops, context);
}

/* Bytes that one step must read: each weight in use once, each sequence's keys and chosen records. */
static double step_bytes(int64_t B)
{
    double shared = (double)Q_RANK * D + (double)H * (NOPE + ROPE) * Q_RANK + (double)(LATENT + ROPE) * D +
                    2.0 * 2 * H * LATENT * 128 + (double)D * H * V_DIM + (double)INDEX_HEADS * INDEX_DIM * Q_RANK +
                    (double)INDEX_DIM * D + 4.0 * (INDEX_HEADS + EXPERTS) * D + 3.0 * INTER * D;
    double unused = 1;

    for (int64_t i = 0; i < B * CHOSEN; i++)
        unused *= 1 - 1.0 / EXPERTS;
    return shared + (B * CHOSEN < 9 ? (double)CHOSEN : EXPERTS * (1 - unused)) * 3.0 * INTER * D +
           (double)B * (132.0 * LENGTH + 656.0 * TOP_K);
}

/* The step's ops, or those of one part, as one graph. */
static double replay_us(struct layer *l, int B, enum part only)
{
    struct ops_recording *recording = NULL;
    double us;

    l->only = only;
    bench_check(l->bench, ops_record_begin(l->ops), "recording");
    run_pass(l, 0, B, LENGTH);
    bench_check(l->bench, ops_record_end(l->ops, &recording), "recording");
    l->only = PART_COUNT;
    us = bench_time_us(l->bench, run_replay, recording);
    ops_recording_destroy(l->ops, recording);
    return us;
}

static void decode(struct layer *l, int B)
{
    struct step step = {l, B};
    char name[64];
    int kept = l->bench->memory_count;

    bench_cache_init(l->bench, &l->cache, &(struct cache_shape){LATENT, ROPE, INDEX_DIM, NUMERICS_FP8}, B, LENGTH, B,
                     0);
    positions(l, B, LENGTH - 1, 0);
    (void)snprintf(name, sizeof name, "layer V3.2 decode 128K, B=%d", B);
    bench_line(l->bench, name, bench_time_us(l->bench, run_step, &step), 0, 0, step_bytes(B));
    bench_line(l->bench, "  as one graph", replay_us(l, B, PART_COUNT), 0, 0, step_bytes(B));
    for (int i = 0; i < PART_COUNT; i++)
        printf("  %-18s %9.1f us\n", part_names[i], replay_us(l, B, (enum part)i));
    (void)fflush(stdout);
    bench_check(l->bench, ops_sync(l->ops), "decode");
    while (l->bench->memory_count > kept)
        ops_free(l->ops, l->bench->memory[--l->bench->memory_count]);
}

void bench_layer(struct cuda_bench *bench)
{
    static struct layer layer;
    bool prefills = bench_wants(bench, "layer V3.2 prefill 128K");
    bool decodes = bench_wants(bench, "layer V3.2 decode 128K");

    if (!prefills && !decodes)
        return;
    layer.bench = bench;
    layer.ops = bench->ops;
    layer.only = PART_COUNT;
    make_weights(&layer);
    make_rows(&layer);
    if (prefills)
        prefill(&layer);
    for (int B = 1; decodes && B <= DECODE_MOST; B *= 8)
        decode(&layer, B);
    bench_release(bench);
    free_weights(&layer);
}
