/* indexer.cu: lightning indexer scores, plain form.
 *
 *   score[t,s] = ks[s] sum_h w[t,h] sq[t,h] max(0, q8[t,h,:] . k8[s,:])
 *
 * grid (key tiles of 128) x T, folded into x; 128 threads, one key each: its Di values sit in registers
 * (published Di = 128) or are read again from L1 (any other Di). The query's Hi x Di values are in shared
 * memory, read by all lanes at once (broadcast). Sums over heads run h = 0, 1, … in one accumulator.
 * Bound by F32 multiply-adds: 2 Hi Di flops a pair; the tensor-core form is README, "What is next". */
#include "kernels/cuda/indexer.cuh"

/* Scores that lie in memory at once: 2048 rows of 128K, so that launches and their ends are few. Small cases shall need
 * several rounds as well. */
#ifdef DSA_CUDA_EMULATED
enum { SCORE_BUDGET_BYTES = 16 << 10 };
#else
enum { SCORE_BUDGET_BYTES = 1 << 30 };
#endif
enum { KEY_TILE = 128 };

template <int RegisterDi> static __global__ void __launch_bounds__(KEY_TILE) scores_kernel(struct index_view v)
{
    after_previous();
    DYNAMIC_SHARED(float, shared); /* q [Hi, Di], then weight * q scale [Hi] */
    float *q = shared, *weight = shared + v.Hi * v.Di;
    int64_t t = blockIdx.x / v.tiles, s = (int64_t)(blockIdx.x % v.tiles) * KEY_TILE + threadIdx.x;
    int visible = v.visible[t];
    const uint8_t *page = NULL;
    int offset = (int)(s % CACHE_PAGE_TOKENS);
    float k[RegisterDi ? RegisterDi : 1];
    float total = 0.0f;

    for (int i = threadIdx.x; i < v.Hi * v.Di; i += KEY_TILE) {
        int h = i / v.Di, d = i % v.Di;

        q[i] = v.plain ? v.q[t * v.q_row_stride + h * v.q_head_stride + d]
                       : __bfloat162float(v.values[(t * v.Hi + h) * v.Di + d]);
    }
    for (int h = threadIdx.x; h < v.Hi; h += KEY_TILE)
        weight[h] = v.w[t * v.w_stride + h] * (v.plain ? 1.0f : v.q_scale[t * v.Hi + h]);
    __syncthreads();
    if (s >= v.S)
        return;
    if (s >= visible) {
        v.score[t * v.score_stride + s] = -INFINITY;
        return;
    }
    page = v.pool + v.page_table[v.sequence[t] * v.page_table_stride + s / CACHE_PAGE_TOKENS] * v.page_bytes;
    if (RegisterDi) {
#pragma unroll
        for (int d = 0; d < RegisterDi; d++)
            k[d] =
                v.plain ? ((const float *)page)[offset * RegisterDi + d] : e4m3_to_float(page[offset * RegisterDi + d]);
    }
    for (int h = 0; h < v.Hi; h++) {
        float dot = 0.0f;

        if (RegisterDi) {
#pragma unroll
            for (int d = 0; d < RegisterDi; d++)
                dot = fmaf(q[h * RegisterDi + d], k[d], dot);
        } else {
            for (int d = 0; d < v.Di; d++) {
                float value =
                    v.plain ? ((const float *)page)[offset * v.Di + d] : e4m3_to_float(page[offset * v.Di + d]);

                dot = fmaf(q[h * v.Di + d], value, dot);
            }
        }
        total = fmaf(weight[h], fmaxf(dot, 0.0f), total);
    }
    if (!v.plain)
        total *= ((const float *)(page + (int64_t)CACHE_PAGE_TOKENS * v.Di))[offset];
    v.score[t * v.score_stride + s] = total;
}

/* Scores of rows [first, first + count) into `score` [count, S]; without `fill`, perhaps only where a row looks. */
static enum status scores_of_rows(struct ops *ops, const struct ops_indexer_args *args, int64_t first, int64_t count,
                                  float *score, int64_t score_stride, int64_t S, bool fill)
{
    const struct tensor *q = args->q;
    int Hi = (int)q->dims[1], Di = (int)q->dims[2];
    const float *rows = (const float *)q->data + first * q->strides[0];
    size_t smem = ((size_t)Hi * Di + Hi) * sizeof(float);
    struct index_view v = {};
    enum status status;

    v.plain = args->shape.numerics == NUMERICS_PLAIN;
    v.fill = fill;
    v.q = rows;
    v.q_row_stride = q->strides[0];
    v.q_head_stride = q->strides[1];
    v.w = (const float *)args->w->data + first * args->w->strides[0];
    v.w_stride = args->w->strides[0];
    v.sequence = (const int32_t *)args->rows->sequence->data + first;
    v.visible = (const int32_t *)args->rows->visible->data + first;
    v.page_table = (const int32_t *)args->rows->page_table->data;
    v.page_table_stride = args->rows->page_table->strides[0];
    v.page_bytes = (int64_t)cache_index_page_bytes(&args->shape);
    v.pool = (const uint8_t *)args->pool->data;
    v.Hi = Hi;
    v.Di = Di;
    v.tiles = (int)ceil_div(S, KEY_TILE);
    v.score = score;
    v.score_stride = score_stride;
    v.S = S;
    if (count == 0 || S == 0)
        return STATUS_OK;
    if (!v.plain) {
        struct operand operand;
        bool codes = cuda_scores_take_wgmma(backend_of(ops), &v);

        if (Di > SCALE_GROUP)
            return STATUS_UNSUPPORTED;
        status =
            cuda_queries(ops, rows, q->strides[0], q->strides[1], Hi, count, Di, codes, SCRATCH_C, SCRATCH_D, &operand);
        if (status)
            return status;
        v.values = operand.values;
        v.codes = operand.codes;
        v.q_scale = operand.scale;
        if (codes)
            return cuda_scores_wgmma(ops, &v, count);
    }
    if (cuda_scores_mma(ops, v, count) == STATUS_OK)
        return STATUS_OK;
    if (smem > backend_of(ops)->smem_per_block || (int64_t)v.tiles * count > INT32_MAX)
        return STATUS_UNSUPPORTED;
    if (Di == 128) {
        CUDA_TRY(ops, cudaFuncSetAttribute(scores_kernel<128>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem));
        LAUNCH((scores_kernel<128>), (unsigned)(v.tiles * count), KEY_TILE, smem, backend_of(ops)->stream, v);
    } else {
        CUDA_TRY(ops, cudaFuncSetAttribute(scores_kernel<0>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem));
        LAUNCH((scores_kernel<0>), (unsigned)(v.tiles * count), KEY_TILE, smem, backend_of(ops)->stream, v);
    }
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score)
{
    return scores_of_rows(ops, args, 0, args->q->dims[0], (float *)score->data, score->strides[0], score->dims[1],
                          true);
}

enum status cuda_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected)
{
    int64_t T = args->q->dims[0], S = args->rows->visible_max, chunk;
    void *score;
    enum status status;

    if (T == 0)
        return STATUS_OK;
    chunk = S ? SCORE_BUDGET_BYTES / (S * (int64_t)sizeof(float)) : T;
    chunk = chunk < 1 ? 1 : chunk > T ? T : chunk;
    status = cuda_scratch(ops, SCRATCH_E, (size_t)(chunk * S) * sizeof(float) + 1, &score);
    for (int64_t first = 0; !status && first < T; first += chunk) {
        int64_t count = T - first < chunk ? T - first : chunk;
        struct tensor rows = tensor_2d(DTYPE_F32, score, count, S);
        struct tensor visible = tensor_rows(args->rows->visible, first, count);
        struct tensor out = tensor_rows(selected, first, count);

        status = scores_of_rows(ops, args, first, count, (float *)score, S, S, false);
        if (!status)
            status = cuda_topk(ops, &rows, &visible, &out);
    }
    return status;
}
