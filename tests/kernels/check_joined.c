/* check_joined.c: ops that do the work of two: the bits of both called one after the other on the same backend, and
 * close to `ref` (cosine: what lies between may differ in its last bit, and so by one step of e4m3). */
#include <string.h>

#include "kernels/fp8.h"
#include "tests/kernels/check_kernels.h"

/* 1 - cosine for y that is made of `width` values between: one of four times their rms may be an e4m3 step (1/8) away,
 * half the square of (4 / 8) / sqrt(width). An H200's norms, which add in another order than ref's, made 1.9e-5 of
 * 400. */
static double cosine_limit(int64_t width)
{
    return 1e-5 + 0.125 / (double)width;
}

struct weights {
    struct ops_weight *ref, *device;
};

/* H 0: 2-D. */
static struct weights random_weights(struct check *check, enum dtype dtype, enum numerics numerics, int64_t H,
                                     int64_t N, int64_t K)
{
    struct box *w = H ? BOX(check, dtype, 0, H, N, K) : BOX(check, dtype, 0, N, K), *scale = NULL;
    struct ops_weight_args args = {.numerics = numerics};
    struct weights weights = {NULL, NULL};

    box_fill_normal(check, w, dtype == DTYPE_F8E4M3 ? 60 : 0.05);
    if (dtype == DTYPE_F8E4M3) {
        scale = BOX(check, DTYPE_F32, 0, (N + 127) / 128, (K + 127) / 128);
        for (int64_t i = 0; i < tensor_count(&scale->host); i++)
            ((float *)scale->host.data)[i] = (float)(1e-3 * (0.5 + check_unit(check)));
        args.scale = &scale->host;
    }
    args.w = w->host;
    check_status(check, check_ref(check), ops_weight_create(check_ref(check), &args, &weights.ref));
    check_status(check, check_device(check), ops_weight_create(check_device(check), &args, &weights.device));
    return weights;
}

static void destroy(struct check *check, struct weights weights)
{
    ops_weight_destroy(check_ref(check), weights.ref);
    ops_weight_destroy(check_device(check), weights.device);
}

/* A box like `box`, with its values. */
static struct box *copy_of(struct check *check, struct box *box)
{
    const struct tensor *t = &box->host;
    struct box *copy =
        box_new(check, t->dtype, t->dim_count, t->dims, t->strides[t->dim_count - 2] - t->dims[t->dim_count - 1]);

    memcpy(copy->host_memory, box->host_memory, box->bytes);
    box_upload(check, copy);
    return copy;
}

/* Of both on the device, 2-D and F32. */
static void compare_bits(struct check *check, struct box *box, struct box *other, const char *what)
{
    struct tensor is, wanted;

    box_download(check, box, &is);
    box_download(check, other, &wanted);
    for (int64_t t = 0; t < is.dims[0]; t++)
        for (int64_t n = 0; n < is.dims[1]; n++)
            if (memcmp((float *)is.data + t * is.strides[0] + n, (float *)wanted.data + t * wanted.strides[0] + n,
                       sizeof(float)) != 0)
                check_case_fail(check, "%s[%lld,%lld] has other bits than one after the other", what, (long long)t,
                                (long long)n);
}

/* Of many rows one of zeros, a large and a small one. */
static void put_edges(struct box *x)
{
    static const float factors[] = {0, 1e10f, 1e-12f};
    int64_t width = tensor_count(&x->host) / x->host.dims[0];

    for (int64_t t = 0; x->host.dims[0] > 64 && t < 3; t++)
        for (int64_t k = 0; k < width; k++)
            box_f32(x, t)[k] *= factors[t];
}

/* --- A product per head, then one of all heads -------------------------------------------------------------------- */

struct pair {
    int64_t T, H, K, N, out; /* [T, H, K] to [T, H, N] to [T, out] */
    enum dtype first, second;
    enum numerics numerics;
    bool x_bf16;     /* where the backend takes it */
    bool accumulate; /* the second */
    int64_t pad;     /* between rows of what lies between */
};

struct pair_run {
    struct ops_linear_args first, second;
};

static enum status run_linear_pair(struct ops *ops, void *context)
{
    const struct pair_run *run = context;

    return ops_linear_pair(ops, &run->first, &run->second);
}

/* [T, H N] as [T, H, N]. */
static struct tensor by_heads(const struct tensor *row, int64_t H)
{
    struct tensor heads = tensor_3d(row->dtype, row->data, row->dims[0], H, row->dims[1] / H);

    heads.strides[0] = row->strides[0];
    return heads;
}

static struct box *rounded(struct check *check, struct box *x)
{
    struct box *half = BOX(check, DTYPE_BF16, 0, x->host.dims[0], x->host.dims[1], x->host.dims[2]);

    for (int64_t i = 0; i < tensor_count(&x->host); i++) {
        float *value = (float *)x->host.data + i;

        ((uint16_t *)half->host.data)[i] = bf16_from_f32(*value);
        *value = f32_from_bf16(((uint16_t *)half->host.data)[i]);
    }
    return half;
}

static void run_pair(struct check *check, const void *parameters)
{
    const struct pair *pair = parameters;
    struct cache_shape shape = {512, 64, 0, NUMERICS_FP8};
    struct weights first = random_weights(check, pair->first, pair->numerics, pair->H, pair->N, pair->K);
    struct weights second = random_weights(check, pair->second, pair->numerics, 0, pair->out, pair->H * pair->N);
    struct box *x = BOX(check, DTYPE_F32, 0, pair->T, pair->H, pair->K), *half;
    struct box *between = BOX(check, DTYPE_F32, pair->pad, pair->T, pair->H * pair->N), *other;
    struct box *y = BOX(check, DTYPE_F32, 3, pair->T, pair->out), *alone;
    struct tensor heads = by_heads(&between->device, pair->H), other_heads,
                  ref_heads = by_heads(&between->host, pair->H);
    struct tensor around;
    struct pair_run run, apart, ref;

    box_fill_normal(check, x, 1);
    put_edges(x);
    half = pair->x_bf16 ? rounded(check, x) : x;
    if (pair->x_bf16 && ops_latent_dtype(check_device(check), &shape) != DTYPE_BF16)
        half = x;
    box_fill_normal(check, y, 1);
    box_upload(check, half);
    box_upload(check, between);
    box_upload(check, y);
    other = copy_of(check, between);
    alone = copy_of(check, y);
    other_heads = by_heads(&other->device, pair->H);
    run = (struct pair_run){{&half->device, first.device, &heads, false},
                            {&between->device, second.device, &y->device, pair->accumulate}};
    apart = (struct pair_run){{&half->device, first.device, &other_heads, false},
                              {&other->device, second.device, &alone->device, pair->accumulate}};
    ref = (struct pair_run){{&x->host, first.ref, &ref_heads, false},
                            {&between->host, second.ref, &y->host, pair->accumulate}};
    check_status(check, check_device(check), run_linear_pair(check_device(check), &run));
    check_repeat(check, run_linear_pair, &run, (struct box *[]){y, NULL});
    check_status(check, check_device(check), ops_linear(check_device(check), &apart.first));
    check_status(check, check_device(check), ops_linear(check_device(check), &apart.second));
    compare_bits(check, y, alone, "y");
    box_download(check, between, &around); /* fails where something was written around it */
    check_status(check, check_ref(check), run_linear_pair(check_ref(check), &ref));
    box_compare_cosine(check, y, "y", cosine_limit(pair->H * pair->N));
    destroy(check, first);
    destroy(check, second);
}

#define PAIR(label, ...)                                \
    {                                                   \
        label, &(const struct pair){__VA_ARGS__}, false \
    }
#define FULL_PAIR(label, ...)                                        \
    {                                                                \
        "full " label, &(const struct pair){__VA_ARGS__}, CHECK_FULL \
    }
#define B16_F8 DTYPE_BF16, DTYPE_F8E4M3, NUMERICS_FP8

static const struct check_case pair_cases[] = {
    /* More than 64 rows of 512 to 128 in BF16, FP8 behind: the first product writes codes. */
    PAIR("T=65 H=2", 65, 2, 512, 128, 70, B16_F8, true),
    PAIR("T=130 H=3", 130, 3, 512, 128, 130, B16_F8, true),
    PAIR("T=300 H=7", 300, 7, 512, 128, 64, B16_F8, true),
    PAIR("T=66 H=16, accumulate", 66, 16, 512, 128, 70, B16_F8, true, true),
    PAIR("T=70 H=128", 70, 128, 512, 128, 64, B16_F8, true),
    PAIR("T=67 H=5, strided", 67, 5, 512, 128, 70, B16_F8, true, .pad = 4),
    /* One after the other: few rows, other shapes, other types. */
    PAIR("T=1 H=3", 1, 3, 512, 128, 70, B16_F8, true),
    PAIR("T=3 H=16", 3, 16, 512, 128, 70, B16_F8, true, true),
    PAIR("T=64 H=2", 64, 2, 512, 128, 70, B16_F8, true),
    PAIR("T=65 H=1", 65, 1, 512, 128, 70, B16_F8, true),
    PAIR("T=66 H=3, odd strides", 66, 3, 512, 128, 70, B16_F8, true, .pad = 3),
    PAIR("T=65 H=3, x in F32", 65, 3, 512, 128, 70, B16_F8),
    PAIR("T=70 H=3 N=64", 70, 3, 512, 64, 70, B16_F8, true),
    PAIR("T=65 H=3 N=20", 65, 3, 128, 20, 70, B16_F8, true),
    PAIR("T=65 H=3, bf16 behind", 65, 3, 512, 128, 70, DTYPE_BF16, DTYPE_BF16, NUMERICS_FP8, true),
    PAIR("T=65 H=3, f32 behind", 65, 3, 512, 128, 70, DTYPE_BF16, DTYPE_F32, NUMERICS_FP8, true),
    PAIR("T=65 H=3, f32 before", 65, 3, 64, 128, 70, DTYPE_F32, DTYPE_F8E4M3, NUMERICS_FP8),
    PAIR("T=5 H=3, plain", 5, 3, 64, 32, 70, DTYPE_BF16, DTYPE_F8E4M3, NUMERICS_PLAIN),
    PAIR("huge T=651 H=40", 651, 40, 512, 128, 70, B16_F8, true),
    FULL_PAIR("T=130 H=128", 130, 128, 512, 128, 128, B16_F8, true),
};

const struct check_op check_op_linear_pair = {"linear_pair", pair_cases, sizeof pair_cases / sizeof *pair_cases,
                                              run_pair};

/* --- A norm, then products of it ---------------------------------------------------------------------------------- */

struct normed {
    int64_t T, D, N[OPS_LINEARS_MOST]; /* as many products as N are not 0 */
    enum dtype dtype[OPS_LINEARS_MOST];
    enum numerics numerics;
    bool residual, in_place, accumulate;
    int64_t pad; /* between rows of x and of the norm's y */
};

struct normed_run {
    struct ops_rmsnorm_args norm;
    struct ops_linear_args products[OPS_LINEARS_MOST];
    int count;
};

static enum status run_norm_linears(struct ops *ops, void *context)
{
    const struct normed_run *run = context;

    return ops_norm_linears(ops, &run->norm, run->products, run->count);
}

static enum status run_apart(struct ops *ops, const struct normed_run *run)
{
    enum status s = ops_rmsnorm(ops, &run->norm);

    for (int i = 0; i < run->count && !s; i++)
        s = ops_linear(ops, &run->products[i]);
    return s;
}

/* What a run reads and writes; `to` 0: ref's side, 1: the device's. */
struct normed_boxes {
    struct box *x, *y, *residual, *weight, *product[OPS_LINEARS_MOST];
};

static struct tensor *side(struct box *box, int to)
{
    return to ? &box->device : &box->host;
}

static struct normed_run run_of(const struct normed *normed, const struct normed_boxes *boxes,
                                const struct weights *weights, int to)
{
    struct normed_run run = {.norm = {.x = side(boxes->x, to),
                                      .residual = normed->residual ? side(boxes->residual, to) : NULL,
                                      .weight = side(boxes->weight, to),
                                      .eps = 1e-6f,
                                      .y = side(boxes->y, to)}};

    for (int i = 0; i < OPS_LINEARS_MOST && normed->N[i]; i++)
        run.products[run.count++] =
            (struct ops_linear_args){run.norm.y, to ? weights[i].device : weights[i].ref, side(boxes->product[i], to),
                                     normed->accumulate};
    return run;
}

static struct normed_boxes make_boxes(struct check *check, const struct normed *normed)
{
    struct normed_boxes boxes = {.x = BOX(check, DTYPE_F32, normed->pad, normed->T, normed->D),
                                 .residual = BOX(check, DTYPE_F32, 0, normed->T, normed->D),
                                 .weight = BOX(check, DTYPE_F32, 0, normed->D)};

    box_fill_normal(check, boxes.x, 1);
    box_fill_normal(check, boxes.residual, 1);
    box_fill_normal(check, boxes.weight, 1);
    put_edges(boxes.x);
    put_edges(boxes.residual);
    box_upload(check, boxes.x);
    box_upload(check, boxes.residual);
    box_upload(check, boxes.weight);
    boxes.y = normed->in_place ? boxes.x : BOX(check, DTYPE_F32, normed->pad, normed->T, normed->D);
    if (!normed->in_place)
        box_upload(check, boxes.y);
    for (int i = 0; i < OPS_LINEARS_MOST && normed->N[i]; i++) {
        boxes.product[i] = BOX(check, DTYPE_F32, 3 * i, normed->T, normed->N[i]);
        box_fill_normal(check, boxes.product[i], 1);
        box_upload(check, boxes.product[i]);
    }
    return boxes;
}

static struct normed_boxes copy_boxes(struct check *check, const struct normed *normed,
                                      const struct normed_boxes *boxes)
{
    struct normed_boxes copies = *boxes;

    copies.x = copy_of(check, boxes->x);
    copies.y = normed->in_place ? copies.x : copy_of(check, boxes->y);
    for (int i = 0; i < OPS_LINEARS_MOST && normed->N[i]; i++)
        copies.product[i] = copy_of(check, boxes->product[i]);
    return copies;
}

static void run_normed(struct check *check, const void *parameters)
{
    const struct normed *normed = parameters;
    struct normed_boxes boxes = make_boxes(check, normed), copies = copy_boxes(check, normed, &boxes);
    struct weights weights[OPS_LINEARS_MOST] = {{NULL, NULL}};
    struct normed_run run, apart, ref;

    for (int i = 0; i < OPS_LINEARS_MOST && normed->N[i]; i++)
        weights[i] = random_weights(check, normed->dtype[i], normed->numerics, 0, normed->N[i], normed->D);
    run = run_of(normed, &boxes, weights, 1);
    apart = run_of(normed, &copies, weights, 1);
    ref = run_of(normed, &boxes, weights, 0);
    check_status(check, check_device(check), run_norm_linears(check_device(check), &run));
    check_status(check, check_device(check), run_apart(check_device(check), &apart));
    compare_bits(check, boxes.x, copies.x, "x");
    compare_bits(check, boxes.y, copies.y, "the norm's y");
    for (int i = 0; i < run.count; i++)
        compare_bits(check, boxes.product[i], copies.product[i], "y");
    check_status(check, check_ref(check), run_norm_linears(check_ref(check), &ref));
    box_compare_cosine(check, boxes.y, "the norm's y", 1e-5);
    for (int i = 0; i < run.count; i++) {
        box_compare_cosine(check, boxes.product[i], "y", cosine_limit(normed->D));
        destroy(check, weights[i]);
    }
}

#define NORMED(label, ...)                                \
    {                                                     \
        label, &(const struct normed){__VA_ARGS__}, false \
    }
#define FULL_NORMED(label, ...)                                        \
    {                                                                  \
        "full " label, &(const struct normed){__VA_ARGS__}, CHECK_FULL \
    }
#define F8S                                                    \
    {                                                          \
        DTYPE_F8E4M3, DTYPE_F8E4M3, DTYPE_F8E4M3, DTYPE_F8E4M3 \
    }

static const struct check_case normed_cases[] = {
    /* Rows on 16 bytes, of up to 8192, FP8 behind: the norm writes codes. */
    NORMED("fp8 T=1", 1, 1152, {70, 130}, F8S, NUMERICS_FP8),
    NORMED("fp8 T=1 D=4224, parts of K, residual", 1, 4224, {70, 130, 65}, F8S, NUMERICS_FP8, true),
    NORMED("fp8 T=3 in place, accumulate", 3, 1536, {70, 130}, F8S, NUMERICS_FP8, false, true, true),
    NORMED("fp8 T=65 D=640, residual", 65, 640, {70}, F8S, NUMERICS_FP8, true),
    NORMED("fp8 T=130 D=1536 in place", 130, 1536, {130, 70}, F8S, NUMERICS_FP8, false, true),
    NORMED("fp8 T=300 D=400, a part of a group", 300, 400, {70, 64, 63, 1}, F8S, NUMERICS_FP8, true),
    NORMED("fp8 T=66 D=16, strided", 66, 16, {70}, F8S, NUMERICS_FP8, .pad = 4),
    NORMED("fp8 T=2 D=7168, residual", 2, 7168, {70, 130}, F8S, NUMERICS_FP8, true),
    NORMED("fp8 T=2 D=8192", 2, 8192, {70}, F8S, NUMERICS_FP8),
    /* One after the other: odd or longer rows, other types. */
    NORMED("fp8 T=65 D=640, odd strides, residual", 65, 640, {70}, F8S, NUMERICS_FP8, true, .pad = 3),
    NORMED("fp8 T=3 D=130", 3, 130, {70, 130}, F8S, NUMERICS_FP8),
    NORMED("fp8 T=3 D=8208", 3, 8208, {70}, F8S, NUMERICS_FP8),
    NORMED("bf16 T=65", 65, 640, {70, 130}, {DTYPE_BF16, DTYPE_BF16}, NUMERICS_FP8, true),
    NORMED("f32 T=3", 3, 640, {70, 130}, {DTYPE_F32, DTYPE_F32}, NUMERICS_FP8, true),
    NORMED("fp8, bf16 and f32 T=70", 70, 640, {70, 64, 3}, {DTYPE_F8E4M3, DTYPE_BF16, DTYPE_F32}, NUMERICS_FP8),
    NORMED("plain T=5", 5, 300, {70, 130}, F8S, NUMERICS_PLAIN, true),
    FULL_NORMED("fp8 T=300 D=7168, residual", 300, 7168, {130}, F8S, NUMERICS_FP8, true),
};

const struct check_op check_op_norm_linears = {"norm_linears", normed_cases,
                                               sizeof normed_cases / sizeof *normed_cases, run_normed};
