/* rows.c: ops on rows of the residual stream, rotary embedding, Hadamard transform, cache writes. */
#include "kernels/rows.h"

#include "kernels/cpu/cpu.h"
#include "kernels/fp8.h"

/* Rows per task: enough work (some microseconds) to be worth a visit to the shared counter. */
static int64_t rows_per_task(int64_t values_per_row)
{
    int64_t rows = 16384 / (values_per_row ? values_per_row : 1);

    return rows < 1 ? 1 : rows;
}

/* Calls row(context, t) for t in [0, T), in parallel. */
struct row_loop {
    void (*row)(const void *context, const struct cpu_isa *isa, int64_t t);
    const void *context;
    const struct cpu_isa *isa;
    int64_t T, step;
};

static void run_rows(void *context, int64_t i, int thread)
{
    const struct row_loop *loop = context;

    for (int64_t t = i * loop->step; t < loop->T && t < (i + 1) * loop->step; t++)
        loop->row(loop->context, loop->isa, t);
}

static enum status for_rows(struct ops *ops, int64_t T, int64_t values_per_row,
                            void (*row)(const void *, const struct cpu_isa *, int64_t), const void *context)
{
    struct row_loop loop = {row, context, cpu_of(ops)->isa, T, rows_per_task(values_per_row)};

    pool_run(cpu_of(ops)->pool, (T + loop.step - 1) / loop.step, run_rows, &loop);
    return STATUS_OK;
}

static void embed_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct ops_embed_args *args = context;
    int64_t D = args->y->dims[1], from = *row_i32(args->tokens, t) * args->table->strides[0];
    float *y = row_f32(args->y, t);

    if (args->table->dtype == DTYPE_F32)
        memcpy(y, (const float *)args->table->data + from, sizeof *y * (size_t)D);
    else
        for (int64_t d = 0; d < D; d++)
            y[d] = f32_from_bf16(((const uint16_t *)args->table->data)[from + d]);
}

enum status cpu_embed(struct ops *ops, const struct ops_embed_args *args)
{
    return for_rows(ops, args->y->dims[0], args->y->dims[1], embed_row, args);
}

static void rmsnorm_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct ops_rmsnorm_args *args = context;

    isa->rmsnorm(row_f32(args->x, t), args->residual ? row_f32(args->residual, t) : NULL, row_f32(args->weight, 0),
                 args->eps, row_f32(args->y, t), args->x->dims[1]);
}

enum status cpu_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    return for_rows(ops, args->x->dims[0], args->x->dims[1], rmsnorm_row, args);
}

static void layernorm_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct ops_layernorm_args *args = context;

    isa->layernorm(row_f32(args->x, t), row_f32(args->weight, 0), row_f32(args->bias, 0), args->eps,
                   row_f32(args->y, t), args->x->dims[1]);
}

enum status cpu_layernorm(struct ops *ops, const struct ops_layernorm_args *args)
{
    return for_rows(ops, args->x->dims[0], args->x->dims[1], layernorm_row, args);
}

struct three {
    const struct tensor *a, *b, *y;
};

static void add_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct three *args = context;

    isa->add(row_f32(args->y, t), row_f32(args->a, t), args->y->dims[1]);
}

enum status cpu_add(struct ops *ops, struct tensor *y, const struct tensor *x)
{
    return for_rows(ops, y->dims[0], y->dims[1], add_row, &(struct three){.a = x, .y = y});
}

static void swiglu_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct three *args = context;

    isa->swiglu(row_f32(args->a, t), row_f32(args->b, t), row_f32(args->y, t), args->y->dims[1]);
}

enum status cpu_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y)
{
    return for_rows(ops, y->dims[0], 4 * y->dims[1], swiglu_row, &(struct three){gate, up, y});
}

/* One head; `cosine` is the position's row of the table. */
static void rotate(float *x, const float *cosine, int64_t half, enum rope_style style)
{
    const float *sine = cosine + half;
    bool split = style == ROPE_HALF_SPLIT;

    for (int64_t i = 0; i < half; i++) {
        float *a = split ? x + i : x + 2 * i, *b = split ? x + i + half : a + 1;
        float real = *a * cosine[i] - *b * sine[i], imaginary = *a * sine[i] + *b * cosine[i];

        *a = real;
        *b = imaginary;
    }
}

static void rope_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct ops_rope_args *args = context;
    const float *cosine = row_f32(args->table, *row_i32(args->position, t));

    for (int64_t h = 0; h < args->x->dims[1]; h++)
        rotate(row2_f32(args->x, t, h), cosine, args->x->dims[2] / 2, args->style);
}

enum status cpu_rope(struct ops *ops, const struct ops_rope_args *args)
{
    return for_rows(ops, args->x->dims[0], args->x->dims[1] * args->x->dims[2], rope_row, args);
}

static void hadamard_row(const void *context, const struct cpu_isa *isa, int64_t r)
{
    const struct tensor *x = context;

    isa->hadamard(row_f32(x, r), x->dims[1]);
}

enum status cpu_hadamard(struct ops *ops, struct tensor *x)
{
    return for_rows(ops, x->dims[0], 8 * x->dims[1], hadamard_row, x);
}

/* --- Caches ------------------------------------------------------------------------------------------ */

static void rotate_row(const struct ops_rotation *rope, int64_t t, float *x)
{
    if (rope->table)
        rotate(x, row_f32(rope->table, *row_i32(rope->position, t)), rope->table->dims[1] / 2, rope->style);
}

static void latent_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct ops_latent_write_args *args = context;
    int Dv = args->shape.Dv, Dr = args->shape.Dr, groups = (Dv + FP8_GROUP - 1) / FP8_GROUP;
    int32_t slot = *row_i32(args->rows->slot, t);
    uint8_t *record = pool_record(args->pool, slot / CACHE_PAGE_TOKENS, slot % CACHE_PAGE_TOKENS);
    const float *c = row_f32(args->c, t);
    float *k_pe = row_f32(args->k_pe, t);

    rotate_row(&args->rope, t, k_pe);
    if (args->shape.numerics == NUMERICS_PLAIN) {
        memcpy(record, c, 4 * (size_t)Dv);
        memcpy(record + 4 * (size_t)Dv, k_pe, 4 * (size_t)Dr);
        return;
    }
    for (int g = 0; g < groups; g++) {
        int start = g * FP8_GROUP, count = Dv - start < FP8_GROUP ? Dv - start : FP8_GROUP;
        float scale = isa->quantise(c + start, count, record + start);

        memcpy(record + Dv + 4 * g, &scale, 4);
    }
    for (int d = 0; d < Dr; d++) {
        uint16_t rounded = bf16_from_f32(k_pe[d]);

        memcpy(record + Dv + 4 * groups + 2 * d, &rounded, 2);
    }
}

enum status cpu_latent_write(struct ops *ops, const struct ops_latent_write_args *args)
{
    return for_rows(ops, args->c->dims[0], 16 * args->shape.Dv, latent_row, args);
}

static void index_row(const void *context, const struct cpu_isa *isa, int64_t t)
{
    const struct ops_index_write_args *args = context;
    int Di = args->shape.Di;
    int32_t slot = *row_i32(args->rows->slot, t), offset = slot % CACHE_PAGE_TOKENS;
    uint8_t *page = pool_page(args->pool, slot / CACHE_PAGE_TOKENS);
    float *k = row_f32(args->k, t);

    if (args->norm)
        isa->layernorm(k, row_f32(args->norm, 0), row_f32(args->norm_bias, 0), args->norm_eps, k, Di);
    rotate_row(&args->rope, t, k);
    if (args->hadamard)
        isa->hadamard(k, Di);
    if (args->shape.numerics == NUMERICS_PLAIN) {
        memcpy(page + (size_t)offset * 4 * (size_t)Di, k, 4 * (size_t)Di);
    } else {
        float scale = isa->quantise(k, Di, page + offset * Di);

        memcpy(page + CACHE_PAGE_TOKENS * Di + 4 * offset, &scale, 4);
    }
}

enum status cpu_index_write(struct ops *ops, const struct ops_index_write_args *args)
{
    return for_rows(ops, args->k->dims[0], 16 * args->shape.Di, index_row, args);
}
