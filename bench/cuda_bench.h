/* bench/cuda_bench.h: what bench_cuda's files share: a device with memory on it, caches, timing. Any failure ends the
 * program with a line on stderr: it is a bench. */
#ifndef BENCH_CUDA_BENCH_H
#define BENCH_CUDA_BENCH_H

#include "bench/cuda_limits.h"
#include "kernels/ops.h"

struct cuda_bench {
    struct ops *ops;
    struct cuda_limits limits;
    const char *only; /* part of the name of the lines wanted, or NULL */
    int chunk;        /* rows of a step of the layer's prefill: a power of two */
    uint64_t random;
    void *memory[1024]; /* of this case */
    int memory_count;
};

void bench_check(struct cuda_bench *bench, enum status status, const char *what);
/* Device memory until bench_release(). */
void *bench_memory(struct cuda_bench *bench, size_t bytes);
void bench_release(struct cuda_bench *bench);
struct tensor bench_normal(struct cuda_bench *bench, int dim_count, const int64_t *dims, double deviation);
#define NORMAL(bench, deviation, ...) \
    bench_normal(bench, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}, deviation)
/* What passes to or from attention over caches of 512 + 64 in FP8, in the type that the backend asks for: normal
 * deviates. */
struct tensor bench_latent(struct cuda_bench *bench, int64_t T, int64_t H, int64_t Dv);
/* FP8 with scales, BF16 or F32, of about unit gain; its device copy goes with bench_weight_free(). */
struct ops_weight *bench_weight(struct cuda_bench *bench, enum dtype dtype, int64_t heads, int64_t N, int64_t K);

/* B sequences of `tokens` positions, pages shuffled, contents random; rows t of sequence t % B. pool_pages bounds the
 * latent pool: fewer than B * tokens / 64 makes sequences share pages. */
struct bench_cache {
    struct cache_shape shape;
    struct tensor latent, index, slot, sequence, visible, page_table;
    struct ops_rows rows;
};
void bench_cache_init(struct cuda_bench *bench, struct bench_cache *cache, const struct cache_shape *shape, int B,
                      int32_t tokens, int64_t T, int64_t pool_pages);
/* Row t at position first + t / B of sequence t % B: slots (from the host's page table), visibility. */
struct tensor bench_upload_i32(struct cuda_bench *bench, int64_t rows, int64_t columns, const int32_t *values);

/* µs of one call: batches of calls between two waits for the stream, so that launches overlap with work as they do in
 * the engine; median of five batches of 20 ms or more. */
double bench_time_us(struct cuda_bench *bench, enum status (*run)(struct ops *ops, void *context), void *context);
double bench_now_us(void);

/* One line: name, µs, TFLOPS with their share of `peak_tflops`, GB/s with their share of the copy rate, and the floor
 * that both limits leave with how far above it we are. Zero flops or bytes leave a column out. */
void bench_line(struct cuda_bench *bench, const char *name, double us, double flops, double peak_tflops, double bytes);
bool bench_wants(const struct cuda_bench *bench, const char *name);

/* Prints whether our FP8 products give a row the same bits at every number of rows. */
void bench_row_bits(struct cuda_bench *bench);

/* One V3.2 layer with random FP8 weights: prefill of 128K by chunks, then decode steps at 128K. */
void bench_layer(struct cuda_bench *bench);

#endif
