/* bench_cuda.c: the CUDA backend at the sizes it is written for, against limits measured in the same run.
 *
 *   build/bench/bench_cuda [--plugin-dir DIR] [--only TEXT] [--no-layer] [--chunk N] [--mma | --generic]
 *
 * Shapes are DeepSeek-V3.2's (H=128, Dv=512, Dr=64, Hi=64, Di=128, k=2048, 256 experts) and GLM-5's where they differ
 * (H=64, Hi=32). Limits: device-to-device copy, and cuBLASLt's BF16 and FP8 products where the library is there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/cuda_bench.h"
#include "kernels/fp8.h"

enum { BATCHES = 5, KEYS = 131072, TOP_K = 2048 };

void bench_check(struct cuda_bench *bench, enum status status, const char *what)
{
    if (!status)
        return;
    (void)fprintf(stderr, "bench_cuda: %s: %s: %s\n", what, status_name(status), ops_last_error(bench->ops));
    exit(1);
}

static uint64_t next_random(struct cuda_bench *bench)
{
    uint64_t z = bench->random += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void *bench_memory(struct cuda_bench *bench, size_t bytes)
{
    void **memory = &bench->memory[bench->memory_count++];

    if (bench->memory_count > (int)(sizeof bench->memory / sizeof *bench->memory))
        exit(1);
    bench_check(bench, ops_alloc(bench->ops, bytes, memory), "memory");
    return *memory;
}

void bench_release(struct cuda_bench *bench)
{
    bench_check(bench, ops_sync(bench->ops), "sync");
    for (int i = 0; i < bench->memory_count; i++)
        ops_free(bench->ops, bench->memory[i]);
    bench->memory_count = 0;
}

static void *host_memory(size_t bytes)
{
    void *memory = malloc(bytes);

    if (!memory) {
        (void)fprintf(stderr, "bench_cuda: no host memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

/* Fills `bytes` of device memory with copies of `pattern`. */
static void upload_repeated(struct cuda_bench *bench, void *device, size_t bytes, const void *pattern, size_t length)
{
    for (size_t at = 0; at < bytes; at += length)
        bench_check(bench,
                    ops_upload(bench->ops, (char *)device + at, pattern, bytes - at < length ? bytes - at : length),
                    "upload");
}

/* About normal: the sum of four uniform 16-bit numbers. */
static float normal(struct cuda_bench *bench)
{
    uint64_t r = next_random(bench);
    int sum = (int)(r & 0xFFFF) + (int)(r >> 16 & 0xFFFF) + (int)(r >> 32 & 0xFFFF) + (int)(r >> 48);

    return (float)(sum - 131070) * (1.0f / 37837.0f);
}

struct tensor bench_normal(struct cuda_bench *bench, int dim_count, const int64_t *dims, double deviation)
{
    struct tensor tensor = dim_count == 1   ? tensor_1d(DTYPE_F32, NULL, dims[0])
                           : dim_count == 2 ? tensor_2d(DTYPE_F32, NULL, dims[0], dims[1])
                                            : tensor_3d(DTYPE_F32, NULL, dims[0], dims[1], dims[2]);
    size_t count = (size_t)tensor_count(&tensor), length = count < (1 << 22) ? count : (1 << 22) - 6;
    float *pattern = host_memory(length * sizeof *pattern);

    tensor.data = bench_memory(bench, count * sizeof(float));
    for (size_t i = 0; i < length; i++)
        pattern[i] = normal(bench) * (float)deviation;
    upload_repeated(bench, tensor.data, count * sizeof(float), pattern, length * sizeof *pattern);
    free(pattern);
    return tensor;
}

struct tensor bench_latent(struct cuda_bench *bench, int64_t T, int64_t H, int64_t Dv)
{
    static const struct cache_shape shape = {512, 64, 0, NUMERICS_FP8};
    struct tensor tensor = tensor_3d(ops_latent_dtype(bench->ops, &shape), NULL, T, H, Dv);
    size_t count = (size_t)tensor_count(&tensor), length = count < (1 << 22) ? count : (1 << 22) - 6;
    uint16_t *pattern;

    if (tensor.dtype == DTYPE_F32)
        return NORMAL(bench, 1.0, T, H, Dv);
    pattern = host_memory(length * sizeof *pattern);
    tensor.data = bench_memory(bench, count * sizeof *pattern);
    for (size_t i = 0; i < length; i++)
        pattern[i] = bf16_from_f32(normal(bench));
    upload_repeated(bench, tensor.data, count * sizeof *pattern, pattern, length * sizeof *pattern);
    free(pattern);
    return tensor;
}

struct ops_weight *bench_weight(struct cuda_bench *bench, enum dtype dtype, int64_t heads, int64_t N, int64_t K)
{
    /* Filled once: a matrix of any size is its first bytes. Codes are uniform, their deviation about 130. */
    static uint8_t *codes;
    static float *scales, *floats;
    static uint16_t *halves;
    enum { MOST = 7168 * 18432 };
    struct ops_weight_args args = {.numerics = NUMERICS_FP8};
    struct tensor scale = tensor_2d(DTYPE_F32, NULL, (N + 127) / 128, (K + 127) / 128);
    struct ops_weight *weight = NULL;

    if (!codes) {
        codes = host_memory(MOST);
        scales = host_memory(MOST / 1024 * sizeof *scales);
        halves = host_memory((size_t)16777216 * 2);
        floats = host_memory((size_t)16777216 / 4 * sizeof *floats);
        for (size_t i = 0; i < MOST; i++) {
            codes[i] = (uint8_t)(next_random(bench) >> 20);
            if ((codes[i] & 0x7F) == 0x7F)
                codes[i] ^= 1;
        }
        for (size_t i = 0; i < MOST / 1024; i++)
            scales[i] = 1e-4f;
        for (size_t i = 0; i < 16777216; i++)
            halves[i] = bf16_from_f32(normal(bench) * 0.05f);
        for (size_t i = 0; i < 16777216 / 4; i++)
            floats[i] = normal(bench) * 0.02f;
    }
    scale.data = scales;
    args.w = heads ? tensor_3d(dtype, NULL, heads, N, K) : tensor_2d(dtype, NULL, N, K);
    args.w.data = dtype == DTYPE_F8E4M3 ? (void *)codes : dtype == DTYPE_BF16 ? (void *)halves : (void *)floats;
    args.scale = dtype == DTYPE_F8E4M3 ? &scale : NULL;
    bench_check(bench, ops_weight_create(bench->ops, &args, &weight), "weight");
    return weight;
}

struct tensor bench_upload_i32(struct cuda_bench *bench, int64_t rows, int64_t columns, const int32_t *values)
{
    struct tensor t = columns ? tensor_2d(DTYPE_I32, NULL, rows, columns) : tensor_1d(DTYPE_I32, NULL, rows);
    size_t bytes = (size_t)tensor_count(&t) * sizeof *values;

    t.data = bench_memory(bench, bytes);
    bench_check(bench, ops_upload(bench->ops, t.data, values, bytes), "upload");
    return t;
}

static void random_pool(struct cuda_bench *bench, struct tensor *pool, const struct cache_shape *shape, bool latent)
{
    size_t bytes = (size_t)tensor_count(pool), record = latent ? cache_record_bytes(shape) : 0;
    size_t page = latent ? CACHE_PAGE_TOKENS * record : cache_index_page_bytes(shape), length = page * 512;
    uint8_t *pattern = host_memory(length);
    float one = 0.0078125f;

    for (size_t i = 0; i < length; i++) {
        pattern[i] = (uint8_t)(next_random(bench) >> 30);
        if ((pattern[i] & 0x7F) == 0x7F)
            pattern[i] ^= 1;
    }
    for (size_t at = 0; at < length; at += latent ? record : page) {
        uint8_t *scale = pattern + at + (latent ? shape->Dv : CACHE_PAGE_TOKENS * shape->Di);
        int scales = latent ? shape->Dv / 128 : CACHE_PAGE_TOKENS;

        for (int i = 0; i < scales; i++)
            memcpy(scale + 4 * i, &one, 4);
        for (int i = 0; latent && i < shape->Dr; i++) {
            uint16_t value = bf16_from_f32(normal(bench));

            memcpy(scale + 4 * scales + 2 * i, &value, 2);
        }
    }
    pool->data = bench_memory(bench, bytes);
    upload_repeated(bench, pool->data, bytes, pattern, length);
    free(pattern);
}

void bench_cache_init(struct cuda_bench *bench, struct bench_cache *cache, const struct cache_shape *shape, int B,
                      int32_t tokens, int64_t T, int64_t pool_pages)
{
    int64_t pages = tokens / CACHE_PAGE_TOKENS, own = (int64_t)B * pages;
    int32_t *table = host_memory((size_t)own * 4), *rows = host_memory((size_t)T * 3 * 4);

    if (!pool_pages || pool_pages > own)
        pool_pages = own;
    memset(cache, 0, sizeof *cache);
    cache->shape = *shape;
    for (int64_t i = 0; i < own; i++)
        table[i] = (int32_t)(i % pool_pages);
    for (int64_t i = own - 1; i > 0; i--) {
        int64_t j = (int64_t)(next_random(bench) % (uint64_t)(i + 1));
        int32_t page = table[i];

        table[i] = table[j];
        table[j] = page;
    }
    for (int64_t t = 0; t < T; t++) {
        int32_t position = tokens - 1 - (int32_t)((T - 1 - t) / B), b = (int32_t)(t % B);

        rows[t] = table[b * pages + position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS + position % CACHE_PAGE_TOKENS;
        rows[T + t] = b;
        rows[2 * T + t] = position + 1;
    }
    if (shape->Dv) {
        cache->latent = tensor_3d(DTYPE_U8, NULL, pool_pages, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(shape));
        random_pool(bench, &cache->latent, shape, true);
    }
    if (shape->Di) {
        cache->index = tensor_2d(DTYPE_U8, NULL, pool_pages, (int64_t)cache_index_page_bytes(shape));
        random_pool(bench, &cache->index, shape, false);
    }
    cache->slot = bench_upload_i32(bench, T, 0, rows);
    cache->sequence = bench_upload_i32(bench, T, 0, rows + T);
    cache->visible = bench_upload_i32(bench, T, 0, rows + 2 * T);
    cache->page_table = bench_upload_i32(bench, B, pages, table);
    cache->rows = (struct ops_rows){&cache->slot, &cache->sequence, &cache->visible, &cache->page_table, tokens};
    free(table);
    free(rows);
}

/* --- Timing ------------------------------------------------------------------------------------------------------ */

double bench_now_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

double bench_time_us(struct cuda_bench *bench, enum status (*run)(struct ops *ops, void *context), void *context)
{
    double times[BATCHES], one;
    int calls = 1;

    bench_check(bench, run(bench->ops, context), "warm-up");
    bench_check(bench, ops_sync(bench->ops), "warm-up");
    one = bench_now_us();
    bench_check(bench, run(bench->ops, context), "run");
    bench_check(bench, ops_sync(bench->ops), "run");
    one = bench_now_us() - one;
    if (one < 20000)
        calls = (int)(20000 / one) + 1;
    for (int b = 0; b < BATCHES; b++) {
        double start = bench_now_us();

        for (int i = 0; i < calls; i++)
            bench_check(bench, run(bench->ops, context), "run");
        bench_check(bench, ops_sync(bench->ops), "run");
        times[b] = (bench_now_us() - start) / calls;
    }
    qsort(times, BATCHES, sizeof *times, ascending);
    return times[BATCHES / 2];
}

bool bench_wants(const struct cuda_bench *bench, const char *name)
{
    return !bench->only || strstr(name, bench->only);
}

void bench_line(struct cuda_bench *bench, const char *name, double us, double flops, double peak_tflops, double bytes)
{
    double tflops = flops / us * 1e-6, gbytes = bytes / us * 1e-3;
    double by_flops = peak_tflops > 0 ? flops / peak_tflops * 1e-6 : 0;
    double by_bytes = bench->limits.copy_gbytes > 0 ? bytes / bench->limits.copy_gbytes * 1e-3 : 0;
    double floor = fmax(by_flops, by_bytes);

    printf("%-40s %10.1f us", name, us);
    if (flops > 0)
        printf(" %7.1f TFLOPS %3.0f%%", tflops, peak_tflops > 0 ? 100 * tflops / peak_tflops : 0);
    if (bytes > 0)
        printf(" %7.1f GB/s %3.0f%%", gbytes,
               bench->limits.copy_gbytes > 0 ? 100 * gbytes / bench->limits.copy_gbytes : 0);
    if (floor > 0)
        printf("  %.1f x floor", us / floor);
    printf("\n");
    (void)fflush(stdout);
}

/* --- Cases ------------------------------------------------------------------------------------------------------- */

static enum status run_attention(struct ops *ops, void *context)
{
    return ops_attention(ops, context);
}

static void bench_attention(struct cuda_bench *bench, int H, int B, int64_t T, int32_t tokens, bool dense)
{
    struct cache_shape shape = {512, 64, 0, NUMERICS_FP8};
    struct bench_cache cache;
    struct ops_attention_args args = {.shape = shape, .scale = 0.0417f};
    struct tensor q, pe, out, selected = {0};
    char name[80];
    double pairs = 0;

    for (int64_t t = 0; t < T; t++)
        pairs += dense ? tokens - (T - 1 - t) / B : TOP_K;

    (void)snprintf(name, sizeof name, "attention H=%d %s T=%lld B=%d %dK", H, dense ? "dense" : "k=2048", (long long)T,
                   B, tokens / 1024);
    if (!bench_wants(bench, name))
        return;
    bench_cache_init(bench, &cache, &shape, B, tokens, T, 16384);
    q = bench_latent(bench, T, H, 512);
    pe = NORMAL(bench, 1.0, T, H, 64);
    out = bench_latent(bench, T, H, 512);
    if (!dense) {
        int32_t *chosen = host_memory((size_t)T * TOP_K * 4);

        for (int64_t t = 0; t < T; t++) {
            int32_t limit = tokens - (int32_t)((T - 1 - t) / B), step = limit / TOP_K;

            for (int32_t j = 0; j < TOP_K; j++)
                chosen[t * TOP_K + j] = j * step + (int32_t)(next_random(bench) % (uint64_t)step);
        }
        selected = bench_upload_i32(bench, T, TOP_K, chosen);
        free(chosen);
    }
    args.q_latent = &q;
    args.q_pe = &pe;
    args.selected = dense ? NULL : &selected;
    args.rows = &cache.rows;
    args.pool = &cache.latent;
    args.out = &out;
    bench_line(bench, name, bench_time_us(bench, run_attention, &args), 2.0 * H * pairs * (512 + 512 + 64),
               bench->limits.bf16_tflops, (T > 128 ? 0 : 656.0 * (dense ? (double)B * tokens : pairs)));
    bench_release(bench);
}

struct index_run {
    struct ops_indexer_args args;
    struct tensor selected, score;
};

static enum status run_index_topk(struct ops *ops, void *context)
{
    struct index_run *run = context;

    return ops_indexer_topk(ops, &run->args, &run->selected);
}

static enum status run_index_scores(struct ops *ops, void *context)
{
    struct index_run *run = context;

    return ops_indexer_scores(ops, &run->args, &run->score);
}

static void bench_indexer(struct cuda_bench *bench, int Hi, int B, int64_t T, int32_t tokens, int k)
{
    struct cache_shape shape = {0, 0, 128, NUMERICS_FP8};
    struct bench_cache cache;
    struct index_run run = {0};
    struct tensor q, w;
    char name[80], part[96];
    double flops = 2.0 * (double)T * tokens * Hi * 128, bytes = 132.0 * tokens * B;

    (void)snprintf(name, sizeof name, "indexer Hi=%d T=%lld B=%d %dK k=%d", Hi, (long long)T, B, tokens / 1024, k);
    if (!bench_wants(bench, name))
        return;
    bench_cache_init(bench, &cache, &shape, B, tokens, T, 0);
    q = NORMAL(bench, 1.0, T, Hi, 128);
    w = NORMAL(bench, 0.01, T, Hi);
    run.args = (struct ops_indexer_args){&q, &w, &cache.rows, shape, &cache.index};
    run.selected = tensor_2d(DTYPE_I32, bench_memory(bench, (size_t)T * k * 4), T, k);
    bench_line(bench, name, bench_time_us(bench, run_index_topk, &run), flops, bench->limits.fp8_tflops, bytes);
    if ((double)T * tokens * 4 <= (double)(1u << 30)) {
        run.score = tensor_2d(DTYPE_F32, bench_memory(bench, (size_t)T * tokens * 4), T, tokens);
        (void)snprintf(part, sizeof part, "  scores alone");
        bench_line(bench, part, bench_time_us(bench, run_index_scores, &run), flops, bench->limits.fp8_tflops, bytes);
    }
    bench_release(bench);
}

struct topk_run {
    struct tensor score, visible, selected;
};

static enum status run_topk(struct ops *ops, void *context)
{
    struct topk_run *run = context;

    return ops_topk(ops, &run->score, &run->visible, &run->selected);
}

static void bench_topk(struct cuda_bench *bench, int64_t T, int64_t S, int k)
{
    struct topk_run run;
    int32_t *visible;
    char name[80];

    (void)snprintf(name, sizeof name, "topk T=%lld %lldK k=%d", (long long)T, (long long)S / 1024, k);
    if (!bench_wants(bench, name))
        return;
    run.score = NORMAL(bench, 1.0, T, S);
    visible = host_memory((size_t)T * 4);
    for (int64_t t = 0; t < T; t++)
        visible[t] = (int32_t)S;
    run.visible = bench_upload_i32(bench, T, 0, visible);
    run.selected = tensor_2d(DTYPE_I32, bench_memory(bench, (size_t)T * k * 4), T, k);
    free(visible);
    bench_line(bench, name, bench_time_us(bench, run_topk, &run), 0, 0, 4.0 * (double)(T * S));
    bench_release(bench);
}

struct draw_run {
    struct topk_run topk;
    struct ops_shortlist_args list;
};

static enum status run_draw(struct ops *ops, void *context)
{
    struct draw_run *run = context;
    enum status s = run_topk(ops, &run->topk);

    return s ? s : ops_shortlist(ops, &run->list);
}

/* What leaves the device for a draw from T rows of logits instead of the rows. */
static void bench_draw(struct cuda_bench *bench, int64_t T, int64_t V, int k)
{
    struct tensor values, temperature, total;
    struct draw_run run;
    int32_t *visible;
    char name[80];

    (void)snprintf(name, sizeof name, "draw T=%lld V=%lld k=%d", (long long)T, (long long)V, k);
    if (!bench_wants(bench, name))
        return;
    run.topk.score = NORMAL(bench, 3.0, T, V);
    visible = host_memory((size_t)T * 4);
    for (int64_t t = 0; t < T; t++)
        visible[t] = (int32_t)V;
    run.topk.visible = bench_upload_i32(bench, T, 0, visible);
    run.topk.selected = tensor_2d(DTYPE_I32, bench_memory(bench, (size_t)T * k * 4), T, k);
    values = tensor_2d(DTYPE_F32, bench_memory(bench, (size_t)T * k * 4), T, k);
    for (int64_t t = 0; t < T; t++)
        ((float *)visible)[t] = 0.8f;
    temperature = bench_upload_i32(bench, T, 0, visible);
    temperature.dtype = DTYPE_F32;
    total = tensor_1d(DTYPE_F32, bench_memory(bench, (size_t)T * 4), T);
    free(visible);
    run.list = (struct ops_shortlist_args){&run.topk.score, &run.topk.selected, &temperature, &values, &total};
    bench_line(bench, name, bench_time_us(bench, run_draw, &run), 0, 0, 4.0 * (double)(T * V));
    bench_release(bench);
}

static enum status run_linear(struct ops *ops, void *context)
{
    return ops_linear(ops, context);
}

/* heads 0: 2-D; else a product per head, of columns that lie beside each other: its longer rows are attention's. */
static void bench_linear(struct cuda_bench *bench, enum dtype dtype, int64_t T, int64_t heads, int64_t N, int64_t K)
{
    struct ops_linear_args args = {0};
    const char *type = dtype == DTYPE_F8E4M3 ? "FP8" : dtype == DTYPE_BF16 ? "BF16" : "F32";
    double H = heads ? (double)heads : 1, bytes = H * (double)(N * K * (int64_t)dtype_bytes(dtype));
    struct ops_weight *weight;
    struct tensor x, y;
    char name[80], of_heads[32] = "";
    double us, theirs;

    if (heads)
        (void)snprintf(of_heads, sizeof of_heads, " H=%lld", (long long)heads);
    (void)snprintf(name, sizeof name, "linear %s T=%lld%s %lld x %lld", type, (long long)T, of_heads, (long long)N,
                   (long long)K);
    if (!bench_wants(bench, name))
        return;
    weight = bench_weight(bench, dtype, heads, N, K);
    x = heads && K > N ? bench_latent(bench, T, heads, K) : heads ? NORMAL(bench, 1.0, T, heads, K)
                                                                  : NORMAL(bench, 1.0, T, K);
    y = heads && N > K ? bench_latent(bench, T, heads, N) : heads ? NORMAL(bench, 0.0, T, heads, N)
                                                                  : NORMAL(bench, 0.0, T, N);
    args.x = &x;
    args.w = weight;
    args.y = &y;
    us = bench_time_us(bench, run_linear, &args);
    /* Per head, rows and outputs are many times the weights. */
    if (heads)
        bytes += H * (double)(T * (N * (int64_t)dtype_bytes(y.dtype) + K * (int64_t)dtype_bytes(x.dtype)));
    bench_line(bench, name, us, 2.0 * H * (double)(T * N * K),
               dtype == DTYPE_F8E4M3 ? bench->limits.fp8_tflops
               : dtype == DTYPE_BF16 ? bench->limits.bf16_tflops
                                     : 0,
               bytes);
    theirs = dtype == DTYPE_F8E4M3 && T % 4 == 0 ? cuda_limits_fp8_product_us(T, N, K) : 0;
    if (theirs > 0)
        printf("  cuBLASLt without quantisation, BF16 out %10.1f us\n", theirs);
    ops_weight_destroy(bench->ops, weight);
    bench_release(bench);
}

static void all_cases(struct cuda_bench *bench)
{
    static const int batches[] = {1, 8, 64, 128};
    static const int64_t rows[] = {1, 8, 64, 4096};
    static const int64_t shapes[][2] = {{1536, 7168}, {576, 7168},  {24576, 1536}, {7168, 16384},
                                        {2048, 7168}, {7168, 2048}, {18432, 7168}};

    bench_attention(bench, 128, 1, 4096, KEYS, false);
    bench_attention(bench, 64, 1, 4096, KEYS, false);
    bench_attention(bench, 128, 1, 2048, 2048, true);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        bench_attention(bench, 128, batches[i], batches[i], KEYS, false);
    bench_attention(bench, 64, 1, 1, KEYS, false);
    bench_indexer(bench, 64, 1, 2048, 8192, 2048);
    bench_indexer(bench, 64, 1, 2048, 32768, 2048);
    bench_indexer(bench, 64, 1, 2048, KEYS, 2048);
    bench_indexer(bench, 32, 1, 2048, KEYS, 2048);
    bench_indexer(bench, 4, 1, 2048, 16384, 512);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        bench_indexer(bench, 64, batches[i], batches[i], KEYS, 2048);
    bench_topk(bench, 1, KEYS, 2048);
    bench_topk(bench, 64, KEYS, 2048);
    bench_topk(bench, 1024, KEYS, 2048);
    bench_topk(bench, 64, 1 << 20, 2048);
    bench_draw(bench, 1, 129280, 1024);
    bench_draw(bench, 64, 129280, 1024);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            bench_linear(bench, DTYPE_F8E4M3, rows[r], 0, shapes[i][0], shapes[i][1]);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        bench_linear(bench, DTYPE_F32, rows[r], 0, 256, 7168); /* the router */
        bench_linear(bench, DTYPE_F32, rows[r], 0, 64, 7168);  /* the indexer's weights of heads */
        bench_linear(bench, DTYPE_BF16, rows[r], 128, 512, 128);
        bench_linear(bench, DTYPE_BF16, rows[r], 128, 128, 512);
    }
    bench_linear(bench, DTYPE_BF16, 16384, 128, 512, 128);
    bench_linear(bench, DTYPE_BF16, 16384, 128, 128, 512);
    bench_linear(bench, DTYPE_F32, 16384, 0, 256, 7168); /* a chunk of prefill: one block takes all parts of K */
    bench_linear(bench, DTYPE_F32, 16384, 0, 64, 7168);  /* several, through memory */
}

int main(int argc, char **argv)
{
    static struct cuda_bench bench = {.random = 1, .chunk = 16384};
    struct ops_options options = {.backend = "cuda"};
    struct error err = {0};
    bool layer = true;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--plugin-dir") == 0 && i + 1 < argc)
            options.plugin_dir = argv[++i];
        else if (strcmp(argv[i], "--backend") == 0 && i + 1 < argc)
            options.backend = argv[++i];
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            bench.only = argv[++i];
        else if (strcmp(argv[i], "--chunk") == 0 && i + 1 < argc)
            bench.chunk = atoi(argv[++i]);
        else if (strcmp(argv[i], "--no-layer") == 0)
            layer = false;
        else if (strcmp(argv[i], "--mma") == 0)
            options.cpu_features = CPU_AVX2;
        else if (strcmp(argv[i], "--generic") == 0)
            options.cpu_features = CPU_PORTABLE;
        else {
            (void)fprintf(
                stderr,
                "usage: bench_cuda [--plugin-dir DIR] [--only TEXT] [--no-layer] [--chunk N] [--mma | --generic]\n");
            return 64;
        }
    }
    if (bench.chunk < 64 || bench.chunk > KEYS || (bench.chunk & (bench.chunk - 1))) {
        (void)fprintf(stderr, "bench_cuda: --chunk takes a power of two from 64 to %d\n", KEYS);
        return 64;
    }
    if (!cuda_limits_measure(&bench.limits) && strcmp(options.backend, "cuda") == 0)
        return 77;
    if (ops_open(&options, &bench.ops, &err)) {
        (void)fprintf(stderr, "bench_cuda: %s\n", err.message);
        return 1;
    }
    printf("%s; copy %.0f GB/s, cuBLASLt BF16 %.0f, FP8 block-scaled %.0f TFLOPS (8192 cubed)\n",
           ops_description(bench.ops), bench.limits.copy_gbytes, bench.limits.bf16_tflops, bench.limits.fp8_tflops);
    if (bench_wants(&bench, "row bits")) {
        cuda_limits_row_bits();
        bench_row_bits(&bench);
    }
    all_cases(&bench);
    if (layer)
        bench_layer(&bench);
    ops_close(bench.ops);
    return 0;
}
