/* attention_wgmma.cu: absorbed attention over FP8 records (decode) on Hopper's warpgroup products, widths 512 + 64.
 * Records that were widened to BF16 beforehand go to attention_stagger.cu.
 *
 *   grid   rows x parts of the keys x (H / 64), folded into x; 384 threads: two warpgroups that multiply, one that
 *          loads
 *   tile   64 records as BF16 in nine columns of 64 dims (64 x 128 bytes, 128-byte swizzle, 8 KB): read K-major for
 *          the logits, N-major for the sum. Two tiles, even and odd, are in shared memory; warpgroup w takes
 *          S_w = Q K_wT (64 heads x 64 records), and dims 256 w ... of the output for both tiles
 *   pair   both take their logits and row maxima; exchange the maxima; P = 2^(S - m) as BF16, kept in registers and
 *          written to shared memory; O_w = O_w alpha + P_w V_w (P from registers) + P_other V_other (from memory)
 *   smem   Q 73,728 + K 2 x 73,728 + maxima, sums, flags, barriers: 222 KB. P_w lies in the rotary column of K_w,
 *          which nobody needs once S_w is there
 *   loads  a column goes in eight lanes by 8 codes a lane, 64 rows in four steps, widened in registers. Halves of a
 *          tile are handed over and given back on their own: left is columns 0-3, right 4-7; the rotary column goes
 *          with the half that the other warpgroup frees, since P lies there
 *
 * The maximum is carried from pair to pair and starts at -1e30. P is rounded to BF16 for the sum; the normaliser adds
 * what was not rounded. Cycles a pair on one SM: 4,352 of wgmma, 2.5 us of the 9.8 us
 * that one takes (bench/README.md); the rest is thought to be the widening by one warpgroup. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum {
    HEADS = 64,
    RECORDS = 64,
    LATENT = 512,
    ROPE = 64,
    D = LATENT + ROPE,
    COLUMNS = D / 64,
    ROTARY = COLUMNS - 1,
    COLUMN_BYTES = RECORDS * 128,
    RECORD_BYTES = LATENT + 4 * (LATENT / SCALE_GROUP) + 2 * ROPE,
    THREADS = 384,
    GROUP = 128,
    PAIR = 2 * RECORDS
};
enum barrier_id { BARRIER_MAXIMA = 1, BARRIER_P = 2 };
typedef register_split<THREADS, 72, 216> registers;
enum side { LEFT, RIGHT };
#define NO_MAXIMUM (-1e30f)

struct shared_map {
    uint8_t q[COLUMNS][COLUMN_BYTES];
    uint8_t k[2][COLUMNS][COLUMN_BYTES];
    float maxima[2][HEADS], sums[2][HEADS];
    uint8_t valid[2][RECORDS];
    uint64_t full[2][2], empty[2][2], known[2]; /* [tile][half]; known: the flags */
};

/* --- Loading ------------------------------------------------------------------------------------------------------ */

/* The place of record `at` of this row, as position of its sequence; -1: none. */
static __device__ __forceinline__ int position_of(const struct attention_view &v, const int32_t *chosen, int at,
                                                  int end, int visible)
{
    int position = at >= end ? -1 : chosen ? chosen[at] : at;

    return position < visible ? position : -1;
}

/* Four columns from `first` and perhaps the rotary one, of this thread's four rows. `source` points at records, NULL
 * for none: zeros. */
static __device__ __forceinline__ void load_columns(uint8_t (*tile)[COLUMN_BYTES], const uint8_t *const (&source)[4],
                                                    int first, bool rotary)
{
    int lane = threadIdx.x % 8, group = threadIdx.x % GROUP / 8;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        int place = swizzled_128(group + 16 * i, lane);
        const uint8_t *record = source[i];
        uint2 codes[4] = {};
        float scale[2] = {};
        uint4 rope = {};

        if (record) {
#pragma unroll
            for (int c = 0; c < 4; c++)
                codes[c] = *(const uint2 *)(record + (first + c) * 64 + 8 * lane);
            scale[0] = ((const float *)(record + LATENT))[first / 2];
            scale[1] = ((const float *)(record + LATENT))[first / 2 + 1];
            if (rotary)
                rope = *(const uint4 *)(record + RECORD_BYTES - 2 * ROPE + 16 * lane);
        }
#pragma unroll
        for (int c = 0; c < 4; c++) {
            uint4 wide = {};
            float s = scale[c / 2];
            float2 a = e4m3_pair_to_float((uint16_t)codes[c].x), b = e4m3_pair_to_float(codes[c].x >> 16),
                   d = e4m3_pair_to_float((uint16_t)codes[c].y), e = e4m3_pair_to_float(codes[c].y >> 16);

            wide.x = bf16_pair(a.x * s, a.y * s);
            wide.y = bf16_pair(b.x * s, b.y * s);
            wide.z = bf16_pair(d.x * s, d.y * s);
            wide.w = bf16_pair(e.x * s, e.y * s);
            *(uint4 *)(tile[first + c] + place) = wide;
        }
        if (rotary)
            *(uint4 *)(tile[ROTARY] + place) = rope;
    }
}

static __device__ __forceinline__ void load_half(struct shared_map *shared, int tile, enum side half, unsigned parity,
                                                 const uint8_t *const (&source)[4])
{
    /* The rotary column: right of the even tile, left of the odd one. */
    bool rotary = (tile == 0) == (half == RIGHT);

    mbarrier_wait(&shared->empty[tile][half], parity);
    load_columns(shared->k[tile], source, half == LEFT ? 0 : 4, rotary);
    fence_proxy_async();
    mbarrier_arrive(&shared->full[tile][half]);
}

static __device__ __forceinline__ void load_all(const struct attention_view &v, struct shared_map *shared, int64_t t,
                                                int begin, int end, int visible)
{
    const int32_t *chosen = v.selected ? v.selected + t * v.selected_stride : NULL;
    int64_t sequence = v.sequence[t];
    const int32_t *pages = v.page_table + sequence * v.page_table_stride;
    int group = threadIdx.x % GROUP / 8, pairs = (end - begin + PAIR - 1) / PAIR;

    for (int pair = 0; pair < pairs; pair++) {
        const uint8_t *source[2][4];
        unsigned parity = (pair & 1) ^ 1;

#pragma unroll
        for (int i = 0; i < 8; i++) {
            int position =
                position_of(v, chosen, begin + pair * PAIR + i / 4 * RECORDS + group + 16 * (i % 4), end, visible);

            source[i / 4][i % 4] = NULL;
            if (position >= 0)
                source[i / 4][i % 4] = v.pool + ((int64_t)pages[position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS +
                                                 position % CACHE_PAGE_TOKENS) *
                                                    RECORD_BYTES;
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            /* The first half of a tile is freed by the warpgroup that reads its flags. */
            mbarrier_wait(&shared->empty[tile][tile == 0 ? LEFT : RIGHT], parity);
            if (threadIdx.x % 8 == 0)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    shared->valid[tile][group + 16 * i] = source[tile][i] != NULL;
            mbarrier_arrive(&shared->known[tile]);
            load_half(shared, tile, tile == 0 ? LEFT : RIGHT, parity, source[tile]);
        }
        load_half(shared, 0, RIGHT, parity, source[0]);
        load_half(shared, 1, LEFT, parity, source[1]);
    }
}

/* --- Multiplying -------------------------------------------------------------------------------------------------- */

/* The queries as BF16 columns, zeros past H; by both warpgroups that multiply. */
static __device__ __forceinline__ void load_queries(const struct attention_view &v, struct shared_map *shared,
                                                    int64_t t, int h0)
{
    for (int at = threadIdx.x; at < HEADS * (D / 8); at += 2 * GROUP) {
        int head = at / (D / 8), chunk = at % (D / 8), d = 8 * chunk;
        uint4 wide = {};

        if (h0 + head < v.H) {
            const float *from = d < LATENT ? v.q_latent + t * v.q_row_stride + (h0 + head) * v.q_head_stride + d
                                           : v.q_pe + t * v.pe_row_stride + (h0 + head) * v.pe_head_stride + d - LATENT;
            const float2 *pairs = (const float2 *)from;
            float2 a = pairs[0], b = pairs[1], c = pairs[2], e = pairs[3];

            wide.x = bf16_pair(a.x, a.y);
            wide.y = bf16_pair(b.x, b.y);
            wide.z = bf16_pair(c.x, c.y);
            wide.w = bf16_pair(e.x, e.y);
        }
        *(uint4 *)(shared->q[chunk / 8] + swizzled_128(head, chunk % 8)) = wide;
    }
}

static __device__ __forceinline__ void multiply_column(float (&s)[32], const struct shared_map *shared, int tile,
                                                       int column, bool add)
{
    uint64_t q = wgmma_descriptor(shared->q[column]), k = wgmma_descriptor(shared->k[tile][column]);

#pragma unroll
    for (int step = 0; step < 4; step++)
        wgmma_bf16<64, false>(s, q + 2 * step, k + 2 * step, add || step > 0);
}

/* Records 16 step … of a tile as the right side of the sum: dims 256 half …, N-major. */
static __device__ __forceinline__ uint64_t value_descriptor(const struct shared_map *shared, int tile, int half,
                                                            int step)
{
    return wgmma_descriptor_of(shared->k[tile][4 * half], COLUMN_BYTES, 1024, WGMMA_SWIZZLE_128) +
           (uint64_t)(step * 16 * 128 / 16);
}

struct row_state {
    float top[2], sum[2];
};

static __device__ __forceinline__ void multiply_all(const struct attention_view &v, struct shared_map *shared,
                                                    float (&o)[128], struct row_state &state, int pairs)
{
    int lane = threadIdx.x % WARP, w = threadIdx.x / GROUP, row = threadIdx.x % GROUP / WARP * 16 + lane / 4;
    enum side own = w == 0 ? LEFT : RIGHT, other = w == 0 ? RIGHT : LEFT;
    float scale = v.scale * 1.44269504088896341f;

    for (int pair = 0; pair < pairs; pair++) {
        unsigned parity = pair & 1;
        float s[32], alpha[2];
        uint32_t p[4][4];

        mbarrier_wait(&shared->full[w][own], parity);
        fence_proxy_async();
        wgmma_fence();
#pragma unroll
        for (int c = 0; c < 4; c++)
            multiply_column(s, shared, w, 4 * w + c, c > 0);
        mbarrier_wait(&shared->full[w][other], parity);
        fence_proxy_async();
        wgmma_fence(); /* the compiler wants one behind every loop */
#pragma unroll
        for (int c = 0; c < 4; c++)
            multiply_column(s, shared, w, 4 * (1 - w) + c, true);
        multiply_column(s, shared, w, ROTARY, true);
        wgmma_commit();
        mbarrier_wait(&shared->known[w], parity);
        wgmma_wait<0>(s);

#pragma unroll
        for (int i = 0; i < 2; i++) {
            float high = NO_MAXIMUM;

#pragma unroll
            for (int j = 0; j < 8; j++) {
                const uint8_t *valid = shared->valid[w] + 8 * j + 2 * (lane % 4);

                s[4 * j + 2 * i] = valid[0] ? s[4 * j + 2 * i] * scale : -INFINITY;
                s[4 * j + 2 * i + 1] = valid[1] ? s[4 * j + 2 * i + 1] * scale : -INFINITY;
                high = fmaxf(high, fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
            }
            high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFFu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFFu, high, 2));
            alpha[i] = high;
            if (lane % 4 == 0)
                shared->maxima[w][row + 8 * i] = high;
        }
        named_barrier_sync(BARRIER_MAXIMA, 2 * GROUP);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float high = fmaxf(state.top[i], fmaxf(alpha[i], shared->maxima[1 - w][row + 8 * i])), part = 0.0f;

            alpha[i] = exp2_fast(state.top[i] - high);
            state.top[i] = high;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float low = exp2_fast(s[4 * j + 2 * i] - high), next = exp2_fast(s[4 * j + 2 * i + 1] - high);

                part += low + next;
                p[j / 2][2 * (j % 2) + i] = bf16_pair(low, next);
            }
            state.sum[i] = state.sum[i] * alpha[i] + part;
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                *(uint32_t *)(shared->k[w][ROTARY] + swizzled_128(row + 8 * i, j) + 4 * (lane % 4)) =
                    p[j / 2][2 * (j % 2) + i];
        fence_proxy_async();
#pragma unroll
        for (int j = 0; j < 32; j++) {
            o[4 * j] *= alpha[0];
            o[4 * j + 1] *= alpha[0];
            o[4 * j + 2] *= alpha[1];
            o[4 * j + 3] *= alpha[1];
        }
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++)
            wgmma_bf16_rs<256, true>(o, p[step], value_descriptor(shared, w, w, step), true);
        wgmma_commit();
        named_barrier_sync(BARRIER_P, 2 * GROUP); /* the other's P is there */
        mbarrier_wait(&shared->full[1 - w][own], parity);
        fence_proxy_async();
        wgmma_fence();
        {
            uint64_t left = wgmma_descriptor(shared->k[1 - w][ROTARY]);

#pragma unroll
            for (int step = 0; step < 4; step++)
                wgmma_bf16<256, true>(o, left + 2 * step, value_descriptor(shared, 1 - w, w, step), true);
        }
        wgmma_commit();
        wgmma_wait<1>(s); /* not of `o`, which the second group still adds to: nothing may touch it yet */
        mbarrier_arrive(&shared->empty[w][own]);
        wgmma_wait<0>(o);
        mbarrier_arrive(&shared->empty[1 - w][own]);
    }
}

/* --- The kernel --------------------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(THREADS, 1) attention_wgmma_kernel(struct attention_view v)
{
    DYNAMIC_SHARED(uint8_t, memory);
    struct shared_map *shared = (struct shared_map *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
    int64_t index = blockIdx.x / v.head_tiles, t = index / v.parts;
    int part = (int)(index % v.parts), h0 = (int)(blockIdx.x % v.head_tiles) * HEADS;
    int visible = v.visible[t], count = v.selected ? v.selected_count : visible;
    int length = v.parts > 1 ? attention_part_length(count) : count, begin = part * length;
    int end = begin + length < count ? begin + length : count;
    bool whole = count <= length; /* this block writes the result itself */

    if (!WGMMA_HERE || (part > 0 && begin >= count))
        return;
    if (threadIdx.x == 0) {
        for (int tile = 0; tile < 2; tile++) {
            mbarrier_init(&shared->known[tile], GROUP);
            for (int half = 0; half < 2; half++) {
                mbarrier_init(&shared->full[tile][half], GROUP);
                mbarrier_init(&shared->empty[tile][half], GROUP);
            }
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= 2 * GROUP) {
        registers_lower<registers>();
        load_all(v, shared, t, begin, end, visible);
    } else {
        int lane = threadIdx.x % WARP, w = threadIdx.x / GROUP, row = threadIdx.x % GROUP / WARP * 16 + lane / 4;
        struct row_state state = {{NO_MAXIMUM, NO_MAXIMUM}, {0.0f, 0.0f}};
        float o[128] = {};

        registers_raise<registers>();
        load_queries(v, shared, t, h0);
        fence_proxy_async();
        named_barrier_sync(BARRIER_P, 2 * GROUP);
        multiply_all(v, shared, o, state, (end - begin + PAIR - 1) / PAIR);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = state.sum[i];

            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            if (lane % 4 == 0)
                shared->sums[w][row + 8 * i] = sum;
        }
        named_barrier_sync(BARRIER_MAXIMA, 2 * GROUP);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int head = h0 + row + 8 * i;
            float total = shared->sums[0][row + 8 * i] + shared->sums[1][row + 8 * i];
            float factor = total > 0.0f ? 1.0f / total : 0.0f;
            float *out = whole ? v.out + t * v.out_row_stride + head * v.out_head_stride
                               : v.part_out + ((t * v.parts + part) * v.H + head) * LATENT;

            if (head >= v.H)
                continue;
            if (w == 0 && lane % 4 == 0) {
                float log2_sum = state.top[i] + log2f(total);

                if (!whole)
                    v.part_lse[(t * v.parts + part) * v.H + head] = total > 0.0f ? log2_sum : -INFINITY;
                else if (v.lse)
                    v.lse[t * v.lse_stride + head] = total > 0.0f ? log2_sum * 0.693147180559945309f : INFINITY;
            }
            out += 256 * w + 2 * (lane % 4);
#pragma unroll
            for (int j = 0; j < 32; j++) {
                float2 pair = {o[4 * j + 2 * i] * factor, o[4 * j + 2 * i + 1] * factor};

                *(float2 *)(out + 8 * j) = pair;
            }
        }
    }
}

enum status cuda_attention_wgmma(struct ops *ops, const struct attention_view *v, int64_t T)
{
    const int smem = (int)sizeof(struct shared_map) + 1024;
    unsigned grid = (unsigned)(T * v->parts * v->head_tiles);

    CUDA_TRY(ops, cudaFuncSetAttribute(attention_wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((attention_wgmma_kernel), grid, THREADS, smem, backend_of(ops)->stream, *v);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
