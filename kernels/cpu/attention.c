/* attention.c: rows of attention to threads. A task is one row with all its heads, so that the gathered records
 * are widened once; with fewer rows than threads, a row is divided by groups of heads. */
#include "kernels/cpu/cpu.h"
#include "kernels/rows.h"

enum { HEAD_GROUP = 16 };

struct attending {
    struct cpu *cpu;
    const struct ops_attention_args *args;
    int64_t positions; /* most of one row */
    int parts, part_heads;
    size_t list_bytes;
};

/* Addresses of the records that row t attends to, in order; returns how many. */
static int64_t list_records(const struct ops_attention_args *args, int64_t t, const uint8_t **records)
{
    const int32_t *pages = rows_pages(args->rows, t);
    int32_t visible = rows_visible(args->rows, t);
    int64_t count = 0;

    if (!args->selected) {
        for (int32_t s = 0; s < visible; s++)
            records[count++] = sequence_record(args->pool, pages, s);
        return count;
    }
    for (int64_t j = 0; j < args->selected->dims[1]; j++) {
        int32_t s = row_i32(args->selected, t)[j];

        if (s >= 0 && s < visible)
            records[count++] = sequence_record(args->pool, pages, s);
    }
    return count;
}

static void attend(void *context, int64_t i, int thread)
{
    struct attending *c = context;
    const struct ops_attention_args *args = c->args;
    int64_t t = i / c->parts;
    int first = (int)(i % c->parts) * c->part_heads, H = (int)args->q_latent->dims[1] - first;
    const uint8_t **records = cpu_own(c->cpu, thread);
    struct attention_row row = {
        .shape = args->shape,
        .H = H < c->part_heads ? H : c->part_heads,
        .q_latent = row2_f32(args->q_latent, t, first),
        .q_pe = row2_f32(args->q_pe, t, first),
        .q_latent_stride = args->q_latent->strides[1],
        .q_pe_stride = args->q_pe->strides[1],
        .out_stride = args->out->strides[1],
        .scale = args->scale,
        .records = records,
        .count = list_records(args, t, records),
        .narrow = args->q_latent->dims[1] <= 8,
        .out = row2_f32(args->out, t, first),
        .lse = args->lse ? row_f32(args->lse, t) + first : NULL,
        .scratch = (char *)records + c->list_bytes,
    };

    c->cpu->isa->attention(&row);
}

enum status cpu_attention(struct ops *ops, const struct ops_attention_args *args)
{
    struct attending c = {.cpu = cpu_of(ops), .args = args};
    int64_t T = args->q_latent->dims[0];
    int H = (int)args->q_latent->dims[1];
    enum status s;

    c.positions = args->selected ? args->selected->dims[1] : args->rows->visible_max;
    c.list_bytes = (sizeof(void *) * (size_t)c.positions + 63) / 64 * 64;
    c.parts = T < ops->thread_count ? (H + HEAD_GROUP - 1) / HEAD_GROUP : 1;
    c.part_heads = c.parts > 1 ? HEAD_GROUP : H;
    s = cpu_own_scratch(ops, c.list_bytes + c.cpu->isa->attention_scratch_bytes(&args->shape, c.part_heads));
    if (s)
        return s;
    pool_run(c.cpu->pool, T * c.parts, attend, &c);
    return STATUS_OK;
}
