/* cache.cu: writing the two caches in the layouts of ops.h, with what ops.h allows on the way: RoPE, and for indexer
 * keys LayerNorm and Hadamard, by the functions that rows.cu uses.
 *
 * One warp a group of up to 128 values: four a lane, one maximum over the warp, one ue8m0 scale, four stores.
 * Bound by memory; every byte is written once. */
#include "kernels/cuda/impl.cuh"
#include "kernels/cuda/rows.cuh"

enum {
    GROUP_WARPS = 4,    /* groups a block */
    MOST_CHANGED = 4096 /* values of a key that is changed on the way: twice as many stand in 32 KiB of shared memory */
};

/* A rotation as kernels take it; table NULL: none. */
struct rotation {
    const float *table;
    int64_t table_stride;
    const int32_t *position;
    int half;
    bool interleaved;
};

static struct rotation rotation_of(const struct ops_rotation *rope)
{
    struct rotation r = {};

    if (rope->table)
        r = {(const float *)rope->table->data, rope->table->strides[0], (const int32_t *)rope->position->data,
             (int)rope->table->dims[1] / 2, rope->style == ROPE_INTERLEAVED};
    return r;
}

/* Value d of row t after the rotation of its first 2 * half values. */
static __device__ __forceinline__ float rotated(const struct rotation &r, int64_t t, const float *row, int d)
{
    const float *angles;
    float2 pair;
    int i;

    if (!r.table || d >= 2 * r.half)
        return row[d];
    angles = r.table + r.position[t] * r.table_stride;
    i = r.interleaved ? d / 2 : d % r.half;
    pair = rope_pair(row[rope_first(i, r.interleaved)], row[rope_second(i, r.half, r.interleaved)], angles[i],
                     angles[r.half + i]);
    return d == rope_first(i, r.interleaved) ? pair.x : pair.y;
}

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
                                           struct rotation rope, const int32_t *slot, int Dv, int Dr, int record_bytes,
                                           bool plain, uint8_t *pool)
{
    after_previous();
    uint8_t *record = pool + (int64_t)slot[blockIdx.x] * record_bytes;
    const float *latent = c + blockIdx.x * c_stride, *rotary = k_pe + blockIdx.x * k_stride;
    int groups = (Dv + SCALE_GROUP - 1) / SCALE_GROUP;

    if (plain) {
        float *out = (float *)record;

        for (int d = threadIdx.x; d < Dv + Dr; d += blockDim.x)
            out[d] = d < Dv ? latent[d] : rotated(rope, blockIdx.x, rotary, d - Dv);
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
        uint32_t bits = bf16_bits(rotated(rope, blockIdx.x, rotary, d));

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
           rotation_of(&args->rope), (const int32_t *)args->rows->slot->data, args->shape.Dv, args->shape.Dr,
           (int)cache_record_bytes(&args->shape), args->shape.numerics == NUMERICS_PLAIN, (uint8_t *)args->pool->data);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- Indexer keys ---------------------------------------------------------------------------------------------- */

/* One key by one warp. */
static __device__ __forceinline__ void index_write(const float *key, int32_t slot, int Di, int64_t page_bytes,
                                                   bool plain, uint8_t *pool)
{
    uint8_t *page = pool + slot / CACHE_PAGE_TOKENS * page_bytes;
    int lane = threadIdx.x % WARP, offset = slot % CACHE_PAGE_TOKENS;

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

static __global__ void index_write_kernel(const float *k, int64_t k_stride, const int32_t *slot, int64_t T, int Di,
                                          int64_t page_bytes, bool plain, uint8_t *pool)
{
    after_previous();
    int64_t t = (int64_t)blockIdx.x * GROUP_WARPS + threadIdx.x / WARP;

    if (t < T)
        index_write(k + t * k_stride, slot[t], Di, page_bytes, plain, pool);
}

struct key_changes {
    const float *weight, *bias; /* NULL: no LayerNorm */
    float eps;
    struct rotation rope;
    float hadamard; /* Di^-0.5; 0: no transform */
};

/* A block a key, as layernorm_kernel has it; the key stays in shared memory until its last form goes out. */
static __global__ void index_change_write_kernel(const float *k, int64_t k_stride, struct key_changes change,
                                                 const int32_t *slot, int Di, int64_t page_bytes, bool plain,
                                                 uint8_t *pool)
{
    after_previous();
    __shared__ float partial[WARP];
    DYNAMIC_SHARED(float, shared);
    float *row = shared, *turned = shared + Di;
    int64_t t = blockIdx.x;

    for (int d = threadIdx.x; d < Di; d += blockDim.x)
        row[d] = k[t * k_stride + d];
    if (change.weight) {
        /* Each thread reads back what it wrote itself. */
        struct layernorm norm = layernorm_of(row, Di, change.eps, partial);

        for (int d = threadIdx.x; d < Di; d += blockDim.x)
            row[d] = layernorm_value(norm, row[d], change.weight[d], change.bias[d]);
    }
    __syncthreads();
    for (int d = threadIdx.x; d < Di; d += blockDim.x) {
        float value = rotated(change.rope, t, row, d);

        turned[d] = change.hadamard ? bf16_round(value) : value;
    }
    if (change.hadamard) {
        hadamard_in_shared(turned, Di);
        for (int d = threadIdx.x; d < Di; d += blockDim.x)
            turned[d] = bf16_round(turned[d] * change.hadamard);
    }
    __syncthreads();
    if (threadIdx.x < WARP)
        index_write(turned, slot[t], Di, page_bytes, plain, pool);
}

enum status cuda_index_write(struct ops *ops, const struct ops_index_write_args *args)
{
    int64_t T = args->k->dims[0];

    if (T == 0)
        return STATUS_OK;
    if (args->norm || args->rope.table || args->hadamard) {
        struct key_changes change = {args->norm ? (const float *)args->norm->data : NULL,
                                     args->norm ? (const float *)args->norm_bias->data : NULL, args->norm_eps,
                                     rotation_of(&args->rope),
                                     args->hadamard ? 1.0f / sqrtf((float)args->shape.Di) : 0};

        if (args->shape.Di > MOST_CHANGED)
            return STATUS_UNSUPPORTED;
        LAUNCH((index_change_write_kernel), (unsigned)T, ROW_THREADS, 2 * (size_t)args->shape.Di * sizeof(float),
               backend_of(ops)->stream, (const float *)args->k->data, args->k->strides[0], change,
               (const int32_t *)args->rows->slot->data, args->shape.Di, (int64_t)cache_index_page_bytes(&args->shape),
               args->shape.numerics == NUMERICS_PLAIN, (uint8_t *)args->pool->data);
        CUDA_LAUNCHED(ops);
        return STATUS_OK;
    }
    LAUNCH((index_write_kernel), ceil_div(T, GROUP_WARPS), GROUP_WARPS * WARP, 0, backend_of(ops)->stream,
           (const float *)args->k->data, args->k->strides[0], (const int32_t *)args->rows->slot->data, T,
           args->shape.Di, (int64_t)cache_index_page_bytes(&args->shape), args->shape.numerics == NUMERICS_PLAIN,
           (uint8_t *)args->pool->data);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
