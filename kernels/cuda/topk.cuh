/* topk.cuh: pieces that the forms of top-k share: order of keys, histograms, the bin of the k-th key, and the last
 * pass that writes positions in order. Keys are not buffered here, so nothing can overflow on tied data.
 *
 * Three rounds narrow the k-th largest key down: 12, 12 and 8 bits from the top. A round counts, over the keys that
 * share the prefix found so far, how often each value of the next bits comes, and takes the bin in which the k-th
 * lies. After three rounds the prefix is the key itself, and `rest` of the keys equal to it are wanted, the lowest
 * positions first. */
#ifndef KERNELS_CUDA_TOPK_CUH
#define KERNELS_CUDA_TOPK_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"
#include "kernels/cuda/plans.h"

enum {
    TOPK_ROUNDS = 3,
    TOPK_BINS = 4096,
    TOPK_AHEAD = 8 /* independent loads a thread, to cover the latency of L2 */
};

struct topk_call {
    const float *score;
    int64_t score_stride, S;
    const int32_t *visible;
    int32_t *selected;
    int64_t selected_stride;
    int k;
};

/* Unsigned order = order of the floats; -0 and +0 are equal, NaN is -inf. */
static __device__ __forceinline__ uint32_t order_key(float value)
{
    uint32_t bits = __float_as_uint(isnan(value) ? -INFINITY : value + 0.0f);

    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ int topk_shift(int round)
{
    return round == 0 ? 20 : round == 1 ? 8 : 0;
}

static __device__ __forceinline__ uint32_t topk_mask(int round) /* of the bits found before */
{
    return round == 0 ? 0 : round == 1 ? 0xFFF00000u : 0xFFFFFF00u;
}

static __device__ __forceinline__ int topk_bins(int round)
{
    return round < 2 ? TOPK_BINS : 256;
}

/* Counts keys [begin, end) of the row into `histogram` (shared memory); all threads of the block take part. */
static __device__ __forceinline__ void topk_count(const float *row, int begin, int end, int round, uint32_t prefix,
                                                  uint32_t *histogram)
{
    uint32_t mask = topk_mask(round), last = (uint32_t)topk_bins(round) - 1;
    int shift = topk_shift(round), threads = blockDim.x;

    for (int base = begin + (int)threadIdx.x; base < end; base += TOPK_AHEAD * threads) {
        float value[TOPK_AHEAD];

#pragma unroll
        for (int i = 0; i < TOPK_AHEAD; i++)
            value[i] = base + i * threads < end ? row[base + i * threads] : 0.0f;
#pragma unroll
        for (int i = 0; i < TOPK_AHEAD; i++) {
            uint32_t key = order_key(value[i]);

            if (base + i * threads < end && ((key ^ prefix) & mask) == 0)
                atomicAdd(&histogram[key >> shift & last], 1u);
        }
    }
}

/* The bin, counted from the highest, in which the rest-th key lies: prefix and rest are narrowed down. Every thread of
 * the block takes part and gets the same; `shared` holds 34 numbers. */
static __device__ __forceinline__ void topk_find(const uint32_t *histogram, int round, uint32_t &prefix, uint32_t &rest,
                                                 uint32_t *shared)
{
    int bins = topk_bins(round), each = (bins + (int)blockDim.x - 1) / (int)blockDim.x;
    int top = bins - (int)threadIdx.x * each, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t mine = 0, before = 0, total;

    for (int i = 1; i <= each; i++)
        mine += top - i >= 0 ? histogram[top - i] : 0;
    /* Prefix sums by butterfly: after the step of `offset`, `total` is that of 2 offset lanes. */
    total = mine;
    for (int offset = 1; offset < WARP; offset *= 2) {
        uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, total, offset);

        before += lane & offset ? other : 0;
        total += other;
    }
    if (lane == 0)
        shared[warp] = total;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        before += shared[w];
    if (mine && before < rest && rest <= before + mine) {
        uint32_t left = rest - before;
        int bin = top - 1;

        for (; histogram[bin] < left; bin--)
            left -= histogram[bin];
        shared[WARP] = prefix | (uint32_t)bin << topk_shift(round);
        shared[WARP + 1] = left;
    }
    __syncthreads();
    /* No barrier behind the reads: the next write to `shared` stands behind the caller's, for its histogram. */
    prefix = shared[WARP];
    rest = shared[WARP + 1];
}

/* How many of keys [begin, end) are above and how many equal to `threshold`; one warp, all lanes get both. */
static __device__ __forceinline__ void topk_tally(const float *row, int begin, int end, uint32_t threshold,
                                                  uint32_t &above, uint32_t &equal)
{
    uint32_t more = 0, same = 0;

    for (int base = begin + (int)threadIdx.x % WARP; base < end; base += TOPK_AHEAD * WARP) {
        float value[TOPK_AHEAD];

#pragma unroll
        for (int i = 0; i < TOPK_AHEAD; i++)
            value[i] = base + i * WARP < end ? row[base + i * WARP] : 0.0f;
#pragma unroll
        for (int i = 0; i < TOPK_AHEAD; i++) {
            uint32_t key = order_key(value[i]);

            more += base + i * WARP < end && key > threshold;
            same += base + i * WARP < end && key == threshold;
        }
    }
    for (int offset = WARP / 2; offset; offset /= 2) {
        more += __shfl_xor_sync(0xFFFFFFFFu, more, offset);
        same += __shfl_xor_sync(0xFFFFFFFFu, same, offset);
    }
    above = more;
    equal = same;
}

/* Writes positions of keys [begin, end) that are above `threshold`, and of the first `rest` of the row that equal it;
 * `above` and `equal` count those of the row before `begin`. One warp. */
static __device__ __forceinline__ void topk_write(const float *row, int begin, int end, uint32_t threshold,
                                                  uint32_t rest, uint32_t above, uint32_t equal, int32_t *out)
{
    uint32_t lower = (1u << threadIdx.x % WARP) - 1;

    for (int first = begin; first < end; first += TOPK_AHEAD * WARP) {
        float value[TOPK_AHEAD];

#pragma unroll
        for (int i = 0; i < TOPK_AHEAD; i++) {
            int s = first + i * WARP + (int)threadIdx.x % WARP;

            value[i] = s < end ? row[s] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < TOPK_AHEAD; i++) {
            int s = first + i * WARP + (int)threadIdx.x % WARP;
            uint32_t key = order_key(value[i]);
            bool more = s < end && key > threshold, same = s < end && key == threshold;
            uint32_t more_mask = __ballot_sync(0xFFFFFFFFu, more), same_mask = __ballot_sync(0xFFFFFFFFu, same);
            uint32_t my_above = above + __popc(more_mask & lower), my_equal = equal + __popc(same_mask & lower);

            if (more)
                out[my_above + min(my_equal, rest)] = s;
            else if (same && my_equal < rest)
                out[my_above + my_equal] = s;
            above += __popc(more_mask);
            equal += __popc(same_mask);
        }
    }
}

/* Rows that fit into k whole: every position below `count`, then -1. */
static __device__ __forceinline__ void topk_all(int32_t *out, int count, int k)
{
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        out[i] = i < count ? i : -1;
}

/* What a block needs of shared memory besides the histogram of TOPK_BINS for the rounds. */
struct topk_shared {
    uint32_t found[WARP + 2], above[WARP], equal[WARP];
};

/* A row of more than k keys by one block, in three rounds and the last pass. */
template <int Threads>
static __device__ __forceinline__ void topk_by_rounds(const float *row, int count, int k, int32_t *out,
                                                      uint32_t *histogram, struct topk_shared *shared)
{
    const int warps = Threads / WARP;
    int warp = threadIdx.x / WARP, stretch = (count + warps - 1) / warps, begin = warp * stretch,
        end = min(begin + stretch, count);
    uint32_t prefix = 0, rest = (uint32_t)k, before_above = 0, before_equal = 0, my_above, my_equal;

    for (int round = 0; round < TOPK_ROUNDS; round++) {
        for (int i = threadIdx.x; i < topk_bins(round); i += Threads)
            histogram[i] = 0;
        __syncthreads();
        topk_count(row, 0, count, round, prefix, histogram);
        __syncthreads();
        topk_find(histogram, round, prefix, rest, shared->found);
    }
    topk_tally(row, begin, end, prefix, my_above, my_equal);
    if (threadIdx.x % WARP == 0) {
        shared->above[warp] = my_above;
        shared->equal[warp] = my_equal;
    }
    __syncthreads();
    for (int w = 0; w < warp; w++) {
        before_above += shared->above[w];
        before_equal += shared->equal[w];
    }
    topk_write(row, begin, end, prefix, rest, before_above, before_equal, out);
}

/* Rows read once, after a sample of them; for calls that topk_is_sampled() takes. */
enum status cuda_topk_sampled(struct ops *ops, const struct topk_call *call, int64_t T);

/* Few long rows, every row over many blocks. */
enum status cuda_topk_split(struct ops *ops, const struct topk_call *call, int64_t T);

#endif
