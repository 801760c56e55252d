/* rows.cu: the ops on rows of the residual stream: embedding, norms, add, SwiGLU, RoPE, Hadamard.
 *
 * All are bound by memory: each value is read once and written once. One block a row (norms), one warp a row (Hadamard
 * of 32 to 256), or one thread four elements or a pair; row strides are free, the last stride is 1. Forms that read
 * four elements at a time take rows that start on 16 bytes; plain ones take the others. cache.cu does some of this on
 * the way into the caches (rows.cuh), and RMSNorm quantises its y where FP8 products of it follow. */
#include "kernels/cuda/impl.cuh"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/rows.cuh"

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
    after_previous();
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
        LAUNCH((embed_kernel<__nv_bfloat16>), (unsigned)T, ROW_THREADS, 0, stream,
               (const __nv_bfloat16 *)args->table->data, args->table->strides[0], tokens, y, args->y->strides[0], D);
    else
        LAUNCH((embed_kernel<float>), (unsigned)T, ROW_THREADS, 0, stream, (const float *)args->table->data,
               args->table->strides[0], tokens, y, args->y->strides[0], D);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- RMSNorm and LayerNorm: grid T, block 256 ------------------------------------------------------------ */

static __global__ void rmsnorm_kernel(float *x, int64_t x_stride, const float *residual, int64_t residual_stride,
                                      const float *weight, float eps, float *y, int64_t y_stride, int D)
{
    after_previous();
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

/* A warp's 128 neighbours of y, a group, as e4m3 with their scale: the bits that linear.cu's kernels make of y. */
static __device__ __forceinline__ void put_codes(float4 value, int d, int D, uint8_t *codes, float *scale)
{
    float amax = fmaxf(fmaxf(fabsf(value.x), fabsf(value.y)), fmaxf(fabsf(value.z), fabsf(value.w)));
    float s = ue8m0_scale(warp_max(amax));

    if (d >= D)
        return;
    if (threadIdx.x % WARP == 0)
        scale[d / SCALE_GROUP] = s;
    *(uint32_t *)(codes + d) = four_codes(value, 1.0f / s);
}

/* `codes` [T, D] and `scale` [T, ceil(D / 128)]: with Codes. */
template <bool Codes>
static __global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_fours_kernel(float *x, int64_t x_stride, const float *residual, int64_t residual_stride,
                         const float *weight, float eps, float *y, int64_t y_stride, int D, uint8_t *codes,
                         float *scales)
{
    after_previous();
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

            value[i] = make_float4(value[i].x * scale * w.x, value[i].y * scale * w.y, value[i].z * scale * w.z,
                                   value[i].w * scale * w.w);
            *(float4 *)(y + blockIdx.x * y_stride + d) = value[i];
        }
        if (Codes && d / SCALE_GROUP * SCALE_GROUP < D) /* for the whole warp alike; past D are zeros */
            put_codes(value[i], d, D, codes + blockIdx.x * (int64_t)D,
                      scales + blockIdx.x * (int64_t)((D + SCALE_GROUP - 1) / SCALE_GROUP));
    }
}

static bool norm_in_fours(const struct ops_rmsnorm_args *args)
{
    return args->x->dims[1] <= 4 * ROW_THREADS * NORM_FOURS && in_fours(args->x) && in_fours(args->y) &&
           (!args->residual || in_fours(args->residual)) && (uintptr_t)args->weight->data % 16 == 0;
}

template <bool Codes>
static enum status norm_fours(struct ops *ops, const struct ops_rmsnorm_args *args, uint8_t *codes, float *scale)
{
    LAUNCH((rmsnorm_fours_kernel<Codes>), (unsigned)args->x->dims[0], ROW_THREADS, 0, backend_of(ops)->stream,
           (float *)args->x->data, args->x->strides[0], args->residual ? (const float *)args->residual->data : NULL,
           args->residual ? args->residual->strides[0] : 0, (const float *)args->weight->data, args->eps,
           (float *)args->y->data, args->y->strides[0], (int)args->x->dims[1], codes, scale);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

bool cuda_norm_takes_codes(const struct ops_rmsnorm_args *args)
{
    return args->x->dims[0] > 0 && norm_in_fours(args);
}

enum status cuda_norm_codes(struct ops *ops, const struct ops_rmsnorm_args *args, uint8_t *codes, float *scale)
{
    return norm_fours<true>(ops, args, codes, scale);
}

enum status cuda_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    if (args->x->dims[0] == 0)
        return STATUS_OK;
    if (norm_in_fours(args))
        return norm_fours<false>(ops, args, NULL, NULL);
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
    after_previous();
    __shared__ float partial[WARP];
    const float *row = x + blockIdx.x * x_stride;
    struct layernorm norm = layernorm_of(row, D, eps, partial);

    for (int d = threadIdx.x; d < D; d += blockDim.x)
        y[blockIdx.x * y_stride + d] = layernorm_value(norm, row[d], weight[d], bias[d]);
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
    after_previous();
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (at < T * D)
        y[at / D * y_stride + at % D] += x[at / D * x_stride + at % D];
}

/* Four elements a thread; `fours` of them a row. */
static __global__ void __launch_bounds__(ROW_THREADS)
    add_fours_kernel(float *y, int64_t y_stride, const float *x, int64_t x_stride, unsigned all, unsigned fours)
{
    after_previous();
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
    after_previous();
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = at / J, column = at % J;
    float g;

    if (row >= T)
        return;
    g = gate[row * gate_stride + column];
    y[row * y_stride + column] = g / (1.0f + expf(-g)) * up[row * up_stride + column];
}

static __global__ void __launch_bounds__(ROW_THREADS)
    swiglu_fours_kernel(const float *gate, int64_t gate_stride, const float *up, int64_t up_stride, float *y,
                        int64_t y_stride, unsigned all, unsigned fours)
{
    after_previous();
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
    after_previous();
    Index at = (Index)blockIdx.x * blockDim.x + threadIdx.x, row = at / half, t = row / H;
    int i = (int)(at - row * half), h = (int)(row - t * H);
    int first = rope_first(i, interleaved), second = rope_second(i, half, interleaved);
    const float *angles;
    float *pair;
    float2 turned;

    if (t >= T)
        return;
    angles = table + position[t] * table_stride;
    pair = x + t * row_stride + h * head_stride;
    turned = rope_pair(pair[first], pair[second], angles[i], angles[half + i]);
    pair[first] = turned.x;
    pair[second] = turned.y;
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

/* --- Hadamard: a warp a row in registers for 32 to 256 values; else a block a row in shared memory -------------- */

enum { HADAMARD_WARPS = 8 };

/* Value j of a lane is number lane + 32 j: the first five stages are shuffles, the others stay in the lane. The same
 * sums in the same order as hadamard_in_shared(). */
template <int Values>
static __global__ void __launch_bounds__(HADAMARD_WARPS *WARP)
    hadamard_warp_kernel(float *x, int64_t stride, int64_t rows, float norm)
{
    after_previous();
    int64_t r = (int64_t)blockIdx.x * HADAMARD_WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    float *row = x + r * stride + lane;
    float value[Values];

    if (r >= rows)
        return;
    for (int j = 0; j < Values; j++)
        value[j] = bf16_round(row[j * WARP]);
    for (int width = 1; width < WARP; width *= 2) {
        for (int j = 0; j < Values; j++) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, value[j], width);

            value[j] = lane & width ? other - value[j] : value[j] + other;
        }
    }
    for (int width = 1; width < Values; width *= 2) {
        for (int j = 0; j < Values; j++) {
            if (!(j & width)) {
                float a = value[j], b = value[j + width];

                value[j] = a + b;
                value[j + width] = a - b;
            }
        }
    }
    for (int j = 0; j < Values; j++)
        row[j * WARP] = bf16_round(value[j] * norm);
}

static __global__ void hadamard_kernel(float *x, int64_t stride, int Di, float norm)
{
    after_previous();
    DYNAMIC_SHARED(float, row);
    float *source = x + blockIdx.x * stride;

    for (int d = threadIdx.x; d < Di; d += blockDim.x)
        row[d] = bf16_round(source[d]);
    hadamard_in_shared(row, Di);
    for (int d = threadIdx.x; d < Di; d += blockDim.x)
        source[d] = bf16_round(row[d] * norm);
}

enum status cuda_hadamard(struct ops *ops, struct tensor *x)
{
    int Di = (int)x->dims[1], threads = Di / 2 < 32 ? 32 : Di / 2 > 1024 ? 1024 : Di / 2;
    unsigned blocks = ceil_div(x->dims[0], HADAMARD_WARPS);
    float norm = 1.0f / sqrtf((float)Di), *data = (float *)x->data;
    cudaStream_t stream = backend_of(ops)->stream;
    const int block = HADAMARD_WARPS * WARP;

    if (x->dims[0] == 0)
        return STATUS_OK;
    if (Di > 8192)
        return STATUS_UNSUPPORTED;
    switch (Di) {
    case 32: LAUNCH((hadamard_warp_kernel<1>), blocks, block, 0, stream, data, x->strides[0], x->dims[0], norm); break;
    case 64: LAUNCH((hadamard_warp_kernel<2>), blocks, block, 0, stream, data, x->strides[0], x->dims[0], norm); break;
    case 128: LAUNCH((hadamard_warp_kernel<4>), blocks, block, 0, stream, data, x->strides[0], x->dims[0], norm); break;
    case 256: LAUNCH((hadamard_warp_kernel<8>), blocks, block, 0, stream, data, x->strides[0], x->dims[0], norm); break;
    default:
        LAUNCH((hadamard_kernel), (unsigned)x->dims[0], threads, (size_t)Di * sizeof(float), stream, data,
               x->strides[0], Di, norm);
    }
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
