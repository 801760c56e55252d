/* plans.h: how work is divided over blocks: pure functions, tested without a GPU (tests/kernels/test_cuda_plans.c).
 *
 * A plan may go by the number of SMs only where it cannot change a result: top-k counts, the indexer's scores stand
 * alone. Attention's parts decide in which order a row is summed, so they go by the row's own number of keys. */
#ifndef KERNELS_CUDA_PLANS_H
#define KERNELS_CUDA_PLANS_H

#include <stdint.h>

#ifdef __CUDACC__
#define PLAN static __host__ __device__ inline
#else
#define PLAN static inline
#endif

PLAN int64_t plan_divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* --- Attention: keys a part ------------------------------------------------------------------------------------------
 */

enum {
    ATTENTION_SPLIT_BLOCKS = 64, /* rows times tiles of 64 heads; calls of more are not split */
    ATTENTION_PART_LEAST = 256,
    ATTENTION_PART_STEP = 128, /* a pair of tiles */
    ATTENTION_MOST_PARTS = 32
};

/* Whether the keys of T rows are divided: one block a row and 64 heads would leave half of the SMs idle. The number of
 * SMs has no say in it: bits differ between the two. */
PLAN int attention_is_split(int64_t T, int head_tiles)
{
    return T * head_tiles <= ATTENTION_SPLIT_BLOCKS;
}

/* Whether `records` records are widened for T rows of up to `most` keys first: a record read by four rows or more on
 * average. Bits do not depend on it. */
PLAN int attention_is_widened(int64_t T, int64_t most, int64_t records)
{
    return T * most >= 4 * records;
}

/* 256, or as many pairs of tiles as leave 32 parts. */
PLAN int attention_part_length(int count)
{
    int64_t length = plan_divide_up(count, ATTENTION_MOST_PARTS);

    return length <= ATTENTION_PART_LEAST ? (int)ATTENTION_PART_LEAST
                                          : (int)(plan_divide_up(length, ATTENTION_PART_STEP) * ATTENTION_PART_STEP);
}

/* Not exceeded by a row of `most` keys or fewer: the count of parts does not grow steadily with the count of keys. */
PLAN int attention_parts_bound(int most)
{
    int64_t parts = plan_divide_up(most, ATTENTION_PART_LEAST);

    return parts < 1 ? 1 : parts > ATTENTION_MOST_PARTS ? (int)ATTENTION_MOST_PARTS : (int)parts;
}

/* --- Indexer: keys a block -------------------------------------------------------------------------------------------
 */

enum {
    INDEX_TILE_KEYS = 128,
    INDEX_LEAST_KEYS = 512, /* so that loading its queries is the lesser part of a block's work */
    INDEX_MOST_KEYS = 8192, /* so that blocks end evenly where later rows see more */
    INDEX_BLOCKS_AN_SM = 4,
    INDEX_FOUR_TILES_ROWS = 512, /* fewer rows are decode, as a rule: a sequence each, bound by copies of keys */
    INDEX_FOUR_TILES_KEYS = 2048 /* a block, so that loading twice the queries stays the lesser part */
};

/* Keys each block of a group of rows takes, in whole tiles. */
PLAN int64_t index_keys_a_block(int64_t groups, int64_t S, int sm_count)
{
    int64_t tiles = plan_divide_up(S, INDEX_TILE_KEYS), keys;
    int64_t splits = plan_divide_up((int64_t)INDEX_BLOCKS_AN_SM * sm_count, groups);

    if (splits < S / INDEX_MOST_KEYS)
        splits = S / INDEX_MOST_KEYS;
    keys = plan_divide_up(tiles, splits) * INDEX_TILE_KEYS;
    return keys < INDEX_LEAST_KEYS ? (int64_t)INDEX_LEAST_KEYS : keys;
}

/* Whether a block holds four tiles of `queries` rows each instead of two: a stage of keys then serves twice as many
 * products, and one fewer is under way. */
PLAN int index_takes_four_tiles(int64_t T, int queries, int64_t S, int sm_count)
{
    return T >= INDEX_FOUR_TILES_ROWS &&
           index_keys_a_block(plan_divide_up(T, 4 * queries), S, sm_count) >= INDEX_FOUR_TILES_KEYS;
}

/* --- Top-k: slices of a row ------------------------------------------------------------------------------------------
 */

enum {
    TOPK_SPLIT_LEAST = 8192,
    TOPK_SLICE_LEAST = 4096,
    TOPK_MOST_SLICES = 64,
    TOPK_BLOCKS_AN_SM = 4,
    TOPK_FEW_ROWS = 16,
    TOPK_LONG_ROWS = 65536
};

/* Whether T rows of S keys go over many blocks each. */
PLAN int topk_is_split(int64_t T, int64_t S, int sm_count)
{
    return S >= TOPK_SPLIT_LEAST && T <= sm_count;
}

/* Whether that is sooner than one block a row that reads its row once: on an H200 one row of 128K took 23.7 us against
 * 42.1, 64 rows 95 against 37; and where a sample misleads, one block would go over the row five times. */
PLAN int topk_is_split_first(int64_t T, int64_t S)
{
    return T <= TOPK_FEW_ROWS && S >= TOPK_LONG_ROWS;
}

PLAN int topk_slices(int64_t T, int64_t S, int sm_count)
{
    int64_t slices = plan_divide_up((int64_t)TOPK_BLOCKS_AN_SM * sm_count, T);

    if (slices > S / TOPK_SLICE_LEAST)
        slices = S / TOPK_SLICE_LEAST;
    return slices < 1 ? 1 : slices > TOPK_MOST_SLICES ? (int)TOPK_MOST_SLICES : (int)slices;
}

/* --- Top-k from a sample: the bound, the buffer, the places looked at
 * -------------------------------------------------
 *
 * A sample of about 32 of the k largest gives a bound that about 2 k keys reach: its (32 + k / step)-th largest key.
 * Fewer than k, or more than fit, is 4 standard deviations or more away for keys in random order; the kernel counts. */

enum {
    TOPK_SAMPLE_HITS = 32,
    TOPK_LEAST_CANDIDATES = 2048, /* times 8 bytes: the rounds' histogram lies in the same place */
    TOPK_DIGITS = 256,
    TOPK_DIGIT_ROUNDS = 11 /* histograms: 4 for the sample, 4 for the candidates, 3 for positions below 2^24 */
};

PLAN int topk_candidates(int k)
{
    int64_t most = (int64_t)k * 7 / 2;

    return most < TOPK_LEAST_CANDIDATES ? (int)TOPK_LEAST_CANDIDATES : (int)most;
}

/* Keys a place of the sample stands for; a sample has half as many places again as fit as candidates, at most. */
PLAN int topk_sample_step(int count, int k)
{
    int step = k / TOPK_SAMPLE_HITS, least = (int)plan_divide_up(count, 2 * (int64_t)topk_candidates(k));

    step = step < 1 ? 1 : step;
    return step < least ? least : step;
}

/* Somewhere among the step keys that start at number * step, not at the same place of each: rows have periods. */
PLAN int topk_sample_place(int number, int step)
{
    uint32_t random = ((uint32_t)number * 2654435761u) >> 16;

    return number * step + (int)((uint64_t)random * (uint32_t)step >> 16);
}

PLAN int64_t topk_sampled_bytes(int64_t S, int k)
{
    return (int64_t)topk_candidates(k) * 8 + plan_divide_up(S, 32) * 4 + TOPK_DIGIT_ROUNDS * TOPK_DIGITS * 4;
}

/* Whether rows of up to S keys go that way, in `bytes` of shared memory: the candidates expected must fit well. */
PLAN int topk_is_sampled(int64_t S, int64_t k, int64_t bytes)
{
    int64_t step;

    if (S > 1 << 24 || k < 1 || k > 1 << 16 || topk_sampled_bytes(S, (int)k) > bytes)
        return 0;
    step = topk_sample_step((int)S, (int)k);
    return (k / step + TOPK_SAMPLE_HITS) * step * 8 / 5 <= topk_candidates((int)k);
}

/* --- Products of few rows: parts of K --------------------------------------------------------------------------------
 */

enum {
    FEW_BLOCKS = 264,     /* two for each of 132 SMs */
    FEW_LEAST_STEPS = 4,  /* of 128 bytes, a part */
    FEW_WHOLE_STEPS = 32, /* fewer than these are read sooner than a second launch ends */
};

/* Steps of 128 bytes of K a block takes, where `columns` blocks would each read all of `steps`. By the weight's shape
 * alone: the parts' sums are added afterwards, so this decides the order of a row's additions. */
PLAN int few_steps_a_part(int64_t columns, int steps)
{
    int64_t parts = plan_divide_up(FEW_BLOCKS, columns), least = steps / FEW_LEAST_STEPS;

    if (parts > least)
        parts = least;
    return parts < 2 || steps < FEW_WHOLE_STEPS ? steps : (int)plan_divide_up(steps, parts);
}

/* --- Products of many rows: tiles of 128 x 128 or of 128 x 256 -------------------------------------------------------
 */

/* Whether wide tiles end sooner: they are reckoned at one and a half times as long, by what they read from L2. Where
 * that comes out even they lose: 1536 x 7168, 4096 rows, on an H200: 163 us for 145. No bit depends on it. */
PLAN int product_is_wide(int64_t row_tiles, int64_t N, int sm_count)
{
    int64_t narrow = plan_divide_up(row_tiles * plan_divide_up(N, 128), sm_count);
    int64_t wide = plan_divide_up(row_tiles * plan_divide_up(N, 256), sm_count);

    return 3 * wide < 2 * narrow;
}

/* --- Products per head: blocks ---------------------------------------------------------------------------------------
 */

/* Blocks that share `tiles` tiles of each head, head by head: one an SM, or somewhat fewer where each of them then
 * keeps to one head (128 of 132 SMs for 128 heads). */
PLAN int heads_blocks(int64_t heads, int64_t tiles, int sm_count)
{
    int64_t even = sm_count / heads * heads, blocks = 16 * even >= 15 * (int64_t)sm_count ? even : sm_count;

    return (int)(heads * tiles < blocks ? heads * tiles : blocks);
}

/* --- Experts: tiles of rows ------------------------------------------------------------------------------------------
 */

enum { EXPERT_TALL_LEAST = 96 };

/* Whether tiles have 128 rows instead of 64, where the kernels allow it: an expert's weights are read once for each of
 * its tiles, so where its rows would fill more than one. No bit depends on it. */
PLAN int experts_are_tall(int64_t pairs, int64_t experts)
{
    return pairs >= EXPERT_TALL_LEAST * experts;
}

/* Tiles that `pairs` (row, expert) pairs can fill at most: each expert that has any wastes less than one. */
PLAN int64_t expert_tiles_bound(int64_t pairs, int64_t experts, int64_t tile_rows)
{
    return pairs / tile_rows + (pairs < experts ? pairs : experts);
}

#endif
