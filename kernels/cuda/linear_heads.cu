/* linear_heads.cu: products per head of more than 64 rows with BF16 weights, on Hopper.
 *
 *   y[t, h, n] = sum_k bf16(x[t, h, k]) w[h, n, k], one F32 sum;   K = 128, or N = 128
 *
 * Absorption's products (V3.2: 128 heads of 512 x 128 and of 128 x 512) are the reading of x and the writing of y, both
 * F32, and little else. So each is read or written once: a head's whole weight stays in shared memory while its rows go
 * by, and rows go from memory to the registers where they are rounded and are wgmma's A. No copy of x as BF16 is made.
 *
 *   grid   tiles of 64 rows, numbered head by head, in as many even runs as there are blocks (heads_blocks() in
 *          plans.h). A block loads the weight of its first tile's head, and another at each head's border in its run.
 *          384 threads: three warpgroups, each taking every third tile by itself; they meet at a border alone
 *   smem   w as panels [N, 64 of K]: rows of 128 bytes, 128-byte swizzle; 128 KB for V3.2's. What is left of the SM's
 *          256 KB is cache, through which the rows come
 *   order  wgmma's A has columns 2q, 2q + 1, 2q + 8 and 2q + 9 of 16 in lane q of a row's four, and its sums are two
 *          neighbours each. Here a lane takes columns 4q to 4q + 3, and writes four neighbours: 16 bytes a lane and 64
 *          a row at a time. So w's columns are permuted inside each 16 of K, and its rows inside each 16 of N, on their
 *          way to shared memory
 *   pipe   K = 128 (across): 64 columns of the next tile are on their way to 32 registers a thread while this one,
 *          rounded, is multiplied with 128 rows of w after another. N = 128 (along): 128 columns are on their way to 64
 *          registers, and each 32 of them that are rounded are replaced by those 128 further on, or of the next tile
 *   sums   k16 products in order of k, in one chain over all of K, as in linear_wgmma.cu. The order inside 16 changes
 *          nothing: every bit of 1000 rows of both shapes was linear_wgmma.cu's, on an H200
 *
 * Multiplying takes a quarter of the time in which x and y can be moved: each product waits for its end. Accumulating
 * is left to linear_wgmma.cu: its branches cost registers.
 *
 * On an H200 128 heads of 512 x 128 and of 128 x 512 take 391 and 357 us for 4096 rows (linear_wgmma.cu: 579 and 605),
 * 1527 and 1391 for 16384: 83 and 91% of what a copy moves. Columns as they are, by 8 bytes a lane: 1% and 13% longer
 * at 4096 rows; blocks on all 132 SMs, most of them with two heads: 5% and 4%; loads past the L1 cache: 0 and 11%;
 * streaming stores: no change. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum {
    GROUP = 128,
    GROUPS = 3,
    THREADS = GROUPS * GROUP,
    TILE_ROWS = 64,
    COLUMNS = 128, /* of y, a wgmma */
    STEP = 16,     /* of K, likewise */
    QUEUE = 8,     /* steps of x on their way at most */
    HALF = QUEUE / 2,
    QUEUE_K = QUEUE * STEP,
    PANEL_K = 64,
    ROW_BYTES = 128,
    STEP_UNITS = 2 * STEP / 16,            /* in descriptors, of 16 bytes: a step inside a panel */
    BLOCK_UNITS = COLUMNS * ROW_BYTES / 16 /* likewise: 128 rows of w */
};

/* Of rows g and g + 8 of the warp's 16, g = lane / 4: four columns a step. */
template <int Steps> using row_queue = float4[Steps][2];

struct row_pair {
    const float *row[2];
};

/* --- Weights ------------------------------------------------------------------------------------------------------ */

/* The row of w in place `c`: for lane q, columns 2q, 2q + 1, 2q + 8, 2q + 9 of 16 are neighbours in y. */
static __device__ __forceinline__ int row_of_column(int c)
{
    return (c & ~15) + 4 * (c >> 1 & 3) + 2 * (c >> 3 & 1) + (c & 1);
}

/* w [N, K] as panels. A thread takes 16 of K at a time. */
static __device__ __forceinline__ void load_weight(uint8_t *panels, const __nv_bfloat16 *w, int N, int K)
{
    int steps = K / STEP;

    for (int at = threadIdx.x; at < N * steps; at += THREADS) {
        int c = at / steps, step = at - c * steps, chunk = 2 * (step % (PANEL_K / STEP));
        const uint4 *source = (const uint4 *)(w + (int64_t)row_of_column(c) * K + step * STEP);
        uint8_t *panel = panels + step / (PANEL_K / STEP) * N * ROW_BYTES;
        uint4 left = source[0], right = source[1];

        *(uint4 *)(panel + swizzled_128(c, chunk)) = make_uint4(left.x, left.z, right.x, right.z);
        *(uint4 *)(panel + swizzled_128(c, chunk + 1)) = make_uint4(left.y, left.w, right.y, right.w);
    }
}

/* --- Rows --------------------------------------------------------------------------------------------------------- */

/* Rows past the last are the last once more: their sums are not stored. */
static __device__ __forceinline__ struct row_pair rows_of(const struct product &p, int head, int tile)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    struct row_pair rows;

    for (int i = 0; i < 2; i++) {
        int64_t t = (int64_t)tile * TILE_ROWS + 16 * warp + lane / 4 + 8 * i;

        t = t < p.T ? t : p.T - 1;
        rows.row[i] = p.x.plain + t * p.x.row_stride + head * p.x.head_stride + 4 * (lane % 4);
    }
    return rows;
}

/* Steps First … of those from column k on. */
template <int First, int Count, int Steps>
static __device__ __forceinline__ void fetch(float4 (&queue)[Steps][2], const struct row_pair &rows, int k)
{
#pragma unroll
    for (int i = First; i < First + Count; i++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            queue[i][r] = *(const float4 *)(rows.row[r] + k + i * STEP);
}

template <int First, int Count, int Steps>
static __device__ __forceinline__ void round_steps(uint32_t (&a)[Count][4], const float4 (&queue)[Steps][2])
{
#pragma unroll
    for (int i = 0; i < Count; i++) {
        uint2 low = four_bf16(queue[First + i][0]), high = four_bf16(queue[First + i][1]);

        a[i][0] = low.x;
        a[i][1] = high.x;
        a[i][2] = low.y;
        a[i][3] = high.y;
    }
}

/* sum += a wT over steps of one panel, from the one that w points to on. */
template <int Count>
static __device__ __forceinline__ void multiply(float (&sum)[64], const uint32_t (&a)[Count][4], uint64_t w)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < Count; i++)
        wgmma_bf16_rs<COLUMNS, false>(sum, a[i], w + i * STEP_UNITS, true);
    wgmma_commit();
    wgmma_wait<0>(sum);
}

/* One store of 16 bytes: of an assignment of float4 the compiler made four of four bytes, in one place of sixteen. */
static __device__ __forceinline__ void store_four(float *place, float a, float b, float c, float d)
{
#ifdef DSA_CUDA_EMULATED
    *(float4 *)place = make_float4(a, b, c, d);
#else
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(place), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#endif
}

static __device__ __forceinline__ void store(const struct product &p, int head, int tile, int n0,
                                             const float (&sum)[64])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    int64_t t = (int64_t)tile * TILE_ROWS + 16 * warp + lane / 4;
    float *low = p.y + t * p.y_row_stride + head * p.y_head_stride + n0 + 4 * (lane % 4);
    float *high = low + 8 * p.y_row_stride;

    /* Eight sums at a time, so that registers become free for the next fours. */
#pragma unroll
    for (int i = 0; i < 64; i += 8) {
        if (t < p.T)
            store_four(low + 2 * i, sum[i], sum[i + 1], sum[i + 4], sum[i + 5]);
        if (t + 8 < p.T)
            store_four(high + 2 * i, sum[i + 2], sum[i + 3], sum[i + 6], sum[i + 7]);
    }
}

/* --- Tiles [tile, end), every third, of one head ------------------------------------------------------------------ */

/* K = 128: the tile's rows become 32 registers, and N is gone through. `queue` holds the first 64 columns. */
static __device__ __forceinline__ void across(const struct product &p, int head, int tile, int end, uint64_t w,
                                              row_queue<HALF> &queue)
{
    int panel_units = (int)p.N * ROW_BYTES / 16;
    struct row_pair rows = rows_of(p, head, tile);

    for (; tile < end; tile += GROUPS) {
        uint32_t left[HALF][4], right[HALF][4];
        float sum[64] = {};

        round_steps<0>(left, queue);
        fetch<0, HALF>(queue, rows, PANEL_K);
        multiply(sum, left, w);
        round_steps<0>(right, queue);
        if (tile + GROUPS < end) {
            rows = rows_of(p, head, tile + GROUPS);
            fetch<0, HALF>(queue, rows, 0);
        }
        multiply(sum, right, w + panel_units);
        for (int n0 = 0;;) {
            store(p, head, tile, n0, sum);
            n0 += COLUMNS;
            if (n0 == (int)p.N)
                break;
#pragma unroll
            for (int i = 0; i < 64; i++)
                sum[i] = 0.0f;
            multiply(sum, left, w + n0 * (ROW_BYTES / 16));
            multiply(sum, right, w + n0 * (ROW_BYTES / 16) + panel_units);
        }
    }
}

template <int Part>
static __device__ __forceinline__ void along_part(row_queue<QUEUE> &queue, const struct row_pair &rows, int next,
                                                  float (&sum)[64], uint64_t w)
{
    uint32_t a[2][4];

    round_steps<2 * Part>(a, queue);
    fetch<2 * Part, 2>(queue, rows, next);
    multiply(sum, a, w + Part % 2 * 2 * STEP_UNITS);
}

/* N = 128: K is gone through. `queue` holds the first 128 columns, and each 32 of them make room for those 128 columns
 * further, or of the next tile; behind the last tile the same ones are read once more, as they come from the cache. */
static __device__ __forceinline__ void along(const struct product &p, int head, int tile, int end, uint64_t w,
                                             row_queue<QUEUE> &queue)
{
    struct row_pair rows = rows_of(p, head, tile);

    for (; tile < end; tile += GROUPS) {
        float sum[64] = {};
        int k = 0;

        do {
            int next = k + QUEUE_K;

            if (next == (int)p.K) {
                next = tile + GROUPS < end ? 0 : k;
                rows = rows_of(p, head, tile + GROUPS < end ? tile + GROUPS : tile);
            }
            along_part<0>(queue, rows, next, sum, w);
            along_part<1>(queue, rows, next, sum, w);
            along_part<2>(queue, rows, next, sum, w + BLOCK_UNITS);
            along_part<3>(queue, rows, next, sum, w + BLOCK_UNITS);
            w += 2 * BLOCK_UNITS;
            k += QUEUE_K;
        } while (k < (int)p.K);
        w -= (int)p.K / PANEL_K * BLOCK_UNITS;
        store(p, head, tile, 0, sum);
    }
}

/* --- The kernel --------------------------------------------------------------------------------------------------- */

template <bool Across> static __global__ void __launch_bounds__(THREADS, 1) product_heads(struct product p)
{
    after_previous();
    DYNAMIC_SHARED(uint8_t, memory);
    uint8_t *panels = memory + (1024 - ((uintptr_t)memory & 1023)) % 1024;
    int tiles = (int)((p.T + TILE_ROWS - 1) / TILE_ROWS);
    int all = tiles * p.heads, each = all / (int)gridDim.x, more = all - each * (int)gridDim.x;
    int at = each * (int)blockIdx.x + min((int)blockIdx.x, more), stop = at + each + ((int)blockIdx.x < more);

    while (WGMMA_HERE && at < stop) {
        int head = at / tiles, first = at - head * tiles, end = min(first + stop - at, tiles);
        int tile = first + (int)threadIdx.x / GROUP;
        row_queue<Across ? HALF : QUEUE> queue;

        if (tile < end)
            fetch<0, Across ? HALF : QUEUE>(queue, rows_of(p, head, tile), 0);
        __syncthreads(); /* the weight of the head before is no longer read */
        load_weight(panels, (const __nv_bfloat16 *)p.w + head * p.N * p.K, (int)p.N, (int)p.K);
        fence_proxy_async();
        __syncthreads();
        if constexpr (Across)
            across(p, head, tile, end, wgmma_descriptor(panels), queue);
        else
            along(p, head, tile, end, wgmma_descriptor(panels), queue);
        at += end - first;
    }
}

/* --- Launch ------------------------------------------------------------------------------------------------------- */

bool product_takes_heads(const struct cuda_backend *backend, const struct cuda_weight *weight, const struct product *p)
{
    return weight->dtype == DTYPE_BF16 && product_takes_wgmma(backend, weight->dtype, weight->numerics, p->K) &&
           p->heads > 1 && p->T > 64 && !p->accumulate && p->N > 0 && p->N % COLUMNS == 0 && p->K > 0 &&
           p->K % QUEUE_K == 0 && (p->N == COLUMNS || p->K == QUEUE_K) &&
           p->N * p->K * 2 + 1024 <= (int64_t)backend->smem_per_block &&
           ceil_div(p->T, TILE_ROWS) * (int64_t)p->heads <= INT32_MAX && p->x.row_stride % 4 == 0 &&
           p->x.head_stride % 4 == 0 && (uintptr_t)p->x.plain % 16 == 0 && p->y_row_stride % 4 == 0 &&
           p->y_head_stride % 4 == 0 && (uintptr_t)p->y % 16 == 0;
}

template <bool Across> static enum status launch(struct ops *ops, const struct product *p)
{
    int smem = (int)(p->N * p->K * 2) + 1024;
    int blocks = heads_blocks(p->heads, ceil_div(p->T, TILE_ROWS), backend_of(ops)->sm_count);

    CUDA_TRY(ops, cudaFuncSetAttribute((product_heads<Across>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((product_heads<Across>), (unsigned)blocks, THREADS, smem, backend_of(ops)->stream, *p);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product_heads(struct ops *ops, const struct product *p)
{
    return p->N == COLUMNS ? launch<false>(ops, p) : launch<true>(ops, p);
}
