/* cache.cu: writing the two caches in the layouts of ops.h.
 *
 * One warp a group of up to 128 values: four a lane, one maximum over the warp, one ue8m0 scale, four stores.
 * Bound by memory; every byte is written once. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

enum { GROUP_WARPS = 4 }; /* groups a block */

/* Quantises up to 128 values of a row: `values` in, codes and the scale out. All lanes of a warp call it. */
static __device__ __forceinline__ float quantise_group(const float *values, int count, uint8_t *codes)
{
    int lane = threadIdx.x % WARP;
    float amax = 0.0f, scale;

    for (int i = lane; i < count; i += WARP)
        amax = fmaxf(amax, fabsf(values[i]));
    scale = ue8m0_scale(warp_max(amax));
    for (int i = lane; i < count; i += WARP)
        codes[i] = float_to_e4m3(values[i] / scale);
    return scale;
}

/* --- Latent records -------------------------------------------------------------------------------------------- */

static __global__ void latent_write_kernel(const float *c, int64_t c_stride, const float *k_pe, int64_t k_stride,
                                           const int32_t *slot, int Dv, int Dr, int record_bytes, bool plain,
                                           uint8_t *pool)
{
    uint8_t *record = pool + (int64_t)slot[blockIdx.x] * record_bytes;
    const float *latent = c + blockIdx.x * c_stride, *rotary = k_pe + blockIdx.x * k_stride;
    int groups = (Dv + SCALE_GROUP - 1) / SCALE_GROUP;

    if (plain) {
        float *out = (float *)record;

        for (int d = threadIdx.x; d < Dv + Dr; d += blockDim.x)
            out[d] = d < Dv ? latent[d] : rotary[d - Dv];
        return;
    }
    for (int g = threadIdx.x / WARP; g < groups; g += blockDim.x / WARP) {
        float s = quantise_group(latent + g * SCALE_GROUP, min((int)SCALE_GROUP, Dv - g * SCALE_GROUP),
                                 record + g * SCALE_GROUP);

        if (threadIdx.x % WARP == 0)
            memcpy(record + Dv + 4 * g, &s, 4);
    }
    for (int d = threadIdx.x; d < Dr; d += blockDim.x) {
        /* Byte by byte: a record of odd widths is not aligned. */
        uint32_t bits = bf16_bits(rotary[d]);

        record[Dv + 4 * groups + 2 * d] = (uint8_t)bits;
        record[Dv + 4 * groups + 2 * d + 1] = (uint8_t)(bits >> 8);
    }
}

enum status cuda_latent_write(struct ops *ops, const struct ops_latent_write_args *args)
{
    if (args->c->dims[0] == 0)
        return STATUS_OK;
    LAUNCH((latent_write_kernel), (unsigned)args->c->dims[0], GROUP_WARPS * WARP, 0, backend_of(ops)->stream,
           (const float *)args->c->data, args->c->strides[0], (const float *)args->k_pe->data, args->k_pe->strides[0],
           (const int32_t *)args->rows->slot->data, args->shape.Dv, args->shape.Dr,
           (int)cache_record_bytes(&args->shape), args->shape.numerics == NUMERICS_PLAIN, (uint8_t *)args->pool->data);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- Indexer keys: one warp a key ----------------------------------------------------------------------------------
 */

static __global__ void index_write_kernel(const float *k, int64_t k_stride, const int32_t *slot, int64_t T, int Di,
                                          int64_t page_bytes, bool plain, uint8_t *pool)
{
    int64_t t = (int64_t)blockIdx.x * GROUP_WARPS + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    const float *key;
    uint8_t *page;
    int offset;

    if (t >= T)
        return;
    key = k + t * k_stride;
    page = pool + slot[t] / CACHE_PAGE_TOKENS * page_bytes;
    offset = slot[t] % CACHE_PAGE_TOKENS;
    if (plain) {
        float *out = (float *)page + (int64_t)offset * Di;

        for (int d = lane; d < Di; d += WARP)
            out[d] = key[d];
    } else {
        float s = quantise_group(key, Di, page + (int64_t)offset * Di);

        if (lane == 0)
            ((float *)(page + (int64_t)CACHE_PAGE_TOKENS * Di))[offset] = s;
    }
}

enum status cuda_index_write(struct ops *ops, const struct ops_index_write_args *args)
{
    int64_t T = args->k->dims[0];

    if (T == 0)
        return STATUS_OK;
    LAUNCH((index_write_kernel), ceil_div(T, GROUP_WARPS), GROUP_WARPS * WARP, 0, backend_of(ops)->stream,
           (const float *)args->k->data, args->k->strides[0], (const int32_t *)args->rows->slot->data, T,
           args->shape.Di, (int64_t)cache_index_page_bytes(&args->shape), args->shape.numerics == NUMERICS_PLAIN,
           (uint8_t *)args->pool->data);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
