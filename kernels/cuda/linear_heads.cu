/* linear_heads.cu: products per head of more than 64 rows with BF16 weights, on Hopper: those around attention.
 *
 *   y[t, h, n] = bf16(sum_k bf16(x[t, h, k]) w[h, n, k]), one F32 sum;   K = 128, x F32    (across)
 *   y[t, h, n] = sum_k x[t, h, k] w[h, n, k], one F32 sum;               N = 128, x BF16   (along)
 *                the same as e4m3, a head's 128 with one scale, for an FP8 product behind   (along, codes)
 *
 * Absorption's products (V3.2: 128 heads of 512 x 128 and of 128 x 512) are the reading of x and the writing of y, and
 * little else. So each is read or written once: a head's whole weight stays in shared memory while its rows go by, and
 * rows go from memory to the registers where they are rounded, if they are not BF16, and are wgmma's A.
 *
 *   grid   tiles of 64 rows, numbered head by head, in as many even runs as there are blocks (heads_blocks() in
 *          plans.h). A block loads the weight of its first tile's head, and another at each head's border in its run.
 *          384 threads: three warpgroups, each taking every third tile by itself; they meet at a border alone
 *   smem   w as panels [N, 64 of K]: rows of 128 bytes, 128-byte swizzle; 128 KB for V3.2's. What is left of the SM's
 *          256 KB is cache, through which the rows come
 *   order  wgmma's A has columns 2q, 2q + 1, 2q + 8 and 2q + 9 of 16 in lane q of a row's four, and its sums are two
 *          neighbours each. Here a lane takes 16 bytes of x and writes 16 bytes of y. So w's columns are permuted
 *          inside each 16 of K, and its rows inside each 32 (across), 16 (along) or 64 of N (codes), on their way to
 *          shared memory
 *   lines  BF16 is read, and all is written, by lines of 128 bytes: the eight lanes of two rows read the one's, then
 *          the other's, and exchange halves; likewise for y. Of a BF16 x lanes of a row exchange fours as well, since
 *          16 bytes are eight columns of one step
 *   pipe   across: 64 columns of the next tile are on their way to 32 registers a thread while this one, rounded, is
 *          multiplied with 128 rows of w after another. along: 256 columns are on their way to 64 registers, and each
 *          64 of them that are taken are replaced by those 256 further on, or of the next tile
 *   codes  a row's 128 sums are in the registers of its four lanes: its scale takes two shuffles, and is
 *          quantise.cuh's, as the codes are: the bits that writing F32 and quantising it would give
 *   sums   k16 products in order of k, in one chain over all of K, as in linear_wgmma.cu. The order inside 16 changes
 *          nothing: with F32 on both sides every bit of 1000 rows of both shapes was linear_wgmma.cu's, on an H200
 *
 * Accumulating, and other types, are left to linear_wgmma.cu: branches cost registers.
 *
 * With F32 on both sides, on an H200, 128 heads of 512 x 128 and of 128 x 512 took 391 and 357 us for 4096 rows
 * (linear_wgmma.cu: 579 and 605), 1527 and 1391 for 16384: 83 and 91% of what a copy moves; by whole lines the second
 * took 1275, 98%. Columns as they are, by 8 bytes a lane: 1% and 13% longer at 4096 rows; blocks on all 132 SMs, most
 * of them with two heads: 5% and 4%; loads past the L1 cache: 0 and 11%; streaming stores: no change. */
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
    LATENT = 512,
    VALUE = 128,
    COLUMNS = 128, /* of y, a wgmma */
    STEP = 16,     /* of K, likewise */
    PANEL_K = 64,
    PANEL_STEPS = PANEL_K / STEP,
    QUEUE = LATENT / PANEL_K / 2, /* panels' columns of x on their way, along */
    ROW_BYTES = 128,
    STEP_UNITS = 2 * STEP / 16,            /* in descriptors, of 16 bytes: a step inside a panel */
    BLOCK_UNITS = COLUMNS * ROW_BYTES / 16 /* likewise: 128 rows of w */
};

enum form { ACROSS, ALONG, ALONG_CODES };

/* 64 columns of x of two rows of the warp's 16: g and g + 8, g = lane / 4. */
typedef float4 across_queue[PANEL_STEPS][2]; /* four columns a step */
typedef uint4 along_queue[2][2];             /* of row g (+ 8) and its neighbour: the even one first */

/* --- Weights ------------------------------------------------------------------------------------------------------ */

/* The row of w in place `c`. Lane q has the sums in places 2q and 2q + 1 of each eight: four eights are to be eight
 * neighbours in y (across), two eights four (along), eight eights sixteen (codes): 16 bytes each. */
template <enum form Form> static __device__ __forceinline__ int row_of_column(int c)
{
    const int eights = Form == ACROSS ? 4 : Form == ALONG ? 2 : 8;
    int q = c >> 1 & 3, eight = c >> 3;

    return eight / eights * 8 * eights + 2 * eights * q + 2 * (eight % eights) + (c & 1);
}

/* w [N, K] as panels. A thread takes 16 of K, one step, at a time: lane q's two pairs of columns in A are pairs q and
 * q + 4 of eight. */
template <enum form Form> static __device__ __forceinline__ void load_weight(uint8_t *panels, const __nv_bfloat16 *w)
{
    const bool Across = Form == ACROSS;
    const int N = Across ? LATENT : VALUE, K = Across ? VALUE : LATENT, steps = K / STEP;

#pragma unroll 8
    for (int at = threadIdx.x; at < N * steps; at += THREADS) {
        int row = at / steps, step = at % steps, chunk = 2 * (step % PANEL_STEPS);
        const uint4 *source = (const uint4 *)(w + row_of_column<Form>(row) * K + step * STEP);
        uint8_t *panel = panels + step / PANEL_STEPS * N * ROW_BYTES;
        uint4 l = source[0], r = source[1];

        *(uint4 *)(panel + swizzled_128(row, chunk)) =
            Across ? make_uint4(l.x, l.z, r.x, r.z) : make_uint4(l.x, r.x, l.z, r.z);
        *(uint4 *)(panel + swizzled_128(row, chunk + 1)) =
            Across ? make_uint4(l.y, l.w, r.y, r.w) : make_uint4(l.y, r.y, l.w, r.w);
    }
}

/* --- Multiplying, and storing ------------------------------------------------------------------------------------- */

/* sum += a wT over one panel begins; a fence stands before the first. */
static __device__ __forceinline__ void begin_panel(float (&sum)[64], const uint32_t (&a)[PANEL_STEPS][4], uint64_t w)
{
#pragma unroll
    for (int i = 0; i < PANEL_STEPS; i++)
        wgmma_bf16_rs<COLUMNS, false>(sum, a[i], w + i * STEP_UNITS, true);
}

static __device__ __forceinline__ void multiply(float (&sum)[64], const uint32_t (&a)[PANEL_STEPS][4], uint64_t w)
{
    wgmma_fence();
    begin_panel(sum, a, w);
    wgmma_commit();
    wgmma_wait<0>(sum);
}

/* One store of 16 bytes: of an assignment of float4 the compiler made four of four bytes, in one place of sixteen. */
static __device__ __forceinline__ void store_16(void *place, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
#ifdef DSA_CUDA_EMULATED
    *(uint4 *)place = make_uint4(a, b, c, d);
#else
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(place), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
#endif
}

/* Two pieces of a lane's row, 64 bytes in four lanes each, as whole lines: of two neighbouring rows the lanes of the
 * even one write the first halves, those of the odd one the second. `even` is this lane's place in the even row, from
 * which on y has `rows`. */
template <class T>
static __device__ __forceinline__ void store_lines(T *even, int64_t row_stride, int64_t rows,
                                                   const uint32_t (&first)[4], const uint32_t (&second)[4])
{
    bool odd = threadIdx.x & 4;
    uint32_t up[4], down[4];

#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, odd ? first[j] : second[j], 4);

        up[j] = odd ? got : first[j];
        down[j] = odd ? second[j] : got;
    }
    if (rows > 0)
        store_16(even, up[0], up[1], up[2], up[3]);
    if (rows > 1)
        store_16(even + row_stride, down[0], down[1], down[2], down[3]);
}

/* Columns n0 to n0 + 127, a line of each row at a time, so that registers become free for the next. */
template <bool Across>
static __device__ __forceinline__ void store(const struct product &p, int head, int tile, int n0,
                                             const float (&sum)[64])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    int64_t t = (int64_t)tile * TILE_ROWS + 16 * warp + lane / 8 * 2;
    int64_t place = t * p.y_row_stride + head * p.y_head_stride + n0 + (Across ? 8 : 4) * (lane % 8);
    const int half = Across ? 16 : 8; /* of both rows' sums: half a line of one */

#pragma unroll
    for (int i = 0; i < 64; i += 2 * half)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int64_t at = place + 8 * r * p.y_row_stride + 2 * i;
            uint32_t piece[2][4];

#pragma unroll
            for (int j = 0; j < 8; j++) {
                int k = i + j / 4 * half + 2 * r;

                piece[j / 4][j % 4] = Across ? bf16_pair(sum[k + j % 4 * 4], sum[k + j % 4 * 4 + 1])
                                             : __float_as_uint(sum[k + j % 4 / 2 * 4 + j % 2]);
            }
            if constexpr (Across)
                store_lines(p.y_bf16 + at, p.y_row_stride, p.T - t - 8 * r, piece[0], piece[1]);
            else
                store_lines(p.y + at, p.y_row_stride, p.T - t - 8 * r, piece[0], piece[1]);
        }
}

/* A head's 128 columns as e4m3 and their scales. A lane's sums of a row are two sixteens, 64 columns apart. */
static __device__ __forceinline__ void store_codes(const struct product &p, int head, int tile, const float (&sum)[64])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    int64_t first = (int64_t)tile * TILE_ROWS + 16 * warp, width = (int64_t)p.heads * VALUE;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        int64_t own = first + lane / 4 + 8 * r, even = first + lane / 8 * 2 + 8 * r;
        uint32_t piece[2][4];
        float amax = 0.0f, scale, inverse;

#pragma unroll
        for (int i = 2 * r; i < 64; i += 4)
            amax = fmaxf(amax, fmaxf(fabsf(sum[i]), fabsf(sum[i + 1])));
        amax = fmaxf(amax, __shfl_xor_sync(0xFFFFFFFFu, amax, 1));
        amax = fmaxf(amax, __shfl_xor_sync(0xFFFFFFFFu, amax, 2));
        scale = ue8m0_scale(amax);
        inverse = 1.0f / scale;
        if (lane % 4 == 0 && own < p.T)
            p.y_scale[own * p.heads + head] = scale;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int k = 8 * j + 2 * r;

            piece[j / 4][j % 4] = four_codes(make_float4(sum[k], sum[k + 1], sum[k + 4], sum[k + 5]), inverse);
        }
        store_lines(p.y_codes + even * width + head * VALUE + 16 * (lane % 8), width, p.T - even, piece[0], piece[1]);
    }
}

/* --- K = 128: tiles [tile, end), every third, of one head --------------------------------------------------------- */

struct row_pair {
    const float *row[2];
};

/* Rows past the last are the last once more: their sums are not stored. */
static __device__ __forceinline__ struct row_pair across_rows(const struct product &p, int head, int tile)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    struct row_pair rows;

    for (int r = 0; r < 2; r++) {
        int64_t t = (int64_t)tile * TILE_ROWS + 16 * warp + lane / 4 + 8 * r;

        t = t < p.T ? t : p.T - 1;
        rows.row[r] = p.x.plain + t * p.x.row_stride + head * p.x.head_stride + 4 * (lane % 4);
    }
    return rows;
}

static __device__ __forceinline__ void fetch(across_queue &queue, const struct row_pair &rows, int k)
{
#pragma unroll
    for (int i = 0; i < PANEL_STEPS; i++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            queue[i][r] = *(const float4 *)(rows.row[r] + k + i * STEP);
}

static __device__ __forceinline__ void take(uint32_t (&a)[PANEL_STEPS][4], const across_queue &queue)
{
#pragma unroll
    for (int i = 0; i < PANEL_STEPS; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            uint2 pairs = four_bf16(queue[i][r]);

            a[i][r] = pairs.x;
            a[i][r + 2] = pairs.y;
        }
}

/* The tile's rows become 32 registers, and N is gone through. `queue` holds the first 64 columns. */
static __device__ __forceinline__ void across(const struct product &p, int head, int tile, int end, uint64_t w,
                                              across_queue &queue)
{
    const int panel_units = LATENT * ROW_BYTES / 16;
    struct row_pair rows = across_rows(p, head, tile);

    for (; tile < end; tile += GROUPS) {
        uint32_t left[PANEL_STEPS][4], right[PANEL_STEPS][4];
        float sum[64] = {};

        take(left, queue);
        fetch(queue, rows, PANEL_K);
        multiply(sum, left, w);
        take(right, queue);
        if (tile + GROUPS < end) {
            rows = across_rows(p, head, tile + GROUPS);
            fetch(queue, rows, 0);
        }
        multiply(sum, right, w + panel_units);
        for (int n0 = 0;;) {
            store<true>(p, head, tile, n0, sum);
            n0 += COLUMNS;
            if (n0 == LATENT)
                break;
#pragma unroll
            for (int i = 0; i < 64; i++)
                sum[i] = 0.0f;
            wgmma_fence();
            begin_panel(sum, left, w + n0 * (ROW_BYTES / 16));
            begin_panel(sum, right, w + n0 * (ROW_BYTES / 16) + panel_units);
            wgmma_commit();
            wgmma_wait<0>(sum);
        }
    }
}

/* --- N = 128: likewise -------------------------------------------------------------------------------------------- */

/* Rows are read as lines of 64 columns, the even and the odd one of two neighbours by all their eight lanes: the four
 * whose row it is take its first half, the other four the second. Rows past the last are zeros. */
struct row_quad {
    const __nv_bfloat16 *even; /* where this lane begins */
    int rows;                  /* of x from there on */
};

static __device__ __forceinline__ struct row_quad along_rows(const struct product &p, int head, int tile)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP;
    int64_t t = (int64_t)tile * TILE_ROWS + 16 * warp + lane / 8 * 2;

    return {p.x.values + t * p.x.row_stride + head * p.x.head_stride + 8 * (lane % 8), (int)(p.T - t)};
}

static __device__ __forceinline__ void fetch(along_queue &queue, const struct product &p, const struct row_quad &rows,
                                             int k)
{
    int lane = threadIdx.x % WARP, to_odd = lane / 4 % 2 ? -PANEL_K / 2 : PANEL_K / 2;

#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            queue[r][odd] = {};
            if (8 * r + odd < rows.rows)
                queue[r][odd] = *(const uint4 *)(rows.even + (8 * r + odd) * p.x.row_stride + odd * to_odd + k);
        }
}

/* Of eight columns each, lanes q and q + 2 change fours, so that x and y are of one step in all four lanes, and z and w
 * of the next. */
static __device__ __forceinline__ uint4 by_steps(uint4 v)
{
    bool upper = threadIdx.x & 2;
    uint32_t x = __shfl_xor_sync(0xFFFFFFFFu, upper ? v.x : v.z, 2);
    uint32_t y = __shfl_xor_sync(0xFFFFFFFFu, upper ? v.y : v.w, 2);

    return upper ? make_uint4(x, y, v.z, v.w) : make_uint4(v.x, v.y, x, y);
}

/* A lane keeps the first half of its own row's line, and gives the second of its neighbour's for that of its own. */
static __device__ __forceinline__ void take(uint32_t (&a)[PANEL_STEPS][4], const along_queue &queue)
{
    bool odd = threadIdx.x & 4;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint4 half[2] = {odd ? queue[r][1] : queue[r][0], odd ? queue[r][0] : queue[r][1]};

        half[1].x = __shfl_xor_sync(0xFFFFFFFFu, half[1].x, 4);
        half[1].y = __shfl_xor_sync(0xFFFFFFFFu, half[1].y, 4);
        half[1].z = __shfl_xor_sync(0xFFFFFFFFu, half[1].z, 4);
        half[1].w = __shfl_xor_sync(0xFFFFFFFFu, half[1].w, 4);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 v = by_steps(half[i]);

            a[2 * i][r] = v.x;
            a[2 * i][r + 2] = v.y;
            a[2 * i + 1][r] = v.z;
            a[2 * i + 1][r + 2] = v.w;
        }
    }
}

/* K is gone through. `queue` holds the first half of it, and 64 columns that have been taken make room for those 256
 * further on, or of the next tile; behind the last tile the same ones are read once more, as they come from
 * the cache. */
template <bool Codes>
static __device__ __forceinline__ void along(const struct product &p, int head, int tile, int end, uint64_t w,
                                             along_queue (&queue)[QUEUE])
{
    struct row_quad rows = along_rows(p, head, tile);

    for (; tile < end; tile += GROUPS) {
        float sum[64] = {};

#pragma unroll
        for (int i = 0; i < 2 * QUEUE; i++) {
            uint32_t a[PANEL_STEPS][4];

            if (i == QUEUE)
                rows = along_rows(p, head, tile + GROUPS < end ? tile + GROUPS : tile);
            take(a, queue[i % QUEUE]);
            fetch(queue[i % QUEUE], p, rows, (i + QUEUE) % (2 * QUEUE) * PANEL_K);
            multiply(sum, a, w + i * BLOCK_UNITS);
        }
        if constexpr (Codes)
            store_codes(p, head, tile, sum);
        else
            store<false>(p, head, tile, 0, sum);
    }
}

/* --- The kernel --------------------------------------------------------------------------------------------------- */

template <enum form Form> static __global__ void __launch_bounds__(THREADS, 1) product_heads(struct product p)
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
        across_queue across_x;
        along_queue along_x[QUEUE];

        __syncthreads(); /* the weight of the head before is no longer read */
        load_weight<Form>(panels, (const __nv_bfloat16 *)p.w + (int64_t)head * (LATENT * VALUE));
        if (tile < end) { /* not before: the weight passes through the same registers */
            if constexpr (Form == ACROSS) {
                fetch(across_x, across_rows(p, head, tile), 0);
            } else {
                struct row_quad rows = along_rows(p, head, tile);

#pragma unroll
                for (int i = 0; i < QUEUE; i++)
                    fetch(along_x[i], p, rows, i * PANEL_K);
            }
        }
        fence_proxy_async();
        __syncthreads();
        if constexpr (Form == ACROSS)
            across(p, head, tile, end, wgmma_descriptor(panels), across_x);
        else
            along<Form == ALONG_CODES>(p, head, tile, end, wgmma_descriptor(panels), along_x);
        at += end - first;
    }
}

/* --- Launch ------------------------------------------------------------------------------------------------------- */

static bool is_across(const struct product *p)
{
    return p->x.plain && p->y_bf16 && p->N == LATENT && p->K == VALUE && p->x.row_stride % 4 == 0 &&
           p->x.head_stride % 4 == 0 && (uintptr_t)p->x.plain % 16 == 0 && p->y_row_stride % 8 == 0 &&
           p->y_head_stride % 8 == 0 && (uintptr_t)p->y_bf16 % 16 == 0;
}

static bool is_along(const struct product *p)
{
    return p->x.values && p->y && !p->accumulate && p->N == VALUE && p->K == LATENT && p->x.row_stride % 8 == 0 &&
           p->x.head_stride % 8 == 0 && (uintptr_t)p->x.values % 16 == 0 && p->y_row_stride % 4 == 0 &&
           p->y_head_stride % 4 == 0 && (uintptr_t)p->y % 16 == 0;
}

bool product_takes_heads(const struct cuda_backend *backend, const struct cuda_weight *weight, const struct product *p)
{
    return weight->dtype == DTYPE_BF16 && product_takes_wgmma(backend, weight->dtype, weight->numerics, p->K) &&
           p->heads > 1 && p->T > 64 && (is_across(p) || is_along(p)) &&
           p->N * p->K * 2 + 1024 <= (int64_t)backend->smem_per_block &&
           ceil_div(p->T, TILE_ROWS) * (int64_t)p->heads <= INT32_MAX;
}

template <enum form Form> static enum status launch(struct ops *ops, const struct product *p)
{
    int smem = (int)(p->N * p->K * 2) + 1024;
    int blocks = heads_blocks(p->heads, ceil_div(p->T, TILE_ROWS), backend_of(ops)->sm_count);

    CUDA_TRY(ops, cudaFuncSetAttribute((product_heads<Form>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((product_heads<Form>), (unsigned)blocks, THREADS, smem, backend_of(ops)->stream, *p);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product_heads(struct ops *ops, const struct product *p)
{
    if (p->x.plain)
        return launch<ACROSS>(ops, p);
    return p->y_codes ? launch<ALONG_CODES>(ops, p) : launch<ALONG>(ops, p);
}
