/* topk.cu: exact top-k of each row, ties to the lowest position, positions ascending: one block a row.
 *
 *   grid T, 1024 threads. Three rounds over the row (topk.cuh) with a histogram in shared memory, 16 KB; then every
 *   warp takes a stretch of the row, counts what is above and equal, and after a sum over the warps writes it in order.
 *   Reads 5 x 4 S bytes a row, from L2 where the scores were just written; writes 4 k.
 * Few long rows go over many blocks instead (topk_split.cu); on Hopper other rows of up to about a million keys are
 * read once (topk_sampled.cu). */
#include "kernels/cuda/topk.cuh"

enum { THREADS = 1024 };

static __global__ void __launch_bounds__(THREADS) topk_kernel(struct topk_call c)
{
    after_previous();
    __shared__ uint32_t histogram[TOPK_BINS];
    __shared__ struct topk_shared shared;
    int32_t *out = c.selected + blockIdx.x * c.selected_stride;
    int count = c.visible[blockIdx.x] < c.S ? c.visible[blockIdx.x] : (int)c.S;

    if (count <= c.k)
        topk_all(out, count, c.k);
    else
        topk_by_rounds<THREADS>(c.score + blockIdx.x * c.score_stride, count, c.k, out, histogram, &shared);
}

enum status cuda_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                      struct tensor *selected)
{
    int64_t T = selected->dims[0];
    struct topk_call call = {(const float *)score->data,     score->strides[0],         score->dims[1],
                             (const int32_t *)visible->data, (int32_t *)selected->data, selected->strides[0],
                             (int)selected->dims[1]};
    const struct cuda_backend *backend = backend_of(ops);
    bool split;

    if (T == 0 || call.k == 0)
        return STATUS_OK;
    split = backend->mma && topk_is_split(T, call.S, backend->sm_count);
    if (backend->wgmma && !(split && topk_is_split_first(T, call.S)) &&
        topk_is_sampled(call.S, call.k, (int64_t)backend->smem_per_block - 2048))
        return cuda_topk_sampled(ops, &call, T);
    if (split)
        return cuda_topk_split(ops, &call, T);
    LAUNCH((topk_kernel), (unsigned)T, THREADS, 0, backend_of(ops)->stream, call);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}
