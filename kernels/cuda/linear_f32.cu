/* linear_f32.cu: 2-D products with F32 weights (the router, the indexer's weights of heads): F32 multiply-adds.
 *
 *   y[m, n] = sum_p part_p,  part_p = sum_{g in p} chain_g,  chain_g = sum_{k in g} x[m, k] w[n, k]
 * g is 128 of K: one chain of fmaf from 0. A part p is 8 of them, added in ascending order, and so are the parts. All
 * forms keep that order, so a row's bits depend neither on the number of rows nor on the form.
 *
 *   rows      up to 4 rows. A block has a few outputs' whole rows of w and all of x in shared memory at once: one wait
 *             for memory; then a thread an output and group; then a thread an output and row adds the groups.
 *             grid N / outputs, 128 threads; each group of 128 floats padded by 4, so that threads lie 4 banks apart
 *   tall      tiles of 128 rows x 64 columns, 128 threads of 8 x 8 outputs; steps of 16 of K, two buffers, two blocks
 *             an SM. grid (N / 64, T / 128, parts of K): the parts' sums go through memory and a second launch adds
 *             them; or one block takes all parts and keeps its total in y, where tiles alone fill the SMs
 *   low       tiles of 32 rows x 64 columns, 256 threads of 2 x 4 outputs, one group of K each, where tall tiles would
 *             leave most SMs idle. grid (N / 64, T / 32, K / 128), and the second launch */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"

enum { ROWS_MOST = 4, ROWS_THREADS = 128, ROWS_SMEM = 160 * 1024, PADDED_GROUP = SCALE_GROUP + 4 };
enum { TILE_COLUMNS = 64, TILE_STEP = 16, ADD_THREADS = 256, TALL_BLOCKS_AN_SM = 2 };
enum { PART_GROUPS = 8, PART = PART_GROUPS * SCALE_GROUP };

/* --- A few rows -------------------------------------------------------------------------------------------------- */

/* Row `row` of `source`, columns from k0 on, to groups of shared memory; nothing past K. */
static __device__ __forceinline__ void fetch_row(float *shared, const float *source, int k0, int count)
{
    for (int i = (int)threadIdx.x * 4; i < count; i += ROWS_THREADS * 4)
        cp_async_16(shared + i / SCALE_GROUP * PADDED_GROUP + i % SCALE_GROUP, source + k0 + i, true);
}

/* shared: w [outputs, span], x [Rows, span] of padded groups, then parts [outputs, Rows, groups]. */
template <int Rows>
static __global__ void __launch_bounds__(ROWS_THREADS) rows_kernel(struct product p, int outputs, int span_groups)
{
    weights_before_previous();
    DYNAMIC_SHARED(float, shared);
    int K = (int)p.K, groups = (K + SCALE_GROUP - 1) / SCALE_GROUP, span = span_groups * PADDED_GROUP;
    float *x = shared + outputs * span, *parts = x + Rows * span;
    int64_t n0 = (int64_t)blockIdx.x * outputs;
    const float *w = (const float *)p.w;

    for (int first = 0; first < groups; first += span_groups) {
        int here = min(span_groups, groups - first), k0 = first * SCALE_GROUP, count = min(here * SCALE_GROUP, K - k0);

        for (int o = 0; o < outputs; o++)
            if (n0 + o < p.N)
                fetch_row(shared + o * span, w + (n0 + o) * p.K, k0, count);
        if (first == 0)
            after_previous(); /* x is written by it */
        for (int m = 0; m < Rows; m++)
            if (m < p.T)
                fetch_row(x + m * span, p.x.plain + m * p.x.row_stride, k0, count);
        cp_async_wait_all();
        __syncthreads();
        for (int at = threadIdx.x; at < outputs * here; at += ROWS_THREADS) {
            int o = at / here, g = at % here, length = min((int)SCALE_GROUP, count - g * SCALE_GROUP);
            const float *row = shared + o * span + g * PADDED_GROUP, *other = x + g * PADDED_GROUP;
            float part[Rows] = {};

            if (n0 + o >= p.N)
                break;
#pragma unroll 8
            for (int k = 0; k < length; k += 4) {
                float4 b = *(const float4 *)(row + k);

#pragma unroll
                for (int m = 0; m < Rows; m++) {
                    if (m < p.T) {
                        float4 a = *(const float4 *)(other + m * span + k);

                        part[m] = fmaf(a.x, b.x, part[m]);
                        part[m] = fmaf(a.y, b.y, part[m]);
                        part[m] = fmaf(a.z, b.z, part[m]);
                        part[m] = fmaf(a.w, b.w, part[m]);
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < Rows; m++)
                parts[(o * Rows + m) * groups + first + g] = part[m];
        }
        __syncthreads();
    }
    for (int at = threadIdx.x; at < outputs * Rows; at += ROWS_THREADS) {
        int64_t n = n0 + at / Rows;
        int m = at % Rows;
        float sum = 0.0f, *out;

        if (n >= p.N || m >= p.T)
            continue;
        for (int first = 0; first < groups; first += PART_GROUPS) {
            float part = 0.0f;

#pragma unroll
            for (int g = 0; g < PART_GROUPS; g++)
                if (first + g < groups)
                    part += parts[at * groups + first + g];
            sum += part;
        }
        out = p.y + m * p.y_row_stride + n;
        *out = p.accumulate ? *out + sum : sum;
    }
}

template <int Rows> static enum status launch_rows(struct ops *ops, const struct product *p)
{
    struct cuda_backend *backend = backend_of(ops);
    int groups = (int)ceil_div(p->K, SCALE_GROUP), outputs = 2, span = groups;
    size_t smem;

    /* More outputs a block where two would leave it little to do and blocks enough remain. */
    while (outputs < 16 && outputs * groups < ROWS_THREADS && p->N / (2 * outputs) >= 4 * backend->sm_count)
        outputs *= 2;
    while (span > 1 && (size_t)(outputs + Rows) * span * PADDED_GROUP * sizeof(float) > ROWS_SMEM)
        span = (span + 1) / 2;
    smem = ((size_t)(outputs + Rows) * span * PADDED_GROUP + (size_t)outputs * Rows * groups) * sizeof(float);
    if (smem > backend->smem_per_block)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops, cudaFuncSetAttribute((rows_kernel<Rows>), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem));
    LAUNCH((rows_kernel<Rows>), ceil_div(p->N, outputs), ROWS_THREADS, smem, backend->stream, *p, outputs, span);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- Tiles ---------------------------------------------------------------------------------------------------------
 */

/* Four of K of one row, or zeros. */
static __device__ __forceinline__ float4 four_of(const float *row, int64_t k, int64_t K)
{
    return row && k < K ? *(const float4 *)(row + k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

static __device__ __forceinline__ void put_four(float *column, int stride, float4 value)
{
    column[0] = value.x;
    column[stride] = value.y;
    column[2 * stride] = value.z;
    column[3 * stride] = value.w;
}

/* `Each` values of a step of shared memory: fours, `apart` after each other; or two. */
template <int Each> static __device__ __forceinline__ void get_some(float (&out)[Each], const float *from, int apart)
{
    static_assert(Each == 2 || Each % 4 == 0, "a pair or fours");
    if (Each == 2) {
        float2 pair = *(const float2 *)from;

        out[0] = pair.x;
        out[1] = pair.y;
    } else {
#pragma unroll
        for (int i = 0; i < Each / 4; i++) {
            float4 four = *(const float4 *)(from + i * apart);

            out[4 * i] = four.x;
            out[4 * i + 1] = four.y;
            out[4 * i + 2] = four.z;
            out[4 * i + 3] = four.w;
        }
    }
}

/* Threads of R x C outputs; a thread's fours of rows or columns lie a part of the tile apart, so that a warp reads
 * neighbouring fours. `span` of K a block in z, a multiple of SCALE_GROUP. parts: [gridDim.z, T, N], or NULL: one block
 * takes all of K and a PART's sum joins y as soon as it is there. */
template <int Rows, int R, int C>
static __global__ void __launch_bounds__(Rows *TILE_COLUMNS / (R * C), 256 * TALL_BLOCKS_AN_SM * R * C / (Rows * 128))
    tile_kernel(struct product p, float *parts, int64_t span)
{
    after_previous();
    const int threads = Rows * TILE_COLUMNS / (R * C), across = TILE_COLUMNS / C, down = Rows / R;
    const int stride_a = Rows + 4, stride_b = TILE_COLUMNS + 4;
    const int at_once = threads * 4 / TILE_STEP; /* rows of a step that all threads load at once */
    const int loads_a = (Rows + at_once - 1) / at_once, loads_b = (TILE_COLUMNS + at_once - 1) / at_once;
    __shared__ __align__(16) float A[2][TILE_STEP * (Rows + 4)], B[2][TILE_STEP * (TILE_COLUMNS + 4)];
    int tx = threadIdx.x % across, ty = threadIdx.x / across, a_at = (R < 4 ? R : 4) * ty, b_at = 4 * tx;
    int load_row = threadIdx.x / (TILE_STEP / 4), load_k = threadIdx.x % (TILE_STEP / 4) * 4;
    int64_t n0 = (int64_t)blockIdx.x * TILE_COLUMNS, m0 = (int64_t)blockIdx.y * Rows;
    int64_t begin = (int64_t)blockIdx.z * span, end = min(p.K, begin + span);
    const float *w[loads_b], *x[loads_a];
    float4 next_a[loads_a], next_b[loads_b];
    float sum[R][C] = {}, chain[R][C] = {};
    int buffer = 0;

#pragma unroll
    for (int i = 0; i < loads_a; i++) {
        int row = load_row + i * at_once;

        x[i] = row < Rows && m0 + row < p.T ? p.x.plain + (m0 + row) * p.x.row_stride : NULL;
        next_a[i] = four_of(x[i], begin + load_k, end);
    }
#pragma unroll
    for (int i = 0; i < loads_b; i++) {
        int row = load_row + i * at_once;

        w[i] = row < TILE_COLUMNS && n0 + row < p.N ? (const float *)p.w + (n0 + row) * p.K : NULL;
        next_b[i] = four_of(w[i], begin + load_k, end);
    }
    for (int64_t k0 = begin; k0 < end; k0 += TILE_STEP, buffer ^= 1) {
#pragma unroll
        for (int i = 0; i < loads_a; i++)
            if (load_row + i * at_once < Rows)
                put_four(&A[buffer][load_k * stride_a + load_row + i * at_once], stride_a, next_a[i]);
#pragma unroll
        for (int i = 0; i < loads_b; i++)
            if (load_row + i * at_once < TILE_COLUMNS)
                put_four(&B[buffer][load_k * stride_b + load_row + i * at_once], stride_b, next_b[i]);
        __syncthreads(); /* also: nobody reads this buffer of two steps ago any more */
#pragma unroll
        for (int i = 0; i < loads_a; i++)
            next_a[i] = four_of(x[i], k0 + TILE_STEP + load_k, end);
#pragma unroll
        for (int i = 0; i < loads_b; i++)
            next_b[i] = four_of(w[i], k0 + TILE_STEP + load_k, end);
#pragma unroll
        for (int k = 0; k < TILE_STEP; k++) {
            float a[R], b[C];

            get_some<R>(a, &A[buffer][k * stride_a + a_at], 4 * down);
            get_some<C>(b, &B[buffer][k * stride_b + b_at], 4 * across);
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < C; j++)
                    chain[i][j] = fmaf(a[i], b[j], chain[i][j]);
        }
        if ((k0 + TILE_STEP) % SCALE_GROUP && k0 + TILE_STEP < end)
            continue;
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < C; j++) {
                sum[i][j] += chain[i][j];
                chain[i][j] = 0.0f;
            }
        if ((k0 + TILE_STEP) % PART && k0 + TILE_STEP < end)
            continue;
#pragma unroll
        for (int i = 0; i < R; i++) {
            int64_t row = m0 + a_at + i / 4 * (4 * down) + i % 4;

#pragma unroll
            for (int j = 0; j < C; j++) {
                int64_t n = n0 + b_at + j / 4 * (4 * across) + j % 4;
                float *out = parts ? parts + (blockIdx.z * p.T + row) * p.N + n : p.y + row * p.y_row_stride + n;

                if (row < p.T && n < p.N)
                    *out = !parts && (k0 >= PART || p.accumulate) ? *out + sum[i][j] : sum[i][j];
                sum[i][j] = 0.0f;
            }
        }
    }
}

/* parts: of `each` groups, 1 or PART_GROUPS. */
static __global__ void __launch_bounds__(ADD_THREADS)
    add_parts_kernel(struct product p, const float *parts, int count, int each)
{
    after_previous();
    int64_t at = (int64_t)blockIdx.x * ADD_THREADS + threadIdx.x, all = p.T * p.N;
    int together = PART_GROUPS / each;
    float total = 0.0f, *out;

    if (at >= all)
        return;
    for (int first = 0; first < count; first += together) {
        float sum = 0.0f;

#pragma unroll
        for (int i = 0; i < PART_GROUPS; i++)
            if (i < together && first + i < count)
                sum += parts[(first + i) * all + at];
        total += sum;
    }
    out = p.y + at / p.N * p.y_row_stride + at % p.N;
    *out = p.accumulate ? *out + total : total;
}

/* --- Launch --------------------------------------------------------------------------------------------------------
 */

bool product_takes_f32(const struct product *p, enum dtype dtype)
{
    return dtype == DTYPE_F32 && p->heads == 1 && !p->group.row_index && p->K % 4 == 0 && p->x.row_stride % 4 == 0 &&
           (uintptr_t)p->x.plain % 16 == 0 && (uintptr_t)p->w % 16 == 0;
}

/* Whether blocks of whole rows of K fill the SMs about as well as blocks of one part of it. */
static bool fills(const struct cuda_backend *backend, int64_t tiles)
{
    int64_t slots = (int64_t)TALL_BLOCKS_AN_SM * backend->sm_count, waves = (tiles + slots - 1) / slots;

    return 10 * tiles >= 9 * waves * slots || waves > 3;
}

template <int Rows, int R, int C>
static enum status launch_tiles(struct ops *ops, const struct product *p, int64_t span)
{
    unsigned columns = ceil_div(p->N, TILE_COLUMNS), rows = ceil_div(p->T, Rows), count = ceil_div(p->K, span);
    cudaStream_t stream = backend_of(ops)->stream;
    void *parts = NULL;
    enum status status;

    if (count > 1) {
        status = cuda_scratch(ops, SCRATCH_A, (size_t)count * p->T * p->N * sizeof(float), &parts);
        if (status)
            return status;
    }
    LAUNCH((tile_kernel<Rows, R, C>), dim3(columns, rows, count), Rows * TILE_COLUMNS / (R * C), 0, stream, *p,
           (float *)parts, span);
    CUDA_LAUNCHED(ops);
    if (!parts)
        return STATUS_OK;
    LAUNCH((add_parts_kernel), ceil_div(p->T * p->N, ADD_THREADS), ADD_THREADS, 0, stream, *p, (const float *)parts,
           (int)count, (int)(span / SCALE_GROUP));
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product_f32(struct ops *ops, const struct product *p)
{
    struct cuda_backend *backend = backend_of(ops);
    int64_t groups = ceil_div(p->K, SCALE_GROUP), parts = ceil_div(p->K, PART);
    int64_t tall = (int64_t)ceil_div(p->N, TILE_COLUMNS) * ceil_div(p->T, 128);
    enum status status;

    if (p->T <= ROWS_MOST) {
        status = p->T == 1   ? launch_rows<1>(ops, p)
                 : p->T == 2 ? launch_rows<2>(ops, p)
                             : launch_rows<ROWS_MOST>(ops, p);
        if (status != STATUS_UNSUPPORTED)
            return status;
    }
    if (4 * tall * parts < 3 * backend->sm_count && groups <= 65535)
        return launch_tiles<32, 2, 4>(ops, p, SCALE_GROUP);
    /* A total that is kept in y cannot be added to what was there. */
    if (parts > 65535 || (fills(backend, tall) && !p->accumulate))
        return launch_tiles<128, 8, 8>(ops, p, groups * SCALE_GROUP);
    return launch_tiles<128, 8, 8>(ops, p, PART);
}
