/* attention.cuh: one call of attention as its kernels see it. */
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"
#include "kernels/cuda/plans.h"

struct attention_view {
    bool bf16; /* q_latent and out, else F32 */
    const void *q_latent;
    const float *q_pe;
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
    void *out;
    float *lse;
    int64_t out_row_stride, out_head_stride, lse_stride;
    /* Of the form for Hopper: records as BF16 [sequences, wide_rows, Dv + Dr], or NULL; parts of the keys, and their
     * results where there is more than one: [T, parts, H, Dv], and log2 of the sums [T, parts, H]. */
    const __nv_bfloat16 *wide;
    int64_t wide_rows;
    int parts;
    float *part_out, *part_lse;
};

/* The tensor-core form; STATUS_UNSUPPORTED, nothing launched, for widths and strides it has no path for. */
enum status cuda_attention_mma(struct ops *ops, const struct attention_view *view, int64_t T);
bool attention_mma_takes(const struct cuda_backend *backend, int Dv, int Dr, bool plain); /* of such widths */

/* Decides about splitting and widening (attention_split.cu), then runs attention_stagger.cu over the records that were
 * widened or over the FP8 ones.
 * STATUS_UNSUPPORTED, nothing launched, for what has no such form. `positions`: the most a row sees. */
enum status cuda_attention_hopper(struct ops *ops, struct attention_view view, int64_t T, int64_t sequences,
                                  int64_t positions);
enum status cuda_attention_stagger(struct ops *ops, const struct attention_view *view, int64_t T);

/* --- Of the kernels for Hopper ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ float exp2_fast(float x)
{
#ifdef DSA_CUDA_EMULATED
    return exp2f(x);
#else
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

#endif
