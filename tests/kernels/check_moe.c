/* check_moe.c: the router's choices and the mixture of experts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/check_kernels.h"

/* --- Router --------------------------------------------------------------------------------------------- */

/* Experts are exact, but where two scores p' lie within 3e-7 of each other (p is F32 and may differ in its last
 * bit) either may come first. Weights: 2e-6 of themselves. */

struct router_case {
    int64_t T, E, k;
    enum router_scoring scoring;
    int groups, kept_groups;
    bool bias, normalise, ties;
    double deviation;
};

/* p' of one expert; for softmax without bias, where the logit orders as well, the logit. */
static double router_score(const struct router_case *c, struct box *logits, struct box *bias, int64_t t, int32_t e)
{
    double logit = box_f32(logits, t)[e];

    if (c->scoring == ROUTER_SOFTMAX)
        return logit;
    return 1 / (1 + exp(-logit)) + (c->bias ? box_f32(bias, 0)[e] : 0);
}

static void compare_choices(struct check *check, const struct router_case *c, struct box *logits, struct box *bias,
                            struct box *experts)
{
    struct tensor view;

    box_download(check, experts, &view);
    for (int64_t t = 0; t < c->T; t++) {
        const int32_t *chosen = (const int32_t *)view.data + t * view.strides[0], *ref = box_i32(experts, t);

        for (int64_t j = 0; j < c->k; j++) {
            bool valid = chosen[j] >= 0 && chosen[j] < c->E;

            for (int64_t i = 0; i < j; i++)
                valid &= chosen[i] != chosen[j];
            if (!valid || (chosen[j] != ref[j] && (c->ties || fabs(router_score(c, logits, bias, t, chosen[j]) -
                                                                   router_score(c, logits, bias, t, ref[j])) > 3e-7)))
                check_case_fail(check, "experts[%lld,%lld] is %d, ref has %d", (long long)t, (long long)j, chosen[j],
                                ref[j]);
        }
    }
}

static enum status run_router_op(struct ops *ops, void *context)
{
    return ops_router(ops, context);
}

static void run_router(struct check *check, const void *parameters)
{
    const struct router_case *c = parameters;
    struct box *logits = BOX(check, DTYPE_F32, 3, c->T, c->E), *bias = BOX(check, DTYPE_F32, 0, c->E);
    struct box *experts = BOX(check, DTYPE_I32, 1, c->T, c->k), *weights = BOX(check, DTYPE_F32, 1, c->T, c->k);
    struct ops_router_args args = {.scoring = c->scoring,
                                   .groups = c->groups,
                                   .kept_groups = c->kept_groups,
                                   .normalise = c->normalise,
                                   .scaling = 2.5f};

    box_fill_normal(check, logits, c->deviation);
    box_fill_normal(check, bias, 0.1);
    if (c->ties)
        for (int64_t t = 0; t < c->T; t++)
            for (int64_t e = 0; e < c->E; e++)
                box_f32(logits, t)[e] = (float)check_int(check, -1, 2);
    box_upload(check, logits);
    box_upload(check, bias);
    box_upload(check, experts);
    box_upload(check, weights);
    args.logits = &logits->device;
    args.bias = c->bias ? &bias->device : NULL;
    args.experts = &experts->device;
    args.weights = &weights->device;
    check_status(check, check_device(check), ops_router(check_device(check), &args));
    check_repeat(check, run_router_op, &args, (struct box *[]){experts, weights, NULL});
    args.logits = &logits->host;
    args.bias = c->bias ? &bias->host : NULL;
    args.experts = &experts->host;
    args.weights = &weights->host;
    check_status(check, check_ref(check), ops_router(check_ref(check), &args));
    compare_choices(check, c, logits, bias, experts);
    box_compare_close(check, weights, "weights", 1e-30, 2e-6);
}

#define ROUTER(label, ...)                                     \
    {                                                          \
        label, &(const struct router_case){__VA_ARGS__}, false \
    }
static const struct check_case router_cases[] = {
    ROUTER("one expert", 3, 1, 1, ROUTER_SIGMOID, 1, 1, false, true, false, 1),
    ROUTER("V3.2: 8 of 256, 4 of 8 groups", 40, 256, 8, ROUTER_SIGMOID, 8, 4, true, true, false, 1),
    ROUTER("GLM-5: 8 of 256, no groups", 40, 256, 8, ROUTER_SIGMOID, 1, 1, true, true, false, 1),
    ROUTER("V2-Lite: softmax 6 of 64", 40, 64, 6, ROUTER_SOFTMAX, 1, 1, false, false, false, 1),
    ROUTER("V2: softmax groups", 40, 160, 6, ROUTER_SOFTMAX, 8, 3, false, false, false, 1),
    ROUTER("ties", 40, 64, 6, ROUTER_SIGMOID, 1, 1, false, true, true, 1),
    ROUTER("ties in groups", 40, 64, 6, ROUTER_SIGMOID, 8, 2, false, true, true, 1),
    ROUTER("softmax ties", 40, 64, 6, ROUTER_SOFTMAX, 1, 1, false, true, true, 1),
    ROUTER("saturated", 40, 32, 4, ROUTER_SIGMOID, 1, 1, false, true, false, 300),
    ROUTER("all of them", 9, 12, 12, ROUTER_SIGMOID, 1, 1, true, true, false, 1),
    ROUTER("huge T", 70000, 4, 1, ROUTER_SIGMOID, 1, 1, false, true, false, 1),
};
const struct check_op check_op_router = {"router", router_cases, sizeof router_cases / sizeof *router_cases,
                                         run_router};

/* --- Experts -------------------------------------------------------------------------------------------- */

/* Budget per element, as a share of the row's root mean square: inner activations are rounded again before the
 * last product, and a value next to a rounding border may fall on the other side (FP8 by 1/16 of itself). */
struct moe_case {
    int64_t T, D, J, k;
    int E;
    enum dtype dtype;
    enum numerics numerics;
    double budget;
    bool one_expert; /* every row chooses the same */
    bool sampled;
};

enum { MOST_EXPERTS = 64 };

struct bench {
    struct ops_moe_args args;
};

static enum status run_op(struct ops *ops, void *context)
{
    return ops_moe(ops, &((struct bench *)context)->args);
}

static void make_weights(struct check *check, const struct moe_case *c, int64_t N, int64_t K, struct ops_weight **ref,
                         struct ops_weight **device)
{
    for (int e = 0; e < c->E; e++) {
        struct ops_weight_args args = {.numerics = c->numerics};
        struct box *w = BOX(check, c->dtype, 0, N, K), *scale;

        if (c->sampled)
            box_fill_codes(check, w);
        else
            box_fill_normal(check, w, c->dtype == DTYPE_F8E4M3 ? 60 : 1 / sqrt((double)K));
        if (c->dtype == DTYPE_F8E4M3) {
            scale = BOX(check, DTYPE_F32, 0, (N + 127) / 128, (K + 127) / 128);
            for (int64_t i = 0; i < tensor_count(&scale->host); i++)
                ((float *)scale->host.data)[i] = (float)((0.5 + check_unit(check)) / 60 / sqrt((double)K));
            args.scale = &scale->host;
        }
        args.w = w->host;
        check_status(check, check_ref(check), ops_weight_create(check_ref(check), &args, &ref[e]));
        check_status(check, check_device(check), ops_weight_create(check_device(check), &args, &device[e]));
    }
}

static void compare_rows(struct check *check, const struct moe_case *c, struct box *y, int64_t T)
{
    double *bounds = calloc((size_t)(T * c->D), sizeof *bounds);
    /* Where the sums inside a group keep 14 bits (Hopper's FP8), more inner values fall on the other side. */
    double share = c->budget * (check_short_sums(check, c->dtype, c->numerics) ? 4 : 1);

    if (!bounds)
        check_case_fail(check, "no memory");
    for (int64_t t = 0; t < T; t++) {
        double square = 0;

        for (int64_t d = 0; d < c->D; d++)
            square += pow(box_f32(y, t)[d], 2);
        for (int64_t d = 0; d < c->D; d++)
            bounds[t * c->D + d] = share * sqrt(square / (double)c->D);
    }
    box_compare_bounds(check, y, "y", bounds);
    free(bounds);
}

/* A few rows of a large case, each as a case of one row. */
static void compare_sample(struct check *check, const struct moe_case *c, const struct ops_moe_args *ref,
                           const float *before, struct box *y)
{
    struct box *one = BOX(check, DTYPE_F32, 3, 1, c->D);
    int64_t rows[CHECK_SAMPLES];
    int count = check_sample_rows(check, c->T, rows);

    for (int i = 0; i < count; i++) {
        struct ops_moe_args args = *ref;
        struct tensor x = tensor_rows(ref->x, rows[i], 1), experts = tensor_rows(ref->experts, rows[i], 1);
        struct tensor weights = tensor_rows(ref->weights, rows[i], 1);

        args.x = &x;
        args.experts = &experts;
        args.weights = &weights;
        args.y = &one->host;
        box_download_row(check, y, rows[i], one);
        box_upload(check, one);
        memcpy(one->host.data, before + rows[i] * y->host.strides[0], (size_t)c->D * sizeof(float));
        check_status(check, check_ref(check), ops_moe(check_ref(check), &args));
        compare_rows(check, c, one, 1);
    }
}

static void run_moe(struct check *check, const void *parameters)
{
    const struct moe_case *c = parameters;
    struct box *x = BOX(check, DTYPE_F32, 3, c->T, c->D), *y = BOX(check, DTYPE_F32, 3, c->T, c->D);
    struct box *experts = BOX(check, DTYPE_I32, 0, c->T, c->k), *weights = BOX(check, DTYPE_F32, 0, c->T, c->k);
    struct ops_weight *ref[3][MOST_EXPERTS] = {{0}}, *device[3][MOST_EXPERTS] = {{0}};
    struct bench bench;
    enum status s, s_ref = STATUS_OK;

    box_fill_normal(check, x, 1);
    box_fill_normal(check, y, 0.1);
    for (int64_t t = 0; t < c->T; t++)
        for (int64_t j = 0; j < c->k; j++) {
            bool again;

            do {
                box_i32(experts, t)[j] = c->one_expert ? (int32_t)j : (int32_t)check_int(check, 0, c->E);
                again = false;
                for (int64_t i = 0; i < j; i++)
                    again |= box_i32(experts, t)[i] == box_i32(experts, t)[j];
            } while (again);
            box_f32(weights, t)[j] = (float)(0.2 + check_unit(check));
        }
    box_upload(check, x);
    box_upload(check, y);
    box_upload(check, experts);
    box_upload(check, weights);
    make_weights(check, c, c->J, c->D, ref[0], device[0]);
    make_weights(check, c, c->J, c->D, ref[1], device[1]);
    make_weights(check, c, c->D, c->J, ref[2], device[2]);
    bench.args = (struct ops_moe_args){&x->device,
                                       &experts->device,
                                       &weights->device,
                                       (const struct ops_weight *const *)device[0],
                                       (const struct ops_weight *const *)device[1],
                                       (const struct ops_weight *const *)device[2],
                                       c->E,
                                       &y->device};
    s = run_op(check_device(check), &bench);
    if (!s && check_is_bench(check)) {
        double active = c->one_expert ? (double)c->k : fmin(c->E, (double)(c->T * c->k));

        check_bench(check, run_op, &bench, 6.0 * (double)(c->T * c->k * c->D * c->J),
                    active * 3 * (double)(c->D * c->J) * (double)dtype_bytes(c->dtype),
                    c->numerics == NUMERICS_FP8 && c->dtype != DTYPE_F32 ? "bf16" : "f32");
    } else if (!s) {
        struct ops_moe_args args = {&x->host,
                                    &experts->host,
                                    &weights->host,
                                    (const struct ops_weight *const *)ref[0],
                                    (const struct ops_weight *const *)ref[1],
                                    (const struct ops_weight *const *)ref[2],
                                    c->E,
                                    &y->host};

        check_repeat(check, run_op, &bench, (struct box *[]){y, NULL});
        if (c->sampled)
            compare_sample(check, c, &args, box_f32(y, 0), y);
        else
            s_ref = ops_moe(check_ref(check), &args);
        if (!s_ref && !c->sampled)
            compare_rows(check, c, y, c->T);
    }
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < c->E; e++) {
            ops_weight_destroy(check_ref(check), ref[i][e]);
            ops_weight_destroy(check_device(check), device[i][e]);
        }
    check_status(check, check_ref(check), s_ref);
    check_status(check, check_device(check), s);
}

#define MOE(label, ...)                                     \
    {                                                       \
        label, &(const struct moe_case){__VA_ARGS__}, false \
    }
#define SLOW(label, ...)                                   \
    {                                                      \
        label, &(const struct moe_case){__VA_ARGS__}, true \
    }
static const struct check_case moe_cases[] = {
    MOE("fp8 T=1", 1, 256, 128, 2, 8, DTYPE_F8E4M3, NUMERICS_FP8, 0.03),
    MOE("fp8 T=40", 40, 256, 128, 2, 8, DTYPE_F8E4M3, NUMERICS_FP8, 0.03),
    MOE("fp8 odd shape", 7, 200, 70, 3, 5, DTYPE_F8E4M3, NUMERICS_FP8, 0.03),
    MOE("fp8 one expert for all", 130, 128, 64, 1, 4, DTYPE_F8E4M3, NUMERICS_FP8, 0.03, true),
    MOE("fp8 T=150, 800 wide", 150, 800, 144, 2, 5, DTYPE_F8E4M3, NUMERICS_FP8, 0.03),
    MOE("bf16 T=100", 100, 136, 72, 2, 3, DTYPE_BF16, NUMERICS_FP8, 4e-3),
    MOE("bf16 T=20", 20, 136, 72, 2, 6, DTYPE_BF16, NUMERICS_FP8, 4e-3),
    MOE("bf16 T=9", 9, 130, 96, 4, 16, DTYPE_BF16, NUMERICS_FP8, 4e-3),
    MOE("f32 T=9", 9, 130, 96, 4, 16, DTYPE_F32, NUMERICS_FP8, 2e-5),
    MOE("f32 T=600, several rounds of pairs", 600, 16, 8, 2, 4, DTYPE_F32, NUMERICS_FP8, 2e-5),
    /* Of 60,000 values the largest error lies further out than of the few thousand above. */
    MOE("fp8 T=220, tall tiles", 220, 272, 144, 2, 4, DTYPE_F8E4M3, NUMERICS_FP8, 0.045),
    MOE("bf16 T=300", 300, 136, 72, 3, 3, DTYPE_BF16, NUMERICS_FP8, 4e-3),
    MOE("plain fp8", 9, 256, 128, 2, 4, DTYPE_F8E4M3, NUMERICS_PLAIN, 2e-5),
    MOE("plain bf16", 9, 130, 96, 4, 16, DTYPE_BF16, NUMERICS_PLAIN, 2e-5),
    MOE("huge T", 5000, 8, 8, 2, 4, DTYPE_F32, NUMERICS_FP8, 2e-5),
    {"full V3.2 experts, T=256, 8 of 16",
     &(const struct moe_case){256, 7168, 2048, 8, 16, DTYPE_F8E4M3, NUMERICS_FP8, 0.03, false, true}, CHECK_FULL},
    SLOW("fp8 T=1 512x256 2 of 16", 1, 512, 256, 2, 16, DTYPE_F8E4M3, NUMERICS_FP8, 0),
    SLOW("fp8 T=512 512x256 2 of 16", 512, 512, 256, 2, 16, DTYPE_F8E4M3, NUMERICS_FP8, 0),
    SLOW("fp8 T=512 2048x1408 6 of 16", 512, 2048, 1408, 6, 16, DTYPE_F8E4M3, NUMERICS_FP8, 0),
};
const struct check_op check_op_moe = {"moe", moe_cases, sizeof moe_cases / sizeof *moe_cases, run_moe};
