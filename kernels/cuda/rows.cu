/* rows.cu: the ops on rows of the residual stream: embedding, norms, add, SwiGLU, RoPE, Hadamard.
 *
 * All are bound by memory: each value is read once and written once. One block a row (norms, Hadamard) or one
 * thread an element; row strides are free, the last stride is 1. Plain forms; fusing a norm with quantisation
 * and RoPE with the cache write is kernels/cuda/README.md, "What is next". */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

enum { ROW_THREADS = 256 };

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

enum status cuda_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    if (args->x->dims[0] == 0)
        return STATUS_OK;
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

enum status cuda_add(struct ops *ops, struct tensor *y, const struct tensor *x)
{
    int64_t count = y->dims[0] * y->dims[1];

    if (count == 0)
        return STATUS_OK;
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

enum status cuda_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y)
{
    int64_t count = y->dims[0] * y->dims[1];

    if (count == 0)
        return STATUS_OK;
    LAUNCH((swiglu_kernel), ceil_div(count, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream,
           (const float *)gate->data, gate->strides[0], (const float *)up->data, up->strides[0], (float *)y->data,
           y->strides[0], y->dims[0], (int)y->dims[1]);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- RoPE: one thread a pair -------------------------------------------------------------------------------- */

static __global__ void rope_kernel(float *x, int64_t row_stride, int64_t head_stride, const float *table,
                                   int64_t table_stride, const int32_t *position, int64_t T, int H, int half,
                                   bool interleaved)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = at / ((int64_t)H * half);
    int i = (int)(at % half), h = (int)(at / half % H);
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
    LAUNCH((rope_kernel), ceil_div(count, ROW_THREADS), ROW_THREADS, 0, backend_of(ops)->stream, (float *)x->data,
           x->strides[0], x->strides[1], (const float *)args->table->data, args->table->strides[0],
           (const int32_t *)args->position->data, x->dims[0], (int)x->dims[1], half, args->style == ROPE_INTERLEAVED);
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

enum status cuda_hadamard(struct ops *ops, struct tensor *x)
{
    int Di = (int)x->dims[1], threads = Di / 2 < 32 ? 32 : Di / 2 > 1024 ? 1024 : Di / 2;

    if (x->dims[0] == 0)
        return STATUS_OK;
    if (Di > 8192)
        return STATUS_UNSUPPORTED;
    LAUNCH((hadamard_kernel), (unsigned)x->dims[0], threads, (size_t)Di * sizeof(float), backend_of(ops)->stream,
           (float *)x->data, x->strides[0], Di, 1.0f / sqrtf((float)Di));
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
