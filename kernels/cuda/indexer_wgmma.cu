/* indexer_wgmma.cu: lightning indexer scores on Hopper's FP8 tensor cores, for keys of 128 values and up to 64 heads.
 *
 *   columns  a tile of queries is 128 (query, head) pairs: 128 / Heads queries, heads padded to 4, 8, 16, 32 or 64
 *            with zeros; a block holds two or four tiles, 16 KB each, for all its keys
 *   keys     tiles of 128 (two pages) through stages of cp.async, 16 KB each; a warpgroup takes 64 of them. Few rows:
 *            two tiles, three stages. Many: four tiles, two stages, so that copying a stage, its fence and its barrier
 *            serve twice the products (index_takes_four_tiles)
 *   wgmma    keys are M, (query, head) pairs are N: four m64n128k32 a tile; then relu, weight and sum in registers,
 *            two shuffles, one store a thread and pair of queries
 *   grid     (splits of the keys) x (groups of rows), folded into x; 256 threads = two warpgroups, two blocks an SM:
 *            while one waits for its tensor cores the other does relu and weights
 *   smem     two tiles: Q 32 KB, K 48 KB, key scales 1.5 KB, weights 1 KB; four: 64, 32, 1 and 2 KB
 * Per 64 keys and tile a warpgroup has 256 cycles of FP8 wgmma and, with 64 heads, 128 instructions of relu and
 * multiply-add, so the others count: whatever does not change from tile to tile is found once a stage or once a
 * block. A key's score depends on its own bytes and its query alone. Rows of several sequences in one group are taken
 * one sequence after another. */
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/sm90/wgmma.cuh"

enum {
    THREADS = 256,
    KEYS = INDEX_TILE_KEYS,
    COLUMNS = 128,
    DIM = 128,
    TILE_BYTES = COLUMNS * DIM,
    STAGE_BYTES = KEYS * DIM,
    PAGES = KEYS / CACHE_PAGE_TOKENS
};

template <int Tiles, int Stages> struct shared_map {
    uint8_t q[Tiles][TILE_BYTES];
    uint8_t k[Stages][STAGE_BYTES];
    float key_scale[Stages][KEYS];
    float weight[Tiles][COLUMNS]; /* halves: see relu_twice(); of a quad's columns in pairs of groups: [group /
                                     2][quad][group % 2][2] */
};

struct __align__(16) four
{
    float x, y, z, w;
};

static __device__ __forceinline__ int weight_place(int column)
{
    int group = column / 8;

    return ((group / 2 * 4 + column % 8 / 2) * 2 + group % 2) * 2 + column % 2;
}

/* Where the pages of one stage lie; -1 where there is none. */
struct stage_pages {
    int32_t number[PAGES];
};

static __device__ __forceinline__ struct stage_pages find_pages(const int32_t *table, int key, int pages)
{
    unsigned index = (unsigned)key / CACHE_PAGE_TOKENS;
    struct stage_pages found;

#pragma unroll
    for (unsigned page = 0; page < PAGES; page++)
        found.number[page] = index + page < (unsigned)pages ? table[index + page] : -1;
    return found;
}

/* Begins the copy of a stage's keys: two pages; zeros where there is none. A thread copies chunk tid % 8 of keys tid /
 * 8 + 32 i: the swizzle, which goes by the key's last three bits, is the same for all of them. */
static __device__ __forceinline__ void fetch_keys(const struct index_view &v, uint8_t *k, float *key_scale,
                                                  struct stage_pages pages)
{
    const int step = THREADS / 8 * DIM, scales = CACHE_PAGE_TOKENS / 4; /* chunks of a page's scales */
    unsigned page_bytes = (unsigned)v.page_bytes;
    uint8_t *place = k + swizzled_128((int)threadIdx.x / 8, threadIdx.x % 8);

#pragma unroll
    for (int page = 0; page < PAGES; page++) {
        int32_t number = pages.number[page];
        const uint8_t *source = v.pool + (uint64_t)(unsigned)(number < 0 ? 0 : number) * page_bytes + 16 * threadIdx.x;

#pragma unroll
        for (int i = 0; i < CACHE_PAGE_TOKENS * DIM / step; i++)
            cp_async_16(place + (page * CACHE_PAGE_TOKENS * DIM + i * step), source + i * step, number >= 0);
    }
    if (threadIdx.x < PAGES * scales) {
        int32_t number = (int)threadIdx.x < scales ? pages.number[0] : pages.number[1];

        cp_async_16(key_scale + 4 * threadIdx.x,
                    v.pool + (uint64_t)(unsigned)(number < 0 ? 0 : number) * page_bytes + CACHE_PAGE_TOKENS * DIM +
                        16 * (threadIdx.x % scales),
                    number >= 0);
    }
}

/* Rows [first, first + count) as tiles of queries; columns of no row, or of a head past Hi, are zero. */
template <int Heads, int Tiles, int Stages>
static __device__ __forceinline__ void fetch_queries(const struct index_view &v,
                                                     struct shared_map<Tiles, Stages> *shared, int64_t first, int count)
{
    for (int at = threadIdx.x; at < Tiles * COLUMNS * 8; at += THREADS) {
        int column = at / 8, chunk = at % 8, query = column / Heads, head = column % Heads;
        bool valid = query < count && head < v.Hi;
        int64_t row = valid ? (first + query) * v.Hi + head : 0;

        cp_async_16(shared->q[column / COLUMNS] + swizzled_128(column % COLUMNS, chunk),
                    v.codes + row * DIM + 16 * chunk, valid);
    }
    for (int column = threadIdx.x; column < Tiles * COLUMNS; column += THREADS) {
        int query = column / Heads, head = column % Heads;
        float weight = 0.0f;

        if (query < count && head < v.Hi)
            weight = 0.5f * v.w[(first + query) * v.w_stride + head] * v.q_scale[(first + query) * v.Hi + head];
        shared->weight[column / COLUMNS][weight_place(column % COLUMNS)] = weight;
    }
}

/* The quad's four sums of one pair of queries (queries q and q + 1, rows r and r + 8): afterwards lane 2 a + b of the
 * quad has that of query a, row b. With four heads a lane's sums belong to one query of the pair already. */
template <int Heads>
static __device__ __forceinline__ float quad_sum(const float (&low)[2], const float (&high)[2], int lane)
{
    float mine, other;

    if (Heads == 4) {
        mine = lane & 1 ? low[1] : low[0];
        other = lane & 1 ? low[0] : low[1];
        return mine + __shfl_xor_sync(0xFFFFFFFFu, other, 1);
    } else {
        float kept[2], given[2];

        kept[0] = lane & 2 ? high[0] : low[0];
        kept[1] = lane & 2 ? high[1] : low[1];
        given[0] = lane & 2 ? low[0] : high[0];
        given[1] = lane & 2 ? low[1] : high[1];
        kept[0] += __shfl_xor_sync(0xFFFFFFFFu, given[0], 2);
        kept[1] += __shfl_xor_sync(0xFFFFFFFFu, given[1], 2);
        mine = lane & 1 ? kept[1] : kept[0];
        other = lane & 1 ? kept[0] : kept[1];
        return mine + __shfl_xor_sync(0xFFFFFFFFu, other, 1);
    }
}

/* 2 max(0, x) as an addition, which runs at twice the rate of a maximum; the half is in the weights. */
static __device__ __forceinline__ float relu_twice(float x)
{
    return x + fabsf(x);
}

/* Adds four columns' relu times weight to the sums of the thread's two rows. */
static __device__ __forceinline__ void add_groups(const float (&c)[64], int group, struct four w, float (&sum)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] = fmaf(w.x, relu_twice(c[4 * group + 2 * i]), sum[i]);
        sum[i] = fmaf(w.y, relu_twice(c[4 * group + 2 * i + 1]), sum[i]);
        sum[i] = fmaf(w.z, relu_twice(c[4 * group + 4 + 2 * i]), sum[i]);
        sum[i] = fmaf(w.w, relu_twice(c[4 * group + 4 + 2 * i + 1]), sum[i]);
    }
}

/* Where a thread's scores of one stage go, and what bounds them. */
struct stage_scores {
    int key;
    bool whole; /* every row sees every key of the stage */
    float scale;
};

/* One tile's products to scores. `weights` and `place` are the thread's own, of its first query of the tile; `left`
 * rows are there from that one to the group's end, and `end` is where their visible counts end. `ready` are the weights
 * of the first groups of its first two queries. */
template <int Heads>
static __device__ __forceinline__ void store_scores(const struct index_view &v, const struct stage_scores &scores,
                                                    const float (&c)[64], const struct four *weights, int left,
                                                    const struct four (&ready)[2], const int32_t *end, float *place,
                                                    int lane)
{
    const int pairs = COLUMNS / Heads / 2, groups = Heads >= 8 ? Heads / 8 : 1;

#pragma unroll
    for (int p = 0; p < pairs; p++) {
        float low[2] = {}, high[2] = {}, total;

        if (Heads >= 16) {
#pragma unroll
            for (int g = 0; g < groups; g += 2) {
                struct four w = p + g ? weights[(2 * p * groups + g) / 2 * 4] : ready[0];

                add_groups(c, 2 * p * groups + g, w, low);
                w = p + g ? weights[((2 * p + 1) * groups + g) / 2 * 4] : ready[1];
                add_groups(c, (2 * p + 1) * groups + g, w, high);
            }
        } else {
            /* Eight heads: a group is a query. Four: a group is the pair, and lanes 0, 1 hold the first. */
            int group = Heads == 8 ? 2 * p : p;
            struct four w = p ? weights[group / 2 * 4] : ready[0];

#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (Heads == 8) {
                    low[i] = fmaf(w.y, relu_twice(c[4 * group + 2 * i + 1]), w.x * relu_twice(c[4 * group + 2 * i]));
                    high[i] =
                        fmaf(w.w, relu_twice(c[4 * group + 4 + 2 * i + 1]), w.z * relu_twice(c[4 * group + 4 + 2 * i]));
                } else {
                    low[i] = fmaf(group % 2 ? w.w : w.y, relu_twice(c[4 * group + 2 * i + 1]),
                                  (group % 2 ? w.z : w.x) * relu_twice(c[4 * group + 2 * i]));
                }
            }
        }
        total = quad_sum<Heads>(low, high, lane) * scores.scale;
        if (2 * p < left) {
            if (scores.whole)
                *place = total;
            else if (scores.key < v.S)
                *place = scores.key < end[2 * p - left] ? total : -INFINITY;
        }
        place += 2 * v.score_stride;
    }
}

template <int Heads, int Tiles, int Stages>
static __global__ void __launch_bounds__(THREADS, 2)
    scores_wgmma_kernel(struct index_view v, int64_t T, int splits, int keys_a_split)
{
    after_previous();
    const int queries = COLUMNS / Heads, rows = Tiles * queries; /* a tile, a block */
    DYNAMIC_SHARED(uint8_t, memory);
    struct shared_map<Tiles, Stages> *shared =
        (struct shared_map<Tiles, Stages> *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
    int begin = (int)(blockIdx.x % splits) * keys_a_split;
    /* The same in all lanes, and the compiler is to know: descriptors then stay in uniform registers. */
    int half = __shfl_sync(0xFFFFFFFFu, (int)threadIdx.x / 128, 0);
    int lane = threadIdx.x % WARP, quad = lane % 4, row = (int)threadIdx.x / WARP * 16 + lane / 4 + 8 * (quad % 2);
    int64_t first = blockIdx.x / splits * (int64_t)rows, group_end = first + rows < T ? first + rows : T;
    const uint64_t a_first = wgmma_descriptor(shared->k[0] + half * 64 * DIM);
    const uint64_t b_first = wgmma_descriptor(shared->q[0]);

    while (first < group_end) {
        int sequence = v.sequence[first], count = 1, most = v.visible[first], least = most;
        const int32_t *table = v.page_table + sequence * v.page_table_stride;
        struct stage_pages ahead;
        struct stage_scores scores;
        int end, pages, stages, tiles, stage = 0, fill = Stages - 1;
        float *out;

        for (; first + count < group_end && v.sequence[first + count] == sequence; count++) {
            int visible = v.visible[first + count];

            most = visible > most ? visible : most;
            least = visible < least ? visible : least;
        }
        end = begin + keys_a_split; /* at most S + 8K: fits */
        /* Keys that no row sees are not read; their scores are written where the caller asks for all. */
        if (!v.fill && end > most)
            end = most;
        if (end > v.S)
            end = (int)v.S;
        if (least > v.S)
            least = (int)v.S;
        pages = (end + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
        stages = end > begin ? (end - begin + KEYS - 1) / KEYS : 0;
        tiles = (count + queries - 1) / queries;
        __syncthreads(); /* the last sequence's queries are no longer read */
        if (stages > 0)
            fetch_queries<Heads>(v, shared, first, count);
        for (int i = 0; i < Stages - 1; i++) {
            if (i < stages)
                fetch_keys(v, shared->k[i], shared->key_scale[i], find_pages(table, begin + i * KEYS, pages));
            cp_async_commit();
        }
        /* A stage's pages are looked up while the one before it is worked on. */
        ahead = find_pages(table, begin + (Stages - 1) * KEYS, pages);
        scores.key = begin + row;
        out = v.score + (first + quad / 2) * v.score_stride + scores.key;
        for (int i = 0; i < stages; i++) {
            const struct four *weights = (const struct four *)shared->weight[0] + quad;
            uint64_t a = a_first + (unsigned)stage * (STAGE_BYTES / 16), b = b_first;
            float *place = out;
            int left = count - quad / 2;

            cp_async_wait<Stages - 2>();
            fence_proxy_async();
            __syncthreads(); /* stage i is there for all; the stage before it is no longer read */
            if (i + Stages - 1 < stages)
                fetch_keys(v, shared->k[fill], shared->key_scale[fill], ahead);
            cp_async_commit();
            ahead = find_pages(table, begin + (i + Stages) * KEYS, pages);
            scores.whole = begin + (i + 1) * KEYS <= least;
            scores.scale = shared->key_scale[stage][row];
#pragma unroll (Tiles / 2)
            for (int tile = 0; tile < tiles; tile++) {
                float c[64];
                /* Read while the products run: the first sums do not wait for shared memory. */
                const struct four ready[2] = {weights[0], weights[Heads >= 16 ? Heads / 16 * 4 : 0]};

                wgmma_fence();
#pragma unroll
                for (int k = 0; k < DIM / 32; k++)
                    wgmma_m64n128k32(c, a + 2 * k, b + 2 * k, k > 0);
                wgmma_commit();
                wgmma_wait_all(c);
                store_scores<Heads>(v, scores, c, weights, left, ready, v.visible + first + count, place, lane);
                left -= queries;
                weights += COLUMNS / 4;
                b += TILE_BYTES / 16;
                place += queries * v.score_stride;
            }
            scores.key += KEYS;
            out += KEYS;
            stage = stage + 1 < Stages ? stage + 1 : 0;
            fill = fill + 1 < Stages ? fill + 1 : 0;
        }
        cp_async_wait_all();
        first += count;
    }
}

template <int Heads, int Tiles, int Stages>
static enum status launch_form(struct ops *ops, const struct index_view *v, int64_t T)
{
    const int smem = (int)sizeof(struct shared_map<Tiles, Stages>) + 1024, rows = Tiles * COLUMNS / Heads;
    int64_t groups = ceil_div(T, rows), keys = index_keys_a_block(groups, v->S, backend_of(ops)->sm_count);
    int64_t splits = ceil_div(v->S, keys);

    if (groups * splits > INT32_MAX || v->S > INT32_MAX - 2 * INDEX_MOST_KEYS || v->page_bytes > INT32_MAX)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops, cudaFuncSetAttribute((scores_wgmma_kernel<Heads, Tiles, Stages>),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((scores_wgmma_kernel<Heads, Tiles, Stages>), (unsigned)(groups * splits), THREADS, smem,
           backend_of(ops)->stream, *v, T, (int)splits, (int)keys);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

template <int Heads> static enum status launch(struct ops *ops, const struct index_view *v, int64_t T)
{
    if (index_takes_four_tiles(T, COLUMNS / Heads, v->S, backend_of(ops)->sm_count))
        return launch_form<Heads, 4, 2>(ops, v, T);
    return launch_form<Heads, 2, 3>(ops, v, T);
}

bool cuda_scores_take_wgmma(const struct cuda_backend *backend, const struct index_view *v)
{
    return backend->wgmma && !v->plain && v->Di == DIM && v->Hi <= 64 && (uintptr_t)v->pool % 16 == 0;
}

enum status cuda_scores_wgmma(struct ops *ops, const struct index_view *v, int64_t T)
{
    if (v->Hi > 32)
        return launch<64>(ops, v, T);
    if (v->Hi > 16)
        return launch<32>(ops, v, T);
    if (v->Hi > 8)
        return launch<16>(ops, v, T);
    if (v->Hi > 4)
        return launch<8>(ops, v, T);
    return launch<4>(ops, v, T);
}
