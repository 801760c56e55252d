/* check_best.c: the largest logit of a row and its log probability; the values and the sum that a draw needs. */
#include <math.h>

#include "tests/kernels/check_kernels.h"

enum oddity { NORMAL, EQUAL, ONE_NAN, ALL_LOW, INFINITE, LAST };

struct best_case {
    int64_t T, V, pad;
    double deviation;
    enum oddity oddity;
};

/* Row t gets its oddity at another column than the row before. */
static void make_odd(struct box *logits, const struct best_case *c)
{
    for (int64_t t = 0; t < c->T; t++) {
        float *row = box_f32(logits, t);
        int64_t at = (t * 7919 + 31) % c->V;

        for (int64_t v = 0; v < c->V && (c->oddity == EQUAL || c->oddity == ALL_LOW); v++)
            row[v] = c->oddity == EQUAL ? 2.5f : -INFINITY;
        if (c->oddity == ONE_NAN && t % 2)
            row[at] = NAN;
        if (c->oddity == INFINITE)
            row[at] = row[c->V - 1] = INFINITY;
        if (c->oddity == LAST)
            row[c->V - 1] = 1000;
    }
}

struct bench {
    struct box *logits, *best, *log_probability;
};

static enum status run_device(struct ops *ops, void *context)
{
    struct bench *b = context;

    return ops_best(ops, &(struct ops_best_args){&b->logits->device, &b->best->device, &b->log_probability->device});
}

static void run_best(struct check *check, const void *parameters)
{
    const struct best_case *c = parameters;
    struct bench b = {BOX(check, DTYPE_F32, c->pad, c->T, c->V), BOX(check, DTYPE_I32, 0, c->T),
                      BOX(check, DTYPE_F32, 0, c->T)};

    box_fill_normal(check, b.logits, c->deviation);
    make_odd(b.logits, c);
    box_upload(check, b.logits);
    box_upload(check, b.best);
    box_upload(check, b.log_probability);
    check_status(check, check_device(check), run_device(check_device(check), &b));
    check_repeat(check, run_device, &b, (struct box *const[]){b.best, b.log_probability, NULL});
    if (check_is_bench(check)) {
        check_bench(check, run_device, &b, 4.0 * (double)(c->T * c->V), 8.0 * (double)(c->T * c->V), "f32");
        return;
    }
    check_status(check, check_ref(check),
                 ops_best(check_ref(check),
                          &(struct ops_best_args){&b.logits->host, &b.best->host, &b.log_probability->host}));
    box_compare_exact(check, b.best, "best");
    box_compare_close(check, b.log_probability, "log probability", 1e-5, 1e-6);
}

#define BEST(label, ...)                                     \
    {                                                        \
        label, &(const struct best_case){__VA_ARGS__}, false \
    }
static const struct check_case best_cases[] = {
    BEST("V=1", 3, 1, 0, 1, NORMAL),
    BEST("V=320", 9, 320, 0, 3, NORMAL),
    BEST("V=4099 strided", 3, 4099, 5, 10, NORMAL),
    BEST("V=129280", 1, 129280, 0, 3, NORMAL),
    BEST("all equal", 2, 3000, 0, 1, EQUAL),
    BEST("a NaN in every second row", 6, 1500, 0, 1, ONE_NAN),
    BEST("all -inf", 2, 1500, 0, 1, ALL_LOW),
    BEST("two infinities", 3, 1500, 0, 1, INFINITE),
    BEST("the last one", 2, 2048, 0, 1, LAST),
    BEST("huge T", 70000, 3, 0, 1, NORMAL),
    {"T=64 V=129280", &(const struct best_case){64, 129280, 0, 3, NORMAL}, true},
};
const struct check_op check_op_best = {"best", best_cases, sizeof best_cases / sizeof *best_cases, run_best};

/* --- Shortlist ------------------------------------------------------------------------------------------------- */

struct shortlist_case {
    int64_t T, V, k, pad;
    double deviation;
    float temperature;
    bool low; /* half of the logits -inf */
};

static enum status run_list(struct ops *ops, void *context)
{
    return ops_shortlist(ops, context);
}

static void run_shortlist(struct check *check, const void *parameters)
{
    const struct shortlist_case *c = parameters;
    struct box *logits = BOX(check, DTYPE_F32, c->pad, c->T, c->V), *visible = BOX(check, DTYPE_I32, 0, c->T);
    struct box *selected = BOX(check, DTYPE_I32, 0, c->T, c->k), *temperature = BOX(check, DTYPE_F32, 0, c->T);
    struct box *values = BOX(check, DTYPE_F32, c->pad, c->T, c->k), *total = BOX(check, DTYPE_F32, 0, c->T);
    struct ops_shortlist_args device = {&logits->device, &selected->device, &temperature->device, &values->device,
                                        &total->device};
    struct ops_shortlist_args host = {&logits->host, &selected->host, &temperature->host, &values->host, &total->host};

    box_fill_normal(check, logits, c->deviation);
    for (int64_t t = 0; t < c->T; t++) {
        *box_i32(visible, t) = (int32_t)c->V;
        *box_f32(temperature, t) = c->temperature * (float)(1 + t);
        for (int64_t v = 1; c->low && v < c->V; v += 2)
            box_f32(logits, t)[v] = -INFINITY;
    }
    check_status(check, check_ref(check), ops_topk(check_ref(check), &logits->host, &visible->host, &selected->host));
    box_upload(check, logits);
    box_upload(check, selected);
    box_upload(check, temperature);
    box_upload(check, values);
    box_upload(check, total);
    check_status(check, check_device(check), run_list(check_device(check), &device));
    check_repeat(check, run_list, &device, (struct box *const[]){values, total, NULL});
    if (check_is_bench(check)) {
        check_bench(check, run_list, &device, 4.0 * (double)(c->T * c->V), 4.0 * (double)(c->T * c->V), "f32");
        return;
    }
    check_status(check, check_ref(check), run_list(check_ref(check), &host));
    box_compare_exact(check, values, "values");
    box_compare_close(check, total, "total", 0, OPS_SHORTLIST_ERROR);
}

#define LIST(label, ...)                                          \
    {                                                             \
        label, &(const struct shortlist_case){__VA_ARGS__}, false \
    }
static const struct check_case shortlist_cases[] = {
    LIST("V=1", 3, 1, 1, 0, 1, 1),
    LIST("V=320, k past the row", 3, 320, 400, 0, 3, 0.7f),
    LIST("V=4099 strided", 3, 4099, 1024, 5, 10, 0.8f),
    LIST("V=129280", 2, 129280, 1024, 0, 3, 1),
    LIST("flat", 2, 20000, 100, 0, 1, 100),
    LIST("cold: all but one vanish", 2, 5000, 64, 0, 1, 1e-4f),
    LIST("half are -inf", 2, 3000, 50, 1, 5, 1, true),
    {"T=64 V=129280", &(const struct shortlist_case){64, 129280, 1024, 0, 3, 0.8f, false}, true},
};
const struct check_op check_op_shortlist = {"shortlist", shortlist_cases,
                                            sizeof shortlist_cases / sizeof *shortlist_cases, run_shortlist};
