/* shortlist.cu: what a draw needs of a row of logits beside its top-k: their values, and the sum of all weights.
 *
 *   grid (T)   one block of 1024 threads a row: the k values, the largest of them, then one reading of the row
 * A weight is exp((x - largest) / temperature). The difference and the quotient are F64 and only the fraction of the
 * power of two is rounded to F32, so that a weight of e^-60 is as right as one of 1: the exponent of an F32 quotient
 * of 60 would be off by 4e-6. Per weight: 4 operations in F64, exp2 in F32 (2 units in the last place), an addition in
 * F64: within OPS_SHORTLIST_ERROR with room for the result's rounding. A thread sums its columns v, v + 1024, ... in
 * that order, then comes the block's tree. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

enum { SHORTLIST_THREADS = 1024, SHORTLIST_WARPS = SHORTLIST_THREADS / WARP };

static __global__ void __launch_bounds__(SHORTLIST_THREADS)
    shortlist_kernel(const float *logits, int64_t stride, int V, const int32_t *selected, int64_t selected_stride,
                     int k, const float *temperature, float *values, int64_t values_stride, float *total)
{
    after_previous();
    __shared__ float largest[SHORTLIST_WARPS];
    __shared__ double sums[SHORTLIST_WARPS];
    const float *row = logits + blockIdx.x * stride;
    const int32_t *ids = selected + blockIdx.x * selected_stride;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double factor = 1.4426950408889634 / (double)temperature[blockIdx.x], sum = 0, most;
    float high = -INFINITY;

    for (int i = threadIdx.x; i < k; i += SHORTLIST_THREADS) {
        float value = ids[i] < 0 ? -INFINITY : row[ids[i]];

        values[blockIdx.x * values_stride + i] = value;
        high = fmaxf(high, value);
    }
    high = warp_max(high);
    if (lane == 0)
        largest[warp] = high;
    __syncthreads();
    most = (double)warp_max(largest[lane]);
    for (int v = threadIdx.x; v < V; v += SHORTLIST_THREADS) {
        double power = ((double)row[v] - most) * factor;

        if (power > -120.0) { /* e^-83: what is left out of 2^20 of them is below 1e-29 */
            double whole = rint(power);

            sum += (double)ldexpf(exp2f((float)(power - whole)), (int)whole);
        }
    }
    for (int offset = WARP / 2; offset; offset /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    if (lane == 0)
        sums[warp] = sum;
    __syncthreads();
    sum = sums[lane];
    for (int offset = WARP / 2; offset; offset /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    if (threadIdx.x == 0)
        total[blockIdx.x] = (float)sum;
}

enum status cuda_shortlist(struct ops *ops, const struct ops_shortlist_args *args)
{
    LAUNCH((shortlist_kernel), (unsigned)args->logits->dims[0], SHORTLIST_THREADS, 0, backend_of(ops)->stream,
           (const float *)args->logits->data, args->logits->strides[0], (int)args->logits->dims[1],
           (const int32_t *)args->selected->data, args->selected->strides[0], (int)args->selected->dims[1],
           (const float *)args->temperature->data, (float *)args->values->data, args->values->strides[0],
           (float *)args->total->data);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
