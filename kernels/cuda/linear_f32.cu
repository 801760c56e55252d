/* linear_f32.cu: 2-D products with F32 weights (the router, the indexer's weights of heads): F32 multiply-adds.
 *
 *   y[m, n] = sum_g part_g,  part_g = sum_{k in g} x[m, k] w[n, k]
 * g is 128 of K: one chain of fmaf from 0 inside a group, groups added in ascending order. All forms keep that chain,
 * so a row's bits depend neither on the number of rows nor on the form.
 *
 *   rows      up to 4 rows. A block has a few outputs' whole rows of w and all of x in shared memory at once: one wait
 *             for memory; then a thread an output and group; then a thread an output and row adds the groups.
 *             grid N / outputs, 128 threads; each group of 128 floats padded by 4, so that threads lie 4 banks apart
 *   tile      32 or 128 rows x 64 columns, 256 threads of 2 x 4 or 8 x 4 outputs; steps of 16 of K, two buffers.
 *             grid (N / 64, T / rows)
 *   groups    a tile of 32 rows for each group of K, where tiles alone would leave most SMs idle: the groups' parts go
 *             through memory and a second launch adds them. grid (N / 64, T / 32, K / 128) */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"

enum { ROWS_MOST = 4, ROWS_THREADS = 128, ROWS_SMEM = 160 * 1024, PADDED_GROUP = SCALE_GROUP + 4 };
enum { TILE_COLUMNS = 64, TILE_STEP = 16, TILE_THREADS = 256, ADD_THREADS = 256 };

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
#pragma unroll 8
        for (int g = 0; g < groups; g++)
            sum += parts[at * groups + g];
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

/* parts: [groups, T, N] where each block has one group, else NULL. */
template <int Rows> static __global__ void __launch_bounds__(TILE_THREADS) tile_kernel(struct product p, float *parts)
{
    const int stride_a = Rows + 4, stride_b = TILE_COLUMNS + 4;
    const int each = Rows / 16; /* rows a thread */
    const int loads = (Rows * TILE_STEP / 4 + TILE_THREADS - 1) / TILE_THREADS;
    __shared__ __align__(16) float A[2][TILE_STEP * (Rows + 4)], B[2][TILE_STEP * (TILE_COLUMNS + 4)];
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int load_row = threadIdx.x / (TILE_STEP / 4), load_k = threadIdx.x % (TILE_STEP / 4) * 4;
    int64_t n0 = (int64_t)blockIdx.x * TILE_COLUMNS, m0 = (int64_t)blockIdx.y * Rows;
    int64_t begin = parts ? (int64_t)blockIdx.z * SCALE_GROUP : 0;
    int64_t end = parts ? min(p.K, begin + SCALE_GROUP) : p.K;
    const float *w = n0 + load_row < p.N ? (const float *)p.w + (n0 + load_row) * p.K : NULL;
    const float *x[loads];
    float4 next_a[loads], next_b;
    float sum[each][4] = {}, part[each][4] = {};
    int buffer = 0;

#pragma unroll
    for (int i = 0; i < loads; i++) {
        int row = load_row + i * (TILE_THREADS * 4 / TILE_STEP);

        x[i] = row < Rows && m0 + row < p.T ? p.x.plain + (m0 + row) * p.x.row_stride : NULL;
        next_a[i] = four_of(x[i], begin + load_k, end);
    }
    next_b = four_of(w, begin + load_k, end);
    for (int64_t k0 = begin; k0 < end; k0 += TILE_STEP, buffer ^= 1) {
#pragma unroll
        for (int i = 0; i < loads; i++) {
            int row = load_row + i * (TILE_THREADS * 4 / TILE_STEP);

            if (row < Rows)
                put_four(&A[buffer][load_k * stride_a + row], stride_a, next_a[i]);
        }
        put_four(&B[buffer][load_k * stride_b + load_row], stride_b, next_b);
        __syncthreads(); /* also: nobody reads this buffer of two steps ago any more */
#pragma unroll
        for (int i = 0; i < loads; i++)
            next_a[i] = four_of(x[i], k0 + TILE_STEP + load_k, end);
        next_b = four_of(w, k0 + TILE_STEP + load_k, end);
#pragma unroll
        for (int k = 0; k < TILE_STEP; k++) {
            float4 b = *(const float4 *)&B[buffer][k * stride_b + 4 * tx];
            float a[each];

#pragma unroll
            for (int i = 0; i < each; i += each < 4 ? 2 : 4) {
                /* Rows 4 ty and 64 + 4 ty on of 128; 2 ty on of 32. */
                if (each < 4) {
                    float2 pair = *(const float2 *)&A[buffer][k * stride_a + 2 * ty];

                    a[i] = pair.x;
                    a[i + 1] = pair.y;
                } else {
                    float4 four = *(const float4 *)&A[buffer][k * stride_a + i / 4 * 64 + 4 * ty];

                    a[i] = four.x;
                    a[i + 1] = four.y;
                    a[(i + 2) % each] = four.z;
                    a[(i + 3) % each] = four.w;
                }
            }
#pragma unroll
            for (int i = 0; i < each; i++) {
                part[i][0] = fmaf(a[i], b.x, part[i][0]);
                part[i][1] = fmaf(a[i], b.y, part[i][1]);
                part[i][2] = fmaf(a[i], b.z, part[i][2]);
                part[i][3] = fmaf(a[i], b.w, part[i][3]);
            }
        }
        if ((k0 + TILE_STEP) % SCALE_GROUP == 0 || k0 + TILE_STEP >= end) {
#pragma unroll
            for (int i = 0; i < each; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sum[i][j] += part[i][j];
                    part[i][j] = 0.0f;
                }
        }
    }
#pragma unroll
    for (int i = 0; i < each; i++) {
        int64_t row = m0 + (each < 4 ? 2 * ty + i : i / 4 * 64 + 4 * ty + i % 4);

#pragma unroll
        for (int j = 0; j < 4; j++) {
            int64_t n = n0 + 4 * tx + j;

            if (row >= p.T || n >= p.N)
                continue;
            if (parts) {
                parts[(blockIdx.z * p.T + row) * p.N + n] = sum[i][j];
            } else {
                float *out = p.y + row * p.y_row_stride + n;

                *out = p.accumulate ? *out + sum[i][j] : sum[i][j];
            }
        }
    }
}

static __global__ void __launch_bounds__(ADD_THREADS)
    add_groups_kernel(struct product p, const float *parts, int groups)
{
    int64_t at = (int64_t)blockIdx.x * ADD_THREADS + threadIdx.x;
    float sum = 0.0f, *out;

    if (at >= p.T * p.N)
        return;
#pragma unroll 8
    for (int g = 0; g < groups; g++)
        sum += parts[g * p.T * p.N + at];
    out = p.y + at / p.N * p.y_row_stride + at % p.N;
    *out = p.accumulate ? *out + sum : sum;
}

/* --- Launch --------------------------------------------------------------------------------------------------------
 */

bool product_takes_f32(const struct product *p, enum dtype dtype)
{
    return dtype == DTYPE_F32 && p->heads == 1 && !p->group.row_index && p->K % 4 == 0 && p->x.row_stride % 4 == 0 &&
           (uintptr_t)p->x.plain % 16 == 0 && (uintptr_t)p->w % 16 == 0;
}

enum status cuda_product_f32(struct ops *ops, const struct product *p)
{
    struct cuda_backend *backend = backend_of(ops);
    unsigned columns = ceil_div(p->N, TILE_COLUMNS), groups = ceil_div(p->K, SCALE_GROUP);
    unsigned tall = ceil_div(p->T, 128), low = ceil_div(p->T, 32);
    void *parts;
    enum status status;

    if (p->T <= ROWS_MOST) {
        status = p->T == 1   ? launch_rows<1>(ops, p)
                 : p->T == 2 ? launch_rows<2>(ops, p)
                             : launch_rows<ROWS_MOST>(ops, p);
        if (status != STATUS_UNSUPPORTED)
            return status;
    }
    if (4 * (int64_t)columns * tall >= 3 * backend->sm_count) {
        LAUNCH((tile_kernel<128>), dim3(columns, tall), TILE_THREADS, 0, backend->stream, *p, (float *)NULL);
    } else if (2 * (int64_t)columns * low >= backend->sm_count || groups == 1 || groups > 65535) {
        LAUNCH((tile_kernel<32>), dim3(columns, low), TILE_THREADS, 0, backend->stream, *p, (float *)NULL);
    } else {
        status = cuda_scratch(ops, SCRATCH_A, (size_t)groups * p->T * p->N * sizeof(float), &parts);
        if (status)
            return status;
        LAUNCH((tile_kernel<32>), dim3(columns, low, groups), TILE_THREADS, 0, backend->stream, *p, (float *)parts);
        CUDA_LAUNCHED(ops);
        LAUNCH((add_groups_kernel), ceil_div(p->T * p->N, ADD_THREADS), ADD_THREADS, 0, backend->stream, *p,
               (const float *)parts, (int)groups);
    }
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
