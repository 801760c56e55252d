/* linear.c: matrix products, with the rounding that `enum numerics` asks for. */
#include <stdlib.h>

#include "kernels/fp8.h"
#include "kernels/ref/ref.h"
#include "kernels/rows.h"

enum status ref_weight_create(struct ops *ops, const struct ops_weight_args *args, struct ops_weight **out)
{
    struct ref_weight *weight = calloc(1, sizeof *weight);

    if (!weight)
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for a weight");
    weight->w = args->w;
    if (args->scale)
        weight->scale = *args->scale;
    *out = &weight->base;
    return STATUS_OK;
}

void ref_weight_destroy(struct ops *ops, struct ops_weight *weight)
{
    free(weight); /* base is the first member */
}

/* Element (n, k) of matrix `head`; an FP8 code without its scale. */
static float weight_value(const struct ref_weight *weight, int64_t head, int64_t n, int64_t k)
{
    const struct tensor *w = &weight->w;
    int64_t at = w->dim_count == 3 ? head * w->strides[0] + n * w->strides[1] + k : n * w->strides[0] + k;

    switch (w->dtype) {
    case DTYPE_BF16: return f32_from_bf16(((const uint16_t *)w->data)[at]);
    case DTYPE_F8E4M3: return f32_from_e4m3(((const uint8_t *)w->data)[at]);
    default: return ((const float *)w->data)[at];
    }
}

static float weight_scale(const struct ref_weight *weight, int64_t n, int64_t k)
{
    return row_f32(&weight->scale, n / FP8_SCALE_BLOCK)[k / FP8_SCALE_BLOCK];
}

/* FP8 weight, FP8 activation: y[n] = sum_g (sum_{k in g} a8[k] w8[n,k]) * sa[g] * sw[n/128, g]. */
static enum status product_fp8(struct ops *ops, const struct ref_weight *weight, const float *x, float *y)
{
    int64_t N = weight->base.N, K = weight->base.K;
    uint8_t *codes = malloc((size_t)K);
    float *scales = malloc(sizeof *scales * (size_t)((K + FP8_GROUP - 1) / FP8_GROUP));
    enum status s = STATUS_OK;

    if (!codes || !scales) {
        s = ops_fail(ops, STATUS_NO_MEMORY, "no memory for a product");
        goto out;
    }
    for (int64_t k = 0; k < K; k += FP8_GROUP)
        scales[k / FP8_GROUP] = quantise_e4m3(x + k, (int)(K - k < FP8_GROUP ? K - k : FP8_GROUP), codes + k);
    for (int64_t n = 0; n < N; n++) {
        double sum = 0;

        for (int64_t k = 0; k < K; k++)
            sum += (double)f32_from_e4m3(codes[k]) * weight_value(weight, 0, n, k) * scales[k / FP8_GROUP] *
                   weight_scale(weight, n, k);
        y[n] = (float)sum;
    }
out:
    free(codes);
    free(scales);
    return s;
}

enum status ref_product(struct ops *ops, const struct ops_weight *base, int64_t head, const float *x, float *y)
{
    const struct ref_weight *weight = (const struct ref_weight *)base;
    bool round_to_bf16 = base->numerics == NUMERICS_FP8 && base->dtype == DTYPE_BF16;

    if (base->numerics == NUMERICS_FP8 && base->dtype == DTYPE_F8E4M3)
        return product_fp8(ops, weight, x, y);
    for (int64_t n = 0; n < base->N; n++) {
        double sum = 0;

        for (int64_t k = 0; k < base->K; k++) {
            float w = weight_value(weight, head, n, k);

            if (base->dtype == DTYPE_F8E4M3) /* plain numerics: the dequantised weight is an F32 value */
                w *= weight_scale(weight, n, k);
            sum += (double)(round_to_bf16 ? f32_from_bf16(bf16_from_f32(x[k])) : x[k]) * w;
        }
        y[n] = (float)sum;
    }
    return STATUS_OK;
}

enum status ref_linear(struct ops *ops, const struct ops_linear_args *args)
{
    const struct ops_weight *w = args->w;
    float *row = malloc(sizeof *row * (size_t)w->N);
    enum status s = STATUS_OK;

    if (!row)
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for a product");
    for (int64_t t = 0; !s && t < args->x->dims[0]; t++)
        for (int64_t h = 0; !s && h < (w->H ? w->H : 1); h++) {
            const float *x = w->H ? row2_f32(args->x, t, h) : row_f32(args->x, t);
            float *y = w->H ? row2_f32(args->y, t, h) : row_f32(args->y, t);

            s = ref_product(ops, w, h, x, row);
            for (int64_t n = 0; !s && n < w->N; n++)
                y[n] = args->accumulate ? y[n] + row[n] : row[n];
        }
    free(row);
    return s;
}
