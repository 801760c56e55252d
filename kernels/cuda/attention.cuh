/* attention.cuh: one call of attention as both kernels see it. */
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

struct attention_view {
    const float *q_latent, *q_pe;
    int64_t q_row_stride, q_head_stride, pe_row_stride, pe_head_stride;
    const int32_t *selected; /* NULL: dense */
    int64_t selected_stride;
    int selected_count;
    const int32_t *sequence, *visible, *page_table;
    int64_t page_table_stride;
    const uint8_t *pool;
    int record_bytes, H, Dv, Dr, head_tiles;
    bool plain;
    float scale;
    float *out, *lse;
    int64_t out_row_stride, out_head_stride, lse_stride;
};

/* The tensor-core form; STATUS_UNSUPPORTED, nothing launched, for widths and strides it has no path for. */
enum status cuda_attention_mma(struct ops *ops, const struct attention_view *view, int64_t T);

#endif
