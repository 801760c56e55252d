/* indexer_wgmma.cu: lightning indexer scores on Hopper's FP8 tensor cores, for keys of 128 values and up to 64 heads.
 *
 *   columns  a tile of queries is 128 (query, head) pairs: 128 / Heads queries, heads padded to 4, 8, 16, 32 or 64
 *            with zeros; a block holds two tiles, 32 KB, for all its keys
 *   keys     tiles of 128 (two pages) through three stages of cp.async, 16 KB each; a warpgroup takes 64 of them
 *   wgmma    keys are M, (query, head) pairs are N: four m64n128k32 a tile; then relu, weight and sum in registers,
 *            two shuffles, one store a thread and pair of queries
 *   grid     (splits of the keys) x (groups of rows), folded into x; 256 threads = two warpgroups, two blocks an SM:
 *            while one waits for its tensor cores the other does relu and weights
 *   smem     Q 32 KB, K 3 x 16 KB, key scales 3 x 512 B, weights 1 KB: 84 KB
 * Per 128 keys and tile: 512 cycles of FP8 wgmma, 256 of relu and multiply-add, and about as many instructions again
 * for loads, sums over lanes and stores. A key's score depends on its own bytes
 * and its query alone. Rows of several sequences in one group are taken one sequence after another. */
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/sm90/wgmma.cuh"

enum {
    THREADS = 256,
    KEYS = INDEX_TILE_KEYS,
    COLUMNS = 128,
    DIM = 128,
    TILES = 2, /* of queries, a block */
    STAGES = 3,
    TILE_BYTES = COLUMNS * DIM,
    STAGE_BYTES = KEYS * DIM,
    PAGES = KEYS / CACHE_PAGE_TOKENS
};

struct shared_map {
    uint8_t q[TILES][TILE_BYTES];
    uint8_t k[STAGES][STAGE_BYTES];
    float key_scale[STAGES][KEYS];
    float weight[TILES][COLUMNS]; /* halves: see relu_twice(); of a quad's columns in pairs of groups: [group /
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

/* Begins the copy of keys [key, key + 128) of the sequence whose pages these are: two pages; zeros where there is none.
 * A thread copies chunk tid % 8 of keys tid / 8 + 32 i: the swizzle, which goes by the key's last three bits, is the
 * same for all of them. */
static __device__ __forceinline__ void fetch_keys(const struct index_view &v, struct shared_map *shared, int stage,
                                                  const int32_t *table, int key, int pages)
{
    const int step = THREADS / 8 * DIM; /* bytes from one of the thread's keys to the next */
    uint8_t *place = shared->k[stage] + swizzled_128((int)threadIdx.x / 8, threadIdx.x % 8);

#pragma unroll
    for (int page = 0; page < PAGES; page++) {
        int index = key / CACHE_PAGE_TOKENS + page;
        int32_t number = index < pages ? table[index] : -1;
        const uint8_t *source = v.pool + (number < 0 ? 0 : number) * v.page_bytes;

#pragma unroll
        for (int i = 0; i < CACHE_PAGE_TOKENS * DIM / step; i++)
            cp_async_16(place + (page * CACHE_PAGE_TOKENS * DIM + i * step), source + 16 * threadIdx.x + i * step,
                        number >= 0);
        if ((int)threadIdx.x / (CACHE_PAGE_TOKENS / 4) == page)
            cp_async_16(shared->key_scale[stage] + 4 * threadIdx.x,
                        source + CACHE_PAGE_TOKENS * DIM + 16 * (threadIdx.x % (CACHE_PAGE_TOKENS / 4)), number >= 0);
    }
}

/* Rows [first, first + count) as tiles of queries; columns of no row, or of a head past Hi, are zero. */
template <int Heads>
static __device__ __forceinline__ void fetch_queries(const struct index_view &v, struct shared_map *shared,
                                                     int64_t first, int count)
{
    for (int at = threadIdx.x; at < TILES * COLUMNS * 8; at += THREADS) {
        int column = at / 8, chunk = at % 8, query = column / Heads, head = column % Heads;
        bool valid = query < count && head < v.Hi;
        int64_t row = valid ? (first + query) * v.Hi + head : 0;

        cp_async_16(shared->q[column / COLUMNS] + swizzled_128(column % COLUMNS, chunk),
                    v.codes + row * DIM + 16 * chunk, valid);
    }
    for (int column = threadIdx.x; column < TILES * COLUMNS; column += THREADS) {
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

/* One tile's products to scores. `key` is the tile's first; `first` and `count` say which rows the queries are. */
template <int Heads>
static __device__ __forceinline__ void store_scores(const struct index_view &v, const struct shared_map *shared,
                                                    const float (&c)[64], int tile, int stage, int key, int64_t first,
                                                    int count)
{
    const int pairs = COLUMNS / Heads / 2, groups = Heads >= 8 ? Heads / 8 : 1;
    int lane = threadIdx.x % WARP, quad = lane % 4, row = (int)threadIdx.x / WARP * 16 + lane / 4 + 8 * (quad % 2);
    int s = key + row;
    float scale = shared->key_scale[stage][row];
    const struct four *weights = (const struct four *)shared->weight[tile] + quad;

#pragma unroll
    for (int p = 0; p < pairs; p++) {
        float low[2] = {}, high[2] = {}, total;
        int query = tile * (COLUMNS / Heads) + 2 * p + quad / 2;

        if (Heads >= 16) {
#pragma unroll
            for (int g = 0; g < groups; g += 2) {
                add_groups(c, 2 * p * groups + g, weights[(2 * p * groups + g) / 2 * 4], low);
                add_groups(c, (2 * p + 1) * groups + g, weights[((2 * p + 1) * groups + g) / 2 * 4], high);
            }
        } else {
            /* Eight heads: a group is a query. Four: a group is the pair, and lanes 0, 1 hold the first. */
            int group = Heads == 8 ? 2 * p : p;
            struct four w = weights[group / 2 * 4];

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
        total = quad_sum<Heads>(low, high, lane) * scale;
        if (query < count && s < v.S)
            v.score[(first + query) * v.score_stride + s] = s < v.visible[first + query] ? total : -INFINITY;
    }
}

template <int Heads>
static __global__ void __launch_bounds__(THREADS, 2)
    scores_wgmma_kernel(struct index_view v, int64_t T, int splits, int keys_a_split)
{
    after_previous();
    const int rows = TILES * COLUMNS / Heads;
    DYNAMIC_SHARED(uint8_t, memory);
    struct shared_map *shared = (struct shared_map *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
    int begin = (int)(blockIdx.x % splits) * keys_a_split, half = threadIdx.x / 128;
    int pages = ((int)v.S + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    int64_t first = blockIdx.x / splits * (int64_t)rows, group_end = first + rows < T ? first + rows : T;

    while (first < group_end) {
        int sequence = v.sequence[first], count = 1, most = v.visible[first];
        const int32_t *table = v.page_table + sequence * v.page_table_stride;
        int end, tiles;

        for (; first + count < group_end && v.sequence[first + count] == sequence; count++)
            most = v.visible[first + count] > most ? v.visible[first + count] : most;
        end = begin + keys_a_split; /* at most S + 8K: fits */
        /* Keys that no row sees are not read; their scores are written where the caller asks for all. */
        if (!v.fill && end > most)
            end = most;
        if (end > v.S)
            end = (int)v.S;
        tiles = end > begin ? (end - begin + KEYS - 1) / KEYS : 0;
        __syncthreads(); /* the last sequence's queries are no longer read */
        if (tiles > 0)
            fetch_queries<Heads>(v, shared, first, count);
        for (int i = 0; i < STAGES - 1; i++) {
            if (i < tiles)
                fetch_keys(v, shared, i, table, begin + i * KEYS, pages);
            cp_async_commit();
        }
        for (int i = 0; i < tiles; i++) {
            int stage = i % STAGES;

            cp_async_wait<STAGES - 2>();
            fence_proxy_async();
            __syncthreads(); /* stage i is there for all; the stage before it is no longer read */
            if (i + STAGES - 1 < tiles)
                fetch_keys(v, shared, (i + STAGES - 1) % STAGES, table, begin + (i + STAGES - 1) * KEYS, pages);
            cp_async_commit();
#pragma unroll 1
            for (int tile = 0; tile < TILES && tile * (COLUMNS / Heads) < count; tile++) {
                float c[64];
                uint64_t a = wgmma_descriptor(shared->k[stage] + half * 64 * DIM);
                uint64_t b = wgmma_descriptor(shared->q[tile]);

                wgmma_fence();
#pragma unroll
                for (int k = 0; k < DIM / 32; k++)
                    wgmma_m64n128k32(c, a + 2 * k, b + 2 * k, k > 0);
                wgmma_commit();
                wgmma_wait_all(c);
                store_scores<Heads>(v, shared, c, tile, stage, begin + i * KEYS, first, count);
            }
        }
        cp_async_wait_all();
        first += count;
    }
}

template <int Heads> static enum status launch(struct ops *ops, const struct index_view *v, int64_t T)
{
    const int smem = (int)sizeof(struct shared_map) + 1024, rows = TILES * COLUMNS / Heads;
    int64_t groups = ceil_div(T, rows), keys = index_keys_a_block(groups, v->S, backend_of(ops)->sm_count);
    int64_t splits = ceil_div(v->S, keys);

    if (groups * splits > INT32_MAX || v->S > INT32_MAX - 2 * INDEX_MOST_KEYS)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops,
             cudaFuncSetAttribute((scores_wgmma_kernel<Heads>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((scores_wgmma_kernel<Heads>), (unsigned)(groups * splits), THREADS, smem, backend_of(ops)->stream, *v, T,
           (int)splits, (int)keys);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
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
