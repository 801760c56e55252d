/* topk_split.cu: exact top-k of few long rows, each over many blocks.
 *
 *   grid  rows x slices, 512 threads; zeros, then five launches: a histogram a round, the tally, the writing. A launch
 *         begins by finding the bin that the histogram before it decides (every block for itself, the same result); the
 *         first slice keeps it for the launches after. Histograms of the slices are added up in global memory; counts
 *         do not depend on the order.
 *   bytes 5 x 4 S a row, from L2 as long as all rows together fit (64 x 128K: 33.5 MB)
 * One row of 128K: 32 slices; 64 rows: 8 each. */
#include "kernels/cuda/topk.cuh"

enum { THREADS = 512, WARPS = THREADS / WARP };

struct row_state {
    uint32_t prefix, rest;
};

struct split_scratch {
    uint32_t *histogram;     /* [T, TOPK_ROUNDS, TOPK_BINS], zero at first */
    struct row_state *state; /* [T, TOPK_ROUNDS] */
    uint32_t *above, *equal; /* [T, slices, WARPS] */
    int slices;
};

/* A kernel and no fill: nothing overlaps a fill (device.cuh, after_previous()). */
static __global__ void __launch_bounds__(THREADS) zero_kernel(uint4 *memory, size_t count)
{
    after_previous();
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;

    if (at < count)
        memory[at] = make_uint4(0, 0, 0, 0);
}

/* Launch `stage` 0 to 2 counts a round, 3 tallies, 4 writes. */
template <int Stage>
static __global__ void __launch_bounds__(THREADS) split_kernel(struct topk_call c, struct split_scratch scratch)
{
    after_previous();
    __shared__ uint32_t histogram[TOPK_BINS];
    __shared__ uint32_t found[WARP + 2];
    int64_t t = blockIdx.x / scratch.slices;
    int slice = (int)(blockIdx.x % scratch.slices), warp = threadIdx.x / WARP;
    const float *row = c.score + t * c.score_stride;
    int32_t *out = c.selected + t * c.selected_stride;
    int count = c.visible[t] < c.S ? c.visible[t] : (int)c.S;
    int share = (count + scratch.slices - 1) / scratch.slices, begin = min(slice * share, count),
        end = min(begin + share, count);
    uint32_t prefix = 0, rest = (uint32_t)c.k;
    uint32_t *all = scratch.histogram + t * TOPK_ROUNDS * TOPK_BINS;
    struct row_state *state = scratch.state + t * TOPK_ROUNDS;

    if (count <= c.k) {
        if (Stage == 4 && slice == 0)
            topk_all(out, count, c.k);
        return;
    }
    if (Stage >= 1) {
        const int decided = Stage <= TOPK_ROUNDS ? Stage - 1 : TOPK_ROUNDS - 1; /* the round whose histogram is new */

        if (Stage <= TOPK_ROUNDS) {
            if (decided > 0) {
                prefix = state[decided - 1].prefix;
                rest = state[decided - 1].rest;
            }
            topk_find(all + decided * TOPK_BINS, decided, prefix, rest, found);
            if (slice == 0 && threadIdx.x == 0) {
                state[decided].prefix = prefix;
                state[decided].rest = rest;
            }
        } else {
            prefix = state[decided].prefix;
            rest = state[decided].rest;
        }
    }
    if (Stage < TOPK_ROUNDS) {
        uint32_t *sums = all + Stage * TOPK_BINS;

        for (int i = threadIdx.x; i < topk_bins(Stage); i += THREADS)
            histogram[i] = 0;
        __syncthreads();
        topk_count(row, begin, end, Stage, prefix, histogram);
        __syncthreads();
        for (int i = threadIdx.x; i < topk_bins(Stage); i += THREADS)
            if (histogram[i])
                atomicAdd(&sums[i], histogram[i]);
    } else {
        int stretch = (end - begin + WARPS - 1) / WARPS, first = min(begin + warp * stretch, end),
            last = min(first + stretch, end);
        int place = slice * WARPS + warp;
        uint32_t *above = scratch.above + t * scratch.slices * WARPS,
                 *equal = scratch.equal + t * scratch.slices * WARPS;

        if (Stage == TOPK_ROUNDS) {
            uint32_t my_above, my_equal;

            topk_tally(row, first, last, prefix, my_above, my_equal);
            if (threadIdx.x % WARP == 0) {
                above[place] = my_above;
                equal[place] = my_equal;
            }
        } else {
            uint32_t before_above = 0, before_equal = 0;

            for (int i = threadIdx.x % WARP; i < place; i += WARP) {
                before_above += above[i];
                before_equal += equal[i];
            }
            for (int offset = WARP / 2; offset; offset /= 2) {
                before_above += __shfl_xor_sync(0xFFFFFFFFu, before_above, offset);
                before_equal += __shfl_xor_sync(0xFFFFFFFFu, before_equal, offset);
            }
            topk_write(row, first, last, prefix, rest, before_above, before_equal, out);
        }
    }
}

template <int Stage>
static enum status launch(struct ops *ops, const struct topk_call *call, const struct split_scratch *scratch, int64_t T)
{
    LAUNCH((split_kernel<Stage>), (unsigned)(T * scratch->slices), THREADS, 0, backend_of(ops)->stream, *call,
           *scratch);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_topk_split(struct ops *ops, const struct topk_call *call, int64_t T)
{
    struct split_scratch scratch = {};
    size_t histograms = (size_t)T * TOPK_ROUNDS * TOPK_BINS * sizeof(uint32_t);
    size_t states = (size_t)T * TOPK_ROUNDS * sizeof(struct row_state), tallies;
    void *memory;
    enum status status;

    scratch.slices = topk_slices(T, call->S, backend_of(ops)->sm_count);
    tallies = (size_t)T * scratch.slices * WARPS * sizeof(uint32_t);
    status = cuda_scratch(ops, SCRATCH_F, histograms + states + 2 * tallies, &memory);
    if (status)
        return status;
    scratch.histogram = (uint32_t *)memory;
    scratch.state = (struct row_state *)((char *)memory + histograms);
    scratch.above = (uint32_t *)((char *)memory + histograms + states);
    scratch.equal = scratch.above + T * scratch.slices * WARPS;
    static_assert(TOPK_ROUNDS * TOPK_BINS % 4 == 0, "zeros are written by sixteen bytes");
    LAUNCH((zero_kernel), ceil_div((int64_t)(histograms / 16), THREADS), THREADS, 0, backend_of(ops)->stream,
           (uint4 *)memory, histograms / 16);
    CUDA_LAUNCHED(ops);
    status = launch<0>(ops, call, &scratch, T);
    if (!status)
        status = launch<1>(ops, call, &scratch, T);
    if (!status)
        status = launch<2>(ops, call, &scratch, T);
    if (!status)
        status = launch<3>(ops, call, &scratch, T);
    if (!status)
        status = launch<4>(ops, call, &scratch, T);
    return status;
}
