/* indexer.c: lightning indexer scores and exact top-k. */
#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fp8.h"
#include "kernels/rows.h"

/* One query row as the indexer sees it: FP8 codes with a scale per head, or the values themselves. */
struct query {
    const struct cache_shape *shape;
    int64_t Hi;
    uint8_t *codes;   /* [Hi, Di], FP8 */
    const float *values; /* [Hi, Di] with stride, PLAIN */
    int64_t stride;
    float *weights;   /* [Hi], times the scale of the head's codes */
};

static enum status query_init(struct ops *ops, const struct ops_indexer_args *args, struct query *query)
{
    query->shape = &args->shape;
    query->Hi = args->q->dims[1];
    query->codes = malloc((size_t)query->Hi * (size_t)args->shape.Di + 1);
    query->weights = malloc(sizeof *query->weights * (size_t)query->Hi + 1);
    if (!query->codes || !query->weights)
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for a query");
    return STATUS_OK;
}

static void query_finish(struct query *query)
{
    free(query->codes);
    free(query->weights);
}

static void query_load(struct query *query, const struct ops_indexer_args *args, int64_t t)
{
    int Di = query->shape->Di;

    for (int64_t h = 0; h < query->Hi; h++) {
        query->weights[h] = row_f32(args->w, t)[h];
        if (query->shape->numerics == NUMERICS_FP8)
            query->weights[h] *= quantise_e4m3(row2_f32(args->q, t, h), Di, query->codes + h * Di);
    }
    query->values = row_f32(args->q, t);
    query->stride = args->q->strides[1];
}

/* FP8 codes are multiplied as they are; their scales come in later. */
static double dot_key(const struct query *query, int64_t h, const uint8_t *page, int offset)
{
    int Di = query->shape->Di;
    double sum = 0;

    for (int d = 0; d < Di; d++)
        if (query->shape->numerics == NUMERICS_FP8)
            sum += (double)f32_from_e4m3(query->codes[h * Di + d]) * f32_from_e4m3(page[offset * Di + d]);
        else
            sum += (double)query->values[h * query->stride + d] * ((const float *)page)[offset * Di + d];
    return sum;
}

static void score_row(const struct ops_indexer_args *args, int64_t t, struct query *query, float *score)
{
    const struct cache_shape *shape = &args->shape;
    const int32_t *pages = rows_pages(args->rows, t);

    query_load(query, args, t);
    for (int32_t s = 0; s < args->rows->visible_max; s++)
        score[s] = -INFINITY;
    for (int32_t s = 0; s < rows_visible(args->rows, t); s++) {
        const uint8_t *page = pool_page(args->pool, pages[s / CACHE_PAGE_TOKENS]);
        int offset = s % CACHE_PAGE_TOKENS;
        float key_scale = 1;
        double sum = 0;

        for (int64_t h = 0; h < query->Hi; h++)
            sum += query->weights[h] * fmax(dot_key(query, h, page, offset), 0);
        if (shape->numerics == NUMERICS_FP8)
            memcpy(&key_scale, page + CACHE_PAGE_TOKENS * shape->Di + 4 * offset, 4);
        score[s] = (float)(key_scale * sum);
    }
}

enum status ref_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score)
{
    struct query query = {0};
    enum status s = query_init(ops, args, &query);

    for (int64_t t = 0; !s && t < args->q->dims[0]; t++)
        score_row(args, t, &query, row_f32(score, t));
    query_finish(&query);
    return s;
}

struct candidate {
    float score;
    int32_t position;
};

static int best_first(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->position < b->position ? -1 : 1;
}

static int by_position(const void *left, const void *right)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;

    return (a > b) - (a < b);
}

static enum status topk_row(struct ops *ops, const float *score, int32_t visible, int64_t k, int32_t *selected)
{
    struct candidate *candidates = malloc(sizeof *candidates * (size_t)(visible ? visible : 1));
    int64_t count = visible < k ? visible : k;

    if (!candidates)
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for %d scores", visible);
    for (int32_t s = 0; s < visible; s++)
        candidates[s] = (struct candidate){isnan(score[s]) ? -INFINITY : score[s], s};
    qsort(candidates, (size_t)visible, sizeof *candidates, best_first);
    for (int64_t j = 0; j < k; j++)
        selected[j] = j < count ? candidates[j].position : -1;
    qsort(selected, (size_t)count, sizeof *selected, by_position);
    free(candidates);
    return STATUS_OK;
}

enum status ref_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                     struct tensor *selected)
{
    enum status s = STATUS_OK;

    for (int64_t t = 0; !s && t < score->dims[0]; t++)
        s = topk_row(ops, row_f32(score, t), *row_i32(visible, t), selected->dims[1], row_i32(selected, t));
    return s;
}

enum status ref_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected)
{
    size_t width = (size_t)args->rows->visible_max + 1;
    float *score = malloc(sizeof *score * width);
    struct query query = {0};
    enum status s = query_init(ops, args, &query);

    if (!s && !score)
        s = ops_fail(ops, STATUS_NO_MEMORY, "no memory for %zu scores", width);
    for (int64_t t = 0; !s && t < args->q->dims[0]; t++) {
        score_row(args, t, &query, score);
        s = topk_row(ops, score, rows_visible(args->rows, t), selected->dims[1], row_i32(selected, t));
    }
    free(score);
    query_finish(&query);
    return s;
}
