/* attention.c: absorbed multi-query attention over latent records: two passes, no running maximum. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fp8.h"
#include "kernels/ref/ref.h"
#include "kernels/rows.h"

/* The record as F32: Dv latent values, then Dr rotary ones. */
static void read_record(const struct cache_shape *shape, const uint8_t *record, float *values)
{
    int groups = (shape->Dv + FP8_GROUP - 1) / FP8_GROUP;

    if (shape->numerics == NUMERICS_PLAIN) {
        memcpy(values, record, 4 * (size_t)(shape->Dv + shape->Dr));
        return;
    }
    for (int d = 0; d < shape->Dv; d++) {
        float scale;

        memcpy(&scale, record + shape->Dv + 4 * (d / FP8_GROUP), 4);
        values[d] = f32_from_e4m3(record[d]) * scale;
    }
    for (int d = 0; d < shape->Dr; d++) {
        uint16_t rotary;

        memcpy(&rotary, record + shape->Dv + 4 * groups + 2 * d, 2);
        values[shape->Dv + d] = f32_from_bf16(rotary);
    }
}

/* The positions that row t attends to; returns how many. */
static int64_t row_positions(const struct ops_attention_args *args, int64_t t, int32_t *positions)
{
    int32_t visible = rows_visible(args->rows, t);
    int64_t count = 0;

    if (!args->selected) {
        for (int32_t s = 0; s < visible; s++)
            positions[count++] = s;
        return count;
    }
    for (int64_t j = 0; j < args->selected->dims[1]; j++) {
        int32_t s = row_i32(args->selected, t)[j];

        if (s >= 0 && s < visible)
            positions[count++] = s;
    }
    return count;
}

/* One head: logits (room for `count`) are scratch; `records` are [count, Dv + Dr]. */
static void attend(const struct ops_attention_args *args, int64_t t, int64_t h, const float *records, int64_t count,
                   double *logits)
{
    int Dv = args->shape.Dv, Dr = args->shape.Dr, width = Dv + Dr;
    const float *q_latent = row2_f32(args->q_latent, t, h), *q_pe = row2_f32(args->q_pe, t, h);
    float *out = row2_f32(args->out, t, h);
    double largest = -INFINITY, total = 0;

    for (int64_t j = 0; j < count; j++) {
        double sum = 0;

        for (int d = 0; d < Dv; d++)
            sum += (double)q_latent[d] * records[j * width + d];
        for (int d = 0; d < Dr; d++)
            sum += (double)q_pe[d] * records[j * width + Dv + d];
        logits[j] = sum * args->scale;
        largest = fmax(largest, logits[j]);
    }
    for (int64_t j = 0; j < count; j++) {
        logits[j] = exp(logits[j] - largest);
        total += logits[j];
    }
    for (int d = 0; d < Dv; d++) {
        double sum = 0;

        for (int64_t j = 0; j < count; j++)
            sum += logits[j] * records[j * width + d];
        out[d] = count ? (float)(sum / total) : 0;
    }
    if (args->lse)
        row_f32(args->lse, t)[h] = count ? (float)(largest + log(total)) : INFINITY;
}

enum status ref_attention(struct ops *ops, const struct ops_attention_args *args)
{
    size_t most = (size_t)(args->selected ? args->selected->dims[1] : args->rows->visible_max) + 1;
    size_t width = (size_t)(args->shape.Dv + args->shape.Dr);
    int32_t *positions = malloc(sizeof *positions * most);
    float *records = malloc(sizeof *records * most * width);
    double *logits = malloc(sizeof *logits * most);
    enum status s = STATUS_OK;

    if (!positions || !records || !logits) {
        s = ops_fail(ops, STATUS_NO_MEMORY, "no memory for %zu records", most);
        goto out;
    }
    for (int64_t t = 0; t < args->q_latent->dims[0]; t++) {
        int64_t count = row_positions(args, t, positions);
        const int32_t *pages = rows_pages(args->rows, t);

        for (int64_t j = 0; j < count; j++)
            read_record(&args->shape, sequence_record(args->pool, pages, positions[j]), records + (size_t)j * width);
        for (int64_t h = 0; h < args->q_latent->dims[1]; h++)
            attend(args, t, h, records, count, logits);
    }
out:
    free(positions);
    free(records);
    free(logits);
    return s;
}
