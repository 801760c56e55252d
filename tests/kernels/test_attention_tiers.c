/* test_attention_tiers.c: gathered, tiled and split attention give the same bytes.
 *
 * One sequence of 4200 positions and one of 70; rows stand around every border: of pages, of parts (512 positions,
 * 1024 beyond 4096 visible ones), of sequences. Each is computed in all ways, in calls of several sizes and on several
 * numbers of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/attention.h"
#include "kernels/fp8.h"
#include "kernels/ops.h"
#include "tests/harness/check.h"

enum { LONG = 4200, SHORT = 70, ROWS = 64, PAGES = 68, K = 700, DV = 72, DR = 16, MOST_HEADS = 40 };

struct setting {
    struct cache_shape shape;
    int H;
    float *q, *q_pe;
    uint8_t *pool;
    int32_t page_table[2 * PAGES], sequence[ROWS], visible[ROWS];
    int32_t *selected; /* [ROWS][K] */
};

enum choice { DENSE, SPARSE, EVERYTHING, NEIGHBOURS };

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);

    CHECK(memory != NULL);
    return memory;
}

static void place_rows(struct setting *s)
{
    static const int32_t borders[] = {1, 63, 64, 65, 127, 511, 512, 513, 699, 700, 701, 1023, 1024, 1025, 4094, 4095,
                                      4096, 4097, 4098, LONG};
    int count = sizeof borders / sizeof *borders;

    for (int p = 0; p < 2 * PAGES; p++)
        s->page_table[p] = p * 5 % (2 * PAGES);
    for (int t = 0; t < ROWS; t++) { /* borders, then a run of neighbours as a chunk of prefill has them */
        s->sequence[t] = t >= ROWS - 8;
        s->visible[t] = t < count ? borders[t] : t < ROWS - 8 ? 2000 + t : SHORT - (ROWS - 1 - t);
    }
    s->visible[ROWS - 8] = 0;
}

static void setting_init(struct setting *s, int H, enum numerics numerics)
{
    int64_t slots = 2 * PAGES * CACHE_PAGE_TOKENS;
    float *c = allocate(4 * (size_t)slots * DV), *k_pe = allocate(4 * (size_t)slots * DR);
    int32_t *slot = allocate(4 * (size_t)slots);
    struct tensor tc = tensor_2d(DTYPE_F32, c, slots, DV), tk = tensor_2d(DTYPE_F32, k_pe, slots, DR);
    struct tensor ts = tensor_1d(DTYPE_I32, slot, slots), pool;
    struct ops_rows rows = {.slot = &ts};
    struct ops *ref;

    *s = (struct setting){.shape = {DV, DR, 0, numerics}, .H = H};
    s->q = allocate(4 * (size_t)(ROWS * H * DV));
    s->q_pe = allocate(4 * (size_t)(ROWS * H * DR));
    s->pool = allocate((size_t)slots * cache_record_bytes(&s->shape));
    s->selected = allocate(4 * ROWS * K);
    for (int64_t i = 0; i < ROWS * H * DV; i++)
        s->q[i] = (float)check_random_normal();
    for (int64_t i = 0; i < ROWS * H * DR; i++)
        s->q_pe[i] = (float)check_random_normal();
    for (int64_t i = 0; i < slots * DV; i++)
        c[i] = (float)check_random_normal();
    for (int64_t i = 0; i < slots * DR; i++)
        k_pe[i] = (float)check_random_normal();
    for (int64_t i = 0; i < slots; i++)
        slot[i] = (int32_t)i;
    place_rows(s);
    CHECK_STATUS(ops_open(&(struct ops_options){.backend = "ref"}, &ref, NULL), STATUS_OK);
    pool = tensor_3d(DTYPE_U8, s->pool, 2 * PAGES, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(&s->shape));
    CHECK_STATUS(ops_latent_write(ref,
                                  &(struct ops_latent_write_args){
                                      .c = &tc, .k_pe = &tk, .rows = &rows, .shape = s->shape, .pool = &pool}),
                 STATUS_OK);
    ops_close(ref);
    free(c);
    free(k_pe);
    free(slot);
}

static void setting_finish(struct setting *s)
{
    free(s->q);
    free(s->q_pe);
    free(s->pool);
    free(s->selected);
}

/* Ascending positions below visible: at random, or nearly the same ones for neighbouring rows. */
static void choose(struct setting *s, enum choice choice)
{
    for (int t = 0; t < ROWS; t++) {
        int32_t *selected = s->selected + t * K, visible = s->visible[t], count = visible < K ? visible : K, j = 0;

        for (int32_t p = 0; p < visible && j < count; p++)
            if (choice == EVERYTHING || (choice == NEIGHBOURS && p % 7 != t % 3) ||
                (choice == SPARSE && (int64_t)(check_random() % (uint64_t)(visible - p)) < count - j))
                selected[j++] = p;
        while (j < K)
            selected[j++] = -1;
    }
}

static void run(struct ops *ops, const struct setting *s, bool sparse, int64_t first, int64_t count, float *out,
                float *lse)
{
    struct tensor q = tensor_3d(DTYPE_F32, s->q + first * s->H * DV, count, s->H, DV);
    struct tensor q_pe = tensor_3d(DTYPE_F32, s->q_pe + first * s->H * DR, count, s->H, DR);
    struct tensor pool =
        tensor_3d(DTYPE_U8, s->pool, 2 * PAGES, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(&s->shape));
    struct tensor sequence = tensor_1d(DTYPE_I32, (void *)(uintptr_t)(s->sequence + first), count);
    struct tensor visible = tensor_1d(DTYPE_I32, (void *)(uintptr_t)(s->visible + first), count);
    struct tensor table = tensor_2d(DTYPE_I32, (void *)(uintptr_t)s->page_table, 2, PAGES);
    struct tensor selected = tensor_2d(DTYPE_I32, s->selected + first * K, count, K);
    struct tensor to = tensor_3d(DTYPE_F32, out + first * s->H * DV, count, s->H, DV);
    struct tensor to_lse = tensor_2d(DTYPE_F32, lse + first * s->H, count, s->H);
    struct ops_rows rows = {.sequence = &sequence, .visible = &visible, .page_table = &table};
    struct ops_attention_args args = {&q, &q_pe, sparse ? &selected : NULL, &rows, s->shape, &pool, 0.2f, &to, &to_lse};

    for (int64_t t = first; t < first + count; t++)
        if (s->visible[t] > rows.visible_max)
            rows.visible_max = s->visible[t];
    CHECK_STATUS(ops_attention(ops, &args), STATUS_OK);
}

/* Every tier, on 1, 3 and 16 threads, in calls of 1, 7 and all rows. */
static void check_all_ways(const struct setting *s, bool sparse, const char *what)
{
    static const enum ops_tier tiers[] = {OPS_TIER_GATHER, OPS_TIER_TILES, OPS_TIER_CHOSEN};
    static const int threads[] = {1, 3, 16}, steps[] = {ROWS, 7, 1};
    size_t out_count = (size_t)(ROWS * s->H * DV), lse_count = (size_t)(ROWS * s->H);
    size_t bytes = sizeof(float) * (out_count + lse_count);
    float *first = NULL, *again = allocate(bytes);

    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            struct ops_options options = {.backend = "cpu", .threads = threads[j], .tier = tiers[i]};
            struct ops *ops;

            CHECK_STATUS(ops_open(&options, &ops, NULL), STATUS_OK);
            for (int k = 0; k < 3; k++) {
                memset(again, 0xa5, bytes);
                for (int64_t t = 0; t < ROWS; t += steps[k])
                    run(ops, s, sparse, t, ROWS - t < steps[k] ? ROWS - t : steps[k], again, again + out_count);
                if (!first) {
                    first = again;
                    again = allocate(bytes);
                } else if (memcmp(first, again, bytes) != 0) {
                    size_t at = 0;

                    while (first[at] == again[at])
                        at++;
                    FAIL("%s, %d heads: value %zu of row %zu is %a, not %a, with tier %d, %d threads, steps of %d",
                         what, s->H, at % (size_t)(s->H * DV), at / (size_t)(s->H * DV), (double)again[at],
                         (double)first[at], (int)tiers[i], threads[j], steps[k]);
                }
            }
            ops_close(ops);
        }
    free(first);
    free(again);
}

static void check_heads(int H, enum numerics numerics)
{
    struct setting s;

    setting_init(&s, H, numerics);
    check_all_ways(&s, false, "dense");
    choose(&s, SPARSE);
    check_all_ways(&s, true, "at random");
    choose(&s, NEIGHBOURS);
    check_all_ways(&s, true, "neighbours alike");
    setting_finish(&s);
}

TEST(tiers_agree_with_few_heads)
{
    check_heads(3, NUMERICS_FP8);
    check_heads(8, NUMERICS_FP8);
}

TEST(tiers_agree_with_many_heads)
{
    check_heads(16, NUMERICS_FP8);
    check_heads(20, NUMERICS_FP8);
    check_heads(MOST_HEADS, NUMERICS_FP8);
}

TEST(tiers_agree_on_plain_caches)
{
    check_heads(5, NUMERICS_PLAIN);
}

/* Rows of at most K visible positions select them all: that is dense attention, whichever way either is computed. */
TEST(everything_selected_is_dense)
{
    float *dense = allocate(4 * ROWS * 8 * (DV + 1)), *sparse = allocate(4 * ROWS * 8 * (DV + 1));
    struct setting s;

    setting_init(&s, 8, NUMERICS_FP8);
    choose(&s, EVERYTHING);
    for (int i = 0; i < 2; i++) {
        struct ops *ops;

        CHECK_STATUS(ops_open(&(struct ops_options){.backend = "cpu", .threads = 2,
                                                    .tier = i ? OPS_TIER_TILES : OPS_TIER_GATHER},
                              &ops, NULL),
                     STATUS_OK);
        run(ops, &s, false, 0, ROWS, dense, dense + ROWS * 8 * DV);
        run(ops, &s, true, 0, ROWS, sparse, sparse + ROWS * 8 * DV);
        for (int t = 0; t < ROWS; t++)
            if (s.visible[t] <= K)
                CHECK(memcmp(dense + t * 8 * DV, sparse + t * 8 * DV, 4 * 8 * DV) == 0);
        ops_close(ops);
    }
    setting_finish(&s);
    free(dense);
    free(sparse);
}

/* What a row did not select may be anything, NaN included, though a neighbour in its tile reads it. */
TEST(unselected_nan_stays_outside)
{
    size_t count = ROWS * 8 * (DV + 1);
    float *clean = allocate(4 * count), *poisoned = allocate(4 * count);
    struct setting s;
    int untouched = 0;

    setting_init(&s, 8, NUMERICS_FP8);
    choose(&s, NEIGHBOURS);
    for (int i = 0; i < 2; i++) {
        struct ops *ops;

        if (i) /* position 100 of the long sequence: a code of NaN */
            s.pool[((size_t)s.page_table[1] * CACHE_PAGE_TOKENS + 36) * cache_record_bytes(&s.shape) + 5] = 0x7f;
        CHECK_STATUS(
            ops_open(&(struct ops_options){.backend = "cpu", .threads = 1, .tier = OPS_TIER_TILES}, &ops, NULL),
            STATUS_OK);
        run(ops, &s, true, 0, ROWS, i ? poisoned : clean, (i ? poisoned : clean) + ROWS * 8 * DV);
        ops_close(ops);
    }
    for (int t = 0; t < ROWS; t++) {
        bool has = false;

        for (int j = 0; j < K; j++)
            has = has || (s.sequence[t] == 0 && s.selected[t * K + j] == 100);
        if (has)
            CHECK(isnan(poisoned[t * 8 * DV + 5]));
        else
            CHECK(memcmp(clean + t * 8 * DV, poisoned + t * 8 * DV, 4 * 8 * DV) == 0);
        untouched += !has && s.sequence[t] == 0 && s.visible[t] > 100;
    }
    CHECK(untouched > 5);
    setting_finish(&s);
    free(clean);
    free(poisoned);
}

TEST(parts_follow_from_the_length)
{
    int32_t before = 0;

    for (int32_t visible = 0; visible <= 1 << 20; visible += visible < 70000 ? 1 : 977) {
        int32_t keys = attention_part_keys(visible);

        CHECK(keys % CACHE_PAGE_TOKENS == 0 && keys >= before && keys <= PART_KEYS_MOST);
        before = keys;
        if (visible > 4096 && visible <= 65536)
            CHECK(visible / keys >= 4 && (visible + keys - 1) / keys <= 8);
    }
    CHECK_EQ_INT(attention_part_keys(4096), 512);
    CHECK_EQ_INT(attention_part_keys(4097), 1024);
    CHECK_EQ_INT(attention_part_keys(131072), 8192);
}

TEST(tiles_leave_work_for_every_thread)
{
    for (int threads = 1; threads <= 64; threads *= 2)
        for (int64_t T = threads; T < 1000; T = T * 3 / 2 + 1)
            for (int H = 1; H <= 128; H += 7) {
                int rows = attention_tile_rows(T, H, threads);

                CHECK(rows >= 1 && (rows == 1 || (rows * H <= 64 && T / rows >= 2 * threads)));
            }
    CHECK_EQ_INT(attention_tile_rows(512, 8, 2), 8);
    CHECK_EQ_INT(attention_tile_rows(512, 128, 2), 1);
}
