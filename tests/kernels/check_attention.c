/* check_attention.c: attention over latent records.
 *
 * FP8 caches: FlashMLA's tolerances for the direction and for lse (1 - cosine 5e-6; absolute 1e-6, relative
 * 8.01/65536), with queries that are BF16 values as its tests have them. Single values: 4e-3 + 2.01/128 of ref: p
 * is rounded to BF16, by 2^-9 of itself, times latents of deviation 1. PLAIN: 4e-6 + 1e-5 of ref. Unused records
 * are NaN. Where a backend wants BF16 latents it gets them as well: the same bits, rounded. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fp8.h"
#include "tests/kernels/check_kernels.h"

enum choice { DENSE, RANDOM, FIRST, NONE, SCATTERED, BEYOND };

struct attention_case {
    struct cache_shape shape;
    int H, B;
    int32_t tokens;
    int64_t T, k;
    enum choice choice;
    double sharpness; /* of the logits; 1: deviation about 1 */
    int32_t visible[2];
    bool no_lse, sampled;
};

struct bench {
    struct ops_attention_args args;
};

static enum status run_op(struct ops *ops, void *context)
{
    return ops_attention(ops, &((struct bench *)context)->args);
}

/* k distinct positions below `visible`, ascending, then -1; or other things that must be skipped. */
static void choose(struct check *check, const struct attention_case *c, int32_t visible, int32_t *selected)
{
    int64_t count = visible < c->k ? visible : c->k, j = 0;

    for (int64_t i = 0; i < c->k; i++)
        selected[i] = -1;
    if (c->choice == FIRST)
        for (; j < count; j++)
            selected[j] = (int32_t)j;
    if (c->choice == RANDOM)
        for (int32_t s = 0; s < visible && j < count; s++)
            if (check_unit(check) * (visible - s) < (double)(count - j))
                selected[j++] = s;
    if (c->choice == SCATTERED) /* holes of -1 between entries, not in order */
        for (int64_t i = 0; i < c->k; i++)
            if (check_unit(check) < 0.5 && visible)
                selected[i] = (int32_t)(visible - 1 - i % visible);
    if (c->choice == BEYOND)
        for (int64_t i = 0; i < c->k; i++)
            selected[i] = (int32_t)(i * 2) < c->tokens ? (int32_t)(i * 2) : -1;
}

/* A few rows of a large case, each as a case of one row. */
static void compare_sample(struct check *check, const struct attention_case *c, const struct ops_attention_args *device,
                           struct box *q, struct box *q_pe, struct box *selected, struct cache_box *cache,
                           struct box *out, struct box *lse)
{
    struct box *one = BOX(check, DTYPE_F32, 4, 1, c->H, c->shape.Dv), *one_lse = BOX(check, DTYPE_F32, 1, 1, c->H);
    int64_t rows[CHECK_SAMPLES];
    int count = check_sample_rows(check, c->T, rows);

    for (int i = 0; i < count; i++) {
        struct tensor row_q = tensor_rows(&q->host, rows[i], 1), row_pe = tensor_rows(&q_pe->host, rows[i], 1);
        struct tensor row_selected = selected ? tensor_rows(&selected->host, rows[i], 1) : row_q;
        struct tensor slot = tensor_rows(cache->host.slot, rows[i], 1);
        struct tensor sequence = tensor_rows(cache->host.sequence, rows[i], 1);
        struct tensor visible = tensor_rows(cache->host.visible, rows[i], 1);
        struct ops_rows host_rows = cache->host;

        host_rows.slot = &slot;
        host_rows.sequence = &sequence;
        host_rows.visible = &visible;
        box_download_row(check, out, rows[i], one);
        box_download_row(check, lse, rows[i], one_lse);
        box_upload(check, one);
        box_upload(check, one_lse);
        check_status(check, check_ref(check),
                     ops_attention(check_ref(check),
                                   &(struct ops_attention_args){&row_q, &row_pe, selected ? &row_selected : NULL,
                                                                &host_rows, c->shape, &cache->latent->host,
                                                                device->scale, &one->host, &one_lse->host}));
        box_compare_close(check, one, "out", 4e-3, 2.01 / 128);
        box_compare_cosine(check, one, "out", 5e-6);
        box_compare_close(check, one_lse, "lse", 1e-6, 8.01 / 65536);
    }
}

/* The same call with BF16 queries and results: what F32 gave, rounded, and the same lse. */
static void compare_bf16(struct check *check, const struct attention_case *c, const struct bench *f32, struct box *q,
                         struct box *out, struct box *lse)
{
    struct box *q_box = BOX(check, DTYPE_BF16, 8, c->T, c->H, c->shape.Dv);
    struct box *out_box = BOX(check, DTYPE_BF16, 16, c->T, c->H, c->shape.Dv);
    struct box *lse_box = BOX(check, DTYPE_F32, 1, c->T, c->H);
    struct bench run = *f32;
    struct tensor is, wanted, is_lse, wanted_lse;

    for (int64_t r = 0; r < c->T * c->H; r++)
        for (int64_t d = 0; d < c->shape.Dv; d++)
            ((uint16_t *)q_box->host.data)[r * q_box->host.strides[1] + d] =
                bf16_from_f32(((float *)q->host.data)[r * q->host.strides[1] + d]);
    box_upload(check, q_box);
    box_upload(check, out_box);
    box_upload(check, lse_box);
    run.args.q_latent = &q_box->device;
    if (run_op(check_device(check), &run) != STATUS_BUG)
        check_case_fail(check, "queries in BF16 and results in F32 were taken");
    run.args.out = &out_box->device;
    run.args.lse = c->no_lse ? NULL : &lse_box->device;
    check_status(check, check_device(check), run_op(check_device(check), &run));
    check_repeat(check, run_op, &run, (struct box *[]){out_box, lse_box, NULL});
    box_download(check, out_box, &is);
    box_download(check, out, &wanted);
    box_download(check, lse_box, &is_lse);
    box_download(check, lse, &wanted_lse);
    for (int64_t r = 0; r < c->T * c->H; r++) {
        int64_t t = r / c->H, h = r % c->H;

        for (int64_t d = 0; d < c->shape.Dv; d++)
            if (((uint16_t *)is.data)[r * is.strides[1] + d] !=
                bf16_from_f32(((float *)wanted.data)[r * wanted.strides[1] + d]))
                check_case_fail(check, "out[%lld,%lld,%lld] has other bits in BF16", (long long)t, (long long)h,
                                (long long)d);
        if (!c->no_lse && memcmp((float *)is_lse.data + t * is_lse.strides[0] + h,
                                 (float *)wanted_lse.data + t * wanted_lse.strides[0] + h, sizeof(float)) != 0)
            check_case_fail(check, "lse[%lld,%lld] has other bits in BF16", (long long)t, (long long)h);
    }
}

static void run(struct check *check, const void *parameters)
{
    const struct attention_case *c = parameters;
    struct box *q = BOX(check, DTYPE_F32, 0, c->T, c->H, c->shape.Dv),
               *q_pe = BOX(check, DTYPE_F32, 2, c->T, c->H, c->shape.Dr);
    struct box *out = BOX(check, DTYPE_F32, 4, c->T, c->H, c->shape.Dv), *lse = BOX(check, DTYPE_F32, 1, c->T, c->H);
    struct box *selected = c->choice == DENSE ? NULL : BOX(check, DTYPE_I32, 0, c->T, c->k);
    struct cache_box cache;
    int32_t *visible = box_i32(BOX(check, DTYPE_I32, 0, c->T), 0); /* a box, as a case that is skipped frees none */
    struct bench bench;
    bool plain = c->shape.numerics == NUMERICS_PLAIN;
    double positions = 0;

    for (int64_t t = 0; t < c->T; t++) {
        int64_t back = c->T - 1 - t;

        visible[t] =
            back < 2 && c->visible[1 - back] >= 0 ? c->visible[1 - back] : (int32_t)(c->tokens - back % c->tokens);
        positions += c->choice == DENSE || visible[t] < c->k ? visible[t] : (double)c->k;
    }
    cache_box_init(check, &cache, &c->shape, c->B, c->tokens, c->T, visible);
    box_fill_normal(check, q, c->sharpness);
    box_fill_normal(check, q_pe, c->sharpness);
    for (int64_t t = 0; t < c->T; t++) {
        for (int64_t i = 0; i < c->H * c->shape.Dv; i++)
            box_f32(q, t)[i] = f32_from_bf16(bf16_from_f32(box_f32(q, t)[i]));
        for (int64_t i = 0; i < c->H * (c->shape.Dr + 2); i++)
            box_f32(q_pe, t)[i] = f32_from_bf16(bf16_from_f32(box_f32(q_pe, t)[i]));
        if (selected)
            choose(check, c, visible[t], box_i32(selected, t));
    }
    box_upload(check, q);
    box_upload(check, q_pe);
    box_upload(check, out);
    box_upload(check, lse);
    if (selected)
        box_upload(check, selected);
    bench.args = (struct ops_attention_args){&q->device,
                                             &q_pe->device,
                                             selected ? &selected->device : NULL,
                                             &cache.device,
                                             c->shape,
                                             &cache.latent->device,
                                             (float)(1 / sqrt(c->shape.Dv + c->shape.Dr)),
                                             &out->device,
                                             c->no_lse ? NULL : &lse->device};
    check_status(check, check_device(check), run_op(check_device(check), &bench));
    if (check_is_bench(check)) {
        check_bench(check, run_op, &bench, 2.0 * c->H * positions * (2 * c->shape.Dv + c->shape.Dr),
                    positions * (double)cache_record_bytes(&c->shape), plain ? "f32" : "bf16");
        return;
    }
    check_repeat(check, run_op, &bench, (struct box *[]){out, lse, NULL});
    if (ops_latent_dtype(check_device(check), &c->shape) == DTYPE_BF16)
        compare_bf16(check, c, &bench, q, out, lse);
    if (c->sampled) {
        compare_sample(check, c, &bench.args, q, q_pe, selected, &cache, out, lse);
        return;
    }
    bench.args = (struct ops_attention_args){&q->host,         &q_pe->host, selected ? &selected->host : NULL,
                                             &cache.host,      c->shape,    &cache.latent->host,
                                             bench.args.scale, &out->host,  c->no_lse ? NULL : &lse->host};
    check_status(check, check_ref(check), run_op(check_ref(check), &bench));
    box_compare_close(check, out, "out", plain ? 4e-6 : 4e-3, plain ? 1e-5 : 2.01 / 128);
    box_compare_cosine(check, out, "out",
                       plain              ? 1e-10
                       : c->shape.Dv < 32 ? 2e-5
                                          : 5e-6); /* few values, less averaging */
    box_compare_close(check, lse, "lse", plain ? 1e-5 : 1e-6, plain ? 1e-6 : 8.01 / 65536);
}

#define CASE(label, ...)                                          \
    {                                                             \
        label, &(const struct attention_case){__VA_ARGS__}, false \
    }
#define SLOW(label, ...)                                         \
    {                                                            \
        label, &(const struct attention_case){__VA_ARGS__}, true \
    }
#define FULL(label, ...)                                                       \
    {                                                                          \
        "full " label, &(const struct attention_case){__VA_ARGS__}, CHECK_FULL \
    }
#define V32                      \
    {                            \
        512, 64, 0, NUMERICS_FP8 \
    }
#define ALL    \
    {          \
        -1, -1 \
    }
static const struct check_case cases[] = {
    CASE("dense one key", V32, 8, 1, 1, 1, 0, DENSE, 1, ALL),
    CASE("dense visible 0", V32, 8, 1, 70, 2, 0, DENSE, 1, {0, 70}),
    CASE("dense 63 64", V32, 8, 1, 66, 2, 0, DENSE, 1, {63, 64}),
    CASE("dense 65 129", V32, 8, 1, 130, 2, 0, DENSE, 1, {65, 129}),
    CASE("dense three sequences", V32, 8, 3, 150, 7, 0, DENSE, 1, ALL),
    CASE("all selected", V32, 16, 1, 100, 3, 128, FIRST, 1, ALL),
    CASE("none selected", V32, 8, 1, 100, 2, 64, NONE, 1, ALL),
    CASE("beyond visible", V32, 8, 1, 200, 3, 128, BEYOND, 1, {50, 51}),
    CASE("holes, no order", V32, 8, 1, 200, 3, 128, SCATTERED, 1, ALL),
    CASE("S < k", V32, 8, 1, 30, 2, 64, RANDOM, 1, ALL),
    CASE("V3.2 128 heads", V32, 128, 1, 300, 2, 128, RANDOM, 1, ALL),
    CASE("64 of 700, 2 sequences", V32, 20, 2, 700, 6, 64, RANDOM, 1, ALL),
    CASE("2048 of 2100", V32, 4, 1, 2100, 2, 2048, RANDOM, 1, {2049, -1}),
    CASE("dense, parts differ by row", V32, 8, 1, 700, 3, 0, DENSE, 1, {250, 520}),
    CASE("prefill, 129 rows", V32, 3, 1, 140, 129, 66, RANDOM, 1, {0, 40}),
    CASE("prefill, 2 sequences", V32, 2, 2, 70, 130, 64, SCATTERED, 1, ALL),
    CASE("prefill, rows beyond the SMs", V32, 2, 1, 150, 140, 66, SCATTERED, 1, {0, 40}),
    CASE("one pass, FP8 records, 66 rows", V32, 3, 1, 1300, 66, 64, RANDOM, 1, {0, 40}),
    CASE("one pass, FP8 records, dense, 65 rows", V32, 2, 65, 150, 65, 0, DENSE, 1, {129, 0}),
    CASE("sharp softmax", V32, 8, 1, 300, 2, 0, DENSE, 12, ALL),
    CASE("flat softmax", V32, 8, 1, 300, 2, 0, DENSE, 1e-3, ALL),
    CASE("no lse", V32, 8, 1, 40, 1, 0, DENSE, 1, ALL, true),
    CASE("1 head", V32, 1, 1, 90, 2, 32, RANDOM, 1, ALL),
    CASE("5 heads", V32, 5, 1, 90, 2, 32, RANDOM, 1, ALL),
    CASE("17 heads", V32, 17, 1, 90, 2, 32, RANDOM, 1, ALL),
    CASE("Dv=128 Dr=32", {128, 32, 0, NUMERICS_FP8}, 8, 1, 200, 5, 64, RANDOM, 1, ALL),
    CASE("Dv=64 Dr=16", {64, 16, 0, NUMERICS_FP8}, 6, 2, 150, 4, 50, RANDOM, 1, ALL),
    CASE("Dv=40 Dr=6", {40, 6, 0, NUMERICS_FP8}, 3, 1, 70, 4, 50, RANDOM, 1, ALL),
    CASE("Dv=200 Dr=0", {200, 0, 0, NUMERICS_FP8}, 3, 1, 70, 4, 50, RANDOM, 1, ALL),
    CASE("Dv=33 Dr=2", {33, 2, 0, NUMERICS_FP8}, 3, 1, 70, 4, 50, RANDOM, 1, ALL),
    CASE("plain 512", {512, 64, 0, NUMERICS_PLAIN}, 8, 1, 200, 3, 100, RANDOM, 1, ALL),
    CASE("plain dense", {96, 8, 0, NUMERICS_PLAIN}, 19, 2, 150, 5, 0, DENSE, 1, ALL),
    CASE("plain odd", {37, 4, 0, NUMERICS_PLAIN}, 3, 1, 65, 5, 40, RANDOM, 3, ALL),
    CASE("huge T", {8, 2, 0, NUMERICS_FP8}, 1, 1, 5, 66000, 4, FIRST, 1, ALL),
    /* FlashMLA's sparse cases in small: lengths, top-k, rows that see nothing, entries that are no position. */
    CASE("FlashMLA s_kv=2 k=64", V32, 64, 1, 2, 2, 64, RANDOM, 1, ALL),
    CASE("FlashMLA s_kv=61 k=64", V32, 64, 1, 61, 2, 64, FIRST, 1, ALL),
    CASE("FlashMLA s_kv=64 k=64", V32, 64, 1, 64, 1, 64, FIRST, 1, ALL),
    CASE("FlashMLA s_kv=69 k=576", V32, 64, 1, 69, 1, 576, SCATTERED, 1, ALL),
    CASE("FlashMLA s_kv=576 k=576", V32, 64, 1, 576, 1, 576, FIRST, 1, ALL),
    CASE("FlashMLA s_kv=700 k=576", V32, 128, 1, 700, 1, 576, RANDOM, 1, ALL),
    CASE("FlashMLA s_kv=2100 k=2048", V32, 64, 1, 2100, 1, 2048, RANDOM, 1, ALL),
    CASE("FlashMLA zero lengths, 4 sequences", V32, 64, 4, 130, 8, 64, RANDOM, 1, {0, 0}),
    CASE("FlashMLA nothing valid", V32, 64, 1, 130, 2, 576, NONE, 1, ALL),
    FULL("s_q=512 s_kv=8192 k=2048", V32, 128, 1, 8192, 512, 2048, RANDOM, 1, ALL, false, true),
    FULL("s_q=128 s_kv=131072 k=2048", V32, 128, 1, 131072, 128, 2048, RANDOM, 1, ALL, false, true),
    FULL("s_q=62 s_kv=1840 k=576", V32, 128, 1, 1840, 62, 576, SCATTERED, 1, {0, -1}, false, true),
    FULL("s_q=62 s_kv=592 k=64, 64 heads", V32, 64, 1, 592, 62, 64, SCATTERED, 1, ALL, false, true),
    FULL("decode b=32 s_kv=4096 k=2048", V32, 128, 32, 4096, 32, 2048, RANDOM, 1, ALL, false, true),
    FULL("decode b=16, 2 rows each, k=2048", V32, 128, 16, 3000, 32, 2048, SCATTERED, 1, {0, 1}, false, true),
    FULL("decode b=1 s_kv=65536 k=2048", V32, 128, 1, 65536, 1, 2048, RANDOM, 1, ALL, false, true),
    SLOW("H=8 Dv=512 k=512 T=64", V32, 8, 1, 8192, 64, 512, RANDOM, 1, ALL),
    SLOW("H=8 Dv=256 Dr=32 k=512 T=64", {256, 32, 0, NUMERICS_FP8}, 8, 1, 8192, 64, 512, RANDOM, 1, ALL),
    SLOW("H=8 Dv=128 Dr=32 k=512 T=64", {128, 32, 0, NUMERICS_FP8}, 8, 1, 8192, 64, 512, RANDOM, 1, ALL),
    SLOW("H=8 k=2048 T=16", V32, 8, 1, 32768, 16, 2048, RANDOM, 1, ALL),
    SLOW("H=16 k=2048 T=16", V32, 16, 1, 32768, 16, 2048, RANDOM, 1, ALL),
    SLOW("H=128 k=2048 T=4", V32, 128, 1, 32768, 4, 2048, RANDOM, 1, ALL),
    SLOW("H=128 k=2048 T=1", V32, 128, 1, 32768, 1, 2048, RANDOM, 1, ALL),
    SLOW("H=8 k=2048 T=1", V32, 8, 1, 32768, 1, 2048, RANDOM, 1, ALL),
    SLOW("H=128 dense 32K T=1", V32, 128, 1, 32768, 1, 0, DENSE, 1, ALL),
};
const struct check_op check_op_attention = {"attention", cases, sizeof cases / sizeof *cases, run};
