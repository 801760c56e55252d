/* attention_stagger.cu: absorbed attention on Hopper's warpgroup products, widths 512 + 64: over FP8 records (decode),
 * or over records that attention_split.cu has widened to BF16 once a call (prefill). What is multiplied is the same.
 *
 *   grid   a block a (row, part of its keys, 64 of its heads); for BF16 as many blocks as there are SMs, each taking
 *          one after another; 384 threads: two warpgroups that multiply, one that loads
 *   tile   64 records in nine columns of 64 dims (64 x 128 bytes, 128-byte swizzle, 8 KB): read K-major for the
 *          logits, N-major for the sum. An even and an odd tile are in shared memory; warpgroup w takes
 *          S_w = Q K_wT (64 heads x 64 records), and dims 256 w ... of the output for both tiles
 *   smem   Q 73,728 + K 2 x 73,728 + maxima, sums, flags, barriers: 223 KB. P_w lies in the rotary column of
 *          K_w, which nobody needs once S_w is there
 *
 * The warpgroups run half a pair apart, so that one's exponentials stand beside the other's products:
 *
 *   even                                                  odd
 *   m0 = max(m, S0), P0 = 2^(S0 - m0)         m0 ->       S1 = Q K1T, still running
 *   O = O 2^(m - m0) + P0 V0 (registers)      <- m1       m1 = max(m0, S1), P1 = 2^(S1 - m1)
 *   P0 2^(m0 - m1) to memory                  P0 ->       O = O 2^(m - m1) + P1 V1 (registers)
 *   O = O 2^(m0 - m1) + P1 V1 (memory)        <- P1       P1 to memory; O += P0 V0 (memory)
 *   S0 of the next pair behind it                         S1 of the next pair
 *
 * This order, and that halves of a tile are handed over on their own, is FlashMLA's (csrc/sm90/prefill/sparse). Left is
 * columns 0-3, right 4-7; the rotary column goes with the half that the reader of its P frees. The maximum starts at
 * -1e30. P is rounded to BF16 for the sum; the normaliser adds what was not rounded. The arrows are bar.arrive on one
 * side and bar.sync on the other, which order what was stored before the one for what is read after the other.
 *
 * Loading: a lane finds the record of one of its warp's 32 rows of a pair, two pairs ahead; a column goes in eight
 * lanes. BF16 goes by cp.async, 16 bytes a lane. FP8 goes through registers, 16 codes a lane: a half is on its way to
 * them while the one before is widened, each row's registers taking the next half's row as soon as it is stored, so
 * that a half waits for its place with its codes at hand.
 *
 * Cycles a pair on one SM: 4,352 of wgmma; shared memory is busy for 2,304 with QKT, 1,152 with PV, 1,152 with filling.
 * A pair of FP8 tiles takes 6.6 us on an H200, one of BF16 4.8. A loading warp executes about 1,900 instructions for
 * it. In a loop over the halves (600 each, not 480) 128 rows took 9% longer, with multiply-adds for shifts 3%, with
 * records asked for in L2 5%; but with 390 a half, 6% longer as well. Halves are thought to become free so close to
 * each other that widening them stands in line. The even tile's halves first, blocks that stay: no change. Two
 * warpgroups that load do not compile: 512 threads have 128 registers, and wgmma of 256 columns wants 158.
 * Queries come as F32 and are rounded to BF16 here, or come as BF16 and go by cp.async; the result leaves in the same
 * type, BF16 in 64 bytes a row at a time. The loading warpgroup asks for the next row's queries in L2 behind the last
 * records of this one (F32, 147 KB a row: 4,096 rows took 5% to 7% longer without; in decode no difference). */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sm90/barrier.cuh"
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
    STEP_BYTES = 16 * 128,
    SCALES_AT = LATENT,
    ROPE_AT = LATENT + 4 * (LATENT / SCALE_GROUP),
    RECORD_BYTES = ROPE_AT + 2 * ROPE,
    THREADS = 384,
    GROUP = 128,
    PAIR = 2 * RECORDS
};
enum barrier_id { BARRIER_M0 = 1, BARRIER_M1, BARRIER_P0, BARRIER_P1, BARRIER_WORKERS };
enum side { LEFT, RIGHT };
#define NO_MAXIMUM (-1e30f)

struct shared_map {
    uint8_t q[COLUMNS][COLUMN_BYTES];
    uint8_t k[2][COLUMNS][COLUMN_BYTES];
    float maxima[2][HEADS], sums[2][HEADS];
    uint8_t valid[2][RECORDS];
    uint8_t complete[2][4];                  /* whether a warp's rows of a tile are all valid */
    uint64_t full[2][2], empty[2][2], known; /* [tile][half]; known: the flags */
};

/* What a block does next: a row, 64 of its heads, a range of its keys. */
struct item {
    int64_t t;
    int part, h0, begin, end, visible, pairs;
    bool whole; /* this block writes the result itself */
};

static __device__ __forceinline__ struct item item_at(const struct attention_view &v, unsigned at)
{
    struct item item;
    unsigned index = at / (unsigned)v.head_tiles;
    int count, length;

    item.t = index / (unsigned)v.parts;
    item.part = (int)(index % (unsigned)v.parts);
    item.h0 = (int)(at % (unsigned)v.head_tiles) * HEADS;
    item.visible = v.visible[item.t];
    count = v.selected ? v.selected_count : item.visible;
    length = v.parts > 1 ? attention_part_length(count) : count;
    item.begin = item.part * length;
    item.end = item.begin + length < count ? item.begin + length : count;
    item.whole = count <= length;
    item.pairs = item.part > 0 && item.begin >= count ? -1 : (item.end - item.begin + PAIR - 1) / PAIR; /* -1: none */
    return item;
}

/* --- FP8 to BF16 ------------------------------------------------------------------------------------------------- */

/* Products of two pairs of BF16 values, subnormals kept. */
static __device__ __forceinline__ uint32_t bf16_products(uint32_t a, uint32_t b)
{
#ifdef DSA_CUDA_EMULATED
    return bf16_pair(__uint_as_float(a << 16) * __uint_as_float(b << 16),
                     __uint_as_float(a & 0xFFFF0000u) * __uint_as_float(b & 0xFFFF0000u));
#else
    uint32_t product;

    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
#endif
}

/* A scale for both values of a pair: a power of two (ops.h), of which BF16 has the exponent. */
static __device__ __forceinline__ uint32_t scale_pair(float scale)
{
    return byte_permute(__float_as_uint(scale), 0, 0x3232);
}

/* Two codes in the upper bytes of `spread`'s halves; the lower bytes may hold anything. A code's sign, exponent and
 * mantissa at their places in BF16 are its value times 2^-120, a subnormal code included, so that product is exact, and
 * so is that with the scale: four significant bits stay four. NaN's code would become 480; a token that has one has NaN
 * in its rotary part too, which is not coded. */
static __device__ __forceinline__ uint32_t widen_pair(uint32_t spread, uint32_t scale)
{
    return bf16_products(bf16_products((spread & 0x80008000u) | (spread >> 4 & 0x07F007F0u), 0x7B807B80u), scale);
}

/* Eight of a lane's sixteen codes: the lower or, with 0x4444 in `pick`, the upper ones. */
static __device__ __forceinline__ uint4 widen(uint4 codes, uint32_t pick, uint32_t scale)
{
    uint4 wide;

    wide.x = widen_pair(byte_permute(codes.x, codes.z, pick ^ 0x1100), scale);
    wide.y = widen_pair(byte_permute(codes.x, codes.z, pick ^ 0x3322), scale);
    wide.z = widen_pair(byte_permute(codes.y, codes.w, pick ^ 0x1100), scale);
    wide.w = widen_pair(byte_permute(codes.y, codes.w, pick ^ 0x3322), scale);
    return wide;
}

/* --- Loading ----------------------------------------------------------------------------------------------------- */

/* The loading warpgroup's warp w has rows 4 w + g + 16 i of both tiles, g and i below 4: lane 8 g + 4 tile + i finds
 * the record, lanes 8 g ... 8 g + 7 copy it. */
struct loader {
    const uint8_t *base; /* of the records: the pool, or all widened ones */
    int lane, warp, row; /* row: of the lane's own record in its tile */
};

/* The position of this lane's record of a pair; -1: none. */
static __device__ __forceinline__ int own_position(const struct attention_view &v, const struct item &item,
                                                   const int32_t *chosen, const struct loader &loader, int pair)
{
    int at = item.begin + pair * PAIR + loader.lane / 4 % 2 * RECORDS + loader.row;
    int position = at >= item.end ? -1 : chosen ? chosen[at] : at;

    return position < item.visible ? position : -1;
}

/* Its number from loader.base on; -1: none. */
template <bool Wide>
static __device__ __forceinline__ int own_record(const struct attention_view &v, const int32_t *pages, int64_t sequence,
                                                 int position)
{
    if (position < 0)
        return -1;
    return Wide ? (int)(sequence * v.wide_rows + position)
                : pages[position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS + position % CACHE_PAGE_TOKENS;
}

/* Whether the rotary column goes with this half: right of the even tile, left of the odd one. */
static __device__ __forceinline__ bool with_rotary(int tile, enum side half)
{
    return (tile == 0) == (half == RIGHT);
}

/* Copies of one half begin: of BF16 records. */
static __device__ __forceinline__ void begin_half(struct shared_map *shared, const struct loader &loader, int records,
                                                  int tile, enum side half)
{
    int lane = loader.lane % 8, first = half == LEFT ? 0 : 4;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        int number = __shfl_sync(0xFFFFFFFFu, records, 4 * tile + i, 8);
        int row = 4 * loader.warp + loader.lane / 8 + 16 * i;
        const uint8_t *record = loader.base + (int64_t)(number < 0 ? 0 : number) * (2 * D);

#pragma unroll
        for (int c = 0; c < 4; c++)
            cp_async_16(shared->k[tile][first + c] + swizzled_128(row, lane), record + (first + c) * 128 + 16 * lane,
                        number >= 0);
        if (with_rotary(tile, half))
            cp_async_16(shared->k[tile][ROTARY] + swizzled_128(row, lane), record + ROTARY * 128 + 16 * lane,
                        number >= 0);
    }
    cp_async_arrive(&shared->full[tile][half]);
}

/* What a lane holds of one half of four FP8 records. */
struct held {
    uint4 codes[4][2], rotary[4];
    float scale, next_scale; /* lane 8 g + 2 i + c: of row i's codes c; of the half being widened, of the next */
};

static __device__ __forceinline__ void fetch_scales(struct held &held, const struct loader &loader, int records,
                                                    int tile, enum side half)
{
    int lane = loader.lane % 8, number = __shfl_sync(0xFFFFFFFFu, records, 4 * tile + lane / 2, 8);
    const uint8_t *record = loader.base + (int64_t)number * RECORD_BYTES;

    held.next_scale = 0.0f;
    if (number >= 0)
        held.next_scale = ((const float *)(record + SCALES_AT))[(half == LEFT ? 0 : 2) + lane % 2];
}

/* Loads of row i of a half begin: lane l takes codes 16 l ... and 128 + 16 l ... of its 256. */
static __device__ __forceinline__ void fetch_row(struct held &held, const struct loader &loader, int records, int i,
                                                 int tile, enum side half)
{
    int lane = loader.lane % 8, number = __shfl_sync(0xFFFFFFFFu, records, 4 * tile + i, 8);
    const uint8_t *record = loader.base + (int64_t)number * RECORD_BYTES;
    const uint8_t *codes = record + (half == LEFT ? 0 : LATENT / 2) + 16 * lane;

    if (number >= 0) {
        held.codes[i][0] = *(const uint4 *)codes;
        held.codes[i][1] = *(const uint4 *)(codes + 128);
        if (with_rotary(tile, half))
            held.rotary[i] = *(const uint4 *)(record + ROPE_AT + 16 * lane);
    } else {
        held.codes[i][0] = held.codes[i][1] = {};
        if (with_rotary(tile, half))
            held.rotary[i] = {};
    }
}

/* One half becomes BF16 in its place, which is free, while loads of the next half begin. Lanes of the two columns store
 * their two eights in opposite order, so that eight lanes meet all banks. */
static __device__ __forceinline__ void fill_half(struct shared_map *shared, struct held &held,
                                                 const struct loader &loader, int tile, enum side half, int next,
                                                 int next_tile, enum side next_half)
{
    int lane = loader.lane % 8, first = half == LEFT ? 0 : 4, odd = lane / 4;
    int row = 4 * loader.warp + loader.lane / 8, place = swizzled_128(row, 2 * (lane % 4) + odd) + odd * COLUMN_BYTES;
    uint32_t pick = odd ? 0x4444 : 0;

    held.scale = held.next_scale;
    fetch_scales(held, loader, next, next_tile, next_half);
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            uint8_t *column = shared->k[tile][first + 2 * c] + i * STEP_BYTES;
            uint32_t scale = scale_pair(__shfl_sync(0xFFFFFFFFu, held.scale, 2 * i + c, 8));
            /* Not stored by widen() itself: the emulator would not see it. */
            uint4 wide = widen(held.codes[i][c], pick, scale), other = widen(held.codes[i][c], pick ^ 0x4444, scale);

            *(uint4 *)(column + place) = wide;
            *(uint4 *)(column + (place ^ 16)) = other;
        }
        if (with_rotary(tile, half))
            *(uint4 *)(shared->k[tile][ROTARY] + swizzled_128(row, lane) + i * STEP_BYTES) = held.rotary[i];
        __syncwarp(); /* for the compiler: it would put all loads behind the last store */
        fetch_row(held, loader, next, i, next_tile, next_half);
        __syncwarp();
    }
    mbarrier_arrive(&shared->full[tile][half]); /* who reads the half fences */
}

template <bool Wide>
static __device__ __forceinline__ void load_item(const struct attention_view &v, struct shared_map *shared,
                                                 const struct item &item, struct loader &loader, unsigned &pairs_before)
{
    const int32_t *chosen = v.selected ? v.selected + item.t * v.selected_stride : NULL;
    int64_t sequence = v.sequence[item.t];
    const int32_t *pages = v.page_table + sequence * v.page_table_stride;
    int tile_of_lane = loader.lane / 4 % 2;
    int position = own_position(v, item, chosen, loader, 0);
    int records = own_record<Wide>(v, pages, sequence, position);
    struct held held;

    position = own_position(v, item, chosen, loader, 1); /* of the next pair */
    if (!Wide) {
        fetch_scales(held, loader, records, 0, LEFT);
#pragma unroll
        for (int i = 0; i < 4; i++)
            fetch_row(held, loader, records, i, 0, LEFT);
    }
    for (int pair = 0; pair < item.pairs; pair++) {
        unsigned parity = (pairs_before++ & 1) ^ 1, valid;
        int next = own_record<Wide>(v, pages, sequence, position);

        position = own_position(v, item, chosen, loader, pair + 2);
        mbarrier_wait(&shared->empty[0][LEFT], parity);
        if (Wide)
            begin_half(shared, loader, records, 0, LEFT);
        else
            fill_half(shared, held, loader, 0, LEFT, records, 1, RIGHT);
        mbarrier_wait(&shared->empty[1][RIGHT], parity);
        /* Both warpgroups have now given back a half of the pair before, and had read its flags by then. */
        valid = __ballot_sync(0xFFFFFFFFu, records >= 0);
        shared->valid[tile_of_lane][loader.row] = records >= 0;
        if (loader.lane < 2)
            shared->complete[loader.lane][loader.warp] = (valid | ~(0x0F0F0F0Fu << 4 * loader.lane)) == 0xFFFFFFFFu;
        mbarrier_arrive(&shared->known);
        if (Wide)
            begin_half(shared, loader, records, 1, RIGHT);
        else
            fill_half(shared, held, loader, 1, RIGHT, records, 0, RIGHT);
        mbarrier_wait(&shared->empty[0][RIGHT], parity);
        if (Wide)
            begin_half(shared, loader, records, 0, RIGHT);
        else
            fill_half(shared, held, loader, 0, RIGHT, records, 1, LEFT);
        mbarrier_wait(&shared->empty[1][LEFT], parity);
        if (Wide)
            begin_half(shared, loader, records, 1, LEFT);
        else
            fill_half(shared, held, loader, 1, LEFT, next, 0, LEFT);
        records = next;
    }
}

/* Asks for an item's queries in L2, while the last pair of the item before is multiplied. */
static __device__ __forceinline__ void expect_queries(const struct attention_view &v, const struct item &item)
{
    int bytes = v.bf16 ? 2 : 4, lines = LATENT * bytes / 128; /* a power of two */

    for (int at = threadIdx.x % GROUP; at < HEADS * lines; at += GROUP) {
        int head = item.h0 + at / lines;

        if (head < v.H)
            prefetch_into_l2((const uint8_t *)v.q_latent + (item.t * v.q_row_stride + head * v.q_head_stride) * bytes +
                             at % lines * 128);
    }
}

/* --- Multiplying ------------------------------------------------------------------------------------------------- */

enum { WORKERS = 2 * GROUP };

/* Latents of the queries as BF16 columns, zeros past H, from F32: by both warpgroups that multiply, 4 heads a step.
 * Values come in bunches, so that few waits for memory follow each other. */
static __device__ __forceinline__ void round_queries(const struct attention_view &v, struct shared_map *shared,
                                                     const struct item &item)
{
    enum { BUNCH = 8 };
    const float *q = (const float *)v.q_latent + item.t * v.q_row_stride;

#pragma unroll 1
    for (int base = 0; base < HEADS * (LATENT / 8); base += BUNCH * WORKERS) {
        float4 low[BUNCH], high[BUNCH];

#pragma unroll
        for (int i = 0; i < BUNCH; i++) {
            int at = base + i * WORKERS + threadIdx.x, head = item.h0 + at / (LATENT / 8);
            const float4 *from = (const float4 *)(q + head * v.q_head_stride + at % (LATENT / 8) * 8);

            low[i] = high[i] = {};
            if (head < v.H) {
                low[i] = from[0];
                high[i] = from[1];
            }
        }
#pragma unroll
        for (int i = 0; i < BUNCH; i++) {
            int at = base + i * WORKERS + threadIdx.x, head = at / (LATENT / 8), chunk = at % (LATENT / 8);
            uint4 wide = {bf16_pair(low[i].x, low[i].y), bf16_pair(low[i].z, low[i].w), bf16_pair(high[i].x, high[i].y),
                          bf16_pair(high[i].z, high[i].w)};

            *(uint4 *)(shared->q[chunk / 8] + swizzled_128(head, chunk % 8)) = wide;
        }
    }
}

/* The same from BF16: copies begin. */
static __device__ __forceinline__ void copy_queries(const struct attention_view &v, struct shared_map *shared,
                                                    const struct item &item)
{
    const __nv_bfloat16 *q = (const __nv_bfloat16 *)v.q_latent + item.t * v.q_row_stride;

#pragma unroll
    for (int at = threadIdx.x; at < HEADS * (LATENT / 8); at += WORKERS) {
        int head = at / (LATENT / 8), chunk = at % (LATENT / 8);

        cp_async_16(shared->q[chunk / 8] + swizzled_128(head, chunk % 8),
                    q + (item.h0 + head) * v.q_head_stride + 8 * chunk, item.h0 + head < v.H);
    }
}

static __device__ __forceinline__ void load_queries(const struct attention_view &v, struct shared_map *shared,
                                                    const struct item &item)
{
    if (v.bf16)
        copy_queries(v, shared, item);
    else
        round_queries(v, shared, item);
#pragma unroll
    for (int at = threadIdx.x; at < HEADS * (ROPE / 8); at += WORKERS) {
        int head = at / (ROPE / 8), chunk = at % (ROPE / 8);
        uint4 wide = {};

        if (item.h0 + head < v.H) {
            const float2 *pairs =
                (const float2 *)(v.q_pe + item.t * v.pe_row_stride + (item.h0 + head) * v.pe_head_stride + 8 * chunk);
            float2 a = pairs[0], b = pairs[1], c = pairs[2], d = pairs[3];

            wide = {bf16_pair(a.x, a.y), bf16_pair(b.x, b.y), bf16_pair(c.x, c.y), bf16_pair(d.x, d.y)};
        }
        *(uint4 *)(shared->q[ROTARY] + swizzled_128(head, chunk)) = wide;
    }
    cp_async_wait_all();
}

static __device__ __forceinline__ void multiply_column(float (&s)[32], const struct shared_map *shared, int tile,
                                                       int column, bool add)
{
    uint64_t q = wgmma_descriptor(shared->q[column]), k = wgmma_descriptor(shared->k[tile][column]);

#pragma unroll
    for (int step = 0; step < 4; step++)
        wgmma_bf16<64, false>(s, q + 2 * step, k + 2 * step, add || step > 0);
}

/* Waits for a half of a tile, and begins its share of the logits. */
template <int Tile, enum side Half>
static __device__ __forceinline__ void multiply_half(float (&s)[32], struct shared_map *shared, unsigned parity)
{
    mbarrier_wait(&shared->full[Tile][Half], parity);
    fence_proxy_async();
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < 4; c++)
        multiply_column(s, shared, Tile, (Half == LEFT ? 0 : 4) + c, c > 0 || (int)Tile != (int)Half);
    if (with_rotary(Tile, Half))
        multiply_column(s, shared, Tile, ROTARY, true);
    wgmma_commit();
}

/* Records 16 step ... of a tile as the right side of the sum: dims 256 half ..., N-major. */
static __device__ __forceinline__ uint64_t value_descriptor(const struct shared_map *shared, int tile, int half,
                                                            int step)
{
    return wgmma_descriptor_of(shared->k[tile][4 * half], COLUMN_BYTES, 1024, WGMMA_SWIZZLE_128) +
           (uint64_t)(step * 16 * 128 / 16);
}

/* O += P V of warpgroup W's own tile, P in registers. */
template <int W>
static __device__ __forceinline__ void add_own(float (&o)[128], const uint32_t (&p)[4][4],
                                               const struct shared_map *shared)
{
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; step++)
        wgmma_bf16_rs<256, true>(o, p[step], value_descriptor(shared, W, W, step), true);
    wgmma_commit();
}

/* O += P V of the other warpgroup's tile, P in memory. */
template <int W>
static __device__ __forceinline__ void add_other(float (&o)[128], struct shared_map *shared, unsigned parity)
{
    uint64_t p = wgmma_descriptor(shared->k[1 - W][ROTARY]);

    mbarrier_wait(&shared->full[1 - W][W], parity);
    fence_proxy_async();
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; step++)
        wgmma_bf16<256, true>(o, p + 2 * step, value_descriptor(shared, 1 - W, W, step), true);
    wgmma_commit();
}

struct row_state {
    float top[2], sum[2]; /* of the thread's two rows; the maximum in log2 */
};

/* Logits of records that are none become -inf; the rows' maxima of this tile, in log2. */
static __device__ __forceinline__ void mask_and_find(float (&s)[32], const struct shared_map *shared, int tile,
                                                     float scale, float (&high)[2])
{
    int lane = threadIdx.x % WARP;

    if (*(const uint32_t *)shared->complete[tile] != 0x01010101u) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint8_t *valid = shared->valid[tile] + 8 * j + 2 * (lane % 4);

#pragma unroll
            for (int i = 0; i < 4; i++)
                s[4 * j + i] = valid[i % 2] ? s[4 * j + i] : -INFINITY;
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        high[i] = -INFINITY;
#pragma unroll
        for (int j = 0; j < 8; j++)
            high[i] = fmaxf(high[i], fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
        high[i] = fmaxf(high[i], __shfl_xor_sync(0xFFFFFFFFu, high[i], 1));
        high[i] = fmaxf(high[i], __shfl_xor_sync(0xFFFFFFFFu, high[i], 2)) * scale;
    }
}

/* s becomes 2^(s - top), p the same as BF16. */
static __device__ __forceinline__ void exponentials(float (&s)[32], uint32_t (&p)[4][4], float scale,
                                                    const float (&top)[2], float (&part)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        part[i] = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float low = exp2_fast(fmaf(s[4 * j + 2 * i], scale, -top[i])),
                  next = exp2_fast(fmaf(s[4 * j + 2 * i + 1], scale, -top[i]));

            s[4 * j + 2 * i] = low;
            s[4 * j + 2 * i + 1] = next;
            part[i] += low + next;
            p[j / 2][2 * (j % 2) + i] = bf16_pair(low, next);
        }
    }
}

static __device__ __forceinline__ void rescale(float (&o)[128], const float (&factor)[2])
{
#pragma unroll
    for (int j = 0; j < 32; j++) {
        o[4 * j] *= factor[0];
        o[4 * j + 1] *= factor[0];
        o[4 * j + 2] *= factor[1];
        o[4 * j + 3] *= factor[1];
    }
}

/* P into the rotary column of its tile, and the other warpgroup may read it. */
static __device__ __forceinline__ void publish(struct shared_map *shared, int tile, int row, const uint32_t (&p)[4][4])
{
    int lane = threadIdx.x % WARP;

#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(uint32_t *)(shared->k[tile][ROTARY] + swizzled_128(row + 8 * i, j) + 4 * (lane % 4)) =
                p[j / 2][2 * (j % 2) + i];
    fence_proxy_async();
}

static __device__ __forceinline__ void multiply_even(float scale, struct shared_map *shared, float (&o)[128],
                                                     struct row_state &state, int row, int pairs, unsigned before)
{
    int lane = threadIdx.x % WARP;
    float s[32];

    multiply_half<0, LEFT>(s, shared, before & 1);
    multiply_half<0, RIGHT>(s, shared, before & 1);
    mbarrier_wait(&shared->known, before & 1);
    wgmma_wait<0>(s);
    for (int pair = 0; pair < pairs; pair++) {
        unsigned parity = (before + pair) & 1;
        float factor[2], part[2], high[2];
        uint32_t p[4][4];

        mask_and_find(s, shared, 0, scale, high);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            high[i] = fmaxf(state.top[i], high[i]);
            factor[i] = exp2_fast(state.top[i] - high[i]);
            state.top[i] = high[i];
            if (lane % 4 == 0)
                shared->maxima[0][row + 8 * i] = high[i];
        }
        named_barrier_arrive(BARRIER_M0, 2 * GROUP);
        exponentials(s, p, scale, state.top, part);
        rescale(o, factor);
        add_own<0>(o, p, shared);
#pragma unroll
        for (int i = 0; i < 2; i++)
            state.sum[i] = state.sum[i] * factor[i] + part[i];
        wgmma_wait<0>(o); /* before the other's maxima are here, as a rule: the loader goes on early */
        mbarrier_arrive(&shared->empty[0][LEFT]);
        named_barrier_sync(BARRIER_M1, 2 * GROUP);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float top = shared->maxima[1][row + 8 * i];

            factor[i] = exp2_fast(state.top[i] - top);
            state.top[i] = top;
            state.sum[i] *= factor[i];
        }
        {
            uint32_t smaller[4][4];

#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    smaller[j / 2][2 * (j % 2) + i] =
                        bf16_pair(s[4 * j + 2 * i] * factor[i], s[4 * j + 2 * i + 1] * factor[i]);
            publish(shared, 0, row, smaller);
        }
        named_barrier_arrive(BARRIER_P0, 2 * GROUP);
        rescale(o, factor);
        named_barrier_sync(BARRIER_P1, 2 * GROUP);
        add_other<0>(o, shared, parity);
        if (pair + 1 < pairs) {
            multiply_half<0, LEFT>(s, shared, parity ^ 1);
            wgmma_wait<1>(o);
            mbarrier_arrive(&shared->empty[1][LEFT]);
            multiply_half<0, RIGHT>(s, shared, parity ^ 1);
            mbarrier_wait(&shared->known, parity ^ 1);
            wgmma_wait<0>(s);
        } else {
            wgmma_wait<0>(o);
            mbarrier_arrive(&shared->empty[1][LEFT]);
        }
    }
}

static __device__ __forceinline__ void multiply_odd(float scale, struct shared_map *shared, float (&o)[128],
                                                    struct row_state &state, int row, int pairs, unsigned before)
{
    int lane = threadIdx.x % WARP;

    for (int pair = 0; pair < pairs; pair++) {
        unsigned parity = (before + pair) & 1;
        float s[32], factor[2], part[2], high[2];
        uint32_t p[4][4];

        multiply_half<1, RIGHT>(s, shared, parity);
        multiply_half<1, LEFT>(s, shared, parity);
        mbarrier_wait(&shared->known, parity);
        wgmma_wait<0>(s);
        mask_and_find(s, shared, 1, scale, high);
        named_barrier_sync(BARRIER_M0, 2 * GROUP);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            high[i] = fmaxf(shared->maxima[0][row + 8 * i], high[i]);
            factor[i] = exp2_fast(state.top[i] - high[i]);
            state.top[i] = high[i];
            if (lane % 4 == 0)
                shared->maxima[1][row + 8 * i] = high[i];
        }
        named_barrier_arrive(BARRIER_M1, 2 * GROUP);
        exponentials(s, p, scale, state.top, part);
        rescale(o, factor);
        add_own<1>(o, p, shared);
        publish(shared, 1, row, p);
        named_barrier_arrive(BARRIER_P1, 2 * GROUP);
#pragma unroll
        for (int i = 0; i < 2; i++)
            state.sum[i] = state.sum[i] * factor[i] + part[i];
        named_barrier_sync(BARRIER_P0, 2 * GROUP);
        add_other<1>(o, shared, parity);
        wgmma_wait<1>(s); /* not of `o`, which the second group still adds to: nothing may touch it yet */
        mbarrier_arrive(&shared->empty[1][RIGHT]);
        wgmma_wait<0>(o);
        mbarrier_arrive(&shared->empty[0][RIGHT]);
    }
}

/* A thread's 64 values of one row, 32 pairs of columns, as BF16: `out` is the row's place for lane % 4. All lanes come
 * here; rows that are none are not stored. */
static __device__ __forceinline__ void store_bf16(__nv_bfloat16 *out, const float (&o)[128], int i, float factor,
                                                  bool inside)
{
#pragma unroll
    for (int j = 0; j < 32; j += 4) {
        uint32_t word[4];

#pragma unroll
        for (int k = 0; k < 4; k++)
            word[k] = bf16_pair(o[4 * (j + k) + 2 * i] * factor, o[4 * (j + k) + 2 * i + 1] * factor);
        transpose_quad(word);
        if (inside)
            *(uint4 *)(out + 8 * j) = {word[0], word[1], word[2], word[3]};
    }
}

static __device__ __forceinline__ void store_f32(float *out, const float (&o)[128], int i, float factor)
{
#pragma unroll
    for (int j = 0; j < 32; j++) {
        float2 pair = {o[4 * j + 2 * i] * factor, o[4 * j + 2 * i + 1] * factor};

        *(float2 *)(out + 8 * j) = pair;
    }
}

/* The sums of both warpgroups, then the result or the part's. */
static __device__ __forceinline__ void store(const struct attention_view &v, struct shared_map *shared,
                                             const struct item &item, const float (&o)[128],
                                             const struct row_state &state, int row)
{
    int lane = threadIdx.x % WARP, w = threadIdx.x / GROUP;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = state.sum[i];

        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        if (lane % 4 == 0)
            shared->sums[w][row + 8 * i] = sum;
    }
    named_barrier_sync(BARRIER_WORKERS, 2 * GROUP);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int head = item.h0 + row + 8 * i;
        float total = shared->sums[0][row + 8 * i] + shared->sums[1][row + 8 * i];
        float factor = total > 0.0f ? 1.0f / total : 0.0f;
        int64_t place = item.t * v.out_row_stride + head * v.out_head_stride + 256 * w;
        bool inside = head < v.H;

        if (inside && w == 0 && lane % 4 == 0) {
            float log2_sum = state.top[i] + log2f(total);

            if (!item.whole)
                v.part_lse[(item.t * v.parts + item.part) * v.H + head] = total > 0.0f ? log2_sum : -INFINITY;
            else if (v.lse)
                v.lse[item.t * v.lse_stride + head] = total > 0.0f ? log2_sum * 0.693147180559945309f : INFINITY;
        }
        if (item.whole && v.bf16)
            store_bf16((__nv_bfloat16 *)v.out + place + 8 * (lane % 4), o, i, factor, inside);
        else if (inside)
            store_f32((item.whole ? (float *)v.out + place
                                  : v.part_out + ((item.t * v.parts + item.part) * v.H + head) * LATENT + 256 * w) +
                          2 * (lane % 4),
                      o, i, factor);
    }
}

/* --- The kernel -------------------------------------------------------------------------------------------------- */

template <bool Wide>
static __global__ void __launch_bounds__(THREADS, 1) attention_stagger_kernel(struct attention_view v, unsigned items)
{
    after_previous();
    typedef register_split<THREADS, Wide ? 72 : 88, Wide ? 216 : 208> registers; /* FP8 goes through them */
    DYNAMIC_SHARED(uint8_t, memory);
    struct shared_map *shared = (struct shared_map *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
    unsigned before = 0; /* pairs that this block has done */

    if (!WGMMA_HERE)
        return;
    if (threadIdx.x == 0) {
        mbarrier_init(&shared->known, GROUP);
        for (int tile = 0; tile < 2; tile++)
            for (int half = 0; half < 2; half++) {
                mbarrier_init(&shared->full[tile][half], GROUP);
                mbarrier_init(&shared->empty[tile][half], GROUP);
            }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= 2 * GROUP) {
        struct loader loader;

        registers_lower<registers>();
        loader.base = Wide ? (const uint8_t *)v.wide : v.pool;
        loader.lane = threadIdx.x % WARP;
        loader.warp = threadIdx.x % GROUP / WARP;
        loader.row = 4 * loader.warp + loader.lane / 8 + 16 * (loader.lane % 4);
        for (unsigned at = blockIdx.x; at < items; at += gridDim.x) {
            load_item<Wide>(v, shared, item_at(v, at), loader, before);
            if (Wide && at + gridDim.x < items)
                expect_queries(v, item_at(v, at + gridDim.x));
        }
    } else {
        int lane = threadIdx.x % WARP, row = threadIdx.x % GROUP / WARP * 16 + lane / 4;
        float scale = v.scale * 1.44269504088896341f;

        registers_raise<registers>();
        for (unsigned at = blockIdx.x; at < items; at += gridDim.x) {
            struct item item = item_at(v, at);
            struct row_state state = {{NO_MAXIMUM, NO_MAXIMUM}, {0.0f, 0.0f}};
            float o[128] = {};

            if (item.pairs < 0)
                continue;
            load_queries(v, shared, item); /* the sums' barrier of the item before: all its products are done */
            fence_proxy_async();
            named_barrier_sync(BARRIER_WORKERS, 2 * GROUP);
            if (item.pairs > 0) {
                if (threadIdx.x < GROUP)
                    multiply_even(scale, shared, o, state, row, item.pairs, before);
                else
                    multiply_odd(scale, shared, o, state, row, item.pairs, before);
            }
            before += (unsigned)item.pairs;
            store(v, shared, item, o, state, row);
        }
    }
}

template <bool Wide>
static enum status launch(struct ops *ops, const struct attention_view *v, unsigned items)
{
    const int smem = (int)sizeof(struct shared_map) + 1024;
    unsigned sms = (unsigned)backend_of(ops)->sm_count, grid = Wide && items > sms ? sms : items;

    CUDA_TRY(ops, cudaFuncSetAttribute(attention_stagger_kernel<Wide>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       smem));
    LAUNCH((attention_stagger_kernel<Wide>), grid, THREADS, smem, backend_of(ops)->stream, *v, items);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_attention_stagger(struct ops *ops, const struct attention_view *v, int64_t T)
{
    unsigned items = (unsigned)(T * v->parts * v->head_tiles); /* the caller has seen to it that they fit */

    return v->wide ? launch<true>(ops, v, items) : launch<false>(ops, v, items);
}
