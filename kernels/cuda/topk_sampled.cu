/* topk_sampled.cu: exact top-k of each row in one reading of it, after a sample: one block a row.
 *
 *   sample   one key of every k / 32 (plans.h); the 64th largest or so is a bound that about 2 k keys reach
 *   reading  keys not below the bound go with their positions into a buffer of 3.5 k in shared memory, in any order;
 *            their number is counted whether they fit or not
 *   choice   the k-th largest of them by digits of 8 bits, below the bits that all have in common; of keys equal to it
 *            those of the lowest positions, by digits of the position
 *   order    a bit a position of the row, then the set bits are written ascending
 * Fewer than k candidates, more than fit, or a NaN among them: the block takes the row by rounds (topk.cuh), the same
 * result in five readings. Neither the sample nor the order in the buffer can show in the result.
 *
 *   grid T; 512 threads, two blocks an SM, or 1024 and one where there are no more rows than SMs
 *   smem 85 KB at k = 2048 and 128K keys: candidates 56 KB (the sample before them), bits 16 KB, digits 11 KB
 *   bytes 4 S a row, and the sample's sectors: 64 KB of 128K keys' 512 KB */
#include "kernels/cuda/topk.cuh"

struct sampled_shared {
    struct topk_shared rounds;
    uint32_t low[2][WARP], high[2][WARP], written[WARP];
    int filled;
};

/* The digit, counted from the highest, in which the rest-th key lies; every warp does this for itself. `count` becomes
 * the number of keys with that digit. */
static __device__ __forceinline__ uint32_t find_digit(const uint32_t *histogram, uint32_t &rest, uint32_t &count)
{
    const int each = TOPK_DIGITS / WARP;
    int lane = threadIdx.x % WARP, top = TOPK_DIGITS - 1 - lane * each, digit = 0, lane_found;
    uint32_t mine = 0, before, left = 0, here = 0;

#pragma unroll
    for (int i = 0; i < each; i++)
        mine += histogram[top - i];
    before = mine;
    for (int offset = 1; offset < WARP; offset *= 2) {
        uint32_t lower = __shfl_up_sync(0xFFFFFFFFu, before, offset);

        before += lane >= offset ? lower : 0;
    }
    before -= mine;
    lane_found = __ffs((int)__ballot_sync(0xFFFFFFFFu, before < rest && rest <= before + mine)) - 1;
    if (lane == lane_found) {
        left = rest - before;
        digit = top;
        for (; histogram[digit] < left; digit--)
            left -= histogram[digit];
        here = histogram[digit];
    }
    rest = __shfl_sync(0xFFFFFFFFu, left, lane_found);
    count = __shfl_sync(0xFFFFFFFFu, here, lane_found);
    return (uint32_t)__shfl_sync(0xFFFFFFFFu, digit, lane_found);
}

/* The rest-th largest of n keys that lie in [low, high]; `key_of` (number, key) says whether there is one. Afterwards
 * `rest` of the `equal` keys equal to the result are wanted. Takes up to four zeroed histograms from `histogram`. */
template <typename KeyOf>
static __device__ __forceinline__ uint32_t select_key(KeyOf key_of, int n, uint32_t low, uint32_t high,
                                                      uint32_t *histogram, uint32_t &rest, uint32_t &equal)
{
    int bits = low == high ? 0 : WARP - __clz((int)(low ^ high));
    uint32_t known = bits == 32 ? 0 : ~0u << bits, prefix = high & known;

    equal = (uint32_t)n;
    while (bits > 0) {
        int width = bits < 8 ? bits : 8, shift = bits - width;
        uint32_t last = (1u << width) - 1;

        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t key;

            if (key_of(i, key) && ((key ^ prefix) & known) == 0)
                atomicAdd(&histogram[key >> shift & last], 1u);
        }
        __syncthreads();
        prefix |= find_digit(histogram, rest, equal) << shift;
        known |= last << shift;
        histogram += TOPK_DIGITS;
        bits = shift;
    }
    return prefix;
}

/* Least and greatest over the block; `lows` and `highs` are written here and nowhere else. */
static __device__ __forceinline__ void block_range(uint32_t &low, uint32_t &high, uint32_t *lows, uint32_t *highs)
{
    int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;

    low = __reduce_min_sync(0xFFFFFFFFu, low);
    high = __reduce_max_sync(0xFFFFFFFFu, high);
    if (lane == 0) {
        lows[threadIdx.x / WARP] = low;
        highs[threadIdx.x / WARP] = high;
    }
    __syncthreads();
    low = __reduce_min_sync(0xFFFFFFFFu, lane < warps ? lows[lane] : ~0u);
    high = __reduce_max_sync(0xFFFFFFFFu, lane < warps ? highs[lane] : 0u);
}

/* order_key() backwards. */
static __device__ __forceinline__ float key_value(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

/* A place in the buffer for each of the warp's `hits` keys: this lane's first, or -1 for all where they do not fit. */
static __device__ __forceinline__ int take_places(int hits, int most, int *filled)
{
    int lane = threadIdx.x % WARP, before = hits, first = 0;

    for (int offset = 1; offset < WARP; offset *= 2) {
        int lower = __shfl_up_sync(0xFFFFFFFFu, before, offset);

        before += lane >= offset ? lower : 0;
    }
    if (lane == WARP - 1 && before)
        first = atomicAdd(filled, before);
    first = __shfl_sync(0xFFFFFFFFu, first, WARP - 1);
    return first + __shfl_sync(0xFFFFFFFFu, before, WARP - 1) <= most ? first + before - hits : -1;
}

/* Keys of the row that are not below `bound`, NaNs too, to the buffer: value's bits and position. Four values a load,
 * from the first place of 16 bytes on; what is before and behind is left to one warp. */
template <int Threads, int Ahead>
static __device__ __forceinline__ void collect(const float *row, int count, float bound, uint2 *candidates, int most,
                                               int *filled)
{
    int head = min((int)(-(uintptr_t)row / sizeof(float) % 4), count), quads = (count - head) / 4;
    const float4 *body = (const float4 *)(row + head);

    for (int first = 0; first < quads; first += Ahead * Threads) {
        float value[4 * Ahead];
        uint32_t hits = 0;
        int place;

#pragma unroll
        for (int i = 0; i < Ahead; i++) {
            int at = first + i * Threads + (int)threadIdx.x;
            float4 four = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};

            if (at < quads)
                four = body[at];
            value[4 * i] = four.x;
            value[4 * i + 1] = four.y;
            value[4 * i + 2] = four.z;
            value[4 * i + 3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < 4 * Ahead; i++)
            hits |= value[i] < bound ? 0u : 1u << i;
            /* Where the bound is -inf, the lanes behind the end have hits that are none. */
#pragma unroll
        for (int i = 0; i < Ahead; i++)
            hits &= first + i * Threads + (int)threadIdx.x < quads ? ~0u : ~(15u << 4 * i);
        if (!__any_sync(0xFFFFFFFFu, hits != 0))
            continue;
        place = take_places(__popc(hits), most, filled);
        if (place < 0)
            continue;
#pragma unroll
        for (int i = 0; i < 4 * Ahead; i++)
            if (hits >> i & 1) {
                uint2 one = {__float_as_uint(value[i]),
                             (uint32_t)(head + 4 * (first + i / 4 * Threads + (int)threadIdx.x) + i % 4)};

                candidates[place++] = one;
            }
    }
    if (threadIdx.x < WARP) {
        int lane = (int)threadIdx.x, at = lane < head ? lane : 4 * quads + lane, place;
        float value = at < count ? row[at] : 0.0f;
        bool hit = at < count && !(value < bound);

        place = take_places(hit, most, filled);
        if (hit && place >= 0) {
            uint2 one = {__float_as_uint(value), (uint32_t)at};

            candidates[place] = one;
        }
    }
}

/* Positions of the set bits of the first `words` words, ascending. */
static __device__ __forceinline__ void write_positions(const uint32_t *bits, int words, int32_t *out, uint32_t *written)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int each = (words + (int)blockDim.x - 1) / (int)blockDim.x;
    int begin = min((int)threadIdx.x * each, words), end = min(begin + each, words);
    uint32_t mine = 0, before;

    for (int w = begin; w < end; w++)
        mine += __popc(bits[w]);
    before = mine;
    for (int offset = 1; offset < WARP; offset *= 2) {
        uint32_t lower = __shfl_up_sync(0xFFFFFFFFu, before, offset);

        before += lane >= offset ? lower : 0;
    }
    if (lane == WARP - 1)
        written[warp] = before;
    __syncthreads();
    before -= mine;
    before += __reduce_add_sync(0xFFFFFFFFu, lane < warp ? written[lane] : 0u);
    for (int w = begin; w < end; w++)
        for (uint32_t left = bits[w]; left; left &= left - 1)
            out[before++] = 32 * w + __ffs((int)left) - 1;
}

template <int Threads, int Ahead>
static __global__ void __launch_bounds__(Threads, 1024 / Threads) sampled_kernel(struct topk_call c, int most)
{
    after_previous();
    DYNAMIC_SHARED(uint2, buffer);
    __shared__ struct sampled_shared shared;
    uint2 *candidates = buffer; /* a lambda takes no variable of shared memory */
    uint32_t *sample = (uint32_t *)candidates, *bits = (uint32_t *)(candidates + most);
    uint32_t *digits = bits + (c.S + 31) / 32;
    const float *row = c.score + blockIdx.x * c.score_stride;
    int32_t *out = c.selected + blockIdx.x * c.selected_stride;
    int count = c.visible[blockIdx.x] < c.S ? c.visible[blockIdx.x] : (int)c.S, n;
    uint32_t low = ~0u, high = 0, bound = 0, rest, equal, kth, last = 0;
    bool fits;

    if (count <= c.k) {
        topk_all(out, count, c.k);
        return;
    }
    for (int i = threadIdx.x; i < (count + 31) / 32; i += Threads)
        bits[i] = 0;
    for (int i = threadIdx.x; i < TOPK_DIGIT_ROUNDS * TOPK_DIGITS; i += Threads)
        digits[i] = 0;
    if (threadIdx.x == 0)
        shared.filled = 0;
    if (count > most) {
        int step = topk_sample_step(count, c.k);

        n = count / step;
        for (int i = threadIdx.x; i < n; i += Threads) {
            uint32_t key = order_key(row[topk_sample_place(i, step)]);

            sample[i] = key;
            low = min(low, key);
            high = max(high, key);
        }
        block_range(low, high, shared.low[0], shared.high[0]);
        rest = (uint32_t)(c.k / step + TOPK_SAMPLE_HITS);
        bound = select_key(
            [sample](int i, uint32_t &key) {
                key = sample[i];
                return true;
            },
            n, low, high, digits, rest, equal);
    } else {
        __syncthreads();
    }
    collect<Threads, Ahead>(row, count, bound ? key_value(bound) : -INFINITY, candidates, most, &shared.filled);
    __syncthreads();
    n = shared.filled;
    fits = n >= c.k && n <= most;
    if (fits) {
        low = ~0u;
        high = 0;
        for (int i = threadIdx.x; i < n; i += Threads) {
            uint32_t key = order_key(__uint_as_float(candidates[i].x));

            candidates[i].x = key;
            low = min(low, key);
            high = max(high, key);
        }
        block_range(low, high, shared.low[1], shared.high[1]);
        /* A NaN counts as -inf and was taken whatever the bound: then their number says nothing. */
        fits = low >= bound;
    }
    if (!fits) {
        topk_by_rounds<Threads>(row, count, c.k, out, (uint32_t *)candidates, &shared.rounds);
        return;
    }
    rest = (uint32_t)c.k;
    kth = select_key(
        [candidates](int i, uint32_t &key) {
            key = candidates[i].x;
            return true;
        },
        n, low, high, digits + 4 * TOPK_DIGITS, rest, equal);
    if (rest < equal) /* not all of the keys equal to the k-th: the lowest positions */
        last = select_key(
            [candidates, kth](int i, uint32_t &key) {
                key = ~candidates[i].y & 0xFFFFFFu;
                return candidates[i].x == kth;
            },
            n, 0, 0xFFFFFFu, digits + 8 * TOPK_DIGITS, rest, equal);
    for (int i = threadIdx.x; i < n; i += Threads) {
        uint2 one = candidates[i];

        if (one.x > kth || (one.x == kth && (~one.y & 0xFFFFFFu) >= last))
            atomicOr(&bits[one.y / 32], 1u << one.y % 32);
    }
    __syncthreads();
    write_positions(bits, (count + 31) / 32, out, shared.written);
}

template <int Threads, int Ahead> static enum status launch(struct ops *ops, const struct topk_call *call, int64_t T)
{
    int smem = (int)topk_sampled_bytes(call->S, call->k);

    CUDA_TRY(ops,
             cudaFuncSetAttribute((sampled_kernel<Threads, Ahead>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((sampled_kernel<Threads, Ahead>), (unsigned)T, Threads, smem, backend_of(ops)->stream, *call,
           topk_candidates(call->k));
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_topk_sampled(struct ops *ops, const struct topk_call *call, int64_t T)
{
    return T <= backend_of(ops)->sm_count ? launch<1024, 4>(ops, call, T) : launch<512, 4>(ops, call, T);
}
