/* bench_attention.c: `dsa-bench attention`: where rows that share their keys overtake rows that gather their own.
 *
 * 64 neighbouring rows of one sequence, each with k selected positions below `visible`, gathered row by row, in tiles,
 * and as the backend chooses, in turn, on one thread, by its processor time; the median of several. Selections are
 * drawn at random, the worst case, or the same but for one in sixteen from row to row. Results are the same bytes
 * (tests/kernels/test_attention_tiers.c). */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "kernels/cpu/attention.h"
#include "kernels/ops.h"

enum { ROWS = 64, MOST_RUNS = 31 };

struct shape {
    int H, Dv, Dr, k;
};

struct bench {
    struct shape shape;
    int32_t visible;
    struct cache_shape cache;
    float *q, *q_pe, *out;
    uint8_t *pool;
    int32_t *pages, *selected, row_sequence[ROWS], row_visible[ROWS];
};

static uint64_t random_state = 88172645463325252u;

static uint64_t draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static float small(void)
{
    return (float)((double)(draw() % 2001) / 1000 - 1);
}

static void *need(size_t bytes)
{
    void *memory = calloc(1, bytes);

    if (!memory) {
        fprintf(stderr, "dsa-bench: out of memory\n");
        exit(71);
    }
    return memory;
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* k distinct positions; `alike`: row t's are those of row t - 1 with every sixteenth drawn anew. */
static void choose(struct bench *b, bool alike)
{
    int k = b->shape.k;
    bool *taken = need((size_t)b->visible);

    for (int t = 0; t < ROWS; t++) {
        int32_t *row = b->selected + t * k;
        int kept = t && alike ? k - k / 16 : 0;

        memset(taken, 0, (size_t)b->visible);
        if (kept) {
            memcpy(row, row - k, sizeof *row * (size_t)k);
            for (int j = k - 1; j > 0; j--) { /* which ones go is drawn too */
                int other = (int)(draw() % (uint64_t)(j + 1));
                int32_t swapped = row[j];

                row[j] = row[other];
                row[other] = swapped;
            }
        }
        for (int j = 0; j < kept; j++)
            taken[row[j]] = true;
        for (int j = kept; j < k; j++) {
            do
                row[j] = (int32_t)(draw() % (uint64_t)(b->visible - ROWS));
            while (taken[row[j]]);
            taken[row[j]] = true;
        }
        qsort(row, (size_t)k, sizeof *row, ascending);
    }
    free(taken);
}

static int64_t union_of_tiles(const struct bench *b, int tile_rows)
{
    bool *taken = need((size_t)b->visible);
    int64_t count = 0;

    for (int t = 0; t < ROWS; t++) {
        if (t % tile_rows == 0)
            memset(taken, 0, (size_t)b->visible);
        for (int j = 0; j < b->shape.k; j++) {
            count += !taken[b->selected[t * b->shape.k + j]];
            taken[b->selected[t * b->shape.k + j]] = true;
        }
    }
    free(taken);
    return count;
}

static void bench_init(struct bench *b, struct ops *ops)
{
    int32_t page_count = b->visible / CACHE_PAGE_TOKENS;
    struct tensor c, k_pe, slot, pool;
    struct ops_rows rows = {.slot = &slot};
    float *values = need(4 * (size_t)b->visible * (size_t)(b->shape.Dv + b->shape.Dr));
    int32_t *slots = need(4 * (size_t)b->visible);

    b->cache = (struct cache_shape){b->shape.Dv, b->shape.Dr, 0, NUMERICS_FP8};
    b->q = need(4 * ROWS * (size_t)(b->shape.H * b->shape.Dv));
    b->q_pe = need(4 * ROWS * (size_t)(b->shape.H * b->shape.Dr));
    b->out = need(4 * ROWS * (size_t)(b->shape.H * b->shape.Dv));
    b->pool = need((size_t)b->visible * cache_record_bytes(&b->cache));
    b->pages = need(4 * (size_t)page_count);
    b->selected = need(4 * ROWS * (size_t)b->shape.k);
    for (int64_t i = 0; i < (int64_t)ROWS * b->shape.H * b->shape.Dv; i++)
        b->q[i] = small();
    for (int64_t i = 0; i < (int64_t)ROWS * b->shape.H * b->shape.Dr; i++)
        b->q_pe[i] = small();
    for (int64_t i = 0; i < (int64_t)b->visible * (b->shape.Dv + b->shape.Dr); i++)
        values[i] = small();
    for (int32_t p = 0; p < page_count; p++)
        b->pages[p] = p;
    for (int32_t i = 0; i < b->visible; i++)
        slots[i] = i;
    for (int t = 0; t < ROWS; t++)
        b->row_visible[t] = b->visible - ROWS + 1 + t;
    c = tensor_2d(DTYPE_F32, values, b->visible, b->shape.Dv);
    k_pe = tensor_2d(DTYPE_F32, values + (int64_t)b->visible * b->shape.Dv, b->visible, b->shape.Dr);
    slot = tensor_1d(DTYPE_I32, slots, b->visible);
    pool = tensor_3d(DTYPE_U8, b->pool, page_count, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(&b->cache));
    if (ops_latent_write(ops, &(struct ops_latent_write_args){
                                  .c = &c, .k_pe = &k_pe, .rows = &rows, .shape = b->cache, .pool = &pool}))
        fprintf(stderr, "dsa-bench: %s\n", ops_last_error(ops));
    free(values);
    free(slots);
}

static void bench_finish(struct bench *b)
{
    free(b->q);
    free(b->q_pe);
    free(b->out);
    free(b->pool);
    free(b->pages);
    free(b->selected);
}

/* Microseconds of processor time a row. */
static double run(struct bench *b, struct ops *ops)
{
    int H = b->shape.H, Dv = b->shape.Dv, Dr = b->shape.Dr;
    struct tensor q = tensor_3d(DTYPE_F32, b->q, ROWS, H, Dv), q_pe = tensor_3d(DTYPE_F32, b->q_pe, ROWS, H, Dr);
    struct tensor out = tensor_3d(DTYPE_F32, b->out, ROWS, H, Dv);
    struct tensor selected = tensor_2d(DTYPE_I32, b->selected, ROWS, b->shape.k);
    struct tensor sequence = tensor_1d(DTYPE_I32, b->row_sequence, ROWS);
    struct tensor visible = tensor_1d(DTYPE_I32, b->row_visible, ROWS);
    struct tensor table = tensor_2d(DTYPE_I32, b->pages, 1, b->visible / CACHE_PAGE_TOKENS);
    struct tensor pool = tensor_3d(DTYPE_U8, b->pool, b->visible / CACHE_PAGE_TOKENS, CACHE_PAGE_TOKENS,
                                   (int64_t)cache_record_bytes(&b->cache));
    struct ops_rows rows = {.sequence = &sequence, .visible = &visible, .page_table = &table,
                            .visible_max = b->visible};
    struct ops_attention_args args = {&q, &q_pe, &selected, &rows, b->cache, &pool, 0.05f, &out, NULL};
    struct timespec begin, end;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    if (ops_attention(ops, &args)) {
        fprintf(stderr, "dsa-bench: %s\n", ops_last_error(ops));
        exit(70);
    }
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    return ((double)(end.tv_sec - begin.tv_sec) * 1e6 + (double)(end.tv_nsec - begin.tv_nsec) * 1e-3) / ROWS;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void measure(struct ops *const ops[3], const struct shape *shape, int32_t visible, bool alike, int runs)
{
    struct bench b = {.shape = *shape, .visible = visible};
    int tile_rows = attention_tile_rows(ROWS, shape->H, 1);
    double taken[3][MOST_RUNS];
    int64_t together;

    bench_init(&b, ops[0]);
    choose(&b, alike);
    together = union_of_tiles(&b, tile_rows);
    for (int i = -1; i < runs; i++) /* the first does not count */
        for (int tier = 0; tier < 3; tier++)
            taken[tier][i < 0 ? 0 : i] = run(&b, ops[tier]);
    for (int tier = 0; tier < 3; tier++)
        qsort(taken[tier], (size_t)runs, sizeof(double), by_value);
    printf("%d,%d,%d,%d,%d,%s,%d,%.2f,%.1f,%.1f,%.1f,%.2f,%s\n", shape->H, shape->Dv, shape->Dr, shape->k, visible,
           alike ? "alike" : "random", tile_rows, (double)together / ((double)ROWS / tile_rows * shape->k),
           taken[0][runs / 2], taken[1][runs / 2], taken[2][runs / 2], taken[0][runs / 2] / taken[1][runs / 2],
           attention_tile_pays(shape->H, tile_rows, together, (int64_t)ROWS * shape->k) ? "tiles" : "gather");
    fflush(stdout);
    bench_finish(&b);
}

int bench_attention(int argc, char **argv)
{
    static const struct shape shapes[] = {{8, 256, 64, 512}, {8, 512, 64, 512},  {12, 256, 64, 512},
                                          {16, 512, 64, 512}, {20, 512, 64, 2048}, {32, 512, 64, 2048}};
    static const int steps[] = {4, 6, 8, 10, 12, 16, 24, 32}; /* quarters of k */
    static const enum ops_tier tiers[] = {OPS_TIER_GATHER, OPS_TIER_TILES, OPS_TIER_CHOSEN};
    struct ops *ops[3] = {0};
    int runs = 7, option;

    while ((option = getopt(argc, argv, "n:h")) != -1)
        if (option == 'n' && atoi(optarg) >= 1 && atoi(optarg) <= MOST_RUNS) {
            runs = atoi(optarg);
        } else {
            fprintf(option == 'h' ? stdout : stderr, "usage: dsa-bench attention [-n RUNS]\n");
            return option == 'h' ? 0 : 64;
        }
    for (int i = 0; i < 3; i++)
        if (ops_open(&(struct ops_options){.backend = "cpu", .threads = 1, .tier = tiers[i]}, &ops[i], NULL)) {
            fprintf(stderr, "dsa-bench: cannot open the CPU backend\n");
            return 70;
        }
    printf("# %s, %d rows, %d runs\n", ops_description(ops[0]), ROWS, runs);
    printf("heads,latent,rotary,k,visible,selections,tile_rows,union_per_k,gather_us,tiles_us,chosen_us,"
           "gather_by_tiles,chosen\n");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < sizeof steps / sizeof *steps; j++)
            for (int alike = 0; alike < 2; alike++)
                measure(ops, &shapes[i], shapes[i].k * steps[j] / 4 + 2 * CACHE_PAGE_TOKENS, alike, runs);
    for (int i = 0; i < 3; i++)
        ops_close(ops[i]);
    return 0;
}
