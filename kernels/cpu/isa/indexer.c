/* isa/indexer.c: scores of one query against a page of 64 keys, keys in lanes.
 *
 *   tile   BF16 [Di/2][64][2] (PLAIN: F32 [Di][64]): a page turned round, once for many queries
 *   dot    rows = heads, columns = keys: the register tile of isa/gemm.c
 *   score  one accumulator per key, heads added in order h = 0, 1, …: nothing is ever summed across lanes
 *
 * e4m3 values and their products are exact in F32, so only the additions round. */
#include "kernels/cpu/isa/functions.h"

VEC_INLINE void add_heads(int head_count, vf sum[][BF16_VECS], const float *weight, float *score)
{
#pragma GCC unroll 8
    for (int v = 0; v < BF16_VECS; v++) {
        vf total = vf_load(score + v * LANES);

#pragma GCC unroll 8
        for (int h = 0; h < head_count; h++)
            total = vf_fma(vf_set1(weight[h]), vf_max(sum[h][v], vf_zero()), total);
        vf_store(score + v * LANES, total);
    }
}

VEC_INLINE void heads_bf16(int head_count, const uint16_t *q, const uint16_t *tile, int pairs, const float *weight,
                           float *score)
{
    vf sum[BF16_ROWS][BF16_VECS];

#pragma GCC unroll 8
    for (int h = 0; h < head_count; h++)
#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            sum[h][v] = vf_zero();
    for (int p = 0; p < pairs; p++) {
        vb key[BF16_VECS];

#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            key[v] = vb_load(tile + 2 * (p * CACHE_PAGE_TOKENS + v * LANES));
#pragma GCC unroll 8
        for (int h = 0; h < head_count; h++) {
            vb value = vb_pair(q + 2 * (h * pairs + p));

#pragma GCC unroll 8
            for (int v = 0; v < BF16_VECS; v++)
                sum[h][v] = vf_dp(sum[h][v], value, key[v]);
        }
    }
    add_heads(head_count, sum, weight, score);
}

VEC_INLINE void heads_f32(int head_count, const float *q, const float *tile, int Di, const float *weight,
                          float *score)
{
    vf sum[BF16_ROWS][BF16_VECS];

#pragma GCC unroll 8
    for (int h = 0; h < head_count; h++)
#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            sum[h][v] = vf_zero();
    for (int d = 0; d < Di; d++)
#pragma GCC unroll 8
        for (int h = 0; h < head_count; h++)
#pragma GCC unroll 8
            for (int v = 0; v < BF16_VECS; v++)
                sum[h][v] = vf_fma(vf_set1(q[h * Di + d]), vf_load(tile + d * CACHE_PAGE_TOKENS + v * LANES),
                                   sum[h][v]);
    add_heads(head_count, sum, weight, score);
}

/* `count` heads from h on, columns from v on. */
VEC_INLINE void heads(const struct index_query *query, int count, int h, const void *tile, int v, float *score)
{
    int pairs = (query->Di + 1) / 2;

    if (query->numerics == NUMERICS_PLAIN)
        heads_f32(count, (const float *)query->q + h * query->Di, (const float *)tile + v, query->Di,
                  query->weight + h, score + v);
    else
        heads_bf16(count, (const uint16_t *)query->q + 2 * h * pairs, (const uint16_t *)tile + 2 * v, pairs,
                   query->weight + h, score + v);
}

void ISA(index_scores)(const struct index_query *query, const void *tile, const float *key_scale, float *score)
{
    memset(score, 0, sizeof *score * CACHE_PAGE_TOKENS);
    for (int v = 0; v < CACHE_PAGE_TOKENS; v += BF16_VECS * LANES)
        for (int h = 0; h < query->Hi; h += BF16_ROWS)
            switch (query->Hi - h) {
            case 1: heads(query, 1, h, tile, v, score); break;
            case 2: heads(query, 2 < BF16_ROWS ? 2 : BF16_ROWS, h, tile, v, score); break;
            case 3: heads(query, 3 < BF16_ROWS ? 3 : BF16_ROWS, h, tile, v, score); break;
            case 4: heads(query, 4 < BF16_ROWS ? 4 : BF16_ROWS, h, tile, v, score); break;
            case 5: heads(query, 5 < BF16_ROWS ? 5 : BF16_ROWS, h, tile, v, score); break;
            default: heads(query, BF16_ROWS, h, tile, v, score); break;
            }
    for (int s = 0; key_scale && s < CACHE_PAGE_TOKENS; s += LANES)
        vf_store(score + s, vf_mul(vf_load(score + s), vf_load(key_scale + s)));
}

#ifdef ISA_AVX512
/* 16 keys x 16 dwords turned round: out[j] holds dword j of the 16 keys. */
static void transpose_dwords(const uint8_t *keys, int64_t stride, __m512i out[16])
{
    __m512i a[16], b[16];

    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_si512(keys + i * stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
        }
    /* a[4i + j], lane l: dword 4l + j of keys 4i..4i+3 */
    for (int j = 0; j < 4; j++) {
        __m512i low02 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), high02 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        __m512i low13 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        __m512i high13 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);

        out[j] = _mm512_shuffle_i32x4(low02, low13, 0x88);
        out[8 + j] = _mm512_shuffle_i32x4(low02, low13, 0xdd);
        out[4 + j] = _mm512_shuffle_i32x4(high02, high13, 0x88);
        out[12 + j] = _mm512_shuffle_i32x4(high02, high13, 0xdd);
    }
}

/* 64 keys of Di codes, Di a multiple of 64. A dword is two pairs; before widening, the two pairs of four keys are
 * put side by side, so that the unpacking of vb_from_e4m3() ends with one pair of 16 keys. */
static void tile_codes_fast(const uint8_t *page, int Di, uint16_t *tile)
{
    struct e4m3_table table = e4m3_table_load();
    const __m512i halves = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));

    for (int s = 0; s < CACHE_PAGE_TOKENS; s += LANES)
        for (int d = 0; d < Di; d += 64) {
            __m512i dwords[16];

            transpose_dwords(page + s * Di + d, Di, dwords);
            for (int j = 0; j < 16; j++) {
                __m512i x = _mm512_shuffle_epi8(dwords[j], halves);
                __m512i low = _mm512_permutex2var_epi8(table.low[0], x, table.low[1]);
                __m512i high = _mm512_permutex2var_epi8(table.high[0], x, table.high[1]);
                uint16_t *out = tile + 2 * ((d / 2 + 2 * j) * CACHE_PAGE_TOKENS + s);

                high = _mm512_ternarylogic_epi32(high, x, _mm512_set1_epi8((char)0x80), 0xf8);
                _mm512_storeu_si512(out, _mm512_unpacklo_epi8(low, high));
                _mm512_storeu_si512(out + 2 * CACHE_PAGE_TOKENS, _mm512_unpackhi_epi8(low, high));
            }
        }
}
#endif

static void tile_codes(const uint8_t *page, int Di, int count, uint16_t *tile)
{
    extern const uint16_t e4m3_to_bf16[256];

#ifdef ISA_AVX512
    if (Di % 64 == 0 && count == CACHE_PAGE_TOKENS) {
        tile_codes_fast(page, Di, tile);
        return;
    }
#endif
    memset(tile, 0, sizeof *tile * CACHE_PAGE_TOKENS * 2 * (size_t)((Di + 1) / 2));
    for (int s = 0; s < count; s++)
        for (int d = 0; d < Di; d++)
            tile[2 * (d / 2 * CACHE_PAGE_TOKENS + s) + d % 2] = e4m3_to_bf16[page[s * Di + d]];
}

void ISA(index_tile)(const struct cache_shape *shape, const uint8_t *page, int count, void *tile)
{
    int Di = shape->Di;

    if (shape->numerics == NUMERICS_FP8) {
        tile_codes(page, Di, count, tile);
        return;
    }
    for (int d = 0; d < Di; d++)
        for (int s = 0; s < CACHE_PAGE_TOKENS; s++)
            ((float *)tile)[d * CACHE_PAGE_TOKENS + s] = s < count ? ((const float *)page)[s * Di + d] : 0;
}
