/* linear_wgmma.cu: FP8 products on Hopper's own FP8 tensor cores.
 *
 *   y[m, n] = sum_g (sum_{k in g} a8[m, k] w8[n, k]) sa[m, g] sw[n / 128, g],  g = 128 of K
 *
 *   grid   (N / (128 NW), row tiles of 64 MW, heads)      block 256 threads = two warpgroups of 64 x 128 outputs
 *   MW x NW = 2 x 1 (tall) or 1 x 2 (rows grouped by expert: tiles of 64 rows)
 *   smem   four stages of A [64 MW, 128] and B [128 NW, 128] bytes, 128-byte swizzle, filled by cp.async three
 *          stages ahead: 131 KB (tall) or 164 KB
 *   sums   four wgmma of k32 make one group's product in 64 registers; times sa sw they join 64 more
 * Hopper keeps about 14 bits of the products inside a group (facts: DeepGEMM); the promotion every 128 of K is what
 * the reference does as well. Bytes: A once a column of tiles, B once a row of tiles. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum { THREADS = 256, STAGES = 4, TILE_K = 128, GROUP_ROWS = 64, GROUP_COLUMNS = 128 };

template <int MW, int NW> struct stage_layout {
    static const int rows = GROUP_ROWS * MW, columns = GROUP_COLUMNS * NW;
    static const int a_bytes = rows * TILE_K, b_bytes = columns * TILE_K;
    static const int bytes = a_bytes + b_bytes;
};

/* 128 columns from k0 of `count` rows, 16 bytes a copy; row r comes from source + rows[r] * stride (rows NULL: r),
 * zeros beyond K, N and for missing rows. */
template <int Count>
static __device__ __forceinline__ void copy_tile(uint8_t *tile, const uint8_t *source, int64_t stride,
                                                 const int32_t *rows, int64_t first, int64_t limit, int64_t k0,
                                                 int64_t K)
{
#pragma unroll
    for (int i = 0; i < Count * 8 / THREADS; i++) {
        int at = (int)threadIdx.x + i * THREADS, row = at / 8, chunk = at % 8;
        int64_t from = rows ? rows[row] : first + row, k = k0 + 16 * chunk;
        bool valid = (rows ? from >= 0 : from < limit) && k < K;

        cp_async_16(tile + swizzled_128(row, chunk), source + (valid ? from * stride + k : 0), valid);
    }
}

template <int MW, int NW> static __global__ void __launch_bounds__(THREADS, 1) product_wgmma(struct product p)
{
    using L = stage_layout<MW, NW>;
    DYNAMIC_SHARED(uint8_t, memory);
    __shared__ int32_t rows[L::rows]; /* operand row of each tile row, -1: none */
    uint8_t *shared = memory + (1024 - ((uintptr_t)memory & 1023)) % 1024;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4, group = threadIdx.x / 128;
    int group_m = MW == 2 ? group : 0, group_n = NW == 2 ? group : 0, head = blockIdx.z;
    int64_t n0 = (int64_t)blockIdx.x * L::columns, tile_row = (int64_t)blockIdx.y * L::rows;
    int64_t groups = (p.K + SCALE_GROUP - 1) / SCALE_GROUP;
    int64_t scale_row = n0 / SCALE_GROUP + group_n;
    const uint8_t *a = p.x.codes + head * p.x.head_stride, *w = (const uint8_t *)p.w + head * p.N * p.K;
    const float *w_scale = p.w_scale;
    const float *a_scale[2];
    float sum[64] = {}, part[64];

    if (p.group.row_index) {
        int expert = p.group.tile_expert[blockIdx.y];

        if (expert < 0)
            return;
        w = (const uint8_t *)p.group.weights[expert];
        w_scale = p.group.scales[expert];
    }
    for (int i = threadIdx.x; i < L::rows; i += THREADS)
        rows[i] = product_row(p, tile_row + i);
    __syncthreads();
    for (int i = 0; i < 2; i++) {
        int32_t row = rows[GROUP_ROWS * group_m + 16 * warp + lane / 4 + 8 * i];

        a_scale[i] = p.x.scale + ((int64_t)(row < 0 ? 0 : row) * p.heads + head) * p.x.scale_row_stride;
    }
    /* A warpgroup whose columns lie past N reads the last row of scales; its outputs are not written. */
    if (scale_row > (p.N - 1) / SCALE_GROUP)
        scale_row = (p.N - 1) / SCALE_GROUP;

    for (int s = 0; s < STAGES - 1; s++) {
        if (s < groups) {
            copy_tile<L::rows>(shared + s * L::bytes, a, p.x.row_stride, rows, 0, 0, (int64_t)s * TILE_K, p.K);
            copy_tile<L::columns>(shared + s * L::bytes + L::a_bytes, w, p.K, NULL, n0, p.N, (int64_t)s * TILE_K, p.K);
        }
        cp_async_commit();
    }
    for (int64_t g = 0; g < groups; g++) {
        uint8_t *stage = shared + g % STAGES * L::bytes;
        int64_t next = g + STAGES - 1;
        float sw = w_scale[scale_row * groups + g], low = a_scale[0][g] * sw, high = a_scale[1][g] * sw;
        uint64_t da, db;

        cp_async_wait<STAGES - 2>();
        fence_proxy_async();
        __syncthreads(); /* stage g is there for all; stage g - 1 is no longer read */
        if (next < groups) {
            uint8_t *free_stage = shared + next % STAGES * L::bytes;

            copy_tile<L::rows>(free_stage, a, p.x.row_stride, rows, 0, 0, next * TILE_K, p.K);
            copy_tile<L::columns>(free_stage + L::a_bytes, w, p.K, NULL, n0, p.N, next * TILE_K, p.K);
        }
        cp_async_commit();
        da = wgmma_descriptor(stage + group_m * GROUP_ROWS * TILE_K);
        db = wgmma_descriptor(stage + L::a_bytes + group_n * GROUP_COLUMNS * TILE_K);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < TILE_K / 32; k++)
            wgmma_m64n128k32(part, da + 2 * k, db + 2 * k, k > 0);
        wgmma_commit();
        wgmma_wait_all(part);
#pragma unroll
        for (int i = 0; i < 64; i++)
            sum[i] += part[i] * (i / 2 % 2 ? high : low);
    }
    cp_async_wait_all();
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int row = GROUP_ROWS * group_m + 16 * warp + lane / 4 + 8 * (i / 2 % 2);
        int64_t n = n0 + GROUP_COLUMNS * group_n + 8 * (i / 4) + 2 * (lane % 4) + i % 2;

        if (rows[row] >= 0 && n < p.N) {
            float *out = p.y + (tile_row + row) * p.y_row_stride + head * p.y_head_stride + n;

            *out = p.accumulate ? *out + sum[i] : sum[i];
        }
    }
}

template <int MW, int NW> static enum status launch(struct ops *ops, const struct product *p, unsigned row_tiles)
{
    const int smem = STAGES * stage_layout<MW, NW>::bytes + 1024;
    dim3 grid(ceil_div(p->N, stage_layout<MW, NW>::columns), row_tiles, (unsigned)p->heads);

    CUDA_TRY(ops, cudaFuncSetAttribute((product_wgmma<MW, NW>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((product_wgmma<MW, NW>), grid, THREADS, smem, backend_of(ops)->stream, *p);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product_wgmma(struct ops *ops, const struct product *p)
{
    if (p->group.row_index)
        return launch<1, 2>(ops, p, (unsigned)p->group.tile_count);
    return launch<2, 1>(ops, p, ceil_div(p->T, 2 * GROUP_ROWS));
}
