/* topk.cu: exact top-k of each row, ties to the lowest position, positions ascending. No candidate buffer, so
 * nothing can overflow on tied data.
 *
 *   grid T, one block of 1024 threads a row. Four rounds of 8 bits: a histogram in shared memory of the keys
 *   that share the prefix found so far, then the bin that holds the k-th key. A last pass writes every key
 *   above the threshold and the first equal ones, in order, by a block-wide scan.
 *   Reads 5 x 4 S bytes a row (from L2 at S <= 128K: 0.5 MB a row), writes 4 k. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

enum { TOPK_THREADS = 1024, TOPK_WARPS = TOPK_THREADS / WARP, RADIX = 256 };

/* Unsigned order = order of the floats; -0 and +0 are equal, NaN is -inf. */
static __device__ __forceinline__ uint32_t order_key(float value)
{
    uint32_t bits = __float_as_uint(isnan(value) ? -INFINITY : value + 0.0f);

    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __global__ void __launch_bounds__(TOPK_THREADS)
    topk_kernel(const float *score, int64_t score_stride, const int32_t *visible, int64_t S, int32_t *selected,
                int64_t selected_stride, int k)
{
    __shared__ uint32_t histogram[RADIX];
    __shared__ uint32_t found_prefix, found_rest;
    __shared__ uint32_t warp_above[TOPK_WARPS], warp_equal[TOPK_WARPS];
    const float *row = score + blockIdx.x * score_stride;
    int32_t *out = selected + blockIdx.x * selected_stride;
    int64_t count = visible[blockIdx.x] < S ? visible[blockIdx.x] : S;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t prefix = 0, rest = (uint32_t)k; /* how many of the keys with this prefix are wanted */
    uint32_t above = 0, equal = 0;           /* seen before this pass's chunk */

    if (count <= k) {
        for (int i = threadIdx.x; i < k; i += TOPK_THREADS)
            out[i] = i < count ? i : -1;
        return;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t mask = shift == 24 ? 0 : 0xFFFFFFFFu << (shift + 8);

        if (threadIdx.x < RADIX)
            histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t s = threadIdx.x; s < count; s += TOPK_THREADS) {
            uint32_t key = order_key(row[s]);

            if (((key ^ prefix) & mask) == 0)
                atomicAdd(&histogram[key >> shift & (RADIX - 1)], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t left = rest;
            int bin = RADIX - 1;

            for (; bin > 0 && histogram[bin] < left; bin--)
                left -= histogram[bin];
            found_prefix = prefix | (uint32_t)bin << shift;
            found_rest = left;
        }
        __syncthreads();
        prefix = found_prefix;
        rest = found_rest;
        __syncthreads();
    }
    /* `prefix` is the k-th largest key; `rest` of the keys equal to it are wanted, the lowest positions first. */
    for (int64_t base = 0; base < count; base += TOPK_THREADS) {
        int64_t s = base + threadIdx.x;
        uint32_t key = s < count ? order_key(row[s]) : 0;
        bool is_above = s < count && key > prefix, is_equal = s < count && key == prefix;
        uint32_t above_mask = __ballot_sync(0xFFFFFFFFu, is_above), equal_mask = __ballot_sync(0xFFFFFFFFu, is_equal);
        uint32_t below_lane = (1u << lane) - 1, my_above = above, my_equal = equal;

        if (lane == 0) {
            warp_above[warp] = __popc(above_mask);
            warp_equal[warp] = __popc(equal_mask);
        }
        __syncthreads();
        for (int w = 0; w < TOPK_WARPS; w++) {
            if (w < warp) {
                my_above += warp_above[w];
                my_equal += warp_equal[w];
            }
            above += warp_above[w];
            equal += warp_equal[w];
        }
        my_above += __popc(above_mask & below_lane);
        my_equal += __popc(equal_mask & below_lane);
        if (is_above)
            out[my_above + min(my_equal, rest)] = (int32_t)s;
        else if (is_equal && my_equal < rest)
            out[my_above + my_equal] = (int32_t)s;
        __syncthreads();
    }
}

enum status cuda_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                      struct tensor *selected)
{
    if (selected->dims[0] == 0 || selected->dims[1] == 0)
        return STATUS_OK;
    LAUNCH((topk_kernel), (unsigned)selected->dims[0], TOPK_THREADS, 0, backend_of(ops)->stream,
           (const float *)score->data, score->strides[0], (const int32_t *)visible->data, score->dims[1],
           (int32_t *)selected->data, selected->strides[0], (int)selected->dims[1]);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
