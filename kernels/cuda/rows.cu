/* rows.cu: the ops on rows of the residual stream: embedding, norms, add, SwiGLU, RoPE, Hadamard.
 *
 * All are bound by memory: each value is read once and written once. One block a row (norms), one warp a row (Hadamard
 * of 128), or one thread four elements or a pair; row strides are free, the last stride is 1. Forms that read four
 * elements at a time take rows that start on 16 bytes; plain ones take the others. Fusing a norm with quantisation and
 * RoPE with the cache write is kernels/cuda/README.md, "What is next". */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

enum { ROW_THREADS = 256 };

/* Whether rows of a tensor start on 16 bytes. */
static bool in_fours(const struct tensor *t)
{
    return t->dims[t->dim_count - 1] % 4 == 0 && t->strides[0] % 4 == 0 && (uintptr_t)t->data % 16 == 0;
}

/* Calls whose elements a 32-bit index can count: its divisions are a fraction of the 64-bit ones' cost. */
static bool counts_in_32(int64_t count)
{
    return count <= INT32_MAX - ROW_THREADS;
}

/* --- Embedding: grid T, block 256 ----------------------------------------------------------------------- */

template <typename Element>
static __global__ void embed_kernel(const Element *table, int64_t table_stride, const int32_t *tokens, float *y,
                                    int64_t y_stride, int D)
{
    const Element *row = table + (int64_t)tokens[blockIdx.x] * table_stride;

    for (int d = threadIdx.x; d < D; d += blockDim.x)
        y[blockIdx.x * y_stride + d] = (float)row[d];
}

enum status cuda_embed(struct ops *ops, const struct ops_embed_args *args)
{
    int64_t T = args->y->dims[0];
    int D = (int)args->y->dims[1];
    const int32_t *tokens = (const int32_t *)args->tokens->data;
    float *y = (float *)args->y->data;
    cudaStream_t stream = backend_of(ops)->stream;

    if (T == 0)
        return STATUS_OK;
    if (args->table->dtype == DTYPE_BF16)
        LAUNCH((embed_kernel), (unsigned)T, ROW_THREADS, 0, stream, (const __nv_bfloat16 *)args->table->data,
               args->table->strides[0], tokens, y, args->y->strides[0], D);
    else
        LAUNCH((embed_kernel), (unsigned)T, ROW_THREADS, 0, stream, (const float *)args->table->data,
               args->table->strides[0], tokens, y, args->y->strides[0], D);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- RMSNorm and LayerNorm: grid T, block 256 ------------------------------------------------------------ */

static __global__ void rmsnorm_kernel(float *x, int64_t x_stride, const float *residual, int64_t residual_stride,
                                      const float *weight, float eps, float *y, int64_t y_stride, int D)
{
    __shared__ float partial[WARP];
    float *row = x + blockIdx.x * x_stride;
    float sum = 0.0f, scale;

    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        float value = row[d];

        if (residual) {
            value += residual[blockIdx.x * residual_stride + d];
            row[d] = value;
        }
        sum += value * value;
    }
    sum = block_sum(sum, partial);
    scale = 1.0f / sqrtf(sum / (float)D + eps);
    for (int d = threadIdx.x; d < D; d += blockDim.x)
        y[blockIdx.x * y_stride + d] = row[d] * scale * weight[d];
}

enum { NORM_FOURS = 8 }; /* a thread: rows of up to 8192, kept in registers between the sum and the scaling */

static __global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_fours_kernel(float *x, int64_t x_stride, const float *residual, int64_t residual_stride,
                         const float *weight, float eps, float *y, int64_t y_stride, int D)
{
    __shared__ float partial[WARP];
    float *row = x + blockIdx.x * x_stride;
    float4 value[NORM_FOURS];
    float sum = 0.0f, scale;

#pragma unroll
    for (int i = 0; i < NORM_FOURS; i++) {
        int d = ((int)threadIdx.x + i * ROW_THREADS) * 4;

        value[i] = d < D ? *(const float4 *)(row + d) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (residual && d < D) {
            float4 more = *(const float4 *)(residual + blockIdx.x * residual_stride + d);

            value[i] =
                make_float4(value[i].x + more.x, value[i].y + more.y, value[i].z + more.z, value[i].w + more.w);
            *(float4 *)(row + d) = value[i];
        }
        sum += value[i].x * value[i].x;
        sum += value[i].y * value[i].y;
        sum += value[i].z * value[i].z;
        sum += value[i].w * value[i].w;
    }
    sum = block_sum(sum, partial);
    scale = 1.0f / sqrtf(sum / (float)D + eps);
#pragma unroll
    for (int i = 0; i < NORM_FOURS; i++) {
        int d = ((int)threadIdx.x + i * ROW_THREADS) * 4;

        if (d < D) {
            float4 w = *(const float4 *)(weight + d);

            *(float4 *)(y + blockIdx.x * y_stride + d) =
                make_float4(value[i].x * scale * w.x, value[i].y * scale * w.y, value[i].z * scale * w.z,
                            value[i].w * scale * w.w);
        }
    }
}

enum status cuda_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    if (args->x->dims[0] == 0)
        return STATUS_OK;
    if (args->x->dims[1] <= 4 * ROW_THREADS * NORM_FOURS && in_fours(args->x) && in_fours(args->y) &&
        (!args->residual || in_fours(args->residual)) && (uintptr_t)args->weight->data % 16 == 0) {
        LAUNCH((rmsnorm_fours_kernel), (unsigned)args->x->dims[0], ROW_THREADS, 0, backend_of(ops)->stream,
               (float *)args->x->data, args->x->strides[0], args->residual ? (const float *)args->residual->data : NULL,
               args->residual ? args->residual->strides[0] : 0, (const float *)args->weight->data, args->eps,
               (float *)args->y->data, args->y->strides[0], (int)args->x->dims[1]);
        CUDA_LAUNCHED(ops);
        return STATUS_OK;
    }
    LAUNCH((rmsnorm_kernel), (unsigned)args->x->dims[0], ROW_THREADS, 0, backend_of(ops)->stream,
           (float *)args->x->data, args->x->strides[0], args->residual ? (const float *)args->residual->data : NULL,
           args->residual ? args->residual->strides[0] : 0, (const float *)args->weight->data, args->eps,
           (float *)args->y->data, args->y->strides[0], (int)args->x->dims[1]);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

static __global__ void layernorm_kernel(const float *x, int64_t x_stride, const float *weight, const float *bias,
                                        float eps, float *y, int64_t y_stride, int D)
{
    __shared__ float partial[WARP];
    const float *row = x + blockIdx.x * x_stride;
    float sum = 0.0f, squares = 0.0f, mean, scale;

    for (int d = threadIdx.x; d < D; d += blockDim.x)
        sum += row[d];
    mean = block_sum(sum, partial) / (float)D;
    for (int d = threadIdx.x; d < D; d += blockDim.x)
        squares += (row[d] - mean) * (row[d] - mean);
    scale = 1.0f / sqrtf(block_sum(squares, partial) / (float)D + eps);
    for (int d = threadIdx.x; d < D; d += blockDim.x)
        y[blockIdx.x * y_stride + d] = (row[d] - mean) * scale * weight[d] + bias[d];
}

enum status cuda_layernorm(struct ops *ops, const struct ops_layernorm_args *args)
{
    if (args->x->dims[0] == 0)
        return STATUS_OK;
    LAUNCH((layernorm_kernel), (unsigned)args->x->dims[0], ROW_THREADS, 0, backend_of(ops)->stream,
           (const float *)args->x->data, args->x->strides[0], (const float *)args->weight->data,
           (const float *)args->bias->data, args->eps, (float *)args->y->data, args->y->strides[0],
           (int)args->x->dims[1]);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- Element-wise: grid (D / 256, T) folded into one dimension, one thread an element ------------------------ */

static __global__ void add_kernel(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t T, int D)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (at < T * D)
        y[at / D * y_stride + at % D] += x[at / D * x_stride + at % D];
}

/* Four elements a thread; `fours` of them a row. */
static __global__ void __launch_bounds__(ROW_THREADS)
    add_fours_kernel(float *y, int64_t y_stride, const float *x, int64_t x_stride, unsigned all, unsigned fours)
{
    unsigned at = blockIdx.x * ROW_THREADS + threadIdx.x, row = at / fours, d = (at - row * fours) * 4;
    float4 *place = (float4 *)(y + row * y_stride + d), a, b;

    if (at >= all)
        return;
    a = *place;
    b = *(const float4 *)(x + row * x_stride + d);
    *place = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

enum status cuda_add(struct ops *ops, struct tensor *y, const struct tensor *x)
{
    int64_t count = y->dims[0] * y->dims[1];

    if (count == 0)
        return STATUS_OK;
    if (in_fours(y) && in_fours(x) && counts_in_32(count / 4)) {
        LAUNCH((add_fours_kernel), ceil_div(count / 4, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream,
               (float *)y->data, y->strides[0], (const float *)x->data, x->strides[0], (unsigned)(count / 4),
               (unsigned)(y->dims[1] / 4));
        CUDA_LAUNCHED(ops);
        return STATUS_OK;
    }
    LAUNCH((add_kernel), ceil_div(count, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream, (float *)y->data,
           y->strides[0], (const float *)x->data, x->strides[0], y->dims[0], (int)y->dims[1]);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

static __global__ void swiglu_kernel(const float *gate, int64_t gate_stride, const float *up, int64_t up_stride,
                                     float *y, int64_t y_stride, int64_t T, int J)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = at / J, column = at % J;
    float g;

    if (row >= T)
        return;
    g = gate[row * gate_stride + column];
    y[row * y_stride + column] = g / (1.0f + expf(-g)) * up[row * up_stride + column];
}

static __device__ __forceinline__ float silu_times(float gate, float up)
{
    return gate / (1.0f + expf(-gate)) * up;
}

static __global__ void __launch_bounds__(ROW_THREADS)
    swiglu_fours_kernel(const float *gate, int64_t gate_stride, const float *up, int64_t up_stride, float *y,
                        int64_t y_stride, unsigned all, unsigned fours)
{
    unsigned at = blockIdx.x * ROW_THREADS + threadIdx.x, row = at / fours, d = (at - row * fours) * 4;
    float4 a, b;

    if (at >= all)
        return;
    a = *(const float4 *)(gate + row * gate_stride + d);
    b = *(const float4 *)(up + row * up_stride + d);
    *(float4 *)(y + row * y_stride + d) =
        make_float4(silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z), silu_times(a.w, b.w));
}

enum status cuda_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y)
{
    int64_t count = y->dims[0] * y->dims[1];

    if (count == 0)
        return STATUS_OK;
    if (in_fours(gate) && in_fours(up) && in_fours(y) && counts_in_32(count / 4)) {
        LAUNCH((swiglu_fours_kernel), ceil_div(count / 4, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream,
               (const float *)gate->data, gate->strides[0], (const float *)up->data, up->strides[0], (float *)y->data,
               y->strides[0], (unsigned)(count / 4), (unsigned)(y->dims[1] / 4));
        CUDA_LAUNCHED(ops);
        return STATUS_OK;
    }
    LAUNCH((swiglu_kernel), ceil_div(count, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream,
           (const float *)gate->data, gate->strides[0], (const float *)up->data, up->strides[0], (float *)y->data,
           y->strides[0], y->dims[0], (int)y->dims[1]);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- RoPE: one thread a pair -------------------------------------------------------------------------------- */

template <typename Index>
static __global__ void rope_kernel(float *x, int64_t row_stride, int64_t head_stride, const float *table,
                                   int64_t table_stride, const int32_t *position, int64_t T, int H, int half,
                                   bool interleaved)
{
    Index at = (Index)blockIdx.x * blockDim.x + threadIdx.x, row = at / half, t = row / H;
    int i = (int)(at - row * half), h = (int)(row - t * H);
    int first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    const float *angles;
    float *pair, a, b;

    if (t >= T)
        return;
    angles = table + position[t] * table_stride;
    pair = x + t * row_stride + h * head_stride;
    a = pair[first];
    b = pair[second];
    pair[first] = a * angles[i] - b * angles[half + i];
    pair[second] = a * angles[half + i] + b * angles[i];
}

enum status cuda_rope(struct ops *ops, const struct ops_rope_args *args)
{
    const struct tensor *x = args->x;
    int half = (int)x->dims[2] / 2;
    int64_t count = x->dims[0] * x->dims[1] * half;

    if (count == 0)
        return STATUS_OK;
    if (counts_in_32(count))
        LAUNCH((rope_kernel<unsigned>), ceil_div(count, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream,
               (float *)x->data, x->strides[0], x->strides[1], (const float *)args->table->data,
               args->table->strides[0], (const int32_t *)args->position->data, x->dims[0], (int)x->dims[1], half,
               args->style == ROPE_INTERLEAVED);
    else
        LAUNCH((rope_kernel<int64_t>), ceil_div(count, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream,
               (float *)x->data, x->strides[0], x->strides[1], (const float *)args->table->data,
               args->table->strides[0], (const int32_t *)args->position->data, x->dims[0], (int)x->dims[1], half,
               args->style == ROPE_INTERLEAVED);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- Hadamard: one block a row, Di / 2 threads, log2(Di) butterfly stages in shared memory --------------------- */

static __global__ void hadamard_kernel(float *x, int64_t stride, int Di, float norm)
{
    DYNAMIC_SHARED(float, row);
    float *source = x + blockIdx.x * stride;

    for (int d = threadIdx.x; d < Di; d += blockDim.x)
        row[d] = bf16_round(source[d]);
    __syncthreads();
    for (int width = 1; width < Di; width *= 2) {
        for (int pair = threadIdx.x; pair < Di / 2; pair += blockDim.x) {
            int low = pair / width * 2 * width + pair % width;
            float a = row[low], b = row[low + width];

            row[low] = a + b;
            row[low + width] = a - b;
        }
        __syncthreads();
    }
    for (int d = threadIdx.x; d < Di; d += blockDim.x)
        source[d] = bf16_round(row[d] * norm);
}

enum { HADAMARD_WIDTH = 128 };

/* Rows of 128, one warp each: lane l holds columns 4 l to 4 l + 3. Stages of widths 1 and 2 lie in a lane, of 4 to 64
 * between lanes: each sum is that of hadamard_kernel. */
static __global__ void __launch_bounds__(ROW_THREADS) hadamard_128_kernel(float *x, int64_t stride, int64_t R,
                                                                          float norm)
{
    int64_t r = (int64_t)blockIdx.x * (ROW_THREADS / WARP) + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    float4 *place = (float4 *)(x + r * stride + 4 * lane);
    float value[4], a, b;

    if (r >= R)
        return;
    {
        float4 four = *place;

        value[0] = bf16_round(four.x);
        value[1] = bf16_round(four.y);
        value[2] = bf16_round(four.z);
        value[3] = bf16_round(four.w);
    }
#pragma unroll
    for (int width = 1; width <= 2; width *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!(i & width)) {
                a = value[i];
                b = value[i + width];
                value[i] = a + b;
                value[i + width] = a - b;
            }
#pragma unroll
    for (int apart = 1; apart < WARP; apart *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, value[i], apart);

            value[i] = lane & apart ? other - value[i] : value[i] + other;
        }
    *place = make_float4(bf16_round(value[0] * norm), bf16_round(value[1] * norm), bf16_round(value[2] * norm),
                         bf16_round(value[3] * norm));
}

enum status cuda_hadamard(struct ops *ops, struct tensor *x)
{
    int Di = (int)x->dims[1], threads = Di / 2 < 32 ? 32 : Di / 2 > 1024 ? 1024 : Di / 2;

    if (x->dims[0] == 0)
        return STATUS_OK;
    if (Di == HADAMARD_WIDTH && in_fours(x)) {
        LAUNCH((hadamard_128_kernel), ceil_div(x->dims[0], ROW_THREADS / WARP), ROW_THREADS, 0,
               backend_of(ops)->stream, (float *)x->data, x->strides[0], x->dims[0], 1.0f / sqrtf((float)Di));
        CUDA_LAUNCHED(ops);
        return STATUS_OK;
    }
    if (Di > 8192)
        return STATUS_UNSUPPORTED;
    LAUNCH((hadamard_kernel), (unsigned)x->dims[0], threads, (size_t)Di * sizeof(float), backend_of(ops)->stream,
           (float *)x->data, x->strides[0], Di, 1.0f / sqrtf((float)Di));
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
