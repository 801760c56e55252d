/* cache.c: writing tokens into the latent pool and the index pool. */
#include <string.h>

#include "kernels/fp8.h"
#include "kernels/ref/ref.h"
#include "kernels/rows.h"

/* The first values of each row as one head of ops_rope(). */
static enum status rotate(struct ops *ops, const struct ops_rotation *rope, const struct tensor *rows)
{
    struct tensor head;
    struct ops_rope_args args = {&head, rope->table, rope->position, rope->style};

    if (!rope->table)
        return STATUS_OK;
    head = tensor_3d(DTYPE_F32, rows->data, rows->dims[0], 1, rope->table->dims[1]);
    head.strides[0] = rows->strides[0];
    return ref_rope(ops, &args);
}

enum status ref_latent_write(struct ops *ops, const struct ops_latent_write_args *args)
{
    enum status s = rotate(ops, &args->rope, args->k_pe);
    int Dv = args->shape.Dv, Dr = args->shape.Dr;
    int groups = (Dv + FP8_GROUP - 1) / FP8_GROUP;

    for (int64_t t = 0; !s && t < args->c->dims[0]; t++) {
        int32_t slot = *row_i32(args->rows->slot, t);
        uint8_t *record = pool_record(args->pool, slot / CACHE_PAGE_TOKENS, slot % CACHE_PAGE_TOKENS);
        const float *c = row_f32(args->c, t), *k_pe = row_f32(args->k_pe, t);

        if (args->shape.numerics == NUMERICS_PLAIN) {
            memcpy(record, c, 4 * (size_t)Dv);
            memcpy(record + 4 * (size_t)Dv, k_pe, 4 * (size_t)Dr);
            continue;
        }
        for (int g = 0; g < groups; g++) {
            int start = g * FP8_GROUP, count = Dv - start < FP8_GROUP ? Dv - start : FP8_GROUP;
            float scale = quantise_e4m3(c + start, count, record + start);

            memcpy(record + Dv + 4 * g, &scale, 4);
        }
        for (int d = 0; d < Dr; d++) {
            uint16_t rounded = bf16_from_f32(k_pe[d]);

            memcpy(record + Dv + 4 * groups + 2 * d, &rounded, 2);
        }
    }
    return s;
}

enum status ref_index_write(struct ops *ops, const struct ops_index_write_args *args)
{
    struct tensor keys = *args->k;
    struct ops_layernorm_args norm = {&keys, args->norm, args->norm_bias, args->norm_eps, &keys};
    enum status s = args->norm ? ref_layernorm(ops, &norm) : STATUS_OK;
    int Di = args->shape.Di;

    if (!s)
        s = rotate(ops, &args->rope, &keys);
    if (!s && args->hadamard)
        s = ref_hadamard(ops, &keys);
    for (int64_t t = 0; !s && t < args->k->dims[0]; t++) {
        int32_t slot = *row_i32(args->rows->slot, t), offset = slot % CACHE_PAGE_TOKENS;
        uint8_t *page = pool_page(args->pool, slot / CACHE_PAGE_TOKENS);
        const float *k = row_f32(args->k, t);

        if (args->shape.numerics == NUMERICS_PLAIN) {
            memcpy(page + (size_t)offset * 4 * (size_t)Di, k, 4 * (size_t)Di);
        } else {
            float scale = quantise_e4m3(k, Di, page + offset * Di);

            memcpy(page + CACHE_PAGE_TOKENS * Di + 4 * offset, &scale, 4);
        }
    }
    return s;
}
