/* attention_mma.cu: absorbed attention over FP8 records on tensor cores, for the published widths.
 *
 *   grid   T x (H / 64), folded into x: one query token, 64 heads           block 256 threads = 8 warps
 *   tile   64 records: copied raw by cp.async one tile ahead, turned into BF16 in shared memory (exact: e4m3 times
 *          a power of two), used as K for the logits and as V for the sum
 *   S = Q Kᵀ   warp (m, n) = (w % 4, w / 4) owns 16 heads x 32 records
 *   O += P V   warp w owns all 64 heads x Dv / 8 dims: 4 x Dv / 64 fragments, 128 registers a thread at Dv = 512
 *   smem       Q and K 64 x (D + 8) BF16 (rows 4 banks apart: ldmatrix without conflicts), P 64 x 72 BF16, raw
 *              64 records, maxima, rescale factors, sums, record addresses: 202 KB at 512 + 64
 * Queries come as F32, rounded to BF16 here, or as BF16; the result leaves in the same type.
 * A running maximum starts at -1e30, so that no inf - inf arises; a row without records gives 0 and +inf.
 * P is rounded to BF16 for the sum, the normaliser adds the unrounded values. Bound by mma.sync, whose rate on
 * Hopper is about 0.6 of wgmma's. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"

enum {
    HEADS = 64,
    RECORDS = 64,
    THREADS = 256,
    WARPS = THREADS / WARP,
    PAD = 8, /* BF16 columns */
    P_STRIDE = RECORDS + PAD
};
#define NO_MAXIMUM (-1e30f)

template <int Dv, int Dr> struct layout {
    static const int D = Dv + Dr;
    static const int stride = D + PAD;
    static const int record = Dv + 4 * (Dv / SCALE_GROUP) + 2 * Dr;
    static const int q = 0;
    static const int k = q + HEADS * stride * 2;
    static const int p = k + RECORDS * stride * 2;
    static const int raw = p + HEADS * P_STRIDE * 2;
    static const int maxima = raw + RECORDS * record; /* [2][64] F32 */
    static const int rescale = maxima + 2 * HEADS * 4;
    static const int sums = rescale + HEADS * 4;    /* [2][64] F32 */
    static const int source = sums + 2 * HEADS * 4; /* [2][64] byte offsets, -1: none */
    static const int bytes = source + 2 * RECORDS * 8;
    static_assert(Dv % SCALE_GROUP == 0 && D % 16 == 0 && record % 16 == 0 && raw % 16 == 0 && source % 8 == 0, "");
};

/* Where record `first + row` of this query lies, or -1. */
static __device__ __forceinline__ int64_t record_offset(const struct attention_view &v, int64_t t, int visible, int at,
                                                        int count, const int32_t *pages)
{
    int position = at >= count ? -1 : v.selected ? v.selected[t * v.selected_stride + at] : at;

    if (position < 0 || position >= visible)
        return -1;
    return ((int64_t)pages[position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS + position % CACHE_PAGE_TOKENS) *
           v.record_bytes;
}

template <int Dv, int Dr>
static __device__ __forceinline__ void copy_records(uint8_t *raw, const int64_t *source, const uint8_t *pool)
{
    using L = layout<Dv, Dr>;
    const int chunks = L::record / 16;

    for (int at = threadIdx.x; at < RECORDS * chunks; at += THREADS) {
        int row = at / chunks, chunk = at % chunks;
        bool valid = source[row] >= 0;

        cp_async_16(raw + row * L::record + 16 * chunk, pool + (valid ? source[row] : 0) + 16 * chunk, valid);
    }
}

/* Raw records to BF16 rows: 8 values at a time. */
template <int Dv, int Dr> static __device__ __forceinline__ void decode_records(__nv_bfloat16 *k, const uint8_t *raw)
{
    using L = layout<Dv, Dr>;
    const int latent = Dv / 8, chunks = latent + Dr / 8;

    for (int at = threadIdx.x; at < RECORDS * chunks; at += THREADS) {
        int row = at / chunks, chunk = at % chunks;
        const uint8_t *record = raw + row * L::record;
        uint4 *out = (uint4 *)(k + row * L::stride + 8 * chunk);

        if (chunk < latent) {
            float scale = ((const float *)(record + Dv))[chunk / (SCALE_GROUP / 8)];
            uint2 codes = *(const uint2 *)(record + 8 * chunk);
            __nv_bfloat162 pairs[4];

#pragma unroll
            for (int i = 0; i < 4; i++) {
                float2 pair = e4m3_pair_to_float((uint16_t)((i < 2 ? codes.x : codes.y) >> 16 * (i % 2)));

                pair.x *= scale;
                pair.y *= scale;
                pairs[i] = __float22bfloat162_rn(pair);
            }
            *out = *(const uint4 *)pairs;
        } else {
            *out = *(const uint4 *)(record + Dv + 4 * (Dv / SCALE_GROUP) + 16 * (chunk - latent));
        }
    }
}

template <int Dv, int Dr>
static __global__ void __launch_bounds__(THREADS, 1) attention_mma_kernel(struct attention_view v)
{
    after_previous();
    using L = layout<Dv, Dr>;
    const int n_tiles = Dv / 64; /* 8-wide output tiles a warp */
    DYNAMIC_SHARED(uint8_t, shared);
    __nv_bfloat16 *q = (__nv_bfloat16 *)(shared + L::q), *k = (__nv_bfloat16 *)(shared + L::k);
    __nv_bfloat16 *p = (__nv_bfloat16 *)(shared + L::p);
    uint8_t *raw = shared + L::raw;
    float *maxima = (float *)(shared + L::maxima), *rescale = (float *)(shared + L::rescale);
    float *sums = (float *)(shared + L::sums);
    int64_t *source = (int64_t *)(shared + L::source);
    int64_t t = blockIdx.x / v.head_tiles;
    int h0 = (int)(blockIdx.x % v.head_tiles) * HEADS;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warp_m = warp % 4, warp_n = warp / 4;
    int visible = v.visible[t], count = v.selected ? v.selected_count : visible;
    const int32_t *pages = v.page_table + v.sequence[t] * v.page_table_stride;
    int tiles = (count + RECORDS - 1) / RECORDS;
    int rows[2] = {16 * warp_m + lane / 4, 16 * warp_m + lane / 4 + 8};
    float out[4][n_tiles][4] = {};
    float top[2] = {NO_MAXIMUM, NO_MAXIMUM}, sum[2] = {0.0f, 0.0f};

    for (int at = threadIdx.x; at < HEADS * L::D; at += THREADS) {
        int h = at / L::D, d = at % L::D;
        int64_t place = t * v.q_row_stride + (h0 + h) * v.q_head_stride + d;
        float value = h0 + h >= v.H ? 0.0f
                      : d >= Dv     ? v.q_pe[t * v.pe_row_stride + (h0 + h) * v.pe_head_stride + d - Dv]
                      : v.bf16      ? __bfloat162float(((const __nv_bfloat16 *)v.q_latent)[place])
                                    : ((const float *)v.q_latent)[place];

        q[h * L::stride + d] = __float2bfloat16_rn(value);
    }
    if (threadIdx.x < RECORDS)
        source[threadIdx.x] = record_offset(v, t, visible, threadIdx.x, count, pages);
    __syncthreads();
    if (tiles > 0)
        copy_records<Dv, Dr>(raw, source, v.pool);

    for (int tile = 0; tile < tiles; tile++) {
        const int64_t *here = source + tile % 2 * RECORDS;
        int64_t *next = source + (tile + 1) % 2 * RECORDS;
        float logits[4][4] = {}, factor[2];

        cp_async_wait_all();
        __syncthreads(); /* raw of this tile is there; the last tile's K is no longer read */
        decode_records<Dv, Dr>(k, raw);
        if (threadIdx.x < RECORDS && tile + 1 < tiles)
            next[threadIdx.x] = record_offset(v, t, visible, (tile + 1) * RECORDS + threadIdx.x, count, pages);
        __syncthreads();
        if (tile + 1 < tiles)
            copy_records<Dv, Dr>(raw, next, v.pool);

        for (int d = 0; d < L::D; d += 16) {
            uint32_t a[4], b[2][4];

            ldmatrix_x4(a, q + (16 * warp_m + lane % 16) * L::stride + d + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < 2; j++)
                ldmatrix_x4(b[j],
                            k + (32 * warp_n + 16 * j + lane % 8 + lane / 16 * 8) * L::stride + d + lane / 8 % 2 * 8);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t pair[2] = {b[j / 2][2 * (j % 2)], b[j / 2][2 * (j % 2) + 1]};

                mma_16x8x16(logits[j], a, pair);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float high = NO_MAXIMUM;

#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    int column = 32 * warp_n + 8 * j + 2 * (lane % 4) + c;

                    logits[j][2 * i + c] = here[column] >= 0 ? logits[j][2 * i + c] * v.scale : -INFINITY;
                    high = fmaxf(high, logits[j][2 * i + c]);
                }
            high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFFu, high, 1));
            high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFFu, high, 2));
            if (lane % 4 == 0)
                maxima[warp_n * HEADS + rows[i]] = high;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float high = fmaxf(top[i], fmaxf(maxima[rows[i]], maxima[HEADS + rows[i]])), part = 0.0f;

            factor[i] = expf(top[i] - high);
            top[i] = high;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 pair;

                pair.x = expf(logits[j][2 * i] - high);
                pair.y = expf(logits[j][2 * i + 1] - high);
                part += pair.x + pair.y;
                *(__nv_bfloat162 *)(p + rows[i] * P_STRIDE + 32 * warp_n + 8 * j + 2 * (lane % 4)) =
                    __float22bfloat162_rn(pair);
            }
            part += __shfl_xor_sync(0xFFFFFFFFu, part, 1);
            part += __shfl_xor_sync(0xFFFFFFFFu, part, 2);
            sum[i] = sum[i] * factor[i] + part;
            if (warp_n == 0 && lane % 4 == 0)
                rescale[rows[i]] = factor[i];
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < 4; m++) {
            float low = rescale[16 * m + lane / 4], high = rescale[16 * m + lane / 4 + 8];

#pragma unroll
            for (int n = 0; n < n_tiles; n++) {
                out[m][n][0] *= low;
                out[m][n][1] *= low;
                out[m][n][2] *= high;
                out[m][n][3] *= high;
            }
        }
#pragma unroll
        for (int r = 0; r < RECORDS; r += 16) {
            uint32_t a[4][4];

#pragma unroll
            for (int m = 0; m < 4; m++)
                ldmatrix_x4(a[m], p + (16 * m + lane % 16) * P_STRIDE + r + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < n_tiles; n += 2) {
                uint32_t b[4];

                ldmatrix_x4_trans(b, k + (r + lane % 16) * L::stride + warp * (Dv / WARPS) + 8 * n + lane / 16 * 8);
#pragma unroll
                for (int m = 0; m < 4; m++) {
                    uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};

                    mma_16x8x16(out[m][n], a[m], left);
                    mma_16x8x16(out[m][n + 1], a[m], right);
                }
            }
        }
    }

    if (lane % 4 == 0) {
        sums[warp_n * HEADS + rows[0]] = sum[0];
        sums[warp_n * HEADS + rows[1]] = sum[1];
        if (warp_n == 0) {
            maxima[rows[0]] = top[0];
            maxima[rows[1]] = top[1];
        }
    }
    __syncthreads();
    if (v.lse && threadIdx.x < HEADS && h0 + (int)threadIdx.x < v.H) {
        float total = sums[threadIdx.x] + sums[HEADS + threadIdx.x];

        v.lse[t * v.lse_stride + h0 + threadIdx.x] = total > 0.0f ? maxima[threadIdx.x] + logf(total) : INFINITY;
    }
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = 16 * m + lane / 4 + 8 * half;
            float total = sums[row] + sums[HEADS + row], factor = total > 0.0f ? 1.0f / total : 0.0f;

            if (h0 + row < v.H) {
#pragma unroll
                for (int n = 0; n < n_tiles; n++) {
                    float2 pair = {out[m][n][2 * half] * factor, out[m][n][2 * half + 1] * factor};
                    int64_t place = t * v.out_row_stride + (h0 + row) * v.out_head_stride + warp * (Dv / WARPS) +
                                    8 * n + 2 * (lane % 4);

                    if (v.bf16)
                        *(uint32_t *)((__nv_bfloat16 *)v.out + place) = bf16_pair(pair.x, pair.y);
                    else
                        *(float2 *)((float *)v.out + place) = pair;
                }
            }
        }
}

template <int Dv, int Dr> static enum status launch(struct ops *ops, struct attention_view v, int64_t T)
{
    const int smem = layout<Dv, Dr>::bytes;

    v.head_tiles = (int)ceil_div(v.H, HEADS);
    if (T * v.head_tiles > INT32_MAX)
        return STATUS_UNSUPPORTED;
    CUDA_TRY(ops,
             cudaFuncSetAttribute((attention_mma_kernel<Dv, Dr>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((attention_mma_kernel<Dv, Dr>), (unsigned)(T * v.head_tiles), THREADS, smem, backend_of(ops)->stream, v);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

bool attention_mma_takes(const struct cuda_backend *backend, int Dv, int Dr, bool plain)
{
    return backend->mma && !plain && Dv == 512 && Dr == 64 &&
           (size_t)layout<512, 64>::bytes <= backend->smem_per_block;
}

enum status cuda_attention_mma(struct ops *ops, const struct attention_view *v, int64_t T)
{
    /* Pairs are stored at once; other strides take the generic kernel. */
    if (!attention_mma_takes(backend_of(ops), v->Dv, v->Dr, v->plain) || v->out_row_stride % 2 ||
        v->out_head_stride % 2 || (uintptr_t)v->out % 8)
        return STATUS_UNSUPPORTED;
    return launch<512, 64>(ops, *v, T);
}
