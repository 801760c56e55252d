/* check_linear.c: matrix products. Budget: 1e-6 * |x| * |w| (Euclidean norms of the row and of the weight's row):
 * both sides multiply the same rounded values, so only the order of F32 additions differs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fp8.h"
#include "tests/kernels/check_kernels.h"

struct shape {
    int64_t T, H, N, K; /* H 0: 2-D */
    enum dtype dtype;
    enum numerics numerics;
    bool accumulate, strided, extreme, sampled;
    bool alone;  /* the same bits for each number of its first rows (2-D) */
    int64_t pad; /* elements between rows of x and y, where not strided */
    bool x_bf16, y_bf16; /* per head: x is of BF16 values, and once more in that type; y in BF16, of the same sums */
};

static double weight_value(const struct shape *shape, struct box *w, struct box *scale, int64_t n, int64_t k)
{
    int64_t at = n * w->host.strides[w->host.dim_count - 2] + k;

    switch (shape->dtype) {
    case DTYPE_BF16: return f32_from_bf16(((uint16_t *)w->host.data)[at]);
    case DTYPE_F8E4M3: return f32_from_e4m3(((uint8_t *)w->host.data)[at]) * (double)box_f32(scale, n / 128)[k / 128];
    default: return ((float *)w->host.data)[at];
    }
}

struct bench {
    struct ops_linear_args args;
};

static enum status run_linear(struct ops *ops, void *context)
{
    return ops_linear(ops, &((struct bench *)context)->args);
}

/* Compares y, whose rows come from the `T` rows of x, [H] of them each. */
static void compare(struct check *check, const struct shape *shape, const struct tensor *x, int64_t T, struct box *w,
                    struct box *scale, struct box *y)
{
    int64_t H = shape->H ? shape->H : 1;
    double *norms = calloc((size_t)(H * shape->N), sizeof *norms);
    double *bounds = calloc((size_t)(T * H * shape->N), sizeof *bounds);

    double share = check_short_sums(check, shape->dtype, shape->numerics) ? 1e-4 : 1e-6;

    if (!norms || !bounds)
        check_case_fail(check, "no memory");
    for (int64_t n = 0; n < H * shape->N; n++) {
        for (int64_t k = 0; k < shape->K; k++) {
            double value = weight_value(shape, w, scale, n, k);

            norms[n] += value * value;
        }
        norms[n] = sqrt(norms[n]);
    }
    for (int64_t r = 0; r < T * H; r++) {
        const float *row = (const float *)x->data + r / H * x->strides[0] + r % H * x->strides[1] * !!shape->H;
        double norm = 0;

        for (int64_t k = 0; k < shape->K; k++)
            norm += (double)row[k] * row[k];
        for (int64_t n = 0; n < shape->N; n++)
            bounds[r * shape->N + n] = share * sqrt(norm) * norms[r % H * shape->N + n] + 1e-7;
    }
    free(norms);
    box_compare_bounds(check, y, "y", bounds);
    free(bounds);
}

/* The first rows by themselves, in several numbers of them: the bits they had among all. */
static void compare_alone(struct check *check, const struct shape *shape, const struct ops_linear_args *args,
                          struct box *y)
{
    static const int64_t counts[] = {1, 3, 5, 33, 64, 100};
    struct box *some = BOX(check, DTYPE_F32, 0, shape->T, shape->N);
    struct tensor all, few;

    box_download(check, y, &all);
    for (size_t i = 0; i < sizeof counts / sizeof *counts && counts[i] < shape->T; i++) {
        struct tensor x = tensor_rows(args->x, 0, counts[i]), out;

        box_upload(check, some);
        out = tensor_rows(&some->device, 0, counts[i]);
        check_status(check, check_device(check),
                     ops_linear(check_device(check), &(struct ops_linear_args){&x, args->w, &out, false}));
        box_download(check, some, &few);
        for (int64_t t = 0; t < counts[i]; t++)
            if (memcmp((float *)few.data + t * few.strides[0], (float *)all.data + t * all.strides[0],
                       (size_t)shape->N * sizeof(float)) != 0)
                check_case_fail(check, "row %lld has other bits among %lld rows than among %lld", (long long)t,
                                (long long)counts[i], (long long)shape->T);
    }
}

/* The same product with x, or y, in BF16: the bits that F32 gives, and rounding it. */
static void compare_bf16(struct check *check, const struct shape *shape, const struct ops_linear_args *args,
                         struct box *x, struct box *y, int64_t pad)
{
    int64_t x_pad = (shape->K + pad + 7) / 8 * 8 - shape->K; /* rows on 16 bytes */
    struct box *x_box = shape->x_bf16 ? BOX(check, DTYPE_BF16, x_pad, shape->T, shape->H, shape->K) : x;
    struct box *y_box = BOX(check, shape->y_bf16 ? DTYPE_BF16 : DTYPE_F32, pad, shape->T, shape->H, shape->N);
    struct bench run = {{&x_box->device, args->w, &y_box->device, false}};
    struct tensor is, wanted;
    enum status s;

    for (int64_t r = 0; shape->x_bf16 && r < shape->T * shape->H; r++)
        for (int64_t k = 0; k < shape->K; k++)
            ((uint16_t *)x_box->host.data)[r * x_box->host.strides[1] + k] =
                bf16_from_f32(((float *)x->host.data)[r * x->host.strides[1] + k]);
    box_upload(check, x_box);
    box_upload(check, y_box);
    s = run_linear(check_device(check), &run);
    if (s == STATUS_BUG && strncmp(ops_backend_name(check_device(check)), "cuda", 4) != 0)
        return; /* refused, as it should be: the backend works in F32 */
    check_status(check, check_device(check), s);
    check_repeat(check, run_linear, &run, (struct box *[]){y_box, NULL});
    run.args.accumulate = true;
    if (shape->y_bf16 && run_linear(check_device(check), &run) != STATUS_BUG)
        check_case_fail(check, "a sum was added to BF16");
    box_download(check, y_box, &is);
    box_download(check, y, &wanted);
    for (int64_t r = 0; r < shape->T * shape->H; r++)
        for (int64_t n = 0; n < shape->N; n++) {
            float value = ((float *)wanted.data)[r * wanted.strides[1] + n];
            int64_t at = r * is.strides[1] + n;

            if (shape->y_bf16 ? ((uint16_t *)is.data)[at] != bf16_from_f32(value)
                              : memcmp((float *)is.data + at, &value, sizeof value) != 0)
                check_case_fail(check, "y[%lld,%lld,%lld] has other bits in BF16", (long long)(r / shape->H),
                                (long long)(r % shape->H), (long long)n);
        }
}

/* A few rows of a large case (2-D), as one case of so many rows. */
static void compare_sample(struct check *check, const struct shape *shape, struct box *x, struct box *w,
                           struct box *scale, struct box *y, struct ops_weight *ref_weight)
{
    int64_t rows[CHECK_SAMPLES];
    int count = check_sample_rows(check, shape->T, rows);
    struct box *few_x = BOX(check, DTYPE_F32, 0, count, shape->K), *few = BOX(check, DTYPE_F32, 0, count, shape->N);
    struct box *one = BOX(check, DTYPE_F32, 0, 1, shape->N);

    for (int i = 0; i < count; i++) {
        memcpy(box_f32(few_x, i), box_f32(x, rows[i]), (size_t)shape->K * sizeof(float));
        box_download_row(check, y, rows[i], one);
        memcpy(box_f32(few, i), one->host.data, (size_t)shape->N * sizeof(float));
    }
    box_upload(check, few);
    check_status(check, check_ref(check),
                 ops_linear(check_ref(check), &(struct ops_linear_args){&few_x->host, ref_weight, &few->host, false}));
    compare(check, shape, &few_x->host, count, w, scale, few);
}

static void run(struct check *check, const void *parameters)
{
    const struct shape *shape = parameters;
    struct ops_weight_args args = {.numerics = shape->numerics}, device_args;
    struct ops_weight *ref_weight = NULL, *device_weight = NULL;
    struct box *x, *y, *w, *scale = NULL;
    int64_t pad = shape->strided ? 5 : shape->pad;
    struct bench bench;
    enum status s;

    if (shape->H) {
        x = BOX(check, DTYPE_F32, pad, shape->T, shape->H, shape->K);
        y = BOX(check, DTYPE_F32, pad, shape->T, shape->H, shape->N);
        w = BOX(check, shape->dtype, 0, shape->H, shape->N, shape->K);
    } else {
        x = BOX(check, DTYPE_F32, pad, shape->T, shape->K);
        y = BOX(check, DTYPE_F32, pad, shape->T, shape->N);
        w = BOX(check, shape->dtype, pad, shape->N, shape->K);
    }
    box_fill_normal(check, x, 1);
    box_fill_normal(check, y, 1);
    for (int64_t r = 0; shape->x_bf16 && r < shape->T * shape->H; r++)
        for (int64_t k = 0; k < shape->K; k++) {
            float *value = (float *)x->host.data + r * x->host.strides[1] + k;

            *value = f32_from_bf16(bf16_from_f32(*value));
        }
    if (shape->sampled) {
        box_fill_codes(check, w);
    } else if (shape->extreme) { /* a row of zeros, one of huge and one of tiny values; every code in the weight */
        for (int64_t k = 0; k < shape->K; k++) {
            box_f32(x, 0)[k] = 0;
            box_f32(x, 1)[k] *= 1e20f;
            box_f32(x, 2)[k] *= 1e-12f;
        }
        box_fill_codes(check, w);
    } else {
        box_fill_normal(check, w, shape->dtype == DTYPE_F8E4M3 ? 60 : 0.05);
    }
    if (shape->dtype == DTYPE_F8E4M3) {
        scale = BOX(check, DTYPE_F32, pad, (shape->N + 127) / 128, (shape->K + 127) / 128);
        for (int64_t i = 0; i < scale->host.dims[0]; i++)
            for (int64_t j = 0; j < scale->host.dims[1]; j++)
                box_f32(scale, i)[j] = shape->extreme && i + j == 1 ? 0 : (float)(1e-3 * (0.5 + check_unit(check)));
        args.scale = &scale->host;
    }
    args.w = w->host;
    device_args = args; /* weights come from host memory on every backend */
    check_status(check, check_ref(check), ops_weight_create(check_ref(check), &args, &ref_weight));
    check_status(check, check_device(check), ops_weight_create(check_device(check), &device_args, &device_weight));
    box_upload(check, x);
    box_upload(check, y);
    bench.args = (struct ops_linear_args){&x->device, device_weight, &y->device, shape->accumulate};
    s = ops_linear(check_device(check), &bench.args);
    if (!s && check_is_bench(check)) {
        double H = shape->H ? (double)shape->H : 1, values = H * (double)shape->N * (double)shape->K;

        check_bench(check, run_linear, &bench, 2 * values * (double)shape->T,
                    values * (double)dtype_bytes(shape->dtype),
                    shape->numerics == NUMERICS_PLAIN || shape->dtype == DTYPE_F32 ? "f32" : "bf16");
    } else if (!s && shape->sampled) {
        check_repeat(check, run_linear, &bench, (struct box *[]){y, NULL});
        compare_sample(check, shape, x, w, scale, y, ref_weight);
    } else if (!s) {
        check_repeat(check, run_linear, &bench, (struct box *[]){y, NULL});
        if (shape->alone)
            compare_alone(check, shape, &bench.args, y);
        if (shape->x_bf16 || shape->y_bf16)
            compare_bf16(check, shape, &bench.args, x, y, pad);
        s = ops_linear(check_ref(check), &(struct ops_linear_args){&x->host, ref_weight, &y->host, shape->accumulate});
        if (!s)
            compare(check, shape, &x->host, shape->T, w, scale, y);
    }
    ops_weight_destroy(check_ref(check), ref_weight);
    ops_weight_destroy(check_device(check), device_weight);
    check_status(check, check_device(check), s);
}

#define CASE(label, ...)                                 \
    {                                                    \
        label, &(const struct shape){__VA_ARGS__}, false \
    }
#define SLOW(label, ...)                                \
    {                                                   \
        label, &(const struct shape){__VA_ARGS__}, true \
    }
#define FULL(label, ...)                                              \
    {                                                                 \
        "full " label, &(const struct shape){__VA_ARGS__}, CHECK_FULL \
    }
#define ALONE(label, ...)                                               \
    {                                                                   \
        label, &(const struct shape){__VA_ARGS__, .alone = true}, false \
    }
#define F8  DTYPE_F8E4M3, NUMERICS_FP8
#define B16 DTYPE_BF16, NUMERICS_FP8
#define X16 .x_bf16 = true
#define Y16 .y_bf16 = true

static const struct check_case cases[] = {
    CASE("fp8 T=1 N=64 K=128", 1, 0, 64, 128, F8),
    CASE("fp8 T=1 N=576 K=512", 1, 0, 576, 512, F8),
    CASE("fp8 T=2 N=130 K=384", 2, 0, 130, 384, F8),
    CASE("fp8 T=4 N=65 K=129", 4, 0, 65, 129, F8),
    CASE("fp8 T=5 N=64 K=127", 5, 0, 64, 127, F8),
    CASE("fp8 T=13 N=200 K=640", 13, 0, 200, 640, F8),
    CASE("fp8 T=8 N=200 K=1536", 8, 0, 200, 1536, F8),
    CASE("fp8 T=16 N=64 K=2048", 16, 0, 64, 2048, F8),
    CASE("fp8 T=31 N=130 K=1152", 31, 0, 130, 1152, F8),
    CASE("fp8 T=64 N=70 K=1280", 64, 0, 70, 1280, F8),
    CASE("fp8 T=65 N=130 K=640", 65, 0, 130, 640, F8),
    CASE("fp8 T=97 N=192 K=1024", 97, 0, 192, 1024, F8),
    ALONE("fp8 T=64 N=70 K=4224, parts of K", 64, 0, 70, 4224, F8),
    ALONE("bf16 T=34 N=70 K=2088, parts of K", 34, 0, 70, 2088, B16),
    CASE("fp8 T=3 N=40 K=4240 parts of K, accumulate", 3, 0, 40, 4240, F8, true, true),
    CASE("fp8 strided accumulate", 7, 0, 96, 256, F8, true, true),
    CASE("fp8 zeros, huge, tiny, scale 0, all codes", 6, 0, 256, 256, F8, false, false, true),
    CASE("fp8 N=1 K=1", 3, 0, 1, 1, F8),
    CASE("bf16 T=1 N=512 K=512", 1, 0, 512, 512, B16),
    CASE("bf16 T=6 N=63 K=65", 6, 0, 63, 65, B16),
    CASE("bf16 T=64 N=64 K=1030", 64, 0, 64, 1030, B16),
    CASE("bf16 T=64 N=130 K=1032", 64, 0, 130, 1032, B16),
    CASE("bf16 T=3 N=70 K=640", 3, 0, 70, 640, B16),
    CASE("bf16 T=200 N=140 K=520", 200, 0, 140, 520, B16),
    CASE("fp8 T=200 N=300 K=1040", 200, 0, 300, 1040, F8),
    CASE("fp8 T=200 N=450 K=400, wide tiles on two SMs", 200, 0, 450, 400, F8),
    CASE("bf16 per head, 70 rows", 70, 3, 130, 128, B16, true, true),
    CASE("bf16 strided accumulate", 7, 0, 96, 250, B16, true, true),
    CASE("bf16 per head", 5, 3, 70, 33, B16),
    CASE("bf16 per head strided accumulate", 5, 3, 70, 33, B16, true, true),
    CASE("bf16 per head V3.2 latent", 2, 16, 512, 128, B16, Y16),
    CASE("bf16 per head V3.2 value", 2, 16, 128, 512, B16, X16),
    CASE("bf16 per head, BF16 x and y", 5, 3, 70, 33, B16, X16, Y16),
    CASE("bf16 per head, BF16 x and y, strided", 64, 3, 130, 264, B16, .strided = true, X16, Y16),
    CASE("bf16 per head, BF16 x and y, 70 rows", 70, 3, 130, 128, B16, X16, Y16),
    CASE("bf16 per head, BF16 x and y, 66 rows, strided", 66, 2, 77, 72, B16, .strided = true, X16, Y16),
    CASE("bf16 per head T=129 N=128 K=128", 129, 3, 128, 128, B16, .pad = 8, X16, Y16),
    CASE("bf16 per head T=75 N=512 K=128 accumulate", 75, 2, 512, 128, B16, true),
    /* A head's weight in shared memory, 512 x 128 or 128 x 512: tiles that are not full; blocks that take several and
     * go on to another head: on 132 SMs with 45 heads, and with 40 and more tiles than there are warpgroups. */
    CASE("bf16 per head T=65 N=512 K=128", 65, 2, 512, 128, B16, Y16),
    CASE("bf16 per head T=129 N=512 K=128", 129, 3, 512, 128, B16, .pad = 8, Y16),
    CASE("bf16 per head T=129 N=512 K=128, 45 heads", 129, 45, 512, 128, B16, Y16),
    CASE("bf16 per head T=130 N=512 K=128, odd strides", 130, 2, 512, 128, B16, .pad = 2, Y16),
    CASE("bf16 per head T=65 N=128 K=512", 65, 3, 128, 512, B16, X16),
    CASE("bf16 per head T=202 N=128 K=512", 202, 2, 128, 512, B16, .pad = 64, X16),
    CASE("bf16 per head T=327 N=128 K=512", 327, 2, 128, 512, B16, X16),
    CASE("huge bf16 per head T=651 N=512 K=128, 40 heads", 651, 40, 512, 128, B16, .pad = 8, Y16),
    CASE("huge bf16 per head T=651 N=128 K=512, 40 heads", 651, 40, 128, 512, B16, .pad = 8, X16),
    CASE("f32 T=1 N=256 K=512", 1, 0, 256, 512, DTYPE_F32, NUMERICS_FP8),
    CASE("f32 T=9 N=65 K=300", 9, 0, 65, 300, DTYPE_F32, NUMERICS_FP8),
    ALONE("f32 T=2 N=5 K=7168", 2, 0, 5, 7168, DTYPE_F32, NUMERICS_FP8),
    ALONE("f32 T=4 N=3 K=260", 4, 0, 3, 260, DTYPE_F32, NUMERICS_FP8),
    ALONE("f32 T=101 N=1090 K=132", 101, 0, 1090, 132, DTYPE_F32, NUMERICS_FP8),
    ALONE("f32 T=70 N=130 K=1028", 70, 0, 130, 1028, DTYPE_F32, NUMERICS_FP8),
    ALONE("f32 T=200 N=3200 K=12", 200, 0, 3200, 12, DTYPE_F32, NUMERICS_FP8),
    ALONE("f32 T=150 N=100 K=2080", 150, 0, 100, 2080, DTYPE_F32, NUMERICS_FP8),
    CASE("f32 T=140 N=70 K=1100 accumulate", 140, 0, 70, 1100, DTYPE_F32, NUMERICS_FP8, true),
    /* Tall tiles: parts of K, in y and through memory, on a device of 132 SMs. */
    ALONE("huge f32 T=150 N=1090 K=2080", 150, 0, 1090, 2080, DTYPE_F32, NUMERICS_FP8),
    ALONE("huge f32 T=150 N=7700 K=1032", 150, 0, 7700, 1032, DTYPE_F32, NUMERICS_FP8),
    CASE("huge f32 T=150 N=1090 K=2080 accumulate", 150, 0, 1090, 2080, DTYPE_F32, NUMERICS_FP8, true),
    CASE("f32 T=6 N=64 K=140 accumulate", 6, 0, 64, 140, DTYPE_F32, NUMERICS_FP8, true),
    CASE("f32 T=3 N=9 K=140 accumulate", 3, 0, 9, 140, DTYPE_F32, NUMERICS_FP8, true),
    CASE("f32 per head", 100, 2, 40, 64, DTYPE_F32, NUMERICS_FP8),
    CASE("plain fp8 T=7 N=130 K=300", 7, 0, 130, 300, DTYPE_F8E4M3, NUMERICS_PLAIN),
    CASE("plain bf16 T=7 N=130 K=300", 7, 0, 130, 300, DTYPE_BF16, NUMERICS_PLAIN),
    CASE("plain f32 strided accumulate", 7, 0, 130, 300, DTYPE_F32, NUMERICS_PLAIN, true, true),
    CASE("huge T", 20000, 0, 3, 8, B16),
    /* DeepGEMM's shapes, and in small their edges: tiles of 64 and 128 rows, N of 64 more than a scale's 128. */
    CASE("fp8 DeepGEMM T=64 N=192 K=896", 64, 0, 192, 896, F8),
    CASE("fp8 DeepGEMM T=129 N=320 K=512", 129, 0, 320, 512, F8),
    FULL("fp8 T=4096 N=32768 K=512", 4096, 0, 32768, 512, F8, false, false, false, true),
    FULL("fp8 T=4096 N=7168 K=16384", 4096, 0, 7168, 16384, F8, false, false, false, true),
    FULL("fp8 T=4096 N=4096 K=7168", 4096, 0, 4096, 7168, F8, false, false, false, true),
    FULL("bf16 per head T=300 N=512 K=128, 128 heads", 300, 128, 512, 128, B16, Y16),
    FULL("bf16 per head T=300 N=128 K=512, 128 heads", 300, 128, 128, 512, B16, X16),
    FULL("fp8 T=64 N=2112 K=7168", 64, 0, 2112, 7168, F8, false, false, false, true),
    FULL("fp8 T=7 N=7168 K=2048", 7, 0, 7168, 2048, F8, false, false, false, true),
    SLOW("fp8 T=1 2048x2048", 1, 0, 2048, 2048, F8),
    SLOW("fp8 T=8 2048x2048", 8, 0, 2048, 2048, F8),
    SLOW("fp8 T=64 2048x2048", 64, 0, 2048, 2048, F8),
    SLOW("fp8 T=512 2048x2048", 512, 0, 2048, 2048, F8),
    SLOW("fp8 T=512 512x512", 512, 0, 512, 512, F8),
    SLOW("fp8 T=1024 1024x512", 1024, 0, 1024, 512, F8),
    SLOW("fp8 T=1 18432x7168 (memory)", 1, 0, 18432, 7168, F8),
    SLOW("bf16 T=1 2048x2048", 1, 0, 2048, 2048, B16),
    SLOW("bf16 T=64 2048x2048", 64, 0, 2048, 2048, B16),
    SLOW("bf16 T=512 2048x2048", 512, 0, 2048, 2048, B16),
    SLOW("bf16 T=512 512x512", 512, 0, 512, 512, B16),
    SLOW("bf16 T=1 16384x16384 (memory)", 1, 0, 16384, 16384, B16),
    SLOW("bf16 per head 128x512x128 T=16", 16, 128, 512, 128, B16),
    SLOW("f32 T=512 512x512", 512, 0, 512, 512, DTYPE_F32, NUMERICS_FP8),
    SLOW("f32 T=1 129280x512", 1, 0, 129280, 512, DTYPE_F32, NUMERICS_FP8),
};

const struct check_op check_op_linear = {"linear", cases, sizeof cases / sizeof *cases, run};

/* --- Several at once: the bits of one after another -------------------------------------------------------------- */

struct several {
    int64_t T, K, N[OPS_LINEARS_MOST]; /* as many products as N are not 0 */
    enum dtype dtype[OPS_LINEARS_MOST];
    enum numerics numerics;
    bool accumulate;
};

struct several_run {
    struct ops_linear_args args[OPS_LINEARS_MOST];
    int count;
};

static enum status run_linears(struct ops *ops, void *context)
{
    struct several_run *run = context;

    return ops_linears(ops, run->args, run->count);
}

static struct ops_weight *random_weight(struct check *check, enum dtype dtype, enum numerics numerics, int64_t N,
                                        int64_t K)
{
    struct box *w = BOX(check, dtype, 0, N, K), *scale = NULL;
    struct ops_weight_args args = {.numerics = numerics};
    struct ops_weight *weight = NULL;

    box_fill_normal(check, w, dtype == DTYPE_F8E4M3 ? 60 : 0.05);
    if (dtype == DTYPE_F8E4M3) {
        scale = BOX(check, DTYPE_F32, 0, (N + 127) / 128, (K + 127) / 128);
        for (int64_t i = 0; i < scale->host.dims[0]; i++)
            for (int64_t j = 0; j < scale->host.dims[1]; j++)
                box_f32(scale, i)[j] = (float)(1e-3 * (0.5 + check_unit(check)));
        args.scale = &scale->host;
    }
    args.w = w->host;
    check_status(check, check_device(check), ops_weight_create(check_device(check), &args, &weight));
    return weight;
}

static void run_several(struct check *check, const void *parameters)
{
    const struct several *several = parameters;
    struct box *x = BOX(check, DTYPE_F32, 0, several->T, several->K), *alone[OPS_LINEARS_MOST];
    struct box *y[OPS_LINEARS_MOST + 1] = {NULL};
    struct several_run run = {.count = 0};
    enum status s = STATUS_OK;

    box_fill_normal(check, x, 1);
    box_upload(check, x);
    for (int i = 0; i < OPS_LINEARS_MOST && several->N[i]; i++, run.count++) {
        struct ops_weight *weight =
            random_weight(check, several->dtype[i], several->numerics, several->N[i], several->K);

        y[i] = BOX(check, DTYPE_F32, 3 * i, several->T, several->N[i]);
        alone[i] = BOX(check, DTYPE_F32, 0, several->T, several->N[i]);
        box_fill_normal(check, y[i], 1);
        for (int64_t t = 0; t < several->T; t++)
            memcpy(box_f32(alone[i], t), box_f32(y[i], t), (size_t)several->N[i] * sizeof(float));
        box_upload(check, y[i]);
        box_upload(check, alone[i]);
        run.args[i] = (struct ops_linear_args){&x->device, weight, &y[i]->device, several->accumulate};
    }
    s = run_linears(check_device(check), &run);
    if (!s)
        check_repeat(check, run_linears, &run, y);
    for (int i = 0; i < run.count && !s; i++) {
        struct ops_linear_args args = run.args[i];
        struct tensor got, wanted;

        args.y = &alone[i]->device;
        s = ops_linear(check_device(check), &args);
        if (s)
            break;
        box_download(check, y[i], &got);
        box_download(check, alone[i], &wanted);
        for (int64_t t = 0; t < several->T; t++)
            if (memcmp((float *)got.data + t * got.strides[0], (float *)wanted.data + t * wanted.strides[0],
                       (size_t)several->N[i] * sizeof(float)) != 0)
                check_case_fail(check, "row %lld of product %d has other bits than alone", (long long)t, i);
    }
    for (int i = 0; i < run.count; i++)
        ops_weight_destroy(check_device(check), (struct ops_weight *)run.args[i].w);
    check_status(check, check_device(check), s);
}

#define SEVERAL(label, ...)                                \
    {                                                      \
        label, &(const struct several){__VA_ARGS__}, false \
    }
#define F8S                                                    \
    {                                                          \
        DTYPE_F8E4M3, DTYPE_F8E4M3, DTYPE_F8E4M3, DTYPE_F8E4M3 \
    }

static const struct check_case several_cases[] = {
    SEVERAL("fp8 T=1, in parts and whole", 1, 4224, {70, 16900, 130}, F8S, NUMERICS_FP8),
    SEVERAL("fp8 T=1, none in parts", 1, 640, {64, 130}, F8S, NUMERICS_FP8),
    SEVERAL("fp8 T=1, one", 1, 640, {130}, F8S, NUMERICS_FP8),
    SEVERAL("fp8 T=9, accumulate", 9, 4224, {1, 65, 128, 200}, F8S, NUMERICS_FP8, true),
    SEVERAL("fp8 T=31", 31, 4240, {130, 70}, F8S, NUMERICS_FP8),
    SEVERAL("fp8 T=64", 64, 1152, {70, 64, 63}, F8S, NUMERICS_FP8),
    SEVERAL("fp8 T=70", 70, 640, {70, 130}, F8S, NUMERICS_FP8),
    SEVERAL("fp8 T=3, K=130", 3, 130, {70, 130}, F8S, NUMERICS_FP8),
    SEVERAL("bf16 T=2", 2, 2088, {70, 130}, {DTYPE_BF16, DTYPE_BF16}, NUMERICS_FP8),
    SEVERAL("f32 T=2", 2, 300, {70, 130}, {DTYPE_F32, DTYPE_F32}, NUMERICS_FP8),
    SEVERAL("fp8, bf16 and f32 T=5", 5, 640, {70, 64, 3}, {DTYPE_F8E4M3, DTYPE_BF16, DTYPE_F32}, NUMERICS_FP8),
    SEVERAL("plain T=5", 5, 300, {70, 130}, F8S, NUMERICS_PLAIN),
};

const struct check_op check_op_linears = {"linears", several_cases, sizeof several_cases / sizeof *several_cases,
                                          run_several};
