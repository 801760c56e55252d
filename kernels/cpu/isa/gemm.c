/* isa/gemm.c: one block of a matrix product: up to 96 rows times one panel of 64 columns.
 *
 *   rows   a[r][0..K)          F32, or BF16 in pairs
 *   panel  b[K][64]            or b[K/2][64][2]: for each pair of k, 64 columns, the two values side by side,
 *                              so that one load holds 16 columns and vf_dp() needs no shuffle
 *   out    c[r][64]
 *
 * Each output is one chain over k, from 0 upwards, so its bits do not depend on how many rows are computed
 * together, on the pass length GEMM_CHUNK (a chain resumed from memory is the same chain), or on the thread. FP8
 * sums each 128 of K from zero and adds the result times both scales, as DeepSeek-V3.2's kernel does.
 *
 * A register tile is ROWS x VECS accumulators: 6 x 4 of 32 registers with AVX-512 (an FMA has 4 to 6 cycles of
 * latency, so fewer than 6 chains would wait), 6 x 2 halves of 16 registers with AVX2. */
#include "kernels/cpu/isa/functions.h"

enum { TABLE_GROUPS = FP8_GROUP / 2, MAX_TILE_ROWS = 6 };

/* --- F32 -------------------------------------------------------------------------------------------- */

VEC_INLINE void tile_f32(int row_count, const float *const *a, const float *b, int64_t K, float *c)
{
    vf sum[F32_ROWS][F32_VECS];

#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < F32_VECS; v++)
            sum[r][v] = vf_load(c + r * PANEL_COLUMNS + v * LANES);
    for (int64_t k = 0; k < K; k++) {
        vf column[F32_VECS];

#pragma GCC unroll 8
        for (int v = 0; v < F32_VECS; v++)
            column[v] = vf_load(b + k * PANEL_COLUMNS + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            vf value = vf_set1(a[r][k]);

#pragma GCC unroll 8
            for (int v = 0; v < F32_VECS; v++)
                sum[r][v] = vf_fma(value, column[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < F32_VECS; v++)
            vf_store(c + r * PANEL_COLUMNS + v * LANES, sum[r][v]);
}

static void rows_f32(int row_count, const float *const *rows, int64_t start, const float *b, int64_t K, float *c)
{
    for (int r = 0; r < row_count; r += F32_ROWS) {
        int count = row_count - r < F32_ROWS ? row_count - r : F32_ROWS;
        const float *a[MAX_TILE_ROWS];

        for (int i = 0; i < count; i++)
            a[i] = rows[r + i] + start;
        for (int v = 0; v < PANEL_COLUMNS; v += F32_VECS * LANES)
            switch (count) { /* a constant row count each, so that the tile lives in registers */
            case 6: tile_f32(6 < F32_ROWS ? 6 : F32_ROWS, a, b + v, K, c + r * PANEL_COLUMNS + v); break;
            case 5: tile_f32(5 < F32_ROWS ? 5 : F32_ROWS, a, b + v, K, c + r * PANEL_COLUMNS + v); break;
            case 4: tile_f32(4 < F32_ROWS ? 4 : F32_ROWS, a, b + v, K, c + r * PANEL_COLUMNS + v); break;
            case 3: tile_f32(3 < F32_ROWS ? 3 : F32_ROWS, a, b + v, K, c + r * PANEL_COLUMNS + v); break;
            case 2: tile_f32(2 < F32_ROWS ? 2 : F32_ROWS, a, b + v, K, c + r * PANEL_COLUMNS + v); break;
            default: tile_f32(1, a, b + v, K, c + r * PANEL_COLUMNS + v); break;
            }
    }
}

/* Rows [start, start + count) of a panel as F32. */
static const float *widen_panel(const struct gemm_block *block, int64_t start, int64_t count)
{
    int64_t first = start * PANEL_COLUMNS;
    float *out = block->buffer;

    if (block->dtype == DTYPE_F32)
        return (const float *)block->panel + first;
    for (int64_t k = 0; k < count; k++)
        for (int v = 0; v < PANEL_COLUMNS; v += LANES) {
            int64_t at = k * PANEL_COLUMNS + v;

            if (block->dtype == DTYPE_BF16)
                vf_store(out + at, vf_widen((const uint16_t *)block->panel + first + at));
            else
                vf_store(out + at, vf_mul(vf_from_e4m3((const uint8_t *)block->panel + first + at),
                                          vf_set1(block->scales[(start + k) / FP8_GROUP])));
        }
    return out;
}

static void gemm_f32(const struct gemm_block *block)
{
    for (int64_t k = 0; k < block->K; k += GEMM_CHUNK) {
        int64_t count = block->K - k < GEMM_CHUNK ? block->K - k : GEMM_CHUNK;

        rows_f32(block->row_count, (const float *const *)block->rows, k, widen_panel(block, k, count), count,
                 block->out);
    }
}

/* --- BF16 and FP8 ----------------------------------------------------------------------------------- */

/* Adds pairs [0, pairs) to c, which is [row][64] in memory; `scale` (one per row) NULL: no scales. */
VEC_INLINE void tile_pairs(int row_count, const uint16_t *const *a, const uint16_t *b, int64_t pairs,
                           const float *scale, float *c)
{
    vf sum[BF16_ROWS][BF16_VECS];

#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            sum[r][v] = scale ? vf_zero() : vf_load(c + r * PANEL_COLUMNS + v * LANES);
    for (int64_t p = 0; p < pairs; p++) {
        vb column[BF16_VECS];

#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            column[v] = vb_load(b + 2 * (p * PANEL_COLUMNS + v * LANES));
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            vb value = vb_pair(a[r] + 2 * p);

#pragma GCC unroll 8
            for (int v = 0; v < BF16_VECS; v++)
                sum[r][v] = vf_dp(sum[r][v], value, column[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++) {
            float *at = c + r * PANEL_COLUMNS + v * LANES;

            vf_store(at, scale ? vf_fma(sum[r][v], vf_set1(scale[r]), vf_load(at)) : sum[r][v]);
        }
}

static void rows_pairs(int row_count, const uint16_t *const *a, const uint16_t *b, int64_t pairs, const float *scale,
                       float *c)
{
    for (int v = 0; v < PANEL_COLUMNS; v += BF16_VECS * LANES)
        switch (row_count) {
        case 6: tile_pairs(6 < BF16_ROWS ? 6 : BF16_ROWS, a, b + 2 * v, pairs, scale, c + v); break;
        case 5: tile_pairs(5 < BF16_ROWS ? 5 : BF16_ROWS, a, b + 2 * v, pairs, scale, c + v); break;
        case 4: tile_pairs(4 < BF16_ROWS ? 4 : BF16_ROWS, a, b + 2 * v, pairs, scale, c + v); break;
        case 3: tile_pairs(3 < BF16_ROWS ? 3 : BF16_ROWS, a, b + 2 * v, pairs, scale, c + v); break;
        case 2: tile_pairs(2 < BF16_ROWS ? 2 : BF16_ROWS, a, b + 2 * v, pairs, scale, c + v); break;
        default: tile_pairs(1, a, b + 2 * v, pairs, scale, c + v); break;
        }
}

static void gemm_bf16(const struct gemm_block *block)
{
    int64_t pairs = (block->K + 1) / 2;

    for (int64_t p = 0; p < pairs; p += GEMM_CHUNK) {
        int64_t count = pairs - p < GEMM_CHUNK ? pairs - p : GEMM_CHUNK;
        const uint16_t *b = (const uint16_t *)block->panel + 2 * p * PANEL_COLUMNS;

        for (int r = 0; r < block->row_count; r += BF16_ROWS) {
            int rows = block->row_count - r < BF16_ROWS ? block->row_count - r : BF16_ROWS;
            const uint16_t *a[MAX_TILE_ROWS];

            for (int i = 0; i < rows; i++)
                a[i] = (const uint16_t *)block->rows[r + i] + 2 * p;
            rows_pairs(rows, a, b, count, NULL, block->out + r * PANEL_COLUMNS);
        }
    }
}

/* `count` pairs of a panel of e4m3 codes as BF16. */
static void widen_pairs(const uint8_t *codes, int64_t pairs, uint16_t *out)
{
    struct e4m3_table table = e4m3_table_load();

    for (int64_t i = 0; i < pairs * 2 * PANEL_COLUMNS; i += 64) {
        vb values[2];

        vb_from_e4m3(&table, codes + i, values);
        vb_store(out + i, values[0]);
        vb_store(out + i + 32, values[1]);
    }
}

#ifdef ISA_AVX512
/* Few rows: the codes are widened in registers, on their way from memory. One group of 128. */
VEC_INLINE void tile_direct(int row_count, const uint16_t *const *a, const uint8_t *codes, int64_t pairs,
                            const float *scale, float *c)
{
    struct e4m3_table table = e4m3_table_load();
    vf sum[DIRECT_ROWS][4];

#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < 4; v++)
            sum[r][v] = vf_zero();
    for (int64_t p = 0; p < pairs; p++) {
        vb column[4];

        vb_from_e4m3(&table, codes + p * 2 * PANEL_COLUMNS, column);
        vb_from_e4m3(&table, codes + p * 2 * PANEL_COLUMNS + 64, column + 2);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            vb value = vb_pair(a[r] + 2 * p);

#pragma GCC unroll 8
            for (int v = 0; v < 4; v++)
                sum[r][v] = vf_dp(sum[r][v], value, column[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < 4; v++) {
            float *at = c + r * PANEL_COLUMNS + v * LANES;

            vf_store(at, vf_fma(sum[r][v], vf_set1(scale[r]), vf_load(at)));
        }
}

static void rows_direct(int row_count, const uint16_t *const *a, const uint8_t *codes, int64_t pairs,
                        const float *scale, float *c)
{
    switch (row_count) {
    case 4: tile_direct(4, a, codes, pairs, scale, c); break;
    case 3: tile_direct(3, a, codes, pairs, scale, c); break;
    case 2: tile_direct(2, a, codes, pairs, scale, c); break;
    default: tile_direct(1, a, codes, pairs, scale, c); break;
    }
}
#else
static void rows_direct(int row_count, const uint16_t *const *a, const uint8_t *codes, int64_t pairs,
                        const float *scale, float *c)
{
}
#endif

static void gemm_fp8(const struct gemm_block *block)
{
    int64_t pairs = (block->K + 1) / 2;
    bool direct = block->row_count <= DIRECT_ROWS;
    int step = direct ? (DIRECT_ROWS ? DIRECT_ROWS : 1) : BF16_ROWS;

    for (int64_t start = 0; start < pairs; start += GEMM_CHUNK) {
        int64_t chunk = pairs - start < GEMM_CHUNK ? pairs - start : GEMM_CHUNK;
        const uint8_t *codes = (const uint8_t *)block->panel + 2 * start * PANEL_COLUMNS;

        if (!direct)
            widen_pairs(codes, chunk, block->buffer);
        for (int r = 0; r < block->row_count; r += step) {
            int rows = block->row_count - r < step ? block->row_count - r : step;

            for (int64_t p = 0; p < chunk; p += TABLE_GROUPS) {
                int64_t count = chunk - p < TABLE_GROUPS ? chunk - p : TABLE_GROUPS;
                int64_t group = (start + p) / TABLE_GROUPS;
                const uint16_t *a[MAX_TILE_ROWS];
                float scale[MAX_TILE_ROWS];

                for (int i = 0; i < rows; i++) {
                    a[i] = (const uint16_t *)block->rows[r + i] + 2 * (start + p);
                    scale[i] = block->row_scales[r + i][group] * block->scales[group];
                }
                if (direct)
                    rows_direct(rows, a, codes + 2 * p * PANEL_COLUMNS, count, scale, block->out + r * PANEL_COLUMNS);
                else
                    rows_pairs(rows, a, (const uint16_t *)block->buffer + 2 * p * PANEL_COLUMNS, count, scale,
                               block->out + r * PANEL_COLUMNS);
            }
        }
    }
}

void ISA(gemm)(const struct gemm_block *block)
{
    memset(block->out, 0, sizeof *block->out * (size_t)block->row_count * PANEL_COLUMNS);
    switch (block->kind) {
    case GEMM_F32: gemm_f32(block); break;
    case GEMM_BF16: gemm_bf16(block); break;
    case GEMM_FP8: gemm_fp8(block); break;
    }
}

/* --- Activations ------------------------------------------------------------------------------------ */

static vf load_columns(const float *x, int64_t K, int64_t k)
{
    return K - k >= LANES ? vf_load(x + k) : K > k ? vf_load_part(x + k, (int)(K - k)) : vf_zero();
}

void ISA(round_bf16)(const float *x, int64_t K, uint16_t *out)
{
    for (int64_t k = 0; k < K; k += 2 * LANES) {
        vf_narrow(out + k, load_columns(x, K, k));
        vf_narrow(out + k + LANES, load_columns(x, K, k + LANES));
    }
}

static float scale_of(const float *x, int64_t start, int64_t end)
{
    vf largest = vf_zero();

    for (int64_t k = start; k < end; k += LANES)
        largest = vf_max(vf_and_bits(load_columns(x, end, k), 0x7fffffffu), largest); /* NaN does not count */
    return scale_ue8m0(vf_largest(largest));
}

void ISA(round_fp8)(const float *x, int64_t K, uint16_t *out, float *scales)
{
    for (int64_t group = 0; group < K; group += FP8_GROUP) {
        int64_t end = K - group < FP8_GROUP ? K : group + FP8_GROUP;
        float scale = scale_of(x, group, end);
        vf inverse = vf_set1(1.0f / scale);

        scales[group / FP8_GROUP] = scale;
        for (int64_t k = group; k < end; k += 2 * LANES) {
            vf_narrow(out + k, vf_round_e4m3(vf_mul(load_columns(x, end, k), inverse)));
            vf_narrow(out + k + LANES, vf_round_e4m3(vf_mul(load_columns(x, end, k + LANES), inverse)));
        }
    }
}

float ISA(quantise)(const float *x, int64_t count, uint8_t *codes)
{
    float scale = scale_of(x, 0, count);
    vf inverse = vf_set1(1.0f / scale);

    for (int64_t k = 0; k < count; k += LANES) {
        vf value = vf_mul(load_columns(x, count, k), inverse), rounded = vf_round_e4m3(value);
        uint8_t tail[LANES];

        if (count - k >= LANES) {
            vf_store_e4m3(codes + k, rounded, value);
        } else {
            vf_store_e4m3(tail, rounded, value);
            memcpy(codes + k, tail, (size_t)(count - k));
        }
    }
    return scale;
}
