/* isa/attention.c: absorbed multi-query attention of one query row over gathered latent records.
 *
 * Blocks of 64 keys, in the order given. For each block:
 *   keys    e4m3 codes widened to BF16 without their scales, one row a key, then the rotary values
 *   logits  16 heads in lanes:  sum_g ks[s,g] * (q_g . k_g) + q_pe . k_pe,  one chain per group of 128
 *   softmax running maximum and sum per head, exp in F32
 *   values  the same keys, two rows side by side, so that a pair is (s, s+1); the scale of a key's group goes into
 *           the weight: p[s] * ks[s,g], which is a multiplication by a power of two and so costs no accuracy
 *   out     heads x 64 columns in registers, starting from out * exp(old maximum - new maximum)
 *
 * Rows of at most 8 heads would leave half the lanes idle. They go through "narrow": lane 2h is head h with key s,
 * lane 2h + 1 the same head with key s + 1. Even and odd keys then have their own sums, added at the end.
 *
 * FP8 caches: q and p are rounded to BF16, as DeepSeek's own kernels do; sums are F32. PLAIN: all F32. A head's
 * bits depend on nothing but its q and the records. */
#include <math.h>

#include "kernels/cpu/isa/functions.h"

#ifdef ISA_AVX512
enum { SCORE_KEYS = 8, NARROW_PAIRS = 8, OUT_HEADS = 4 };
#else
enum { SCORE_KEYS = 2, NARROW_PAIRS = 2, OUT_HEADS = BF16_ROWS };
#endif
enum {
    MAX_OUT_HEADS = 6, PREFETCH_KEYS = 16,
    KEY_STRIDE = 640 /* values from one widened key to the next, where they fit: a constant saves the registers of
                        eight or sixteen row addresses in the inner loop. 512 + 64 fit, and rows do not all start in
                        the same sets of the cache */
};

/* Everything of one row, carved out of its scratch. Head groups are 16 heads wide; the last is padded. */
struct work {
    const struct attention_row *row;
    int head_groups, scale_groups;
    int latent_pairs, pairs;      /* FP8: pairs of the latent part, of all */
    int64_t key_stride;           /* values from one key to the next        */
    int64_t out_stride;           /* Dv rounded up to 64                    */
    char *q;                      /* [head group][pair or value][16] BF16 pairs or F32 */
    uint16_t *keys;               /* [64][key_stride]                       */
    uint16_t *values;             /* [32][2 * out_stride]                   */
    float *key_scales;            /* [scale group][64]                      */
    float *logits;                /* [head group][64][16]; PLAIN: then p    */
    uint16_t *weights;            /* [scale group][head group][32][16][2]   */
    float *largest, *total;       /* [head group * 16] by lane              */
    float *decay, *head_decay;    /* by lane; by head (narrow rows differ)  */
    float *out;                   /* [head group * 16][out_stride]          */
};

static size_t carve(char **at, size_t bytes)
{
    size_t rounded = (bytes + 63) / 64 * 64;

    *at += rounded;
    return rounded;
}

/* Lays out the scratch from `base` (NULL to measure) and returns its size. */
static size_t layout(struct work *w, const struct cache_shape *shape, int H, char *base)
{
    bool plain = shape->numerics == NUMERICS_PLAIN;
    size_t groups, heads, per_head_group;
    char *at = base;
    int64_t width;

    w->head_groups = (H + LANES - 1) / LANES;
    w->scale_groups = (shape->Dv + FP8_GROUP - 1) / FP8_GROUP;
    w->latent_pairs = (shape->Dv + 1) / 2;
    w->pairs = w->latent_pairs + (shape->Dr + 1) / 2;
    w->out_stride = (shape->Dv + 63) / 64 * 64;
    width = 2 * w->pairs > w->out_stride ? 2 * w->pairs : w->out_stride;
    w->key_stride = width <= KEY_STRIDE ? KEY_STRIDE : (width + 63) / 64 * 64;
    groups = (size_t)w->head_groups;
    heads = groups * LANES;
    per_head_group = plain ? 4 * LANES * (size_t)(shape->Dv + shape->Dr) : 4 * LANES * (size_t)w->pairs;
    w->q = at;
    carve(&at, groups * per_head_group);
    w->logits = (float *)at;
    carve(&at, groups * ATTENTION_BLOCK * LANES * 4);
    w->largest = (float *)at;
    carve(&at, heads * 4);
    w->total = (float *)at;
    carve(&at, heads * 4);
    w->decay = (float *)at;
    carve(&at, heads * 4);
    w->head_decay = w->decay;
    if (w->row && w->row->narrow)
        w->head_decay = (float *)at;
    carve(&at, LANES * 4);
    w->out = (float *)at;
    carve(&at, heads * (size_t)w->out_stride * 4);
    if (!plain) {
        w->keys = (uint16_t *)at;
        carve(&at, ATTENTION_BLOCK * (size_t)w->key_stride * 2);
        w->values = (uint16_t *)at;
        carve(&at, ATTENTION_BLOCK * (size_t)w->out_stride * 2);
        w->key_scales = (float *)at;
        carve(&at, (size_t)w->scale_groups * ATTENTION_BLOCK * 4);
        w->weights = (uint16_t *)at;
        carve(&at, (size_t)w->scale_groups * groups * ATTENTION_BLOCK * LANES * 2);
    }
    return (size_t)(at - base) + 64; /* vector loads may run past the end of the last part */
}

size_t ISA(attention_scratch_bytes)(const struct cache_shape *shape, int H)
{
    static char origin[1];
    struct work w = {0};

    return layout(&w, shape, H, origin);
}

/* --- Queries ---------------------------------------------------------------------------------------- */

/* q as [head group][d][16 heads], zero for heads past the last. */
static void pack_q_plain(struct work *w)
{
    const struct attention_row *row = w->row;
    int Dv = row->shape.Dv, Dr = row->shape.Dr;
    float *q = (float *)w->q;

    for (int h = 0; h < w->head_groups * LANES; h++)
        for (int d = 0; d < Dv + Dr; d++) {
            float value = 0;

            if (h < row->H)
                value = d < Dv ? row->q_latent[h * row->q_latent_stride + d] : row->q_pe[h * row->q_pe_stride + d - Dv];
            q[((int64_t)(h / LANES) * (Dv + Dr) + d) * LANES + h % LANES] = value;
        }
}

/* Pairs of BF16 for part of a head: `count` values to pairs from `pair` on. */
static void pack_pairs(struct work *w, int h, const float *values, int count, int pair)
{
    int lane = w->row->narrow ? 2 * h : h % LANES;
    uint16_t *q = (uint16_t *)w->q + 2 * ((int64_t)(h / LANES) * w->pairs * LANES + lane);
    uint16_t rounded[LANES];

    for (int d = 0; d < count; d += LANES) {
        int n = count - d < LANES ? count - d : LANES;

        vf_narrow(rounded, vf_load_part(values + d, n));
        for (int i = 0; i < n; i++) {
            uint16_t *at = q + 2 * (int64_t)(pair + (d + i) / 2) * LANES + (d + i) % 2;

            at[0] = rounded[i];
            if (w->row->narrow)
                at[2] = rounded[i];
        }
    }
}

static void pack_q(struct work *w)
{
    const struct attention_row *row = w->row;

    memset(w->q, 0, 4 * LANES * (size_t)w->pairs * (size_t)w->head_groups);
    for (int h = 0; h < row->H; h++) {
        pack_pairs(w, h, row->q_latent + h * row->q_latent_stride, row->shape.Dv, 0);
        pack_pairs(w, h, row->q_pe + h * row->q_pe_stride, row->shape.Dr, w->latent_pairs);
    }
}

/* --- Keys and values -------------------------------------------------------------------------------- */

/* One record: Dv codes, scale_groups scales, Dr BF16. */
static void load_key(struct work *w, const struct e4m3_table *table, const uint8_t *record, int s)
{
    int Dv = w->row->shape.Dv, Dr = w->row->shape.Dr;
    uint16_t *key = w->keys + s * w->key_stride;
    const uint8_t *scales = record + Dv;

    for (int d = 0; d < Dv; d += 64) {
        uint8_t tail[64] = {0};
        const uint8_t *codes = record + d;
        vb values[2];

        if (Dv - d < 64)
            codes = memcpy(tail, codes, (size_t)(Dv - d));
        vb_from_e4m3(table, codes, values);
        vb_store(key + d, values[0]);
        vb_store(key + d + 32, values[1]);
    }
    for (int d = 0; d < Dr; d += 8) { /* a call of memcpy per key would cost as much as the widening */
        const uint8_t *rotary = scales + 4 * w->scale_groups + 2 * d;

        if (Dr - d >= 8)
            memcpy(key + 2 * w->latent_pairs + d, rotary, 16);
        else
            memcpy(key + 2 * w->latent_pairs + d, rotary, 2 * (size_t)(Dr - d));
    }
    if (Dr % 2)
        key[2 * w->latent_pairs + Dr] = 0;
    for (int g = 0; g < w->scale_groups; g++)
        memcpy(w->key_scales + g * ATTENTION_BLOCK + s, scales + 4 * g, 4);
}

/* Gathered records are cold; those of the next block are asked for while this one is widened, so that they arrive
 * during its arithmetic. */
static void prefetch_record(const struct work *w, int64_t i)
{
    size_t bytes = cache_record_bytes(&w->row->shape);

    if (i < w->row->count)
        for (size_t at = 0; at < bytes; at += 64)
            __builtin_prefetch(w->row->records[i] + at);
}

static void load_keys(struct work *w, int64_t start, int count)
{
    const uint8_t *const *records = w->row->records + start;
    struct e4m3_table table = e4m3_table_load();
    int step = w->row->narrow ? 2 * NARROW_PAIRS : SCORE_KEYS, padded = (count + step - 1) / step * step;

    for (int s = 0; s < count; s++) {
        prefetch_record(w, start + s + PREFETCH_KEYS);
        load_key(w, &table, records[s], s);
    }
    for (int s = count; s < padded; s++) {
        memset(w->keys + s * w->key_stride, 0, 2 * (size_t)w->key_stride);
        for (int g = 0; g < w->scale_groups; g++)
            w->key_scales[g * ATTENTION_BLOCK + s] = 0;
    }
    for (int s = 0; s < padded; s += 2)
        for (int64_t d = 0; d < w->out_stride; d += 32)
            vb_interleave(w->keys + s * w->key_stride + d, w->keys + (s + 1) * w->key_stride + d,
                          w->values + s * w->out_stride + 2 * d);
}

/* --- Logits ----------------------------------------------------------------------------------------- */

VEC_INLINE void dot_pairs(vf sum[SCORE_KEYS], const uint16_t *q, const uint16_t *key, int64_t key_stride, int count)
{
#pragma GCC unroll 8
    for (int j = 0; j < SCORE_KEYS; j++)
        sum[j] = vf_zero();
    for (int p = 0; p < count; p++) {
        vb query = vb_load(q + 2 * (int64_t)p * LANES);

#pragma GCC unroll 8
        for (int j = 0; j < SCORE_KEYS; j++)
            sum[j] = vf_dp(sum[j], vb_pair(key + j * key_stride + 2 * p), query);
    }
}

VEC_INLINE void logits_at_stride(struct work *w, int group, int count, int64_t stride)
{
    const uint16_t *q = (const uint16_t *)w->q + 2 * (int64_t)group * w->pairs * LANES;
    float *logits = w->logits + group * ATTENTION_BLOCK * LANES;
    vf scale = vf_set1(w->row->scale);

    for (int s = 0; s < count; s += SCORE_KEYS) {
        const uint16_t *key = w->keys + s * stride;
        vf sum[SCORE_KEYS], total[SCORE_KEYS];

        dot_pairs(total, q + 2 * (int64_t)w->latent_pairs * LANES, key + 2 * w->latent_pairs, stride,
                  w->pairs - w->latent_pairs);
        for (int g = 0; g < w->scale_groups; g++) {
            int first = g * FP8_GROUP / 2, rest = w->latent_pairs - first;

            dot_pairs(sum, q + 2 * (int64_t)first * LANES, key + 2 * first, stride,
                      rest < FP8_GROUP / 2 ? rest : FP8_GROUP / 2);
#pragma GCC unroll 8
            for (int j = 0; j < SCORE_KEYS; j++)
                total[j] = vf_fma(sum[j], vf_set1(w->key_scales[g * ATTENTION_BLOCK + s + j]), total[j]);
        }
#pragma GCC unroll 8
        for (int j = 0; j < SCORE_KEYS; j++)
            vf_store(logits + (s + j) * LANES, vf_mul(total[j], scale));
    }
}

static void logits_fp8(struct work *w, int group, int count)
{
    if (w->key_stride == KEY_STRIDE)
        logits_at_stride(w, group, count, KEY_STRIDE);
    else
        logits_at_stride(w, group, count, w->key_stride);
}

VEC_INLINE void dot_narrow(vf sum[NARROW_PAIRS], const uint16_t *q, const uint16_t *key, int64_t stride, int count)
{
#pragma GCC unroll 8
    for (int j = 0; j < NARROW_PAIRS; j++)
        sum[j] = vf_zero();
    for (int p = 0; p < count; p++) {
        vb query = vb_load(q + 2 * (int64_t)p * LANES);

#pragma GCC unroll 8
        for (int j = 0; j < NARROW_PAIRS; j++)
            sum[j] = vf_dp(sum[j], vb_two_pairs(key + 2 * j * stride + 2 * p, key + (2 * j + 1) * stride + 2 * p),
                           query);
    }
}

/* logits[s / 2][head][2] */
VEC_INLINE void narrow_at_stride(struct work *w, int count, int64_t stride)
{
    const uint16_t *q = (const uint16_t *)w->q;
    vf scale = vf_set1(w->row->scale);

    for (int s = 0; s < count; s += 2 * NARROW_PAIRS) {
        const uint16_t *key = w->keys + s * stride;
        vf sum[NARROW_PAIRS], total[NARROW_PAIRS];

        dot_narrow(total, q + 2 * (int64_t)w->latent_pairs * LANES, key + 2 * w->latent_pairs, stride,
                   w->pairs - w->latent_pairs);
        for (int g = 0; g < w->scale_groups; g++) {
            int first = g * FP8_GROUP / 2, rest = w->latent_pairs - first;
            const float *key_scale = w->key_scales + g * ATTENTION_BLOCK + s;

            dot_narrow(sum, q + 2 * (int64_t)first * LANES, key + 2 * first, stride,
                       rest < FP8_GROUP / 2 ? rest : FP8_GROUP / 2);
#pragma GCC unroll 8
            for (int j = 0; j < NARROW_PAIRS; j++)
                total[j] = vf_fma(sum[j], vf_set_two(key_scale + 2 * j), total[j]);
        }
#pragma GCC unroll 8
        for (int j = 0; j < NARROW_PAIRS; j++)
            vf_store(w->logits + (s / 2 + j) * LANES, vf_mul(total[j], scale));
    }
}

static void logits_narrow(struct work *w, int count)
{
    if (w->key_stride == KEY_STRIDE)
        narrow_at_stride(w, count, KEY_STRIDE);
    else
        narrow_at_stride(w, count, w->key_stride);
}

static void logits_plain(struct work *w, const uint8_t *const *records, int group, int count)
{
    int width = w->row->shape.Dv + w->row->shape.Dr;
    const float *q = (const float *)w->q + (int64_t)group * width * LANES;

    for (int s = 0; s < count; s++) {
        const float *key = (const float *)records[s];
        vf sum = vf_zero();

        for (int d = 0; d < width; d++)
            sum = vf_fma(vf_load(q + (int64_t)d * LANES), vf_set1(key[d]), sum);
        vf_store(w->logits + (group * ATTENTION_BLOCK + s) * LANES, vf_mul(sum, vf_set1(w->row->scale)));
    }
}

/* --- Softmax ---------------------------------------------------------------------------------------- */

/* Turns logits into exp(logit - maximum), and sets how much the sums so far shrink. */
static void softmax_block(struct work *w, int group, int count)
{
    float *logits = w->logits + group * ATTENTION_BLOCK * LANES;
    vf before = vf_load(w->largest + group * LANES), largest = before, decay, total;

    for (int s = 0; s < count; s++)
        largest = vf_max(largest, vf_load(logits + s * LANES));
    decay = vf_exp(vf_sub(before, largest));
    total = vf_mul(vf_load(w->total + group * LANES), decay);
    for (int s = 0; s < count; s++) {
        vf p = vf_exp(vf_sub(vf_load(logits + s * LANES), largest));

        vf_store(logits + s * LANES, p);
        total = vf_add(total, p);
    }
    vf_store(w->largest + group * LANES, largest);
    vf_store(w->total + group * LANES, total);
    vf_store(w->decay + group * LANES, decay);
}

/* The same for narrow rows: both lanes of a head share the maximum. An odd last key has no partner. */
static void softmax_narrow(struct work *w, int count)
{
    float *logits = w->logits;
    vf before = vf_load(w->largest), largest = before, decay, total;

    if (count % 2)
        for (int h = 0; h < LANES / 2; h++)
            logits[count / 2 * LANES + 2 * h + 1] = -INFINITY;
    for (int s = 0; s < count; s += 2)
        largest = vf_max(largest, vf_load(logits + s / 2 * LANES));
    largest = vf_max(largest, vf_swap(largest, 1));
    decay = vf_exp(vf_sub(before, largest));
    total = vf_mul(vf_load(w->total), decay);
    for (int s = 0; s < count; s += 2) {
        vf p = vf_exp(vf_sub(vf_load(logits + s / 2 * LANES), largest));

        vf_store(logits + s / 2 * LANES, p);
        total = vf_add(total, p);
    }
    vf_store(w->largest, largest);
    vf_store(w->total, total);
    vf_store(w->decay, decay);
}

/* Two neighbouring lanes are a pair already: narrowing to BF16 is all. */
static void weigh_narrow(struct work *w, int count)
{
    for (int g = 0; g < w->scale_groups; g++) {
        const float *scale = w->key_scales + g * ATTENTION_BLOCK;
        uint16_t *out = w->weights + (int64_t)g * ATTENTION_BLOCK * LANES;

        for (int s = 0; s < count; s += 2)
            vf_narrow(out + s * LANES, vf_mul(vf_load(w->logits + s / 2 * LANES), vf_set_two(scale + s)));
    }
}

/* From here on head h is in lane h, as in wide rows. */
static void spread_narrow(struct work *w, bool last)
{
    for (int h = 0; h < LANES / 2; h++) {
        w->head_decay[h] = w->decay[2 * h];
        if (last) {
            w->largest[h] = w->largest[2 * h];
            w->total[h] = w->total[2 * h] + w->total[2 * h + 1];
        }
    }
}

/* p times the key's scale, in BF16 pairs of two keys, once per scale group. */
static void weigh_block(struct work *w, int group, int count)
{
    float *p = w->logits + group * ATTENTION_BLOCK * LANES;

    if (count % 2)
        vf_store(p + count * LANES, vf_zero());
    for (int g = 0; g < w->scale_groups; g++) {
        const float *scale = w->key_scales + g * ATTENTION_BLOCK;
        uint16_t *out = w->weights + (int64_t)(g * w->head_groups + group) * ATTENTION_BLOCK * LANES;

        for (int s = 0; s < count; s += 2)
            vb_store(out + s * LANES, vb_zip(vf_mul(vf_load(p + s * LANES), vf_set1(scale[s])),
                                             vf_mul(vf_load(p + (s + 1) * LANES), vf_set1(scale[s + 1]))));
    }
}

/* --- Output ----------------------------------------------------------------------------------------- */

/* Heads [h, h + head_count) of one group, BF16_VECS vectors of columns from `column` on. */
VEC_INLINE void out_tile(const struct work *w, int head_count, int h, int64_t column, int pairs)
{
    int g = (int)(column / FP8_GROUP);
    const uint16_t *values = w->values + 2 * column;
    const uint16_t *weights = w->weights +
                              (int64_t)(g * w->head_groups + h / LANES) * ATTENTION_BLOCK * LANES + 2 * (h % LANES);
    vf sum[MAX_OUT_HEADS][BF16_VECS];

#pragma GCC unroll 8
    for (int r = 0; r < head_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            sum[r][v] = vf_mul(vf_load(w->out + (h + r) * w->out_stride + column + v * LANES),
                               vf_set1(w->head_decay[h + r]));
    for (int p = 0; p < pairs; p++) {
        vb value[BF16_VECS];

#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            value[v] = vb_load(values + 2 * (p * w->out_stride + v * LANES));
#pragma GCC unroll 8
        for (int r = 0; r < head_count; r++) {
            vb weight = vb_pair(weights + 2 * (p * LANES + r));

#pragma GCC unroll 8
            for (int v = 0; v < BF16_VECS; v++)
                sum[r][v] = vf_dp(sum[r][v], weight, value[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < head_count; r++)
#pragma GCC unroll 8
        for (int v = 0; v < BF16_VECS; v++)
            vf_store(w->out + (h + r) * w->out_stride + column + v * LANES, sum[r][v]);
}

static void out_block(const struct work *w, int count)
{
    int pairs = (count + 1) / 2, H = w->row->H;

    for (int64_t column = 0; column < w->out_stride; column += BF16_VECS * LANES)
        for (int h = 0; h < H; h += OUT_HEADS)
            switch (H - h) {
            case 1: out_tile(w, 1, h, column, pairs); break;
            case 2: out_tile(w, 2 < OUT_HEADS ? 2 : OUT_HEADS, h, column, pairs); break;
            case 3: out_tile(w, 3 < OUT_HEADS ? 3 : OUT_HEADS, h, column, pairs); break;
            default: out_tile(w, OUT_HEADS, h, column, pairs); break;
            }
}

static void out_block_plain(const struct work *w, const uint8_t *const *records, int count)
{
    int Dv = w->row->shape.Dv;

    for (int h = 0; h < w->row->H; h++) {
        const float *p = w->logits + h / LANES * ATTENTION_BLOCK * LANES + h % LANES;
        vf decay = vf_set1(w->head_decay[h]);

        for (int d = 0; d < Dv; d += LANES) {
            float *out = w->out + h * w->out_stride + d;
            int n = Dv - d < LANES ? Dv - d : LANES;
            vf sum = vf_mul(vf_load(out), decay);

            for (int s = 0; s < count; s++) {
                const float *value = (const float *)records[s] + d;

                sum = vf_fma(vf_set1(p[s * LANES]), n == LANES ? vf_load(value) : vf_load_part(value, n), sum);
            }
            vf_store(out, sum);
        }
    }
}

static void finish_row(const struct work *w)
{
    const struct attention_row *row = w->row;

    for (int h = 0; h < row->H; h++) {
        float *out = row->out + h * row->out_stride;
        vf total = vf_set1(w->total[h]);

        for (int d = 0; d < row->shape.Dv; d += LANES) {
            int n = row->shape.Dv - d < LANES ? row->shape.Dv - d : LANES;

            vf_store_part(out + d, n, vf_div(vf_load(w->out + h * w->out_stride + d), total));
        }
        if (row->lse)
            row->lse[h] = (float)(w->largest[h] + log(w->total[h]));
    }
}

static void empty_row(const struct attention_row *row)
{
    for (int h = 0; h < row->H; h++) {
        memset(row->out + h * row->out_stride, 0, sizeof *row->out * (size_t)row->shape.Dv);
        if (row->lse)
            row->lse[h] = INFINITY;
    }
}

void ISA(attention)(const struct attention_row *row)
{
    bool plain = row->shape.numerics == NUMERICS_PLAIN, narrow = row->narrow && !plain;
    struct attention_row own = *row;
    struct work w = {.row = &own};

    own.narrow = narrow;
    if (!row->count) {
        empty_row(row);
        return;
    }
    (void)layout(&w, &row->shape, row->H, row->scratch);
    if (plain)
        pack_q_plain(&w);
    else
        pack_q(&w);
    for (int h = 0; h < w.head_groups * LANES; h++) {
        w.largest[h] = -INFINITY;
        w.total[h] = 0;
    }
    memset(w.out, 0, sizeof *w.out * (size_t)w.out_stride * LANES * (size_t)w.head_groups);
    for (int64_t start = 0; start < row->count; start += ATTENTION_BLOCK) {
        int count = (int)(row->count - start < ATTENTION_BLOCK ? row->count - start : ATTENTION_BLOCK);

        if (!plain)
            load_keys(&w, start, count);
        if (narrow) {
            logits_narrow(&w, count);
            softmax_narrow(&w, count);
            weigh_narrow(&w, count);
            spread_narrow(&w, start + count == row->count);
        }
        for (int group = 0; group < w.head_groups && !narrow; group++) {
            if (plain)
                logits_plain(&w, row->records + start, group, count);
            else
                logits_fp8(&w, group, count);
            softmax_block(&w, group, count);
            if (!plain)
                weigh_block(&w, group, count);
        }
        if (plain)
            out_block_plain(&w, row->records + start, count);
        else
            out_block(&w, count);
    }
    finish_row(&w);
}
