/* indexer_mma.cu: lightning indexer scores on tensor cores, for keys of 128 values and heads in multiples of 8.
 *
 *   grid   (key tiles of 256) x (groups of 16 query rows), folded into x          block 256 threads = 8 warps
 *   warp   32 keys x all heads: its keys are turned from e4m3 to BF16 (exact) once and stay in 64 registers for
 *          every query of the group; the queries' codes pass through shared memory as BF16, two buffers by cp.async
 *   mma    keys are M, heads are N: c[key, head], then relu, weight and sum in registers, ascending over heads
 *          inside a lane; four lanes hold one key's heads and are added last
 *   k order: chunk of 8 values number 4 j + q belongs to lane q of a quad (j = 0..3), on both sides alike, so that
 *          a lane reads 8 bytes of a key and 16 bytes of a head at once. A dot product does not mind.
 *   smem   2 x Hi x 160 BF16 (rows 16 banks apart) + 2 x Hi F32: 41.5 KB at 64 heads, two blocks an SM
 * Bound by mma.sync: 2 Hi Di flops a pair. A group whose rows belong to several sequences reads keys again. */
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"

enum { THREADS = 256, KEYS = 256, WARP_KEYS = 32, QUERIES = 16, DIM = 128, Q_STRIDE = DIM + 32, STEPS = DIM / 16 };

static __device__ __forceinline__ uint32_t decode_pair(uint32_t codes)
{
    __nv_bfloat162 pair = __float22bfloat162_rn(e4m3_pair_to_float((uint16_t)codes));
    uint32_t bits;

    memcpy(&bits, &pair, 4);
    return bits;
}

/* Begins the copy of query `t`'s codes and its weights (times the codes' scales). */
static __device__ __forceinline__ void fetch_query(const struct index_view &v, int64_t t, __nv_bfloat16 *q,
                                                   float *weight)
{
    const __nv_bfloat16 *source = v.values + t * v.Hi * DIM;

    for (int at = threadIdx.x; at < v.Hi * (DIM / 8); at += THREADS)
        cp_async_16(q + at / (DIM / 8) * Q_STRIDE + at % (DIM / 8) * 8, source + 8 * at, true);
    for (int h = threadIdx.x; h < v.Hi; h += THREADS)
        weight[h] = v.w[t * v.w_stride + h] * v.q_scale[t * v.Hi + h];
}

static __global__ void __launch_bounds__(THREADS, 2) scores_mma_kernel(struct index_view v, int64_t T)
{
    after_previous();
    DYNAMIC_SHARED(uint8_t, shared);
    __nv_bfloat16 *queries = (__nv_bfloat16 *)shared;
    float *weights = (float *)(shared + 2 * (size_t)v.Hi * Q_STRIDE * 2);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, quad = lane % 4;
    int64_t first_key = (int64_t)(blockIdx.x % v.tiles) * KEYS, first = (int64_t)(blockIdx.x / v.tiles) * QUERIES;
    int64_t last = first + QUERIES < T ? first + QUERIES : T;
    int32_t loaded = -1; /* sequence whose keys are in registers */
    uint32_t a[2][STEPS][4];
    float key_scale[4];

    fetch_query(v, first, queries, weights);
    for (int64_t t = first; t < last; t++) {
        int buffer = (int)(t - first) % 2;
        const __nv_bfloat16 *q = queries + (size_t)buffer * v.Hi * Q_STRIDE;
        const float *weight = weights + buffer * v.Hi;
        int visible = v.visible[t];
        float total[4] = {};

        cp_async_wait_all();
        __syncthreads(); /* this query is there; the other buffer is no longer read */
        if (t + 1 < last)
            fetch_query(v, t + 1, queries + (size_t)(1 - buffer) * v.Hi * Q_STRIDE, weights + (1 - buffer) * v.Hi);
        if (first_key + warp * WARP_KEYS < visible) {
            if (v.sequence[t] != loaded) {
                loaded = v.sequence[t];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    int64_t s = first_key + warp * WARP_KEYS + 8 * r + lane / 4;
                    int32_t number = s < v.S ? v.page_table[loaded * v.page_table_stride + s / CACHE_PAGE_TOKENS] : -1;
                    const uint8_t *page = v.pool + (number < 0 ? 0 : number) * v.page_bytes;
                    const uint8_t *key = page + s % CACHE_PAGE_TOKENS * DIM;

#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        uint2 codes = {0, 0};

                        if (number >= 0)
                            codes = *(const uint2 *)(key + 32 * j + 8 * quad);
                        a[r / 2][2 * j][r % 2] = decode_pair(codes.x);
                        a[r / 2][2 * j][r % 2 + 2] = decode_pair(codes.x >> 16);
                        a[r / 2][2 * j + 1][r % 2] = decode_pair(codes.y);
                        a[r / 2][2 * j + 1][r % 2 + 2] = decode_pair(codes.y >> 16);
                    }
                    key_scale[r] =
                        number < 0 ? 0.0f : ((const float *)(page + CACHE_PAGE_TOKENS * DIM))[s % CACHE_PAGE_TOKENS];
                }
            }
            for (int h = 0; h < v.Hi; h += 8) {
                float c[2][4] = {};
                float2 w = *(const float2 *)(weight + h + 2 * quad);

#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint4 codes = *(const uint4 *)(q + (h + lane / 4) * Q_STRIDE + 32 * j + 8 * quad);
                    uint32_t even[2] = {codes.x, codes.y}, odd[2] = {codes.z, codes.w};

#pragma unroll
                    for (int m = 0; m < 2; m++) {
                        mma_16x8x16(c[m], a[m][2 * j], even);
                        mma_16x8x16(c[m], a[m][2 * j + 1], odd);
                    }
                }
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    total[r] = fmaf(w.x, fmaxf(c[r / 2][2 * (r % 2)], 0.0f), total[r]);
                    total[r] = fmaf(w.y, fmaxf(c[r / 2][2 * (r % 2) + 1], 0.0f), total[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int64_t s = first_key + warp * WARP_KEYS + 8 * r + lane / 4;

            total[r] += __shfl_xor_sync(0xFFFFFFFFu, total[r], 1);
            total[r] += __shfl_xor_sync(0xFFFFFFFFu, total[r], 2);
            if (quad == 0 && s < v.S)
                v.score[t * v.score_stride + s] = s < visible ? total[r] * key_scale[r] : -INFINITY;
        }
    }
}

enum status cuda_scores_mma(struct ops *ops, struct index_view v, int64_t T)
{
    size_t smem = 2 * (size_t)v.Hi * (Q_STRIDE * 2 + sizeof(float));

    v.tiles = (int)ceil_div(v.S, KEYS);
    if (!backend_of(ops)->mma || v.plain || v.Di != DIM || v.Hi % 8 || smem > backend_of(ops)->smem_per_block ||
        v.tiles * (int64_t)ceil_div(T, QUERIES) > INT32_MAX)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops, cudaFuncSetAttribute(scores_mma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem));
    LAUNCH((scores_mma_kernel), (unsigned)(v.tiles * ceil_div(T, QUERIES)), THREADS, smem, backend_of(ops)->stream, v,
           T);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
