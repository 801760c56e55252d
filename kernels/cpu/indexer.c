/* indexer.c: lightning indexer over pages, and top-k, within a fixed budget of scores.
 *
 * Rows come in groups of one sequence. A task scores up to ROW_BLOCK rows of a group against a stretch of pages:
 * a page is turned round once (isa index_tile) and used by all of them. Then one task per row selects. Scores
 * never exceed SCORE_BYTES, or one row where a single row is longer. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/fp8.h"
#include "kernels/rows.h"

enum {
    ROW_BLOCK = 64,          /* turning a page round then costs under 3 % of its use with 4 heads */
    PAGES_PER_TASK = 16,
    SCORE_BYTES = 16 << 20   /* half of a large L3 cache: what is scored is selected from there */
};

struct scoring {
    struct cpu *cpu;
    const struct ops_indexer_args *args;
    int64_t first, count;   /* rows of this round */
    int64_t page_tasks;
    char *queries;          /* [count] rounded queries, query_bytes apart: weights, then values */
    size_t query_bytes, weight_bytes;
    float *score;           /* row t at (t - first) * stride */
    int64_t stride;
    const int32_t *starts;  /* [block_count + 1] rows of each block, relative to first */
    struct tensor *selected;
};

static void round_query(void *context, int64_t i, int thread)
{
    struct scoring *c = context;
    const struct ops_indexer_args *args = c->args;
    int64_t t = c->first + i, Hi = args->q->dims[1];
    int Di = args->shape.Di;
    float *weight = (float *)(c->queries + (size_t)i * c->query_bytes);
    char *values = (char *)weight + c->weight_bytes;

    for (int64_t h = 0; h < Hi; h++) {
        const float *q = row2_f32(args->q, t, h);

        weight[h] = row_f32(args->w, t)[h];
        if (args->shape.numerics == NUMERICS_PLAIN) {
            memcpy(values + 4 * h * Di, q, 4 * (size_t)Di);
        } else { /* a whole query has one scale, also beyond 128 columns */
            extern const uint16_t e4m3_to_bf16[256];
            uint8_t codes[4096];
            uint16_t *out = (uint16_t *)values + h * ((Di + 1) / 2 * 2);

            weight[h] *= c->cpu->isa->quantise(q, Di, codes);
            out[Di - Di % 2] = 0;
            for (int d = 0; d < Di; d++)
                out[d] = e4m3_to_bf16[codes[d]];
        }
    }
}

/* Rows of block `block` against the pages of stretch `stretch`. */
static void score_pages(void *context, int64_t i, int thread)
{
    struct scoring *c = context;
    const struct ops_indexer_args *args = c->args;
    int64_t block = i / c->page_tasks, stretch = i % c->page_tasks;
    int64_t begin = c->starts[block], end = c->starts[block + 1];
    int32_t visible = 0;
    void *tile = cpu_own(c->cpu, thread);
    const int32_t *pages = rows_pages(args->rows, c->first + begin);
    bool plain = args->shape.numerics == NUMERICS_PLAIN;

    for (int64_t r = begin; r < end; r++)
        if (rows_visible(args->rows, c->first + r) > visible)
            visible = rows_visible(args->rows, c->first + r);
    for (int64_t p = stretch * PAGES_PER_TASK; p < (stretch + 1) * PAGES_PER_TASK; p++) {
        int32_t s = (int32_t)p * CACHE_PAGE_TOKENS;
        const uint8_t *page;
        float key_scale[CACHE_PAGE_TOKENS];
        int keys;

        if (s >= visible)
            return;
        page = pool_page(args->pool, pages[p]);
        keys = visible - s < CACHE_PAGE_TOKENS ? visible - s : CACHE_PAGE_TOKENS;
        c->cpu->isa->index_tile(&args->shape, page, keys, tile);
        if (!plain) {
            memset(key_scale, 0, sizeof key_scale);
            memcpy(key_scale, page + CACHE_PAGE_TOKENS * args->shape.Di, 4 * (size_t)keys);
        }
        for (int64_t r = begin; r < end; r++) {
            const char *query = c->queries + (size_t)r * c->query_bytes;
            struct index_query q = {(int)args->q->dims[1], args->shape.Di, args->shape.numerics,
                                    query + c->weight_bytes, (const float *)query};
            float score[CACHE_PAGE_TOKENS];
            int count = rows_visible(args->rows, c->first + r) - s;

            if (count <= 0)
                continue;
            c->cpu->isa->index_scores(&q, tile, plain ? NULL : key_scale, score);
            memcpy(c->score + r * c->stride + s, score,
                   sizeof *score * (size_t)(count < CACHE_PAGE_TOKENS ? count : CACHE_PAGE_TOKENS));
        }
    }
}

/* Cuts rows [first, first + count) into blocks of one sequence and at most ROW_BLOCK rows. */
static int64_t cut_blocks(const struct ops_rows *rows, int64_t first, int64_t count, int32_t *starts)
{
    int64_t blocks = 0;

    for (int64_t r = 0; r < count; r++)
        if (r == 0 || r - starts[blocks - 1] == ROW_BLOCK ||
            *row_i32(rows->sequence, first + r) != *row_i32(rows->sequence, first + r - 1))
            starts[blocks++] = (int32_t)r;
    starts[blocks] = (int32_t)count;
    return blocks;
}

static enum status scoring_init(struct ops *ops, const struct ops_indexer_args *args, int64_t rows,
                                struct scoring *c, int32_t **starts)
{
    size_t Hi = (size_t)args->q->dims[1], Di = (size_t)args->shape.Di;
    size_t value_bytes = args->shape.numerics == NUMERICS_PLAIN ? 4 : 2;
    void *queries, *lists;
    enum status s;

    if (Di > 4096)
        return ops_fail(ops, STATUS_UNSUPPORTED, "indexer: Di %zu is beyond 4096", Di);
    c->cpu = cpu_of(ops);
    c->args = args;
    c->weight_bytes = (4 * Hi + 63) / 64 * 64;
    c->query_bytes = c->weight_bytes + (Hi * (Di + 1) / 2 * 2 * value_bytes + 2 * Hi + 127) / 64 * 64;
    s = cpu_scratch(ops, SCRATCH_QUERIES, (size_t)rows * c->query_bytes, &queries);
    if (!s)
        s = cpu_scratch(ops, SCRATCH_LISTS, sizeof(int32_t) * ((size_t)rows + 1), &lists);
    if (!s)
        s = cpu_own_scratch(ops, (Di + 1) * CACHE_PAGE_TOKENS * 4);
    if (s)
        return s;
    c->queries = queries;
    *starts = lists;
    c->page_tasks = (args->rows->visible_max + CACHE_PAGE_TOKENS * PAGES_PER_TASK - 1) /
                    (CACHE_PAGE_TOKENS * PAGES_PER_TASK);
    return STATUS_OK;
}

static void score_rows(struct scoring *c, int64_t first, int64_t count, int32_t *starts)
{
    int64_t blocks = cut_blocks(c->args->rows, first, count, starts);

    c->first = first;
    c->count = count;
    c->starts = starts;
    pool_run(c->cpu->pool, count, round_query, c);
    pool_run(c->cpu->pool, blocks * c->page_tasks, score_pages, c);
}

enum status cpu_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score)
{
    struct scoring c = {0};
    int32_t *starts;
    int64_t T = args->q->dims[0];
    enum status s = scoring_init(ops, args, T, &c, &starts);

    if (s)
        return s;
    c.score = score->data;
    c.stride = score->strides[0];
    score_rows(&c, 0, T, starts);
    for (int64_t t = 0; t < T; t++)
        for (int32_t i = rows_visible(args->rows, t); i < args->rows->visible_max; i++)
            row_f32(score, t)[i] = -INFINITY;
    return STATUS_OK;
}

/* --- Top-k ------------------------------------------------------------------------------------------- */

static size_t topk_scratch_bytes(int64_t count)
{
    return 4 * (3 * (size_t)count + 64);
}

static void select_row(const struct cpu_isa *isa, const float *score, int32_t visible, int64_t k, int32_t *selected,
                       void *scratch)
{
    if (visible > k) {
        isa->topk(score, visible, (int32_t)k, selected, scratch);
        return;
    }
    for (int32_t j = 0; j < k; j++)
        selected[j] = j < visible ? j : -1;
}

struct selecting {
    struct cpu *cpu;
    const struct tensor *score, *visible;
    struct tensor *selected;
};

static void select_from_tensor(void *context, int64_t t, int thread)
{
    struct selecting *c = context;

    select_row(c->cpu->isa, row_f32(c->score, t), *row_i32(c->visible, t), c->selected->dims[1],
               row_i32(c->selected, t), cpu_own(c->cpu, thread));
}

enum status cpu_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                     struct tensor *selected)
{
    struct selecting c = {cpu_of(ops), score, visible, selected};
    enum status s = cpu_own_scratch(ops, topk_scratch_bytes(score->dims[1]));

    if (!s)
        pool_run(c.cpu->pool, score->dims[0], select_from_tensor, &c);
    return s;
}

static void select_from_round(void *context, int64_t i, int thread)
{
    struct scoring *c = context;
    int64_t t = c->first + i;

    select_row(c->cpu->isa, c->score + i * c->stride, rows_visible(c->args->rows, t), c->selected->dims[1],
               row_i32(c->selected, t), cpu_own(c->cpu, thread));
}

/* Rows that see no more than k positions take them all: nothing to score. Such rows are skipped in runs. */
enum status cpu_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected)
{
    int64_t T = args->q->dims[0], k = selected->dims[1], stride = (args->rows->visible_max + 63) / 64 * 64;
    int64_t most = stride ? SCORE_BYTES / (4 * stride) : T, t = 0;
    struct scoring c = {.selected = selected, .stride = stride};
    int32_t *starts;
    void *score = NULL;
    enum status s;

    most = most < 1 ? 1 : most > T ? T : most;
    s = scoring_init(ops, args, most, &c, &starts);
    if (!s)
        s = cpu_own_scratch(ops, topk_scratch_bytes(args->rows->visible_max));
    if (!s)
        s = cpu_scratch(ops, SCRATCH_SCORES, 4 * (size_t)(most * stride), &score);
    if (s)
        return s;
    c.score = score;
    while (t < T) {
        int64_t count = 0;

        while (t < T && rows_visible(args->rows, t) <= k) {
            select_row(c.cpu->isa, NULL, rows_visible(args->rows, t), k, row_i32(selected, t), NULL);
            t++;
        }
        while (t + count < T && count < most && rows_visible(args->rows, t + count) > k)
            count++;
        if (!count)
            continue;
        score_rows(&c, t, count, starts);
        pool_run(c.cpu->pool, count, select_from_round, &c);
        t += count;
    }
    return STATUS_OK;
}
