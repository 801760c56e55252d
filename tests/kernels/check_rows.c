/* check_rows.c: embedding, norms, add, SwiGLU, rotary embedding, Hadamard transform, cache writes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/check_kernels.h"

/* --- Rows of the residual stream ---------------------------------------------------------------------- */

enum row_op { EMBED_F32, EMBED_BF16, RMSNORM, RMSNORM_RESIDUAL, RMSNORM_IN_PLACE, LAYERNORM, ADD, SWIGLU };

struct row_shape {
    enum row_op op;
    int64_t T, D, pad;
    double deviation;
};

static void run_embed(struct check *check, const struct row_shape *shape)
{
    struct box *table = BOX(check, shape->op == EMBED_BF16 ? DTYPE_BF16 : DTYPE_F32, shape->pad, 37, shape->D);
    struct box *tokens = BOX(check, DTYPE_I32, 0, shape->T), *y = BOX(check, DTYPE_F32, shape->pad, shape->T, shape->D);

    box_fill_normal(check, table, 1);
    box_fill_uniform_int(check, tokens, 0, 37);
    box_upload(check, table);
    box_upload(check, tokens);
    box_upload(check, y);
    check_status(check, check_device(check),
                 ops_embed(check_device(check), &(struct ops_embed_args){&table->device, &tokens->device, &y->device}));
    check_status(check, check_ref(check),
                 ops_embed(check_ref(check), &(struct ops_embed_args){&table->host, &tokens->host, &y->host}));
    box_compare_exact(check, y, "y");
}

struct bench {
    const struct row_shape *shape;
    struct box *x, *r, *w, *b, *y;
};

static enum status call(struct ops *ops, const struct bench *c, bool device)
{
    struct tensor *x = device ? &c->x->device : &c->x->host, *r = device ? &c->r->device : &c->r->host;
    struct tensor *w = device ? &c->w->device : &c->w->host, *b = device ? &c->b->device : &c->b->host;
    struct tensor *y = device ? &c->y->device : &c->y->host;

    switch (c->shape->op) {
    case RMSNORM: return ops_rmsnorm(ops, &(struct ops_rmsnorm_args){x, NULL, w, 1e-6f, y});
    case RMSNORM_RESIDUAL: return ops_rmsnorm(ops, &(struct ops_rmsnorm_args){x, r, w, 1e-6f, y});
    case RMSNORM_IN_PLACE: return ops_rmsnorm(ops, &(struct ops_rmsnorm_args){x, NULL, w, 1e-6f, x});
    case LAYERNORM: return ops_layernorm(ops, &(struct ops_layernorm_args){x, w, b, 1e-6f, y});
    case ADD: return ops_add(ops, x, r);
    default: return ops_swiglu(ops, x, r, y);
    }
}

static enum status run_bench(struct ops *ops, void *context)
{
    return call(ops, context, true);
}

static void run_rows(struct check *check, const void *parameters)
{
    const struct row_shape *shape = parameters;
    struct bench c = {.shape = shape};
    bool in_x = shape->op == RMSNORM_IN_PLACE || shape->op == ADD;

    if (shape->op <= EMBED_BF16) {
        run_embed(check, shape);
        return;
    }
    c.x = BOX(check, DTYPE_F32, shape->pad, shape->T, shape->D);
    c.r = BOX(check, DTYPE_F32, shape->pad, shape->T, shape->D);
    c.y = BOX(check, DTYPE_F32, shape->pad, shape->T, shape->D);
    c.w = BOX(check, DTYPE_F32, 0, shape->D);
    c.b = BOX(check, DTYPE_F32, 0, shape->D);
    box_fill_normal(check, c.x, shape->deviation);
    box_fill_normal(check, c.r, shape->deviation);
    box_fill_normal(check, c.w, 1);
    box_fill_normal(check, c.b, 1);
    box_upload(check, c.x);
    box_upload(check, c.r);
    box_upload(check, c.y);
    box_upload(check, c.w);
    box_upload(check, c.b);
    check_status(check, check_device(check), call(check_device(check), &c, true));
    if (check_is_bench(check)) {
        check_bench(check, run_bench, &c, 4.0 * (double)(shape->T * shape->D), 12.0 * (double)(shape->T * shape->D),
                    "f32");
        return;
    }
    check_status(check, check_ref(check), call(check_ref(check), &c, false));
    if (shape->op == RMSNORM_RESIDUAL)
        box_compare_exact(check, c.x, "x");
    if (shape->op == ADD)
        box_compare_exact(check, c.x, "y");
    else
        box_compare_close(check, in_x ? c.x : c.y, "y", shape->op == LAYERNORM ? 4e-6 : 1e-30, 4e-6);
}

#define ROWS(label, ...)                                     \
    {                                                        \
        label, &(const struct row_shape){__VA_ARGS__}, false \
    }
#define SLOW(label, ...)                                    \
    {                                                       \
        label, &(const struct row_shape){__VA_ARGS__}, true \
    }
static const struct check_case row_cases[] = {
    ROWS("embed f32", EMBED_F32, 9, 33, 3, 1),
    ROWS("embed bf16", EMBED_BF16, 9, 33, 3, 1),
    ROWS("rmsnorm T=1 D=1", RMSNORM, 1, 1, 0, 1),
    ROWS("rmsnorm T=5 D=512", RMSNORM, 5, 512, 0, 1),
    ROWS("rmsnorm strided D=70", RMSNORM, 5, 70, 9, 1),
    ROWS("rmsnorm zeros", RMSNORM, 2, 64, 0, 0),
    ROWS("rmsnorm tiny", RMSNORM, 2, 64, 0, 1e-8),
    ROWS("rmsnorm large", RMSNORM, 2, 7168, 0, 1e6),
    ROWS("rmsnorm residual", RMSNORM_RESIDUAL, 37, 129, 3, 1),
    ROWS("rmsnorm in place", RMSNORM_IN_PLACE, 3, 200, 0, 1),
    ROWS("rmsnorm huge T", RMSNORM, 70000, 4, 0, 1),
    ROWS("layernorm D=128", LAYERNORM, 7, 128, 0, 1),
    ROWS("layernorm strided D=35", LAYERNORM, 7, 35, 4, 3),
    ROWS("layernorm zeros", LAYERNORM, 2, 128, 0, 0),
    ROWS("add", ADD, 6, 77, 2, 1),
    ROWS("swiglu", SWIGLU, 6, 77, 2, 2),
    ROWS("add by fours", ADD, 6, 300, 4, 1),
    ROWS("swiglu by fours", SWIGLU, 6, 300, 4, 2),
    ROWS("rmsnorm residual by fours", RMSNORM_RESIDUAL, 5, 1100, 4, 1),
    ROWS("rmsnorm D=8204", RMSNORM, 2, 8204, 0, 1),
    ROWS("swiglu far from zero", SWIGLU, 6, 77, 2, 60),
    SLOW("rmsnorm T=512 D=512", RMSNORM, 512, 512, 0, 1),
    SLOW("rmsnorm residual T=512 D=512", RMSNORM_RESIDUAL, 512, 512, 0, 1),
    SLOW("swiglu T=512 J=1024", SWIGLU, 512, 1024, 0, 1),
};
const struct check_op check_op_rows = {"rows", row_cases, sizeof row_cases / sizeof *row_cases, run_rows};

/* --- Rotary embedding --------------------------------------------------------------------------------- */

struct rope_shape {
    int64_t T, H, Dr, pad;
    enum rope_style style;
};

static void run_rope(struct check *check, const void *parameters)
{
    const struct rope_shape *shape = parameters;
    struct box *x = BOX(check, DTYPE_F32, shape->pad, shape->T, shape->H, shape->Dr);
    struct box *table = BOX(check, DTYPE_F32, 0, 1000, shape->Dr), *position = BOX(check, DTYPE_I32, 0, shape->T);

    box_fill_normal(check, x, 1);
    box_fill_uniform_int(check, position, 0, 1000);
    for (int64_t p = 0; p < 1000; p++)
        for (int64_t i = 0; i < shape->Dr / 2; i++) {
            double angle = (double)p * pow(10000, -2.0 * (double)i / (double)shape->Dr);

            box_f32(table, p)[i] = (float)cos(angle);
            box_f32(table, p)[i + shape->Dr / 2] = (float)sin(angle);
        }
    box_upload(check, x);
    box_upload(check, table);
    box_upload(check, position);
    check_status(check, check_device(check),
                 ops_rope(check_device(check),
                          &(struct ops_rope_args){&x->device, &table->device, &position->device, shape->style}));
    check_status(
        check, check_ref(check),
        ops_rope(check_ref(check), &(struct ops_rope_args){&x->host, &table->host, &position->host, shape->style}));
    box_compare_close(check, x, "x", 1e-6, 1e-6);
}

#define ROPE(label, ...)                                      \
    {                                                         \
        label, &(const struct rope_shape){__VA_ARGS__}, false \
    }
static const struct check_case rope_cases[] = {
    ROPE("interleaved T=1", 1, 1, 64, 0, ROPE_INTERLEAVED),
    ROPE("interleaved in wider rows", 33, 5, 64, 128, ROPE_INTERLEAVED),
    ROPE("half-split T=1", 1, 1, 64, 0, ROPE_HALF_SPLIT),
    ROPE("half-split in wider rows", 33, 5, 64, 64, ROPE_HALF_SPLIT),
    ROPE("interleaved Dr=6", 3, 2, 6, 1, ROPE_INTERLEAVED),
    ROPE("half-split Dr=2", 3, 2, 2, 1, ROPE_HALF_SPLIT),
};
const struct check_op check_op_rope = {"rope", rope_cases, sizeof rope_cases / sizeof *rope_cases, run_rope};

/* --- Hadamard transform ------------------------------------------------------------------------------- */

struct hadamard_shape {
    int64_t R, Di, pad;
    double deviation;
};

/* The result is rounded to BF16: a sum that differs in its last bits may fall on the other side. */
static void run_hadamard(struct check *check, const void *parameters)
{
    const struct hadamard_shape *shape = parameters;
    struct box *x = BOX(check, DTYPE_F32, shape->pad, shape->R, shape->Di);

    box_fill_normal(check, x, shape->deviation);
    box_upload(check, x);
    check_status(check, check_device(check), ops_hadamard(check_device(check), &x->device));
    check_status(check, check_ref(check), ops_hadamard(check_ref(check), &x->host));
    box_compare_close(check, x, "x", 1e-6 * shape->deviation, 0x1p-7);
}

#define HADAMARD(label, ...)                                      \
    {                                                             \
        label, &(const struct hadamard_shape){__VA_ARGS__}, false \
    }
static const struct check_case hadamard_cases[] = {
    HADAMARD("Di=1", 3, 1, 0, 1),
    HADAMARD("Di=2", 3, 2, 0, 1),
    HADAMARD("Di=8", 3, 8, 1, 1),
    HADAMARD("Di=32", 5, 32, 0, 1),
    HADAMARD("Di=128", 40, 128, 0, 1),
    HADAMARD("Di=128 strided", 9, 128, 64, 1),
    HADAMARD("Di=128 large", 9, 128, 0, 1e10),
    HADAMARD("Di=512", 3, 512, 0, 1),
};
const struct check_op check_op_hadamard = {"hadamard", hadamard_cases, sizeof hadamard_cases / sizeof *hadamard_cases,
                                           run_hadamard};

/* --- Cache writes ------------------------------------------------------------------------------------- */

struct cache_case {
    int64_t T;
    struct cache_shape shape;
    double deviation;
    int64_t pad;
};

/* Bit-exact, scales included; every byte of the pool that no slot names stays poison. */
static void run_cache(struct check *check, const void *parameters)
{
    const struct cache_case *c = parameters;
    int64_t pages = c->T / CACHE_PAGE_TOKENS + 2;
    struct box *slot = BOX(check, DTYPE_I32, 0, c->T);
    struct ops_rows host = {.slot = &slot->host}, device = {.slot = &slot->device};
    int32_t step = 7; /* a stride through the pool that visits no slot twice: 7 does not divide 64 * pages */

    while (pages * CACHE_PAGE_TOKENS % step == 0)
        step += 2;
    for (int64_t t = 0; t < c->T; t++)
        *box_i32(slot, t) = (int32_t)((t * step + 63) % (pages * CACHE_PAGE_TOKENS));
    box_upload(check, slot);
    if (c->shape.Dv) {
        struct box *latent = BOX(check, DTYPE_F32, c->pad, c->T, c->shape.Dv);
        struct box *k_pe = BOX(check, DTYPE_F32, c->pad, c->T, c->shape.Dr);
        struct box *pool = BOX(check, DTYPE_U8, 0, pages, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(&c->shape));

        box_fill_normal(check, latent, c->deviation);
        box_fill_normal(check, k_pe, c->deviation);
        box_upload(check, latent);
        box_upload(check, k_pe);
        box_upload(check, pool);
        check_status(check, check_device(check),
                     ops_latent_write(check_device(check), &(struct ops_latent_write_args){.c = &latent->device,
                                                                                           .k_pe = &k_pe->device,
                                                                                           .rows = &device,
                                                                                           .shape = c->shape,
                                                                                           .pool = &pool->device}));
        check_status(check, check_ref(check),
                     ops_latent_write(check_ref(check), &(struct ops_latent_write_args){.c = &latent->host,
                                                                                        .k_pe = &k_pe->host,
                                                                                        .rows = &host,
                                                                                        .shape = c->shape,
                                                                                        .pool = &pool->host}));
        box_compare_exact(check, pool, "latent pool");
    }
    if (c->shape.Di) {
        struct box *k = BOX(check, DTYPE_F32, c->pad, c->T, c->shape.Di);
        struct box *pool = BOX(check, DTYPE_U8, 0, pages, (int64_t)cache_index_page_bytes(&c->shape));

        box_fill_normal(check, k, c->deviation);
        box_upload(check, k);
        box_upload(check, pool);
        check_status(check, check_device(check),
                     ops_index_write(check_device(check),
                                     &(struct ops_index_write_args){
                                         .k = &k->device, .rows = &device, .shape = c->shape, .pool = &pool->device}));
        check_status(check, check_ref(check),
                     ops_index_write(check_ref(check),
                                     &(struct ops_index_write_args){
                                         .k = &k->host, .rows = &host, .shape = c->shape, .pool = &pool->host}));
        box_compare_exact(check, pool, "index pool");
    }
}

#define CACHE(label, ...)                                     \
    {                                                         \
        label, &(const struct cache_case){__VA_ARGS__}, false \
    }
static const struct check_case cache_cases[] = {
    CACHE("V3.2 T=1", 1, {512, 64, 128, NUMERICS_FP8}, 1, 0),
    CACHE("V3.2 T=130", 130, {512, 64, 128, NUMERICS_FP8}, 1, 0),
    CACHE("V3.2 strided", 67, {512, 64, 128, NUMERICS_FP8}, 30, 16),
    CACHE("zeros", 3, {512, 64, 128, NUMERICS_FP8}, 0, 0),
    CACHE("tiny", 3, {512, 64, 128, NUMERICS_FP8}, 1e-7, 0),
    CACHE("huge", 3, {512, 64, 128, NUMERICS_FP8}, 1e30, 0),
    CACHE("odd shape", 70, {96, 6, 32, NUMERICS_FP8}, 1, 1),
    CACHE("tail of a scale group", 9, {130, 16, 64, NUMERICS_FP8}, 1, 0),
    CACHE("plain", 70, {96, 6, 32, NUMERICS_PLAIN}, 1, 1),
};
const struct check_op check_op_cache = {"cache", cache_cases, sizeof cache_cases / sizeof *cache_cases, run_cache};

/* --- Cache writes that change their rows on the way ----------------------------------------------------- */

struct changed_case {
    int64_t T;
    struct cache_shape shape;
    enum rope_style style;
    int turned;    /* values of a key that are rotated; of a latent record all Dr */
    bool hadamard; /* after a LayerNorm */
    int64_t pad;
};

static void turn(struct check *check, struct ops *ops, struct ops_rotation *rope, const struct tensor *rows)
{
    struct tensor head = tensor_3d(DTYPE_F32, rows->data, rows->dims[0], 1, rope->table->dims[1]);

    head.strides[0] = rows->strides[0];
    check_status(check, ops, ops_rope(ops, &(struct ops_rope_args){&head, rope->table, rope->position, rope->style}));
    *rope = (struct ops_rotation){0};
}

static void write_latent(struct check *check, struct ops *ops, struct ops_latent_write_args args, bool in_steps)
{
    if (in_steps)
        turn(check, ops, &args.rope, args.k_pe);
    check_status(check, ops, ops_latent_write(ops, &args));
}

static void write_index(struct check *check, struct ops *ops, struct ops_index_write_args args, bool in_steps)
{
    struct tensor k = *args.k;

    if (in_steps && args.norm)
        check_status(
            check, ops,
            ops_layernorm(ops, &(struct ops_layernorm_args){&k, args.norm, args.norm_bias, args.norm_eps, &k}));
    if (in_steps)
        turn(check, ops, &args.rope, &k);
    if (in_steps && args.hadamard)
        check_status(check, ops, ops_hadamard(ops, &k));
    if (in_steps) {
        args.norm = args.norm_bias = NULL;
        args.hadamard = false;
    }
    check_status(check, ops, ops_index_write(ops, &args));
}

/* What `one` became by steps is what `all` became at once, on the device and on ref; each byte of both. */
static void compare_pools(struct check *check, struct box *one, struct box *all, const char *what)
{
    struct tensor steps;

    if (memcmp(one->host.data, all->host.data, (size_t)tensor_count(&all->host)) != 0)
        check_case_fail(check, "%s: ref writes something else at once", what);
    box_download(check, one, &steps);
    memcpy(all->host.data, steps.data, (size_t)tensor_count(&all->host));
    box_compare_exact(check, all, what);
}

static void run_changed(struct check *check, const void *parameters)
{
    const struct changed_case *c = parameters;
    int64_t pages = c->T / CACHE_PAGE_TOKENS + 1, record = (int64_t)cache_record_bytes(&c->shape);
    struct box *slot = BOX(check, DTYPE_I32, 0, c->T), *position = BOX(check, DTYPE_I32, 0, c->T);
    struct box *table = BOX(check, DTYPE_F32, 0, 50, c->shape.Dr), *key_table = BOX(check, DTYPE_F32, 0, 50, c->turned);
    struct box *latent = BOX(check, DTYPE_F32, c->pad, c->T, c->shape.Dv);
    struct box *k_pe = BOX(check, DTYPE_F32, c->pad, c->T, c->shape.Dr);
    struct box *k = BOX(check, DTYPE_F32, c->pad, c->T, c->shape.Di);
    struct box *norm = BOX(check, DTYPE_F32, 0, c->shape.Di), *bias = BOX(check, DTYPE_F32, 0, c->shape.Di);
    struct box *records[2], *keys[2], *filled[] = {table, key_table, latent, k_pe, k, norm, bias};
    struct ops_rows host = {.slot = &slot->host}, device = {.slot = &slot->device};

    for (int64_t t = 0; t < c->T; t++)
        *box_i32(slot, t) = (int32_t)(pages * CACHE_PAGE_TOKENS - 1 - t);
    box_fill_uniform_int(check, position, 0, 50);
    for (size_t i = 0; i < sizeof filled / sizeof *filled; i++)
        box_fill_normal(check, filled[i], 1);
    box_upload(check, slot);
    box_upload(check, position);
    for (int i = 0; i < 2; i++) {
        records[i] = BOX(check, DTYPE_U8, 0, pages, CACHE_PAGE_TOKENS, record);
        keys[i] = BOX(check, DTYPE_U8, 0, pages, (int64_t)cache_index_page_bytes(&c->shape));
        box_upload(check, records[i]);
        box_upload(check, keys[i]);
    }
    for (int in_steps = 1; in_steps >= 0; in_steps--) {
        struct box *to = records[in_steps], *keys_to = keys[in_steps];
        float *kept[3];

        for (size_t i = 0; i < sizeof filled / sizeof *filled; i++) /* again: a write uses its rows up */
            box_upload(check, filled[i]);
        write_latent(check, check_device(check),
                     (struct ops_latent_write_args){.c = &latent->device,
                                                    .k_pe = &k_pe->device,
                                                    .rows = &device,
                                                    .shape = c->shape,
                                                    .pool = &to->device,
                                                    .rope = {&table->device, &position->device, c->style}},
                     in_steps);
        write_index(check, check_device(check),
                    (struct ops_index_write_args){.k = &k->device,
                                                  .rows = &device,
                                                  .shape = c->shape,
                                                  .pool = &keys_to->device,
                                                  .norm = c->hadamard ? &norm->device : NULL,
                                                  .norm_bias = c->hadamard ? &bias->device : NULL,
                                                  .norm_eps = 1e-6f,
                                                  .rope = {&key_table->device, &position->device, c->style},
                                                  .hadamard = c->hadamard},
                    in_steps);
        for (int i = 0; i < 3; i++) {
            struct box *box = filled[2 + i];
            size_t bytes = (size_t)(box->host.dims[0] * box->host.strides[0]) * sizeof(float);

            kept[i] = malloc(bytes);
            if (!kept[i])
                check_case_fail(check, "no memory");
            memcpy(kept[i], box->host.data, bytes);
        }
        write_latent(check, check_ref(check),
                     (struct ops_latent_write_args){.c = &latent->host,
                                                    .k_pe = &k_pe->host,
                                                    .rows = &host,
                                                    .shape = c->shape,
                                                    .pool = &to->host,
                                                    .rope = {&table->host, &position->host, c->style}},
                     in_steps);
        write_index(check, check_ref(check),
                    (struct ops_index_write_args){.k = &k->host,
                                                  .rows = &host,
                                                  .shape = c->shape,
                                                  .pool = &keys_to->host,
                                                  .norm = c->hadamard ? &norm->host : NULL,
                                                  .norm_bias = c->hadamard ? &bias->host : NULL,
                                                  .norm_eps = 1e-6f,
                                                  .rope = {&key_table->host, &position->host, c->style},
                                                  .hadamard = c->hadamard},
                    in_steps);
        for (int i = 0; i < 3; i++) {
            struct box *box = filled[2 + i];

            memcpy(box->host.data, kept[i], (size_t)(box->host.dims[0] * box->host.strides[0]) * sizeof(float));
            free(kept[i]);
        }
    }
    compare_pools(check, records[1], records[0], "latent pool");
    compare_pools(check, keys[1], keys[0], "index pool");
}

#define CHANGED(label, ...)                                            \
    {                                                                  \
        label, &(const struct changed_case){__VA_ARGS__}, CHECK_ALWAYS \
    }
static const struct check_case changed_cases[] = {
    CHANGED("V3.2 T=1", 1, {512, 64, 128, NUMERICS_FP8}, ROPE_HALF_SPLIT, 64, true, 0),
    CHANGED("V3.2 T=130", 130, {512, 64, 128, NUMERICS_FP8}, ROPE_HALF_SPLIT, 64, true, 0),
    CHANGED("GLM-5 strided", 67, {512, 64, 128, NUMERICS_FP8}, ROPE_INTERLEAVED, 64, true, 16),
    CHANGED("odd shape", 9, {96, 6, 32, NUMERICS_FP8}, ROPE_INTERLEAVED, 6, true, 1),
    CHANGED("all of a short key", 9, {130, 2, 8, NUMERICS_FP8}, ROPE_HALF_SPLIT, 8, true, 0),
    CHANGED("wide key", 5, {64, 16, 512, NUMERICS_FP8}, ROPE_HALF_SPLIT, 16, true, 3),
    CHANGED("no norm, no transform", 9, {64, 16, 48, NUMERICS_FP8}, ROPE_INTERLEAVED, 16, false, 0),
    CHANGED("plain", 70, {96, 6, 32, NUMERICS_PLAIN}, ROPE_HALF_SPLIT, 6, true, 1),
};
const struct check_op check_op_changed = {"changed", changed_cases, sizeof changed_cases / sizeof *changed_cases,
                                          run_changed};
