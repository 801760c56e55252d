/* product.cuh: one product as its kernels see it. */
#ifndef KERNELS_CUDA_PRODUCT_CUH
#define KERNELS_CUDA_PRODUCT_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

struct product {
    struct operand x;
    const void *w;
    const float *w_scale;
    int64_t N, K, T;
    struct grouping group; /* row_index NULL: not grouped */
    float *y;
    __nv_bfloat16 *y_bf16; /* instead of y; not added to */
    int64_t y_row_stride, y_head_stride;
    int heads;
    bool accumulate;
    uint8_t *y_codes; /* e4m3 instead of y: per head [T, heads N]; of an expert's gate and up silu(gate) up [rows, N] */
    float *y_scale;   /* [rows, groups of 128 in one] */
};

/* How many products of the same rows of y there are: heads, or matrices of each expert. */
static __host__ __device__ __forceinline__ int product_matrices(const struct product &p)
{
    return p.group.row_index ? p.group.matrices : p.heads;
}

/* The row of scales of operand row `row` for matrix `matrix`: experts' matrices share theirs. */
static __device__ __forceinline__ const float *product_scales(const struct product &p, int32_t row, int matrix)
{
    int64_t at = row < 0 ? 0 : row;

    return p.x.scale + (p.group.row_index ? at : at * p.heads + matrix) * p.x.scale_row_stride;
}

/* Weights of an expert, in the tables of `matrix`. */
static __device__ __forceinline__ int product_expert(const struct product &p, int32_t tile, int matrix)
{
    int32_t expert = p.group.tile_expert[tile];

    return expert < 0 ? -1 : matrix * p.group.experts + expert;
}

/* The operand's row for row `row` of y; -1: none. */
static __device__ __forceinline__ int32_t product_row(const struct product &p, int64_t row)
{
    if (p.group.row_index) {
        int32_t index = p.group.row_index[row];

        return index < 0 ? -1 : p.group.row_divisor ? index / p.group.row_divisor : (int32_t)row;
    }
    return row < p.T ? (int32_t)row : -1;
}

/* Element `at` of y, which is F32 where products of such weights cannot have another. */
template <bool MayBeBf16>
static __device__ __forceinline__ void product_put(const struct product &p, int64_t at, float value)
{
    if (MayBeBf16 && p.y_bf16)
        p.y_bf16[at] = __float2bfloat16_rn(value);
    else
        p.y[at] = p.accumulate ? p.y[at] + value : value;
}

/* Whether products with K columns run on wgmma: Hopper, rows of both sides that start on 16 bytes. */
static inline bool product_takes_wgmma(const struct cuda_backend *backend, enum dtype dtype, enum numerics numerics,
                                       int64_t K)
{
    return backend->wgmma && numerics == NUMERICS_FP8 &&
           ((dtype == DTYPE_F8E4M3 && K % 16 == 0) || (dtype == DTYPE_BF16 && K % 8 == 0));
}

enum status cuda_product_wgmma(struct ops *ops, const struct product *product);

/* Of those, products of at most 64 rows, altogether or for each expert. */
bool product_takes_few(const struct product *product);
enum status cuda_product_few(struct ops *ops, const struct product *product);
/* Several FP8 ones, neither grouped nor per head, of the same rows: in one launch, and one for their sums. */
enum status cuda_products_few(struct ops *ops, const struct product *products, int count);

/* Of the BF16 ones, products per head of more rows, 512 x 128 with x as it came (operand.plain) and y in BF16, or 128 x
 * 512 with x in BF16 and y in F32 that is not added to, or as y_codes; rows of both start on 16 bytes. */
bool product_takes_heads(const struct cuda_backend *backend, const struct cuda_weight *weight,
                         const struct product *product);
enum status cuda_product_heads(struct ops *ops, const struct product *product);

/* F32 weights, 2-D, rows of both sides on 16 bytes. */
bool product_takes_f32(const struct product *product, enum dtype dtype);
enum status cuda_product_f32(struct ops *ops, const struct product *product);

#endif
