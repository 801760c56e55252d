/* moe.c: the router's choice of experts, and their feed-forward networks. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/ref/ref.h"
#include "kernels/rows.h"

/* The largest of p'[0..E) that is still allowed; ties go to the lowest index. */
static int best_allowed(const double *score, const bool *allowed, int E)
{
    int best = -1;

    for (int e = 0; e < E; e++)
        if (allowed[e] && (best < 0 || score[e] > score[best]))
            best = e;
    return best;
}

static double group_score(const double *score, int count, enum router_scoring scoring)
{
    double first = -INFINITY, second = -INFINITY;

    for (int e = 0; e < count; e++)
        if (score[e] > first) {
            second = first;
            first = score[e];
        } else if (score[e] > second) {
            second = score[e];
        }
    return scoring == ROUTER_SOFTMAX ? first : first + second;
}

static void keep_best_groups(const struct ops_router_args *args, const double *score, bool *allowed, int E)
{
    int size = E / args->groups;
    double group[OPS_MAX_EXPERTS];
    bool open[OPS_MAX_EXPERTS];

    for (int g = 0; g < args->groups; g++) {
        group[g] = group_score(score + g * size, size, args->scoring);
        open[g] = true;
    }
    for (int e = 0; e < E; e++)
        allowed[e] = false;
    for (int n = 0; n < args->kept_groups; n++) {
        int g = best_allowed(group, open, args->groups);

        open[g] = false;
        for (int e = 0; e < size; e++)
            allowed[g * size + e] = true;
    }
}

static void probabilities(const struct ops_router_args *args, const float *logits, double *p, int E)
{
    double largest = -INFINITY, total = 0;

    for (int e = 0; e < E; e++)
        largest = fmax(largest, logits[e]);
    for (int e = 0; e < E; e++) {
        p[e] = args->scoring == ROUTER_SIGMOID ? 1 / (1 + exp(-(double)logits[e])) : exp(logits[e] - largest);
        total += p[e];
    }
    for (int e = 0; e < E; e++) /* p is an F32 value: a saturated sigmoid is 1 and ties with others */
        p[e] = (float)(args->scoring == ROUTER_SOFTMAX ? p[e] / total : p[e]);
}

enum status ref_router(struct ops *ops, const struct ops_router_args *args)
{
    int E = (int)args->logits->dims[1];
    int64_t k = args->experts->dims[1];
    double p[OPS_MAX_EXPERTS], score[OPS_MAX_EXPERTS];
    bool allowed[OPS_MAX_EXPERTS];

    for (int64_t t = 0; t < args->logits->dims[0]; t++) {
        int32_t *experts = row_i32(args->experts, t);
        double total = 0;

        probabilities(args, row_f32(args->logits, t), p, E);
        for (int e = 0; e < E; e++) {
            score[e] = args->bias ? p[e] + row_f32(args->bias, 0)[e] : p[e];
            allowed[e] = true;
        }
        if (args->groups > 1)
            keep_best_groups(args, score, allowed, E);
        for (int64_t j = 0; j < k; j++) {
            experts[j] = best_allowed(score, allowed, E);
            allowed[experts[j]] = false;
            total += p[experts[j]];
        }
        for (int64_t j = 0; j < k; j++)
            row_f32(args->weights, t)[j] =
                (float)(p[experts[j]] / (args->normalise ? total + 1e-20 : 1) * args->scaling);
    }
    return STATUS_OK;
}

enum status ref_moe(struct ops *ops, const struct ops_moe_args *args)
{
    int64_t T = args->x->dims[0], D = args->x->dims[1], J = args->gate[0]->N, k = args->experts->dims[1];
    float *gate = malloc(sizeof *gate * (size_t)J), *up = malloc(sizeof *up * (size_t)J);
    float *down = malloc(sizeof *down * (size_t)D);
    double *sum = malloc(sizeof *sum * (size_t)D);
    enum status s = STATUS_OK;

    if (!gate || !up || !down || !sum) {
        s = ops_fail(ops, STATUS_NO_MEMORY, "no memory for an expert");
        goto out;
    }
    for (int64_t t = 0; t < T; t++) {
        for (int64_t d = 0; d < D; d++)
            sum[d] = 0;
        for (int64_t j = 0; j < k; j++) {
            int32_t e = row_i32(args->experts, t)[j];

            s = ref_product(ops, args->gate[e], 0, row_f32(args->x, t), gate);
            if (!s)
                s = ref_product(ops, args->up[e], 0, row_f32(args->x, t), up);
            for (int64_t i = 0; !s && i < J; i++)
                gate[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
            if (!s)
                s = ref_product(ops, args->down[e], 0, gate, down);
            if (s)
                goto out;
            for (int64_t d = 0; d < D; d++)
                sum[d] += (double)row_f32(args->weights, t)[j] * down[d];
        }
        for (int64_t d = 0; d < D; d++)
            row_f32(args->y, t)[d] = (float)(row_f32(args->y, t)[d] + sum[d]);
    }
out:
    free(gate);
    free(up);
    free(down);
    free(sum);
    return s;
}
