/* linear_wgmma.cu: products on Hopper's warpgroup instructions, for more than a few rows.
 *
 *   FP8:   y[m, n] = sum_g (sum_{k in g} a8[m, k] w8[n, k]) sa[m, g] sw[n / 128, g],  g = 128 of K
 *   BF16:  y[m, n] = sum_k a[m, k] w[n, k], one F32 sum
 *
 *   grid   as many blocks as SMs; block b takes tiles b, b + blocks, … of [64 MW, 128 NW] outputs. 384 threads: two
 *          warpgroups of 64 x 128 outputs, one that loads: it is on with the next tile's stages while this one's sums
 *          are stored. MW x NW = 2 x 1 (tall) or 1 x 2 (rows grouped by expert: tiles of 64 rows)
 *   smem   stages of A [64 MW, 128 bytes] and B [128 NW, 128 bytes], 128-byte swizzle: six of 32 KB (tall), five of 40
 *   pipe   the loader fills a stage by cp.async, which arrives at its `full` barrier; each warp that has multiplied
 *          arrives at `empty`. The two warpgroups do not wait for each other: one's scaling runs beside the other's
 *          products
 *   sums   FP8: four wgmma of k32 make one group's product in 64 registers; times sa sw they join 64 more. BF16: four
 *          of k16 a stage, one stage in flight behind the one being issued
 *
 * Hopper keeps about 14 bits of the FP8 products inside a group (facts: DeepGEMM); the promotion every 128 of K is what
 * the reference does as well. Shared memory a stage: 48 KB read, 32 KB written, 512 cycles of products. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum {
    GROUP = 128,
    THREADS = 3 * GROUP,
    ROW_BYTES = 128, /* of K, a stage: 128 e4m3 or 64 BF16 */
    GROUP_ROWS = 64,
    GROUP_COLUMNS = 128,
    WORKER_WARPS = 8,
    BAND = 8 /* row tiles after each other before the next column tile: a wave reads a squarer part of both */
};
typedef register_split<THREADS, 104, 200> registers;

template <int MW, int NW> struct stage_map {
    static const int rows = GROUP_ROWS * MW, columns = GROUP_COLUMNS * NW;
    static const int stages = MW == 2 ? 6 : 5;
    uint8_t a[rows * ROW_BYTES], b[columns * ROW_BYTES];
};

template <int MW, int NW> struct block_map {
    struct stage_map<MW, NW> stage[stage_map<MW, NW>::stages];
    uint64_t full[stage_map<MW, NW>::stages], empty[stage_map<MW, NW>::stages];
};

/* The tiles of a product, and one of them: operands as bytes, whichever the element. */
struct tile_counts {
    int columns, rows, heads;
};

struct tile_view {
    const uint8_t *a, *w;
    const float *w_scale;
    int64_t a_stride, w_stride, n0, row0; /* bytes a row; first row of w, first row of y */
    int steps, bytes, head;               /* of K */
};

/* Tile `number` of all; false where its expert has no rows. Tiles are numbered by bands of row tiles, down the rows
 * first. */
template <bool Fp8, int MW, int NW>
static __device__ __forceinline__ bool tile_of(const struct product &p, const struct tile_counts &counts, int number,
                                               struct tile_view *v)
{
    using L = stage_map<MW, NW>;
    const int item = Fp8 ? 1 : 2;
    int one = counts.columns * counts.rows, head = number / one, in_head = number - head * one;
    int band = in_head / (BAND * counts.columns) * BAND, in_band = in_head - band * counts.columns;
    int height = min((int)BAND, counts.rows - band), column = in_band / height, tile = band + in_band - column * height;

    v->head = head;
    v->n0 = (int64_t)column * L::columns;
    v->row0 = (int64_t)tile * L::rows;
    v->bytes = (int)p.K * item;
    v->steps = (v->bytes + ROW_BYTES - 1) / ROW_BYTES;
    v->a = (Fp8 ? p.x.codes : (const uint8_t *)p.x.values) + head * p.x.head_stride * item;
    v->a_stride = p.x.row_stride * item;
    v->w = (const uint8_t *)p.w + head * p.N * p.K * item;
    v->w_stride = p.K * item;
    v->w_scale = p.w_scale;
    if (p.group.row_index) {
        int expert = product_expert(p, tile, head);

        if (expert < 0)
            return false;
        v->w = (const uint8_t *)p.group.weights[expert];
        if (Fp8)
            v->w_scale = p.group.scales[expert];
    }
    return true;
}

/* --- Loading ------------------------------------------------------------------------------------------------------ */

/* A thread copies chunk tid % 8 of rows tid / 8 + 16 i: the swizzle, by the row's last three bits, is the same for all.
 * `done`: stages filled before; returns those filled now as well. */
template <int MW, int NW>
static __device__ __forceinline__ unsigned load_tile(struct block_map<MW, NW> *shared, const struct product &p,
                                                     const struct tile_view &v, unsigned done)
{
    using L = stage_map<MW, NW>;
    const int apart = GROUP / 8;
    int first = (int)threadIdx.x % GROUP / 8, chunk = threadIdx.x % 8, place = swizzled_128(first, chunk);
    const uint8_t *a[L::rows / apart], *b[L::columns / apart]; /* NULL: zeros */

#pragma unroll
    for (int i = 0; i < L::rows / apart; i++) {
        int64_t row = product_row(p, v.row0 + first + i * apart);

        a[i] = row < 0 ? NULL : v.a + row * v.a_stride + 16 * chunk;
    }
#pragma unroll
    for (int i = 0; i < L::columns / apart; i++) {
        int64_t n = v.n0 + first + i * apart;

        b[i] = n < p.N ? v.w + n * v.w_stride + 16 * chunk : NULL;
    }
    for (int step = 0; step < v.steps; step++, done++) {
        int s = done % L::stages, k = step * ROW_BYTES;
        bool inside = k + 16 * chunk < v.bytes;

        mbarrier_wait(&shared->empty[s], (done / L::stages & 1) ^ 1);
#pragma unroll
        for (int i = 0; i < L::rows / apart; i++)
            cp_async_16(shared->stage[s].a + place + i * apart * ROW_BYTES, a[i] && inside ? a[i] + k : v.w,
                        a[i] && inside);
#pragma unroll
        for (int i = 0; i < L::columns / apart; i++)
            cp_async_16(shared->stage[s].b + place + i * apart * ROW_BYTES, b[i] && inside ? b[i] + k : v.w,
                        b[i] && inside);
        cp_async_arrive(&shared->full[s]);
    }
    return done;
}

/* --- Multiplying -------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void release(uint64_t *empty)
{
    if (threadIdx.x % WARP == 0)
        mbarrier_arrive(empty);
}

template <int MW, int NW>
static __device__ __forceinline__ void multiply_fp8(struct block_map<MW, NW> *shared, int steps, unsigned done,
                                                    int a_at, int b_at, const float *const (&a_scale)[2],
                                                    const float *w_scale, float (&sum)[64])
{
    using L = stage_map<MW, NW>;
    float part[64];

    for (int g = 0; g < steps; g++) {
        int s = (done + g) % L::stages;
        float sw = w_scale[g], low = a_scale[0][g] * sw, high = a_scale[1][g] * sw;
        uint64_t da = wgmma_descriptor(shared->stage[s].a + a_at), db = wgmma_descriptor(shared->stage[s].b + b_at);

        mbarrier_wait(&shared->full[s], (done + g) / L::stages & 1);
        fence_proxy_async();
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < ROW_BYTES / 32; k++)
            wgmma_e4m3<128>(part, da + 2 * k, db + 2 * k, k > 0);
        wgmma_commit();
        wgmma_wait<0>(part);
        release(&shared->empty[s]);
#pragma unroll
        for (int i = 0; i < 64; i++)
            sum[i] += part[i] * (i / 2 % 2 ? high : low);
    }
}

template <int MW, int NW>
static __device__ __forceinline__ void multiply_bf16(struct block_map<MW, NW> *shared, int steps, unsigned done,
                                                     int a_at, int b_at, float (&sum)[64])
{
    using L = stage_map<MW, NW>;
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

template <bool Fp8, int MW, int NW>
static __device__ __forceinline__ void store(const struct product &p, const struct tile_view &v, int first_row,
                                             int first_column, const float (&sum)[64])
{
    int lane = threadIdx.x % WARP;

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = v.row0 + first_row + lane / 4 + 8 * half, n0 = v.n0 + first_column + 2 * (lane % 4);
        float *out = p.y + row * p.y_row_stride + v.head * p.y_head_stride + n0;

        if (product_row(p, row) < 0)
            continue;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            int64_t n = n0 + 8 * j;
            float left = sum[4 * j + 2 * half], right = sum[4 * j + 2 * half + 1];

            if (n + 1 < p.N && !p.accumulate && (uintptr_t)out % 8 == 0) {
                float2 pair = {left, right};

                *(float2 *)(out + 8 * j) = pair;
            } else {
                if (n < p.N)
                    out[8 * j] = p.accumulate ? out[8 * j] + left : left;
                if (n + 1 < p.N)
                    out[8 * j + 1] = p.accumulate ? out[8 * j + 1] + right : right;
            }
        }
    }
}

template <bool Fp8, int MW, int NW>
static __global__ void __launch_bounds__(THREADS, 1) product_wgmma(struct product p, struct tile_counts counts)
{
    after_previous();
    using L = stage_map<MW, NW>;
    DYNAMIC_SHARED(uint8_t, memory);
    struct block_map<MW, NW> *shared =
        (struct block_map<MW, NW> *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
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
            if (tile_of<Fp8, MW, NW>(p, counts, number, &v))
                done = load_tile<MW, NW>(shared, p, v, done);
        return;
    }
    registers_raise<registers>();
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
        int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
        int group_m = MW == 2 ? group : 0, group_n = NW == 2 ? group : 0;
        int a_at = group_m * GROUP_ROWS * ROW_BYTES, b_at = group_n * GROUP_COLUMNS * ROW_BYTES;
        int first_row = GROUP_ROWS * group_m + 16 * warp;
        float sum[64] = {};

        if (!tile_of<Fp8, MW, NW>(p, counts, number, &v))
            continue;
        if (Fp8) {
            int64_t scale_row = v.n0 / SCALE_GROUP + group_n;
            const float *a_scale[2];

            /* A warpgroup whose columns lie past N reads the last row of scales; its outputs are not written. */
            if (scale_row > (p.N - 1) / SCALE_GROUP)
                scale_row = (p.N - 1) / SCALE_GROUP;
            for (int i = 0; i < 2; i++) {
                int32_t row = product_row(p, v.row0 + first_row + lane / 4 + 8 * i);

                a_scale[i] = product_scales(p, row, v.head);
            }
            multiply_fp8<MW, NW>(shared, v.steps, done, a_at, b_at, a_scale, v.w_scale + scale_row * v.steps, sum);
        } else {
            multiply_bf16<MW, NW>(shared, v.steps, done, a_at, b_at, sum);
        }
        done += v.steps;
        store<Fp8, MW, NW>(p, v, first_row, GROUP_COLUMNS * group_n, sum);
    }
}

template <bool Fp8, int MW, int NW>
static enum status launch(struct ops *ops, const struct product *p, unsigned row_tiles)
{
    const int smem = (int)sizeof(struct block_map<MW, NW>) + 1024;
    struct tile_counts counts = {(int)ceil_div(p->N, GROUP_COLUMNS * NW), (int)row_tiles, product_matrices(*p)};
    int64_t tiles = (int64_t)counts.columns * counts.rows * counts.heads;
    int blocks = tiles > backend_of(ops)->sm_count ? backend_of(ops)->sm_count : (int)tiles;

    if (tiles > INT32_MAX / 2)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops,
             cudaFuncSetAttribute((product_wgmma<Fp8, MW, NW>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((product_wgmma<Fp8, MW, NW>), (unsigned)blocks, THREADS, smem, backend_of(ops)->stream, *p, counts);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product_wgmma(struct ops *ops, const struct product *p)
{
    unsigned tall = ceil_div(p->T, 2 * GROUP_ROWS);

    if (p->x.codes)
        return p->group.row_index ? launch<true, 1, 2>(ops, p, (unsigned)p->group.tile_count)
                                  : launch<true, 2, 1>(ops, p, tall);
    return p->group.row_index ? launch<false, 1, 2>(ops, p, (unsigned)p->group.tile_count)
                              : launch<false, 2, 1>(ops, p, tall);
}
