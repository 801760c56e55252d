/* best.cu: the largest logit of a row and ln softmax there: all that a greedy choice needs of 129,280 numbers.
 *
 *   grid (T)   one block of 1024 threads a row, two readings of it: the largest, then the sum of exponentials
 * A thread sums its columns v, v + 1024, … in that order, then comes the block's tree: a fixed order, so fixed bits. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

enum { BEST_THREADS = 1024, BEST_WARPS = BEST_THREADS / WARP };

/* The better of two, ties to the lower column; a NaN (column -1, value +inf) beats everything. */
static __device__ __forceinline__ void take_better(float *value, int *column, float other, int other_column)
{
    bool better = other > *value || (other == *value && other_column < *column);

    better = other_column == -1 || (*column != -1 && better);
    if (better) {
        *value = other;
        *column = other_column;
    }
}

static __global__ void __launch_bounds__(BEST_THREADS) best_kernel(const float *logits, int64_t stride, int V,
                                                                   int32_t *best, float *log_probability)
{
    after_previous();
    __shared__ float values[BEST_WARPS], partial[BEST_WARPS];
    __shared__ int columns[BEST_WARPS];
    const float *row = logits + blockIdx.x * stride;
    int lane = threadIdx.x % WARP, column = INT32_MAX;
    float value = -INFINITY, sum = 0.0f;

    for (int v = threadIdx.x; v < V; v += BEST_THREADS) {
        bool nan = isnan(row[v]);

        take_better(&value, &column, nan ? INFINITY : row[v], nan ? -1 : v);
    }
    for (int offset = WARP / 2; offset; offset /= 2) {
        float other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
        int other_column = __shfl_xor_sync(0xFFFFFFFFu, column, offset);

        take_better(&value, &column, other, other_column);
    }
    if (lane == 0) {
        values[threadIdx.x / WARP] = value;
        columns[threadIdx.x / WARP] = column;
    }
    __syncthreads();
    for (int w = 0; w < BEST_WARPS; w++)
        take_better(&value, &column, values[w], columns[w]);
    if (column == INT32_MAX || value == -INFINITY)
        column = -1;
    if (column >= 0 && value < INFINITY)
        for (int v = threadIdx.x; v < V; v += BEST_THREADS)
            sum += expf(row[v] - value);
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) {
        best[blockIdx.x] = column;
        log_probability[blockIdx.x] = column >= 0 && value < INFINITY ? -logf(sum) : 0.0f;
    }
}

enum status cuda_best(struct ops *ops, const struct ops_best_args *args)
{
    LAUNCH((best_kernel), (unsigned)args->logits->dims[0], BEST_THREADS, 0, backend_of(ops)->stream,
           (const float *)args->logits->data, args->logits->strides[0], (int)args->logits->dims[1],
           (int32_t *)args->best->data, (float *)args->log_probability->data);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
