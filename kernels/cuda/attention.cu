/* attention.cu: absorbed multi-query attention over latent records, plain form: selected or dense.
 *
 *   grid  T x (H / 16), folded into x: one query token, 16 heads        block 256 threads = 8 warps
 *   smem  queries 16 x D F32, one tile of 32 records dequantised to F32 (row stride D + 1: conflict-free),
 *         probabilities 16 x 32, rescale factors 16.   D = Dv + Dr; 112 KB at 512 + 64
 *   warp w scores heads 2w, 2w+1 (lane = record); then every thread owns dims tid, tid + 256, … of the output
 *   for all 16 heads. A running maximum per head is carried from tile to tile; empty rows give 0 and +inf.
 * Bound by F32 multiply-adds and shared-memory reads; the wgmma form is README, "What is next". */
#include "kernels/cuda/attention.cuh"

enum { HEAD_TILE = 16, RECORD_TILE = 32, ATTENTION_THREADS = 256, HEADS_PER_WARP = 2 };

static __device__ __forceinline__ float record_value(const uint8_t *record, int d, int Dv, bool plain)
{
    if (plain)
        return ((const float *)record)[d];
    if (d < Dv) {
        float scale;

        memcpy(&scale, record + Dv + 4 * (d / SCALE_GROUP), 4);
        return e4m3_to_float(record[d]) * scale;
    } else {
        const uint8_t *bytes = record + Dv + 4 * ((Dv + SCALE_GROUP - 1) / SCALE_GROUP) + 2 * (d - Dv);

        return __uint_as_float((uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24);
    }
}

template <int DimsPerThread>
static __global__ void __launch_bounds__(ATTENTION_THREADS) attention_kernel(struct attention_view v)
{
    after_previous();
    DYNAMIC_SHARED(float, shared);
    int D = v.Dv + v.Dr, stride = D + 1;
    float *q = shared, *tile = q + HEAD_TILE * D, *p = tile + RECORD_TILE * stride,
          *rescale = p + HEAD_TILE * RECORD_TILE;
    int64_t t = blockIdx.x / v.head_tiles;
    int h0 = (int)(blockIdx.x % v.head_tiles) * HEAD_TILE;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int visible = v.visible[t], count = v.selected ? v.selected_count : visible;
    const int32_t *pages = v.page_table + v.sequence[t] * v.page_table_stride;
    const int32_t *chosen = v.selected ? v.selected + t * v.selected_stride : NULL;
    float acc[HEAD_TILE][DimsPerThread] = {};
    float top[HEADS_PER_WARP], sum[HEADS_PER_WARP];

    for (int i = 0; i < HEADS_PER_WARP; i++) {
        top[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    for (int i = threadIdx.x; i < HEAD_TILE * D; i += ATTENTION_THREADS) {
        int h = h0 + i / D, d = i % D;

        q[i] = h >= v.H   ? 0.0f
               : d < v.Dv ? ((const float *)v.q_latent)[t * v.q_row_stride + h * v.q_head_stride + d]
                          : v.q_pe[t * v.pe_row_stride + h * v.pe_head_stride + d - v.Dv];
    }
    for (int first = 0; first < count; first += RECORD_TILE) {
        __syncthreads();
        for (int row = warp; row < RECORD_TILE; row += ATTENTION_THREADS / WARP) {
            int position = first + row < count ? (chosen ? chosen[first + row] : first + row) : -1;
            const uint8_t *record = NULL;

            if (position >= 0 && position < visible)
                record = v.pool + ((int64_t)pages[position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS +
                                   position % CACHE_PAGE_TOKENS) *
                                      v.record_bytes;
            for (int d = lane; d < D; d += WARP)
                tile[row * stride + d] = record ? record_value(record, d, v.Dv, v.plain) : 0.0f;
            if (lane == 0)
                tile[row * stride + D] = record ? 0.0f : -INFINITY; /* the spare column: added to the logit */
        }
        __syncthreads();
        for (int i = 0; i < HEADS_PER_WARP; i++) {
            int head = HEADS_PER_WARP * warp + i;
            const float *query = q + head * D, *record = tile + lane * stride;
            float dot = 0.0f, logit, high, probability, factor;

            for (int d = 0; d < D; d++)
                dot = fmaf(query[d], record[d], dot);
            logit = dot * v.scale + record[D];
            high = fmaxf(top[i], warp_max(logit));
            probability = high == -INFINITY ? 0.0f : expf(logit - high);
            factor = high == -INFINITY ? 1.0f : expf(top[i] - high);
            sum[i] = sum[i] * factor + warp_sum(probability);
            top[i] = high;
            p[head * RECORD_TILE + lane] = probability;
            if (lane == 0)
                rescale[head] = factor;
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < DimsPerThread; j++) {
            int d = threadIdx.x + j * ATTENTION_THREADS;

            if (d < v.Dv) {
#pragma unroll
                for (int h = 0; h < HEAD_TILE; h++)
                    acc[h][j] *= rescale[h];
                for (int row = 0; row < RECORD_TILE; row++) {
                    float value = tile[row * stride + d];

#pragma unroll
                    for (int h = 0; h < HEAD_TILE; h++)
                        acc[h][j] = fmaf(p[h * RECORD_TILE + row], value, acc[h][j]);
                }
            }
        }
    }
    __syncthreads();
    for (int i = 0; i < HEADS_PER_WARP; i++) {
        int head = HEADS_PER_WARP * warp + i, h = h0 + head;

        if (lane == 0) {
            rescale[head] = sum[i] > 0.0f ? 1.0f / sum[i] : 0.0f;
            if (v.lse && h < v.H)
                v.lse[t * v.lse_stride + h] = sum[i] > 0.0f ? top[i] + logf(sum[i]) : INFINITY;
        }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < DimsPerThread; j++) {
        int d = threadIdx.x + j * ATTENTION_THREADS;

        if (d < v.Dv) {
#pragma unroll
            for (int h = 0; h < HEAD_TILE; h++) {
                if (h0 + h < v.H)
                    ((float *)v.out)[t * v.out_row_stride + (h0 + h) * v.out_head_stride + d] = acc[h][j] * rescale[h];
            }
        }
    }
}

template <int DimsPerThread>
static enum status launch(struct ops *ops, const struct attention_view *v, int64_t T, size_t smem)
{
    CUDA_TRY(ops, cudaFuncSetAttribute(attention_kernel<DimsPerThread>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       (int)smem));
    LAUNCH((attention_kernel<DimsPerThread>), (unsigned)(T * v->head_tiles), ATTENTION_THREADS, smem,
           backend_of(ops)->stream, *v);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* BF16 where no call comes here but for its strides: this form does not round its queries. */
enum dtype cuda_latent_dtype(struct ops *ops, const struct cache_shape *shape)
{
    return attention_mma_takes(backend_of(ops), shape->Dv, shape->Dr, shape->numerics == NUMERICS_PLAIN) ? DTYPE_BF16
                                                                                                         : DTYPE_F32;
}

enum status cuda_attention(struct ops *ops, const struct ops_attention_args *args)
{
    int64_t T = args->q_latent->dims[0];
    int64_t positions;
    int D = args->shape.Dv + args->shape.Dr;
    struct attention_view v = {};
    enum status status;
    size_t smem =
        ((size_t)HEAD_TILE * D + (size_t)RECORD_TILE * (D + 1) + HEAD_TILE * RECORD_TILE + HEAD_TILE) * sizeof(float);

    v.bf16 = args->q_latent->dtype == DTYPE_BF16;
    v.q_latent = args->q_latent->data;
    v.q_row_stride = args->q_latent->strides[0];
    v.q_head_stride = args->q_latent->strides[1];
    v.q_pe = (const float *)args->q_pe->data;
    v.pe_row_stride = args->q_pe->strides[0];
    v.pe_head_stride = args->q_pe->strides[1];
    if (args->selected) {
        v.selected = (const int32_t *)args->selected->data;
        v.selected_stride = args->selected->strides[0];
        v.selected_count = (int)args->selected->dims[1];
    }
    v.sequence = (const int32_t *)args->rows->sequence->data;
    v.visible = (const int32_t *)args->rows->visible->data;
    v.page_table = (const int32_t *)args->rows->page_table->data;
    v.page_table_stride = args->rows->page_table->strides[0];
    v.pool = (const uint8_t *)args->pool->data;
    v.record_bytes = (int)cache_record_bytes(&args->shape);
    v.H = (int)args->q_latent->dims[1];
    v.Dv = args->shape.Dv;
    v.Dr = args->shape.Dr;
    v.head_tiles = (int)ceil_div(v.H, HEAD_TILE);
    v.plain = args->shape.numerics == NUMERICS_PLAIN;
    v.scale = args->scale;
    v.out = args->out->data;
    v.out_row_stride = args->out->strides[0];
    v.out_head_stride = args->out->strides[1];
    v.lse = args->lse ? (float *)args->lse->data : NULL;
    v.lse_stride = args->lse ? args->lse->strides[0] : 0;
    if (T == 0)
        return STATUS_OK;
    positions = args->rows->page_table->dims[1] * CACHE_PAGE_TOKENS;
    if (positions > args->rows->visible_max)
        positions = args->rows->visible_max;
    status = cuda_attention_hopper(ops, v, T, args->rows->page_table->dims[0], positions);
    if (status == STATUS_UNSUPPORTED)
        status = cuda_attention_mma(ops, &v, T);
    if (status != STATUS_UNSUPPORTED)
        return status;
    if (v.bf16 || smem > backend_of(ops)->smem_per_block || T * v.head_tiles > INT32_MAX)
        return STATUS_UNSUPPORTED;
    if (v.Dv <= ATTENTION_THREADS)
        return launch<1>(ops, &v, T, smem);
    if (v.Dv <= 2 * ATTENTION_THREADS)
        return launch<2>(ops, &v, T, smem);
    if (v.Dv <= 4 * ATTENTION_THREADS)
        return launch<4>(ops, &v, T, smem);
    return STATUS_UNSUPPORTED;
}
