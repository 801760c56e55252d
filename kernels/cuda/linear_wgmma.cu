/* linear_wgmma.cu: products on Hopper's warpgroup instructions, for more than a few rows.
 *
 *   FP8:   y[m, n] = sum_g (sum_{k in g} a8[m, k] w8[n, k]) sa[m, g] sw[n / 128, g],  g = 128 of K
 *   BF16:  y[m, n] = sum_k a[m, k] w[n, k], one F32 sum, per head also rounded to BF16
 *
 *   grid   as many blocks as SMs; block b takes tiles b, b + blocks, … 384 threads: two warpgroups that multiply, MW x
 *          NW of them, each Waves times 64 rows by 128 columns; and one that loads: it is on with the next tile's
 *          stages while this one's sums are stored. MW x NW x Waves is
 *            2 x 1 x 1   tiles of 128 x 128: BF16, and few columns
 *            1 x 2 x 1   tiles of  64 x 256: rows grouped by expert, few an expert
 *            1 x 2 x 2   tiles of 128 x 256: FP8, the rest
 *   gated  the last, for an expert's gate and up over the same 128 columns: a warpgroup has 64 of each, side by side in
 *          its B, so that a thread holds both factors; silu(gate) up leaves as e4m3 with a scale a row
 *   smem   stages of A [rows, 128 bytes] and B [columns, 128 bytes], 128-byte swizzle: seven of 32 KB, five of 40, four
 *          of 48
 *   pipe   the loader fills a stage by cp.async, which arrives at its `full` barrier; each warp that has multiplied
 *          arrives at `empty`. The two warpgroups do not wait for each other: one's scaling runs beside the other's
 *          products
 *   sums   FP8: four wgmma of k32 make one group's product in 64 registers; times sa sw they join 64 more. BF16: four
 *          of k16 a stage, one stage in flight behind the one being issued
 *
 * Hopper keeps about 14 bits of the FP8 products inside a group (facts: DeepGEMM); the promotion every 128 of K is what
 * the reference does as well. A row's bits are those of any form.
 *
 * What SMs can read from L2 is thought to set the pace: on an H200 18432 x 7168 at 4096 rows took 1,376 us in tiles of
 * 128 x 128 and 1,153 in 128 x 256, that is 128 and 171 operations a byte: 6.1 and 5.5 TB/s. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum {
    GROUP = 128,
    THREADS = 3 * GROUP,
    ROW_BYTES = 128, /* of K, a stage: 128 e4m3 or 64 BF16 */
    GROUP_ROWS = 64,
    GROUP_COLUMNS = 128,
    WORKER_WARPS = 8,
    STAGES_BYTES = 225 << 10, /* of 227 KB */
    BARRIER_WORKERS = 1,
    BAND = 8 /* row tiles after each other before the next column tile: a wave reads a squarer part of both */
};
typedef register_split<THREADS, 40, 232> registers;

template <int MW, int NW, int Waves> struct stage_map {
    static const int rows = GROUP_ROWS * MW * Waves, columns = GROUP_COLUMNS * NW;
    static const int stages = STAGES_BYTES / ((rows + columns) * ROW_BYTES);
    uint8_t a[rows * ROW_BYTES], b[columns * ROW_BYTES];
};

template <int MW, int NW, int Waves> struct block_map {
    static const int stages = stage_map<MW, NW, Waves>::stages;
    struct stage_map<MW, NW, Waves> stage[stages];
    uint64_t full[stages], empty[stages];
    float amax[NW][stage_map<MW, NW, Waves>::rows]; /* gated: of each warpgroup's columns of a row */
};

/* The tiles of a product, and one of them: operands as bytes, whichever the element. */
struct tile_counts {
    int columns, rows, heads;
};

struct tile_view {
    const uint8_t *a, *w, *up; /* gated: w is the gate */
    const float *w_scale, *up_scale;
    int64_t a_stride, w_stride, n0, row0; /* bytes a row, multiples of 16; first row of w, first row of y */
    int steps, bytes, head;               /* of K */
};

/* Tile `number` of all; false where its expert has no rows. Tiles are numbered by bands of row tiles, down the rows
 * first. */
template <bool Fp8, bool Gated, int MW, int NW, int Waves>
static __device__ __forceinline__ bool tile_of(const struct product &p, const struct tile_counts &counts, int number,
                                               struct tile_view *v)
{
    using L = stage_map<MW, NW, Waves>;
    const int item = Fp8 ? 1 : 2;
    int one = counts.columns * counts.rows, head = number / one, in_head = number - head * one;
    int band = in_head / (BAND * counts.columns) * BAND, in_band = in_head - band * counts.columns;
    int height = min((int)BAND, counts.rows - band), column = in_band / height, tile = band + in_band - column * height;

    v->head = head;
    v->n0 = (int64_t)column * (Gated ? GROUP_COLUMNS : L::columns);
    v->row0 = (int64_t)tile * L::rows;
    v->bytes = (int)p.K * item;
    v->steps = (v->bytes + ROW_BYTES - 1) / ROW_BYTES;
    v->a = (Fp8 ? p.x.codes : (const uint8_t *)p.x.values) + head * p.x.head_stride * item;
    v->a_stride = p.x.row_stride * item;
    v->w = (const uint8_t *)p.w + head * p.N * p.K * item;
    v->w_stride = p.K * item;
    v->w_scale = p.w_scale;
    v->up = NULL;
    v->up_scale = NULL;
    if (p.group.row_index) {
        int expert = product_expert(p, tile, head);

        if (expert < 0)
            return false;
        v->w = (const uint8_t *)p.group.weights[expert];
        if (Fp8)
            v->w_scale = p.group.scales[expert];
        if (Gated) {
            expert += p.group.experts;
            v->up = (const uint8_t *)p.group.weights[expert];
            v->up_scale = p.group.scales[expert];
        }
    }
    return true;
}

/* --- Loading ------------------------------------------------------------------------------------------------------ */

/* A thread copies chunk tid % 8 of rows tid / 8 + 16 i: the swizzle, by the row's last three bits, is the same for all.
 * It has few registers, so places in A are counted in 16 bytes, and columns lie evenly apart; what is not there is not
 * read, wherever its place would be. `done`: stages filled before; returns those filled now as well. */
template <bool Gated, int MW, int NW, int Waves>
static __device__ __forceinline__ unsigned load_tile(struct block_map<MW, NW, Waves> *shared, const struct product &p,
                                                     const struct tile_view &v, unsigned done)
{
    using L = stage_map<MW, NW, Waves>;
    const int apart = GROUP / 8, stage_bytes = sizeof(struct stage_map<MW, NW, Waves>);
    const uint32_t none = UINT32_MAX;
    int first = (int)threadIdx.x % GROUP / 8, chunk = threadIdx.x % 8;
    int columns = (int)min((int64_t)L::columns, p.N - v.n0) - first, bytes = v.bytes - 16 * chunk;
    uint32_t w_stride = (uint32_t)v.w_stride;
    const uint8_t *a = v.a + 16 * chunk, *b = v.w + (v.n0 + first) * v.w_stride + 16 * chunk;
    const uint8_t *up = Gated ? v.up + (v.n0 + first) * v.w_stride + 16 * chunk : b;
    uint8_t *place = shared->stage[0].a + swizzled_128(first, chunk);
    uint32_t row_at[L::rows / apart];

#pragma unroll
    for (int i = 0; i < L::rows / apart; i++) {
        int32_t row = product_row(p, v.row0 + first + i * apart);

        row_at[i] = row < 0 ? none : (uint32_t)(row * (v.a_stride / 16));
    }
    for (int step = 0; step < v.steps; step++, done++, bytes -= ROW_BYTES) {
        int s = done % L::stages;
        uint8_t *to = place + s * stage_bytes;

        mbarrier_wait(&shared->empty[s], (done / L::stages & 1) ^ 1);
#pragma unroll
        for (int i = 0; i < L::rows / apart; i++, to += apart * ROW_BYTES)
            cp_async_16(to, a + (uint64_t)row_at[i] * 16, row_at[i] != none && bytes > 0);
#pragma unroll
        for (int i = 0; i < L::columns / apart; i++, to += apart * ROW_BYTES) {
            int at = i * apart, column = Gated ? at / 128 * 64 + at % 64 : at;

            cp_async_16(to, (Gated && at % 128 >= 64 ? up : b) + (uint64_t)w_stride * column,
                        column < columns && bytes > 0);
        }
        cp_async_arrive(&shared->full[s]);
        a += ROW_BYTES;
        b += ROW_BYTES;
        up += ROW_BYTES;
    }
    return done;
}

/* --- Multiplying -------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void release(uint64_t *empty)
{
    if (threadIdx.x % WARP == 0)
        mbarrier_arrive(empty);
}

/* The first Now of a warpgroup's Waves. The second half of its columns has scales of its own where it is gated. */
template <bool Gated, int Now, int MW, int NW, int Waves>
static __device__ __forceinline__ void multiply_fp8(struct block_map<MW, NW, Waves> *shared, int steps, unsigned done,
                                                    int a_at, int b_at, const float *const (&a_scale)[Waves][2],
                                                    const float *const (&w_scale)[2], float (&sum)[Waves][64])
{
    using L = stage_map<MW, NW, Waves>;
    float part[64];

    for (int g = 0; g < steps; g++) {
        int s = (done + g) % L::stages;
        float left = w_scale[0][g], right = Gated ? w_scale[1][g] : left, low[Now], high[Now];
        uint64_t da = wgmma_descriptor(shared->stage[s].a + a_at), db = wgmma_descriptor(shared->stage[s].b + b_at);

#pragma unroll
        for (int wave = 0; wave < Now; wave++) {
            low[wave] = a_scale[wave][0][g];
            high[wave] = a_scale[wave][1][g];
        }
        mbarrier_wait(&shared->full[s], (done + g) / L::stages & 1);
        fence_proxy_async();
#pragma unroll
        for (int wave = 0; wave < Now; wave++) {
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < ROW_BYTES / 32; k++)
                wgmma_e4m3<128>(part, da + wave * (GROUP_ROWS * ROW_BYTES / 16) + 2 * k, db + 2 * k, k > 0);
            wgmma_commit();
            wgmma_wait<0>(part);
            if (wave == Now - 1)
                release(&shared->empty[s]);
#pragma unroll
            for (int i = 0; i < 64; i++)
                sum[wave][i] += part[i] * ((i / 2 % 2 ? high[wave] : low[wave]) * (i < 32 ? left : right));
        }
    }
}

template <int MW, int NW>
static __device__ __forceinline__ void multiply_bf16(struct block_map<MW, NW, 1> *shared, int steps, unsigned done,
                                                     int a_at, int b_at, float (&sum)[64])
{
    using L = stage_map<MW, NW, 1>;
    float none[1];

    for (int step = 0; step < steps; step++) {
        int s = (done + step) % L::stages;
        uint64_t da = wgmma_descriptor(shared->stage[s].a + a_at), db = wgmma_descriptor(shared->stage[s].b + b_at);

        mbarrier_wait(&shared->full[s], (done + step) / L::stages & 1);
        fence_proxy_async();
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < ROW_BYTES / 32; k++)
            wgmma_bf16<128, false>(sum, da + 2 * k, db + 2 * k, true);
        wgmma_commit();
        if (step > 0) {
            wgmma_wait<1>(none); /* the step before is done; `sum` is still being added to */
            release(&shared->empty[(done + step - 1) % L::stages]);
        }
    }
    wgmma_wait<0>(sum);
    release(&shared->empty[(done + steps - 1) % L::stages]);
}

/* --- The kernel --------------------------------------------------------------------------------------------------- */

template <bool Fp8>
static __device__ __forceinline__ void store(const struct product &p, const struct tile_view &v, int first_row,
                                             int first_column, const float (&sum)[64])
{
    int lane = threadIdx.x % WARP;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = v.row0 + first_row + lane / 4 + 8 * half, n0 = v.n0 + first_column + 2 * (lane % 4);
        int64_t place = row * p.y_row_stride + v.head * p.y_head_stride + n0;
        bool bf16 = !Fp8 && p.y_bf16;
        bool pairs = bf16 ? (uintptr_t)(p.y_bf16 + place) % 4 == 0
                          : !p.accumulate && (uintptr_t)(p.y + place) % 8 == 0;

        if (product_row(p, row) < 0)
            continue;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            int64_t n = n0 + 8 * j;
            float left = sum[4 * j + 2 * half], right = sum[4 * j + 2 * half + 1];

            if (n + 1 < p.N && pairs && bf16) {
                *(uint32_t *)(p.y_bf16 + place + 8 * j) = bf16_pair(left, right);
            } else if (n + 1 < p.N && pairs) {
                float2 pair = {left, right};

                *(float2 *)(p.y + place + 8 * j) = pair;
            } else {
                if (n < p.N)
                    product_put<!Fp8>(p, place + 8 * j, left);
                if (n + 1 < p.N)
                    product_put<!Fp8>(p, place + 8 * j + 1, right);
            }
        }
    }
}

/* 64 rows of silu(gate) up as e4m3 with a scale a row; the other warpgroup has the other 64 columns of the group. */
static __device__ __forceinline__ void find_inner(float (&sum)[64], float *amax, int first_row)
{
    int lane = threadIdx.x % WARP;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = 0.0f;

#pragma unroll
        for (int i = 2 * half; i < 32; i += 4) {
            sum[i] = silu_times(sum[i], sum[i + 32]);
            sum[i + 1] = silu_times(sum[i + 1], sum[i + 33]);
            most = fmaxf(most, fmaxf(fabsf(sum[i]), fabsf(sum[i + 1])));
        }
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
        if (lane % 4 == 0)
            amax[first_row + lane / 4 + 8 * half] = most;
    }
}

static __device__ __forceinline__ void store_inner(const struct product &p, const struct tile_view &v, int first_row,
                                                   int group, const float (&sum)[64], float most_of_both[2])
{
    int lane = threadIdx.x % WARP;
    int64_t groups = (p.N + SCALE_GROUP - 1) / SCALE_GROUP;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = v.row0 + first_row + lane / 4 + 8 * half, n0 = v.n0 + 64 * group + 2 * (lane % 4);
        float scale = ue8m0_scale(most_of_both[half]), inverse = 1.0f / scale;

        if (product_row(p, row) < 0)
            continue;
        if (group == 0 && lane % 4 == 0)
            p.y_scale[row * groups + v.n0 / SCALE_GROUP] = scale;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 pair = {sum[4 * j + 2 * half] * inverse, sum[4 * j + 2 * half + 1] * inverse};

            if (n0 + 8 * j < p.N)
                *(uint16_t *)(p.y_codes + row * p.N + n0 + 8 * j) =
                    __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
        }
    }
}

template <bool Fp8, bool Gated, int MW, int NW, int Waves>
static __global__ void __launch_bounds__(THREADS, 1) product_wgmma(struct product p, struct tile_counts counts)
{
    after_previous();
    using L = stage_map<MW, NW, Waves>;
    DYNAMIC_SHARED(uint8_t, memory);
    struct block_map<MW, NW, Waves> *shared =
        (struct block_map<MW, NW, Waves> *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
    int group = threadIdx.x / GROUP, tiles = counts.columns * counts.rows * counts.heads;
    unsigned done = 0; /* stages: the same count in all three warpgroups */
    struct tile_view v;

    if (threadIdx.x == 0) {
        for (int s = 0; s < L::stages; s++) {
            mbarrier_init(&shared->full[s], GROUP);
            mbarrier_init(&shared->empty[s], WORKER_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (group == 2) {
        registers_lower<registers>();
        for (int number = blockIdx.x; number < tiles; number += gridDim.x)
            if (tile_of<Fp8, Gated, MW, NW, Waves>(p, counts, number, &v))
                done = load_tile<Gated>(shared, p, v, done);
        return;
    }
    registers_raise<registers>();
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
        int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
        int group_m = MW == 2 ? group : 0, group_n = NW == 2 ? group : 0;
        int a_at = group_m * GROUP_ROWS * ROW_BYTES, b_at = group_n * GROUP_COLUMNS * ROW_BYTES;
        int first_row = GROUP_ROWS * group_m + 16 * warp;
        bool all = true; /* of the waves have rows: a tile's are its first */
        float sum[Waves][64] = {};

        if (!tile_of<Fp8, Gated, MW, NW, Waves>(p, counts, number, &v))
            continue;
        if constexpr (Fp8) {
            int64_t scale_row = v.n0 / SCALE_GROUP + (Gated ? 0 : group_n);
            const float *a_scale[Waves][2], *w_scale[2];

            /* A warpgroup whose columns lie past N reads the last row of scales; its outputs are not written. */
            if (scale_row > (p.N - 1) / SCALE_GROUP)
                scale_row = (p.N - 1) / SCALE_GROUP;
            w_scale[0] = v.w_scale + scale_row * v.steps;
            w_scale[1] = Gated ? v.up_scale + scale_row * v.steps : NULL;
#pragma unroll
            for (int i = 0; i < 2 * Waves; i++) {
                int32_t row = product_row(p, v.row0 + first_row + i / 2 * GROUP_ROWS + lane / 4 + 8 * (i % 2));

                a_scale[i / 2][i % 2] = product_scales(p, row, v.head);
            }
            if (Waves > 1)
                all = product_row(p, v.row0 + GROUP_ROWS) >= 0;
            if (all)
                multiply_fp8<Gated, Waves>(shared, v.steps, done, a_at, b_at, a_scale, w_scale, sum);
            else
                multiply_fp8<Gated, 1>(shared, v.steps, done, a_at, b_at, a_scale, w_scale, sum);
        } else {
            multiply_bf16(shared, v.steps, done, a_at, b_at, sum[0]);
        }
        done += v.steps;
        if constexpr (Gated) {
#pragma unroll
            for (int wave = 0; wave < Waves; wave++)
                if (wave == 0 || all)
                    find_inner(sum[wave], shared->amax[group_n], first_row + GROUP_ROWS * wave);
            named_barrier_sync(BARRIER_WORKERS, 2 * GROUP);
        }
#pragma unroll
        for (int wave = 0; wave < Waves; wave++) {
            int row = first_row + GROUP_ROWS * wave, at = row + lane / 4;

            if (wave > 0 && !all)
                continue;
            if constexpr (Gated) {
                float most[2] = {fmaxf(shared->amax[0][at], shared->amax[1][at]),
                                 fmaxf(shared->amax[0][at + 8], shared->amax[1][at + 8])};

                store_inner(p, v, row, group_n, sum[wave], most);
            } else {
                store<Fp8>(p, v, row, GROUP_COLUMNS * group_n, sum[wave]);
            }
        }
        if (Gated)
            named_barrier_sync(BARRIER_WORKERS, 2 * GROUP); /* the maxima may be written again */
    }
}

template <bool Fp8, bool Gated, int MW, int NW, int Waves>
static enum status launch(struct ops *ops, const struct product *p, int64_t row_tiles)
{
    const int smem = (int)sizeof(struct block_map<MW, NW, Waves>) + 1024, item = Fp8 ? 1 : 2;
    struct tile_counts counts = {(int)ceil_div(p->N, Gated ? GROUP_COLUMNS : GROUP_COLUMNS * NW), (int)row_tiles,
                                 Gated ? 1 : product_matrices(*p)};
    int64_t tiles = (int64_t)counts.columns * counts.rows * counts.heads;
    int blocks = tiles > backend_of(ops)->sm_count ? backend_of(ops)->sm_count : (int)tiles;

    if (tiles > INT32_MAX / 2 || p->T * (p->x.row_stride * item / 16) >= UINT32_MAX)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops, cudaFuncSetAttribute((product_wgmma<Fp8, Gated, MW, NW, Waves>),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((product_wgmma<Fp8, Gated, MW, NW, Waves>), (unsigned)blocks, THREADS, smem, backend_of(ops)->stream, *p,
           counts);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product_wgmma(struct ops *ops, const struct product *p)
{
    int64_t tall = ceil_div(p->T, 2 * GROUP_ROWS), tiles = p->group.tile_count;
    bool grouped = p->group.row_index != NULL, few = p->group.tile_rows == GROUP_ROWS;

    if (p->y_codes)
        return launch<true, true, 1, 2, 2>(ops, p, tiles);
    if (!p->x.codes && grouped)
        return launch<false, false, 1, 2, 1>(ops, p, tiles);
    if (!p->x.codes)
        return launch<false, false, 2, 1, 1>(ops, p, tall);
    if (grouped)
        return few ? launch<true, false, 1, 2, 1>(ops, p, tiles) : launch<true, false, 1, 2, 2>(ops, p, tiles);
    return product_is_wide(tall * p->heads, p->N, backend_of(ops)->sm_count)
               ? launch<true, false, 1, 2, 2>(ops, p, tall)
               : launch<true, false, 2, 1, 1>(ops, p, tall);
}
