/* test_cuda_plans.c: the CUDA backend's division of work, which is host code: every key covered, bounds kept, and no
 * dependence on what must not matter. */
#include <stdlib.h>

#include "kernels/cuda/plans.h"
#include "tests/harness/check.h"

TEST(attention_parts_are_whole_pairs_of_tiles_and_at_most_32)
{
    for (int count = 1; count < 300000; count = count * 5 / 4 + 1) {
        int length = attention_part_length(count);

        CHECK_EQ_INT(length % ATTENTION_PART_STEP, 0);
        CHECK(length >= ATTENTION_PART_LEAST);
        CHECK(plan_divide_up(count, length) <= ATTENTION_MOST_PARTS);
    }
    CHECK_EQ_INT(attention_part_length(2048), 256);
    CHECK_EQ_INT(attention_part_length(131072), 4096);
}

TEST(experts_get_tall_tiles_where_their_rows_fill_one_and_a_half_low_ones)
{
    CHECK_EQ_INT(experts_are_tall(96 * 256, 256), 1);
    CHECK_EQ_INT(experts_are_tall(96 * 256 - 1, 256), 0);
}

TEST(wide_tiles_are_taken_where_they_end_sooner)
{
    CHECK_EQ_INT(product_is_wide(32, 7168, 132), 1);  /* 7 waves for 14 */
    CHECK_EQ_INT(product_is_wide(32, 1536, 132), 0);  /* 2 for 3: even */
    CHECK_EQ_INT(product_is_wide(32, 576, 132), 1);   /* 1 for 2 */
    CHECK_EQ_INT(product_is_wide(32, 128, 132), 0);   /* half of every tile empty */
    CHECK_EQ_INT(product_is_wide(128, 128, 132), 0);
    CHECK_EQ_INT(product_is_wide(1, 7168, 132), 0);   /* a wave either way */
}

TEST(attention_parts_of_a_shorter_row_stay_inside_the_grid_of_the_longest)
{
    for (int most = 1; most < 40000; most += 131)
        for (int count = 1; count <= most; count += 97)
            CHECK(plan_divide_up(count, attention_part_length(count)) <= attention_parts_bound(most));
    CHECK_EQ_INT(attention_parts_bound(0), 1);
    /* The count of parts is not steady: a bound that took the longest row's own would be wrong. */
    CHECK(plan_divide_up(8192, attention_part_length(8192)) > plan_divide_up(8200, attention_part_length(8200)));
}

TEST(attention_is_divided_while_its_rows_leave_half_of_an_h200_idle)
{
    CHECK(attention_is_split(1, 2));
    CHECK(attention_is_split(32, 2));
    CHECK(!attention_is_split(33, 2));
    CHECK(attention_is_split(64, 1));
    CHECK(!attention_is_split(65, 1));
    /* V3.2 at 128K: a prefill of 4096 rows is worth a copy of the cache, decode steps of 128 sequences are not. */
    CHECK(attention_is_widened(4096, 2048, 131072));
    CHECK(!attention_is_widened(128, 2048, 128 * (int64_t)131072));
    CHECK(!attention_is_widened(129, 2048, 131072));
    CHECK(attention_is_widened(256, 2048, 131072));
}

TEST(products_per_head_keep_a_block_to_one_head_where_that_idles_few_sms)
{
    CHECK_EQ_INT(heads_blocks(128, 64, 132), 128);
    CHECK_EQ_INT(heads_blocks(64, 64, 132), 128);
    CHECK_EQ_INT(heads_blocks(16, 256, 132), 128);
    CHECK_EQ_INT(heads_blocks(40, 64, 132), 132); /* 120 would leave a tenth of them idle */
    CHECK_EQ_INT(heads_blocks(200, 64, 132), 132);
    CHECK_EQ_INT(heads_blocks(3, 2, 132), 6);
    CHECK_EQ_INT(heads_blocks(128, 2, 1), 1);
}

TEST(indexer_blocks_cover_the_keys_in_whole_tiles)
{
    static const int64_t lengths[] = {1, 127, 128, 129, 511, 513, 2049, 8192, 32769, 131072, 1000001};

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int64_t groups = 1; groups < 5000; groups = groups * 3 + 1) {
            int64_t keys = index_keys_a_block(groups, lengths[i], 132);

            CHECK_EQ_INT(keys % INDEX_TILE_KEYS, 0);
            CHECK(keys >= INDEX_LEAST_KEYS);
            CHECK(keys <= INDEX_MOST_KEYS + INDEX_TILE_KEYS || groups < 132);
            CHECK(plan_divide_up(lengths[i], keys) * keys >= lengths[i]);
        }
    /* One row of 128K keeps a whole H200 busy. */
    CHECK(plan_divide_up(131072, index_keys_a_block(1, 131072, 132)) >= 2 * 120);
}

TEST(indexer_takes_four_tiles_for_many_rows_of_many_keys)
{
    CHECK(index_takes_four_tiles(2048, 2, 131072, 132));
    CHECK(index_takes_four_tiles(2048, 2, 8192, 132));
    CHECK(!index_takes_four_tiles(64, 2, 131072, 132));
    CHECK(!index_takes_four_tiles(2048, 32, 16384, 132)); /* 16 groups of rows: a block has but 512 keys */
    CHECK(!index_takes_four_tiles(1, 2, 131072, 1));
}

TEST(topk_slices_are_worth_a_block_and_fill_the_device)
{
    CHECK(topk_is_split(1, 131072, 132));
    CHECK(topk_is_split(132, 8192, 132));
    CHECK(!topk_is_split(133, 131072, 132));
    CHECK(!topk_is_split(1, 8191, 132));
    CHECK(topk_is_split_first(1, 131072) && topk_is_split_first(16, 65536));
    CHECK(!topk_is_split_first(17, 131072) && !topk_is_split_first(1, 65535));
    for (int64_t T = 1; T <= 132; T++)
        for (int64_t S = TOPK_SPLIT_LEAST; S <= 1 << 20; S *= 2) {
            int slices = topk_slices(T, S, 132);

            CHECK(slices >= 1 && slices <= TOPK_MOST_SLICES);
            CHECK(S / slices >= TOPK_SLICE_LEAST);
        }
    CHECK_EQ_INT(topk_slices(1, 131072, 132), 32);
    CHECK_EQ_INT(topk_slices(64, 131072, 132), 9);
}

TEST(topk_samples_lie_in_the_row_and_in_the_buffer)
{
    static const int ks[] = {1, 4, 31, 32, 33, 63, 64, 512, 700, 2048, 5000};

    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
        for (int count = topk_candidates(ks[i]) + 1; count < 1 << 21; count = count * 5 / 4 + 1) {
            int step = topk_sample_step(count, ks[i]), places = count / step;

            CHECK(places <= 2 * topk_candidates(ks[i]));
            CHECK(places >= ks[i] / step + TOPK_SAMPLE_HITS);
            for (int j = 0; j < places; j += 1 + places / 50)
                CHECK_EQ_INT(topk_sample_place(j, step) / step, j);
            CHECK(topk_sample_place(places - 1, step) < count);
        }
    /* The published k and its longest context; what has too little memory or too few places does not go that way. */
    CHECK(topk_is_sampled(131072, 2048, 225 * 1024));
    CHECK(topk_is_sampled(1 << 20, 2048, 225 * 1024));
    CHECK(!topk_is_sampled(1 << 20, 2048, 194 * 1024));
    CHECK(!topk_is_sampled(1 << 20, 16, 225 * 1024));
    CHECK(!topk_is_sampled(1 << 22, 2048, 225 * 1024));
    CHECK(topk_sampled_bytes(131072, 2048) <= 100 * 1024);
}

TEST(experts_never_need_more_tiles_than_the_bound)
{
    enum { TILE = 64, MOST_EXPERTS = 32 };
    uint64_t random = 7;

    for (int round = 0; round < 2000; round++) {
        int64_t counts[MOST_EXPERTS] = {0}, tiles = 0, pairs, experts;

        random = random * 6364136223846793005u + 1442695040888963407u;
        experts = 1 + (int64_t)(random >> 33) % MOST_EXPERTS;
        pairs = (int64_t)(random >> 40) % 500;
        for (int64_t i = 0; i < pairs; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            counts[(random >> 33) % (uint64_t)experts]++;
        }
        for (int64_t e = 0; e < experts; e++)
            tiles += plan_divide_up(counts[e], TILE);
        CHECK(tiles <= expert_tiles_bound(pairs, experts, TILE));
    }
    CHECK_EQ_INT(expert_tiles_bound(8, 256, 64), 8);
    CHECK_EQ_INT(expert_tiles_bound(64 * 256, 256, 64), 512);
}

TEST(parts_of_a_product_cover_its_steps_and_are_worth_a_block)
{
    for (int64_t columns = 1; columns < 600; columns += 7)
        for (int steps = 1; steps < 300; steps++) {
            int part = few_steps_a_part(columns, steps), parts = (int)plan_divide_up(steps, part);

            CHECK(part >= 1 && part <= steps);
            CHECK(parts == 1 || (part >= FEW_LEAST_STEPS && columns * (parts - 1) < FEW_BLOCKS));
        }
    CHECK_EQ_INT(few_steps_a_part(24, 56), 6);    /* 1536 x 7168: 240 blocks */
    CHECK_EQ_INT(few_steps_a_part(9, 56), 4);     /* 576 x 7168: 126 */
    CHECK_EQ_INT(few_steps_a_part(112, 128), 43); /* 7168 x 16384: 336 */
    CHECK_EQ_INT(few_steps_a_part(288, 56), 56);  /* 18432 x 7168 */
    CHECK_EQ_INT(few_steps_a_part(112, 16), 16);  /* 7168 x 2048 */
}
