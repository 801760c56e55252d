/* attention_split.cu: which form of attention a call takes on Hopper, and what stands around it: the widened copy of
 * the cache before a prefill, the sum over parts of the keys after a decode step.
 *
 * Few rows (attention_is_split: 32 of 128 heads, 64 of up to 64): every row's keys are divided into parts whose length
 * depends on their count alone, so that a row's bits do not depend on the other rows of the call. More rows fill the
 * GPU by themselves and are not divided: the parts' results would be most of the traffic. At that border, and only
 * there, bits differ: by the rounding of P against another maximum and of one sum over the parts. */
#include "kernels/cuda/attention.cuh"

enum { COMBINE_THREADS = 128, WIDEN_THREADS = 256, LATENT = 512, ROPE = 64 };
static const int64_t WIDE_BUDGET_BYTES = (int64_t)1 << 30;

/* --- Records as BF16: one thread 8 values ------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(WIDEN_THREADS)
    widen_kernel(struct attention_view v, int64_t count, __nv_bfloat16 *wide)
{
    after_previous();
    const int chunks = (LATENT + ROPE) / 8;
    int64_t at = (int64_t)blockIdx.x * WIDEN_THREADS + threadIdx.x, row = at / chunks;
    int chunk = (int)(at % chunks), position = (int)(row % v.wide_rows);
    int32_t page;
    const uint8_t *record;
    uint4 *out;

    if (row >= count)
        return;
    page = v.page_table[row / v.wide_rows * v.page_table_stride + position / CACHE_PAGE_TOKENS];
    if (page < 0)
        return;
    record = v.pool + ((int64_t)page * CACHE_PAGE_TOKENS + position % CACHE_PAGE_TOKENS) * v.record_bytes;
    out = (uint4 *)(wide + row * (LATENT + ROPE) + 8 * chunk);
    if (chunk < LATENT / 8) {
        float scale = ((const float *)(record + LATENT))[chunk / (SCALE_GROUP / 8)];
        uint2 codes = *(const uint2 *)(record + 8 * chunk);
        __nv_bfloat162 pairs[4];

#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 pair = e4m3_pair_to_float((uint16_t)((i < 2 ? codes.x : codes.y) >> 16 * (i % 2)));

            pair.x *= scale;
            pair.y *= scale;
            pairs[i] = __float22bfloat162_rn(pair);
        }
        memcpy(out, pairs, sizeof *out);
    } else {
        *out = *(const uint4 *)(record + LATENT + 4 * (LATENT / SCALE_GROUP) + 16 * (chunk - LATENT / 8));
    }
}

/* --- The sum over parts: grid T x H, a thread four dims ----------------------------------------------------------- */

static __global__ void __launch_bounds__(COMBINE_THREADS) combine_kernel(struct attention_view v)
{
    after_previous();
    enum { TOGETHER = 8 }; /* parts whose loads are on their way at once */
    int64_t t = blockIdx.x / v.H;
    int h = (int)(blockIdx.x % v.H), count = v.selected ? v.selected_count : v.visible[t];
    int length = attention_part_length(count), parts = (count + length - 1) / length;
    float top = -INFINITY, total = 0.0f, sum[4] = {}, factor;
    const float *lse = v.part_lse + t * v.parts * v.H + h;
    int64_t place = t * v.out_row_stride + h * v.out_head_stride + 4 * threadIdx.x;

    if (parts <= 1)
        return;
    for (int p = 0; p < parts; p++)
        top = fmaxf(top, lse[(int64_t)p * v.H]);
    for (int first = 0; first < parts; first += TOGETHER) {
        float4 values[TOGETHER];
        float weight[TOGETHER];

#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            int p = first + i < parts ? first + i : parts - 1;

            weight[i] = lse[(int64_t)p * v.H];
            values[i] = *(const float4 *)(v.part_out + ((t * v.parts + p) * v.H + h) * LATENT + 4 * threadIdx.x);
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            float w = top == -INFINITY ? 0.0f : exp2f(weight[i] - top);

            if (first + i >= parts)
                break;
            total += w;
            sum[0] = fmaf(w, values[i].x, sum[0]);
            sum[1] = fmaf(w, values[i].y, sum[1]);
            sum[2] = fmaf(w, values[i].z, sum[2]);
            sum[3] = fmaf(w, values[i].w, sum[3]);
        }
    }
    factor = total > 0.0f ? 1.0f / total : 0.0f;
    for (int i = 0; i < 4; i++)
        sum[i] *= factor;
    if (v.bf16) {
        *(uint2 *)((__nv_bfloat16 *)v.out + place) = {bf16_pair(sum[0], sum[1]), bf16_pair(sum[2], sum[3])};
    } else {
        *(float2 *)((float *)v.out + place) = {sum[0], sum[1]};
        *(float2 *)((float *)v.out + place + 2) = {sum[2], sum[3]};
    }
    if (v.lse && threadIdx.x == 0)
        v.lse[t * v.lse_stride + h] = total > 0.0f ? (top + log2f(total)) * 0.693147180559945309f : INFINITY;
}

/* --- The plan ----------------------------------------------------------------------------------------------------- */

static bool takes_wgmma(const struct cuda_backend *backend, const struct attention_view *v)
{
    int q_unit = v->bf16 ? 8 : 4, out_unit = v->bf16 ? 8 : 2; /* elements */

    return backend->wgmma && !v->plain && v->Dv == LATENT && v->Dr == ROPE && (uintptr_t)v->pool % 16 == 0 &&
           !(v->out_row_stride % out_unit || v->out_head_stride % out_unit) &&
           (uintptr_t)v->out % (v->bf16 ? 16 : 8) == 0 &&
           !(v->q_row_stride % q_unit || v->q_head_stride % q_unit || (uintptr_t)v->q_latent % 16) && v->scale > 0.0f &&
           !(v->pe_row_stride % 2 || v->pe_head_stride % 2 || (uintptr_t)v->q_pe % 8);
}

static enum status widen(struct ops *ops, struct attention_view *v, int64_t sequences, int64_t positions)
{
    int64_t count = sequences * positions;
    void *memory;
    enum status status;

    if (count * (LATENT + ROPE) * 2 > WIDE_BUDGET_BYTES)
        return STATUS_OK;
    status = cuda_scratch(ops, SCRATCH_A, (size_t)count * (LATENT + ROPE) * 2, &memory);
    if (status)
        return status;
    v->wide_rows = positions;
    LAUNCH((widen_kernel), ceil_div(count * ((LATENT + ROPE) / 8), WIDEN_THREADS), WIDEN_THREADS, 0,
           backend_of(ops)->stream, *v, count, (__nv_bfloat16 *)memory);
    CUDA_LAUNCHED(ops);
    v->wide = (const __nv_bfloat16 *)memory;
    return STATUS_OK;
}

enum status cuda_attention_hopper(struct ops *ops, struct attention_view v, int64_t T, int64_t sequences,
                                  int64_t positions)
{
    int most = v.selected ? v.selected_count : (int)positions;
    enum status status;

    v.head_tiles = (int)ceil_div(v.H, 64);
    v.parts = 1;
    if (!takes_wgmma(backend_of(ops), &v) || T * v.head_tiles > INT32_MAX / ATTENTION_MOST_PARTS)
        return STATUS_UNSUPPORTED;
    if (!attention_is_split(T, v.head_tiles)) {
        status =
            attention_is_widened(T, most, sequences * positions) ? widen(ops, &v, sequences, positions) : STATUS_OK;
        if (status)
            return status;
        return cuda_attention_stagger(ops, &v, T);
    }
    /* No row has more parts than this; blocks past a row's own end at once. */
    v.parts = attention_parts_bound(most);
    if (v.parts > 1) {
        size_t rows = (size_t)T * v.parts * v.H;
        void *memory;

        status = cuda_scratch(ops, SCRATCH_A, rows * (LATENT + 1) * sizeof(float), &memory);
        if (status)
            return status;
        v.part_out = (float *)memory;
        v.part_lse = v.part_out + rows * LATENT;
    }
    status = cuda_attention_stagger(ops, &v, T);
    if (!status && v.parts > 1) {
        LAUNCH((combine_kernel), (unsigned)(T * v.H), COMBINE_THREADS, 0, backend_of(ops)->stream, v);
        CUDA_LAUNCHED(ops);
    }
    return status;
}
