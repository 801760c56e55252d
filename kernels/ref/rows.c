/* rows.c: ops on rows of the residual stream, rotary embedding, Hadamard transform. */
#include "kernels/rows.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/fp8.h"
#include "kernels/ref/ref.h"

enum status ref_embed(struct ops *ops, const struct ops_embed_args *args)
{
    for (int64_t t = 0; t < args->y->dims[0]; t++) {
        int64_t row = *row_i32(args->tokens, t) * args->table->strides[0];
        float *y = row_f32(args->y, t);

        for (int64_t d = 0; d < args->y->dims[1]; d++)
            y[d] = args->table->dtype == DTYPE_BF16 ? f32_from_bf16(((const uint16_t *)args->table->data)[row + d])
                                                    : ((const float *)args->table->data)[row + d];
    }
    return STATUS_OK;
}

enum status ref_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    int64_t D = args->x->dims[1];
    const float *weight = row_f32(args->weight, 0);

    for (int64_t t = 0; t < args->x->dims[0]; t++) {
        float *x = row_f32(args->x, t), *y = row_f32(args->y, t);
        double sum = 0, factor;

        for (int64_t d = 0; args->residual && d < D; d++)
            x[d] += row_f32(args->residual, t)[d];
        for (int64_t d = 0; d < D; d++)
            sum += (double)x[d] * x[d];
        factor = 1 / sqrt(sum / (double)D + args->eps);
        for (int64_t d = 0; d < D; d++)
            y[d] = (float)(x[d] * factor * weight[d]);
    }
    return STATUS_OK;
}

enum status ref_layernorm(struct ops *ops, const struct ops_layernorm_args *args)
{
    int64_t D = args->x->dims[1];
    const float *weight = row_f32(args->weight, 0), *bias = row_f32(args->bias, 0);

    for (int64_t t = 0; t < args->x->dims[0]; t++) {
        const float *x = row_f32(args->x, t);
        float *y = row_f32(args->y, t);
        double sum = 0, mean, variance = 0, factor;

        for (int64_t d = 0; d < D; d++)
            sum += x[d];
        mean = sum / (double)D;
        for (int64_t d = 0; d < D; d++)
            variance += (x[d] - mean) * (x[d] - mean);
        factor = 1 / sqrt(variance / (double)D + args->eps);
        for (int64_t d = 0; d < D; d++)
            y[d] = (float)((x[d] - mean) * factor * weight[d] + bias[d]);
    }
    return STATUS_OK;
}

enum status ref_add(struct ops *ops, struct tensor *y, const struct tensor *x)
{
    for (int64_t t = 0; t < y->dims[0]; t++)
        for (int64_t d = 0; d < y->dims[1]; d++)
            row_f32(y, t)[d] += row_f32(x, t)[d];
    return STATUS_OK;
}

enum status ref_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y)
{
    for (int64_t t = 0; t < y->dims[0]; t++)
        for (int64_t j = 0; j < y->dims[1]; j++) {
            double a = row_f32(gate, t)[j];

            row_f32(y, t)[j] = (float)(a / (1 + exp(-a)) * row_f32(up, t)[j]);
        }
    return STATUS_OK;
}

enum status ref_rope(struct ops *ops, const struct ops_rope_args *args)
{
    int64_t Dr = args->x->dims[2];

    for (int64_t t = 0; t < args->x->dims[0]; t++)
        for (int64_t h = 0; h < args->x->dims[1]; h++) {
            const float *cosine = row_f32(args->table, *row_i32(args->position, t)), *sine = cosine + Dr / 2;
            float *x = row2_f32(args->x, t, h);

            for (int64_t i = 0; i < Dr / 2; i++) {
                float *a = args->style == ROPE_INTERLEAVED ? &x[2 * i] : &x[i];
                float *b = args->style == ROPE_INTERLEAVED ? &x[2 * i + 1] : &x[i + Dr / 2];
                double real = (double)*a * cosine[i] - (double)*b * sine[i];
                double imaginary = (double)*a * sine[i] + (double)*b * cosine[i];

                *a = (float)real;
                *b = (float)imaginary;
            }
        }
    return STATUS_OK;
}

/* H[i][j] = (-1)^(number of one bits that i and j share): Sylvester's order. */
enum status ref_hadamard(struct ops *ops, struct tensor *tensor)
{
    int64_t Di = tensor->dims[1];
    double *rounded = malloc(sizeof *rounded * (size_t)Di);

    if (!rounded)
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for a transform");
    for (int64_t r = 0; r < tensor->dims[0]; r++) {
        float *x = row_f32(tensor, r);

        for (int64_t j = 0; j < Di; j++)
            rounded[j] = f32_from_bf16(bf16_from_f32(x[j]));
        for (int64_t i = 0; i < Di; i++) {
            double sum = 0;

            for (int64_t j = 0; j < Di; j++)
                sum += __builtin_parityll((unsigned long long)(i & j)) ? -rounded[j] : rounded[j];
            x[i] = f32_from_bf16(bf16_from_f32((float)(sum / sqrt((double)Di))));
        }
    }
    free(rounded);
    return STATUS_OK;
}
