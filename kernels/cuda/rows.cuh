/* rows.cuh: what rows.cu does to a row, and cache.cu and the experts do on their way, written once, so that both give
 * the same bits. Products that are added name their fmaf(): the compiler is left no choice. */
#ifndef KERNELS_CUDA_ROWS_CUH
#define KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/device.cuh"

enum { ROW_THREADS = 256 };

/* Pair `i` of a rotation over 2 * half values: where its two values stand. */
static __device__ __forceinline__ int rope_first(int i, bool interleaved)
{
    return interleaved ? 2 * i : i;
}

static __device__ __forceinline__ int rope_second(int i, int half, bool interleaved)
{
    return interleaved ? 2 * i + 1 : i + half;
}

static __device__ __forceinline__ float2 rope_pair(float a, float b, float cosine, float sine)
{
    return make_float2(fmaf(a, cosine, -(b * sine)), fmaf(a, sine, b * cosine));
}

static __device__ __forceinline__ float silu_times(float gate, float up)
{
    return gate / (1.0f + expf(-gate)) * up;
}

struct layernorm {
    float mean, scale;
};

/* Of one row by a whole block of ROW_THREADS. `partial` is shared memory for 32 floats. */
static __device__ __forceinline__ struct layernorm layernorm_of(const float *row, int D, float eps, float *partial)
{
    struct layernorm norm;
    float sum = 0.0f, squares = 0.0f;

    for (int d = threadIdx.x; d < D; d += blockDim.x)
        sum += row[d];
    norm.mean = block_sum(sum, partial) / (float)D;
    for (int d = threadIdx.x; d < D; d += blockDim.x)
        squares = fmaf(row[d] - norm.mean, row[d] - norm.mean, squares);
    norm.scale = 1.0f / sqrtf(block_sum(squares, partial) / (float)D + eps);
    return norm;
}

static __device__ __forceinline__ float layernorm_value(struct layernorm norm, float x, float weight, float bias)
{
    return fmaf((x - norm.mean) * norm.scale, weight, bias);
}

/* Butterflies over a row of Di values in shared memory by a whole block; a barrier stands before and after each. The
 * caller rounds before and after. */
static __device__ __forceinline__ void hadamard_in_shared(float *row, int Di)
{
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
}

#endif
