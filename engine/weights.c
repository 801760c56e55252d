/* weights.c: the checkpoint's tensors -> what the backend multiplies with.
 *
 * Large matrices stay in the mapped file and are handed to ops_weight_create() as they are. Copied are: norms and
 * biases (to F32), kv_b_proj (split per head, dequantised to BF16 as the reference does, its key half transposed),
 * the indexer's head weights (scaled, F32), and on a device the embedding table. There the matrices of a layer are one
 * group, described by model_open() and sent by model_load(), once it is known what fits. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/model.h"

struct loader {
    struct model *m;
    struct error *err;
    char prefix[64]; /* "model.layers.7." */
};

/* --- Numbers --------------------------------------------------------------------------------------------------- */

static float bf16_value(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &word, sizeof value);
    return value;
}

static uint16_t bf16_round(float value)
{
    uint32_t word;

    memcpy(&word, &value, sizeof word);
    if ((word & 0x7FFFFFFF) > 0x7F800000) /* NaN stays NaN */
        return (uint16_t)(word >> 16 | 0x40);
    return (uint16_t)((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

static float f8_value(uint8_t bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float value;

    if ((bits & 0x7F) == 0x7F)
        return NAN;
    value = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    return bits & 0x80 ? -value : value;
}

/* --- Finding and checking -------------------------------------------------------------------------------------- */

/* The tensor PREFIX + name with exactly these dimensions. */
static enum status find(const struct loader *l, const char *name, const char *suffix, int64_t d0, int64_t d1,
                        const struct tensor **out)
{
    char full[192];
    const struct tensor *t;
    int dims = d1 > 0 ? 2 : 1;

    snprintf(full, sizeof full, "%s%s%s", l->prefix, name, suffix);
    t = safetensors_find(l->m->files, full);
    if (!t)
        return error_set(l->err, STATUS_CORRUPT, "tensor '%s' is missing from the checkpoint", full);
    if (t->dim_count != dims || t->dims[0] != d0 || (dims == 2 && t->dims[1] != d1))
        return error_set(l->err, STATUS_CORRUPT,
                         "tensor '%s' has shape [%lld, %lld] (%d dimensions), config.json needs [%lld, %lld]", full,
                         (long long)(t->dim_count > 0 ? t->dims[0] : 0),
                         (long long)(t->dim_count > 1 ? t->dims[1] : 1), t->dim_count, (long long)d0,
                         (long long)(d1 > 0 ? d1 : 1));
    if (t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16 && t->dtype != DTYPE_F8E4M3)
        return error_set(l->err, STATUS_UNSUPPORTED, "tensor '%s' has type %s, not a float type", full,
                         dtype_name(t->dtype));
    *out = t;
    return STATUS_OK;
}

static bool has(const struct loader *l, const char *name)
{
    char full[192];

    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    return safetensors_find(l->m->files, full) != NULL;
}

/* Keeps a pointer for model_close(). Takes it over even on failure. */
static enum status own_host(struct loader *l, void *memory)
{
    void **grown = memory ? realloc(l->m->owned_host, (l->m->owned_host_count + 1) * sizeof *grown) : NULL;

    if (!grown) {
        free(memory);
        return error_set(l->err, STATUS_NO_MEMORY, "no memory for the weights");
    }
    l->m->owned_host = grown;
    grown[l->m->owned_host_count++] = memory;
    return STATUS_OK;
}

static enum status own_device(struct loader *l, size_t bytes, void **out)
{
    void *memory = NULL, **grown = realloc(l->m->owned_device, (l->m->owned_device_count + 1) * sizeof *grown);

    if (!grown)
        return error_set(l->err, STATUS_NO_MEMORY, "no memory for the weights");
    l->m->owned_device = grown;
    if (ops_alloc(l->m->ops, bytes, &memory))
        return error_set(l->err, STATUS_NO_MEMORY, "no device memory for the weights: %s", ops_last_error(l->m->ops));
    grown[l->m->owned_device_count++] = memory;
    *out = memory;
    return STATUS_OK;
}

static enum status upload(struct loader *l, const void *host, size_t bytes, void **out)
{
    enum status s = own_device(l, bytes, out);

    if (!s && (ops_upload(l->m->ops, *out, host, bytes) || ops_sync(l->m->ops)))
        s = error_set(l->err, STATUS_IO, "upload to the device failed: %s", ops_last_error(l->m->ops));
    return s;
}

/* --- The kinds of weight --------------------------------------------------------------------------------------- */

static float element(const struct tensor *t, const struct tensor *scale, int64_t i)
{
    switch (t->dtype) {
    case DTYPE_BF16:
        return bf16_value(((const uint16_t *)t->data)[i]);
    case DTYPE_F8E4M3: {
        int64_t row = i / t->dims[1], column = i % t->dims[1];

        return f8_value(((const uint8_t *)t->data)[i]) *
               ((const float *)scale->data)[row / 128 * scale->dims[1] + column / 128];
    }
    default:
        return ((const float *)t->data)[i];
    }
}

/* A vector as F32 on the device. */
static enum status load_vector(struct loader *l, const char *name, int64_t n, struct tensor *out)
{
    const struct tensor *t;
    enum status s = find(l, name, "", n, 0, &t);
    float *values;
    void *device;

    if (s)
        return s;
    if (t->dtype == DTYPE_F8E4M3)
        return error_set(l->err, STATUS_UNSUPPORTED, "tensor '%s%s' is quantised", l->prefix, name);
    values = malloc((size_t)n * sizeof *values);
    if (!values)
        return error_set(l->err, STATUS_NO_MEMORY, "no memory for the weights");
    for (int64_t i = 0; i < n; i++)
        values[i] = element(t, NULL, i);
    s = upload(l, values, (size_t)n * sizeof *values, &device);
    free(values);
    if (!s) {
        *out = tensor_1d(DTYPE_F32, device, n);
        l->m->parameter_count += n;
    }
    return s;
}

/* The matrix and, for e4m3, its block scales. */
static enum status find_matrix(const struct loader *l, const char *name, int64_t n, int64_t k,
                               const struct tensor **w, const struct tensor **scale)
{
    enum status s = find(l, name, ".weight", n, k, w);

    *scale = NULL;
    if (s || (*w)->dtype != DTYPE_F8E4M3)
        return s;
    s = find(l, name, ".weight_scale_inv", (n + 127) / 128, (k + 127) / 128, scale);
    if (!s && (*scale)->dtype != DTYPE_F32)
        s = error_set(l->err, STATUS_UNSUPPORTED, "tensor '%s%s.weight_scale_inv' is not f32", l->prefix, name);
    return s;
}

static enum status make_weight(struct loader *l, const char *name, const struct tensor *w, const struct tensor *scale,
                               enum numerics numerics, struct ops_weight **out)
{
    struct ops_weight_args args = {.w = *w, .scale = scale, .numerics = numerics};
    enum status s;

    if (vec_reserve(&l->m->weights, 1))
        return error_set(l->err, STATUS_NO_MEMORY, "no memory for the list of weights");
    s = ops_weight_create(l->m->ops, &args, out);
    if (!s)
        l->m->weights.items[l->m->weights.count++] = *out;
    if (s)
        return error_set(l->err, s, "weight '%s%s' [%lld, %lld] %s: %s", l->prefix, name, (long long)w->dims[0],
                         (long long)w->dims[1], dtype_name(w->dtype), ops_last_error(l->m->ops));
    l->m->parameter_count += tensor_count(w);
    return STATUS_OK;
}

static enum status load_matrix(struct loader *l, const char *name, int64_t n, int64_t k, enum numerics numerics,
                               struct ops_weight **out)
{
    const struct tensor *w = NULL, *scale = NULL;
    enum status s = find_matrix(l, name, n, k, &w, &scale);

    return s ? s : make_weight(l, name, w, scale, numerics, out);
}

/* kv_b_proj [H * (nope + value), Dv] -> uk [H, Dv, nope], so that q_latent = q_nope ukᵀ, and uv [H, value, Dv]. */
static enum status load_kv_b(struct loader *l, struct layer_weights *layer)
{
    const struct model_config *c = &l->m->config;
    int64_t H = c->heads, Dn = c->nope, Dvh = c->value, Dv = c->latent;
    const struct tensor *w, *scale;
    enum status s = find_matrix(l, "self_attn.kv_b_proj", H * (Dn + Dvh), Dv, &w, &scale);
    struct tensor uk, uv;
    bool f32;
    size_t bytes;
    void *uk_data, *uv_data;

    if (s)
        return s;
    f32 = w->dtype == DTYPE_F32 || (w->dtype == DTYPE_F8E4M3 && l->m->numerics == NUMERICS_PLAIN);
    if (f32)
        l->m->latent = DTYPE_F32;
    bytes = f32 ? sizeof(float) : sizeof(uint16_t);
    s = own_host(l, uk_data = malloc((size_t)(H * Dn * Dv) * bytes));
    if (!s)
        s = own_host(l, uv_data = malloc((size_t)(H * Dvh * Dv) * bytes));
    if (s)
        return s;
    for (int64_t h = 0; h < H; h++) {
        for (int64_t d = 0; d < Dn + Dvh; d++) {
            for (int64_t i = 0; i < Dv; i++) {
                float value = element(w, scale, (h * (Dn + Dvh) + d) * Dv + i);
                int64_t at = d < Dn ? (h * Dv + i) * Dn + d : (h * Dvh + d - Dn) * Dv + i;
                void *to = d < Dn ? uk_data : uv_data;

                if (f32)
                    ((float *)to)[at] = value;
                else
                    ((uint16_t *)to)[at] = bf16_round(value);
            }
        }
    }
    uk = tensor_3d(f32 ? DTYPE_F32 : DTYPE_BF16, uk_data, H, Dv, Dn);
    uv = tensor_3d(f32 ? DTYPE_F32 : DTYPE_BF16, uv_data, H, Dvh, Dv);
    s = make_weight(l, "self_attn.kv_b_proj", &uk, NULL, l->m->numerics, &layer->uk);
    if (!s)
        s = make_weight(l, "self_attn.kv_b_proj", &uv, NULL, l->m->numerics, &layer->uv);
    return s;
}

/* weights_proj scaled by Hi^-0.5 Di^-0.5, in F32: the reference computes it in F32. */
static enum status load_index_weights(struct loader *l, struct layer_weights *layer)
{
    const struct model_config *c = &l->m->config;
    int64_t count = (int64_t)c->index_heads * c->hidden;
    double factor = pow(c->index_heads, -0.5) * pow(c->index_dim, -0.5);
    const struct tensor *w, *scale;
    enum status s = find_matrix(l, "self_attn.indexer.weights_proj", c->index_heads, c->hidden, &w, &scale);
    struct tensor scaled;
    float *values = NULL;

    if (!s)
        s = own_host(l, values = malloc((size_t)count * sizeof *values));
    if (s)
        return s;
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(element(w, scale, i) * factor);
    scaled = tensor_2d(DTYPE_F32, values, c->index_heads, c->hidden);
    return make_weight(l, "self_attn.indexer.weights_proj", &scaled, NULL, NUMERICS_PLAIN, &layer->index_w);
}

/* --- Layers ---------------------------------------------------------------------------------------------------- */

static enum status load_indexer(struct loader *l, struct layer_weights *layer)
{
    const struct model_config *c = &l->m->config;
    enum status s;

    s = load_matrix(l, "self_attn.indexer.wq_b", (int64_t)c->index_heads * c->index_dim, c->q_lora, l->m->numerics,
                    &layer->index_q);
    if (!s)
        s = load_matrix(l, "self_attn.indexer.wk", c->index_dim, c->hidden, l->m->numerics, &layer->index_k);
    if (!s)
        s = load_vector(l, "self_attn.indexer.k_norm.weight", c->index_dim, &layer->index_norm);
    if (!s)
        s = load_vector(l, "self_attn.indexer.k_norm.bias", c->index_dim, &layer->index_norm_bias);
    if (!s)
        s = load_index_weights(l, layer);
    return s;
}

static enum status load_attention(struct loader *l, struct layer_weights *layer)
{
    const struct model_config *c = &l->m->config;
    enum numerics numerics = l->m->numerics;
    int64_t q_out = (int64_t)c->heads * (c->nope + c->rope);
    enum status s;

    if (c->q_lora) {
        s = load_matrix(l, "self_attn.q_a_proj", c->q_lora, c->hidden, numerics, &layer->q_a);
        if (!s)
            s = load_vector(l, "self_attn.q_a_layernorm.weight", c->q_lora, &layer->q_norm);
        if (!s)
            s = load_matrix(l, "self_attn.q_b_proj", q_out, c->q_lora, numerics, &layer->q);
    } else {
        s = load_matrix(l, "self_attn.q_proj", q_out, c->hidden, numerics, &layer->q);
    }
    if (s)
        return s;
    s = load_matrix(l, "self_attn.kv_a_proj_with_mqa", c->latent + c->rope, c->hidden, numerics, &layer->kv_a);
    if (!s)
        s = load_vector(l, "self_attn.kv_a_layernorm.weight", c->latent, &layer->kv_norm);
    if (!s)
        s = load_kv_b(l, layer);
    if (!s)
        s = load_matrix(l, "self_attn.o_proj", c->hidden, (int64_t)c->heads * c->value, numerics, &layer->o);
    return s;
}

static enum status load_ffn(struct loader *l, const char *where, int64_t inter, struct ops_weight **gate,
                            struct ops_weight **up, struct ops_weight **down)
{
    int64_t hidden = l->m->config.hidden;
    char name[96];
    enum status s;

    snprintf(name, sizeof name, "%sgate_proj", where);
    s = load_matrix(l, name, inter, hidden, l->m->numerics, gate);
    if (s)
        return s;
    snprintf(name, sizeof name, "%sup_proj", where);
    s = load_matrix(l, name, inter, hidden, l->m->numerics, up);
    if (s)
        return s;
    snprintf(name, sizeof name, "%sdown_proj", where);
    return load_matrix(l, name, hidden, inter, l->m->numerics, down);
}

static enum status load_experts(struct loader *l, struct layer_weights *layer)
{
    const struct model_config *c = &l->m->config;
    size_t experts = (size_t)c->experts;
    char where[48];
    enum status s;

    layer->expert_gate = calloc(experts, sizeof(struct ops_weight *));
    layer->expert_up = calloc(experts, sizeof(struct ops_weight *));
    layer->expert_down = calloc(experts, sizeof(struct ops_weight *));
    if (!layer->expert_gate || !layer->expert_up || !layer->expert_down)
        return error_set(l->err, STATUS_NO_MEMORY, "no memory for %zu experts", experts);
    /* never rounded: the reference computes the router in F32 */
    s = load_matrix(l, "mlp.gate", c->experts, c->hidden, NUMERICS_PLAIN, &layer->router);
    if (!s && has(l, "mlp.gate.e_score_correction_bias"))
        s = load_vector(l, "mlp.gate.e_score_correction_bias", c->experts, &layer->router_bias);
    for (size_t e = 0; e < experts && !s; e++) {
        snprintf(where, sizeof where, "mlp.experts.%zu.", e);
        s = load_ffn(l, where, c->expert_inter, &layer->expert_gate[e], &layer->expert_up[e], &layer->expert_down[e]);
    }
    if (!s && c->shared_experts)
        s = load_ffn(l, "mlp.shared_experts.", (int64_t)c->expert_inter * c->shared_experts, &layer->ffn.gate,
                     &layer->ffn.up, &layer->ffn.down);
    return s;
}

static enum status load_block(struct loader *l, int i)
{
    const struct model_config *c = &l->m->config;
    struct layer_weights *layer = &l->m->layer[i];
    enum status s;

    snprintf(l->prefix, sizeof l->prefix, "model.layers.%d.", i);
    s = load_vector(l, "input_layernorm.weight", c->hidden, &layer->input_norm);
    if (!s)
        s = load_vector(l, "post_attention_layernorm.weight", c->hidden, &layer->post_norm);
    if (!s)
        s = load_attention(l, layer);
    if (!s && c->layer[i].indexer == INDEXER_FULL)
        s = load_indexer(l, layer);
    if (s)
        return s;
    if (c->layer[i].dense)
        return load_ffn(l, "mlp.", c->dense_inter, &layer->ffn.gate, &layer->ffn.up, &layer->ffn.down);
    return load_experts(l, layer);
}

static enum status load_layer(struct loader *l, int i)
{
    struct ops *ops = l->m->ops;
    enum status s = ops_group_begin(ops, &l->m->layer[i].group);

    if (s)
        return error_set(l->err, s, "layer %d: %s", i, ops_last_error(ops));
    s = load_block(l, i);
    ops_group_end(ops);
    return s;
}

/* --- The rest -------------------------------------------------------------------------------------------------- */

/* On the host the table is read where it is mapped. */
static enum status load_embedding(struct loader *l, const char *name, struct tensor *embedding)
{
    const struct model_config *c = &l->m->config;
    const struct tensor *t = NULL;
    enum status s = find(l, name, ".weight", c->vocab, c->hidden, &t);
    void *device;

    if (s)
        return s;
    if (t->dtype == DTYPE_F8E4M3)
        return error_set(l->err, STATUS_UNSUPPORTED, "tensor '%s%s.weight' is quantised", l->prefix, name);
    *embedding = *t;
    l->m->parameter_count += tensor_count(t);
    if (ops_is_host(l->m->ops))
        return STATUS_OK;
    s = upload(l, t->data, (size_t)tensor_count(t) * dtype_bytes(t->dtype), &device);
    embedding->data = s ? embedding->data : device;
    return s;
}

/* The layer's block is loaded already. Embedding and head are the model's own where the layer has none, as published
 * checkpoints of DeepSeek-V3 share them (and repeat their bytes). */
static enum status load_mtp(struct loader *l)
{
    const struct model_config *c = &l->m->config;
    struct mtp_weights *mtp = &l->m->mtp;
    enum status s;

    snprintf(l->prefix, sizeof l->prefix, "model.layers.%d.", c->layers);
    s = load_vector(l, "enorm.weight", c->hidden, &mtp->embed_norm);
    if (!s)
        s = load_vector(l, "hnorm.weight", c->hidden, &mtp->hidden_norm);
    if (!s)
        s = load_vector(l, "shared_head.norm.weight", c->hidden, &mtp->final_norm);
    if (!s)
        s = load_matrix(l, "eh_proj", c->hidden, 2 * (int64_t)c->hidden, l->m->numerics, &mtp->project);
    mtp->embedding = l->m->embedding;
    if (!s && has(l, "embed_tokens.weight"))
        s = load_embedding(l, "embed_tokens", &mtp->embedding);
    if (!s && has(l, "shared_head.head.weight"))
        s = load_matrix(l, "shared_head.head", c->vocab, c->hidden, NUMERICS_PLAIN, &mtp->head);
    return s;
}

static enum status load_head(struct loader *l)
{
    const struct model_config *c = &l->m->config;
    const char *name = c->tied_embeddings ? "model.embed_tokens" : "lm_head";
    struct ops *ops = l->m->ops;
    enum status s = ops_group_begin(ops, &l->m->head_group);

    if (s)
        return error_set(l->err, s, "%s: %s", name, ops_last_error(ops));
    s = load_matrix(l, name, c->vocab, c->hidden, NUMERICS_PLAIN, &l->m->head);
    ops_group_end(ops);
    return s;
}

/* F32 [window, Dr]: Dr/2 cosines, then Dr/2 sines. Angles are computed in double: at position 10^5 a float angle
 * would be off by 4e-3. */
static enum status make_rope_table(struct loader *l)
{
    const struct model_config *c = &l->m->config;
    int half = c->rope / 2;
    double *frequency = calloc((size_t)half, sizeof *frequency);
    size_t bytes = (size_t)c->window * (size_t)c->rope * sizeof(float);
    float *table = malloc(bytes);
    enum status s = STATUS_NO_MEMORY;
    void *device;

    if (!frequency || !table) {
        error_set(l->err, s, "no memory for the rotary table of %lld positions", (long long)c->window);
        goto out;
    }
    model_config_frequencies(c, frequency);
    for (int64_t p = 0; p < c->window; p++) {
        for (int i = 0; i < half; i++) {
            table[p * c->rope + i] = (float)(cos((double)p * frequency[i]) * c->yarn_ratio);
            table[p * c->rope + half + i] = (float)(sin((double)p * frequency[i]) * c->yarn_ratio);
        }
    }
    s = upload(l, table, bytes, &device);
    if (!s)
        l->m->rope_table = tensor_2d(DTYPE_F32, device, c->window, c->rope);
out:
    free(frequency);
    free(table);
    return s;
}

enum status model_open(const char *model_dir, const struct model_config *config, struct ops *ops, bool plain,
                       void (*progress)(void *context, const char *phase, int64_t done, int64_t total),
                       void *progress_context, struct model *model, struct error *err)
{
    struct loader l = {.m = model, .err = err};
    int blocks;
    enum status s;

    *model = (struct model){.config = *config, .numerics = plain ? NUMERICS_PLAIN : NUMERICS_FP8, .ops = ops};
    model->latent = ops_latent_dtype(
        ops, &(struct cache_shape){.Dv = config->latent, .Dr = config->rope, .numerics = model->numerics});
    s = safetensors_open(model_dir, &model->files, err);
    if (s)
        return s;
    blocks = config->layers + config->mtp;
    model->layer = calloc((size_t)blocks, sizeof *model->layer);
    if (!model->layer)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d layers", blocks);
    s = load_embedding(&l, "model.embed_tokens", &model->embedding);
    if (!s)
        s = load_vector(&l, "model.norm.weight", config->hidden, &model->final_norm);
    if (!s)
        s = load_head(&l);
    if (!s)
        s = make_rope_table(&l);
    for (int i = 0; i < blocks && !s; i++) {
        if (progress)
            progress(progress_context, "loading", i, blocks);
        s = load_layer(&l, i);
    }
    if (!s && config->mtp)
        s = load_mtp(&l);
    if (!s && progress)
        progress(progress_context, "loading", blocks, blocks);
    if (s)
        error_prefix(err, "'%s'", model_dir);
    return s;
}

static enum status load_group(struct model *m, struct ops_group *group, bool streamed, const char *what, int layer,
                              struct error *err)
{
    enum status s = ops_group_load(m->ops, group, streamed);

    return s ? error_set(err, s, "the weights of %s %d cannot be loaded%s: %s", what, layer,
                         streamed ? " into pinned memory" : "", ops_last_error(m->ops))
             : STATUS_OK;
}

enum status model_load(struct model *m, const bool *streamed,
                       void (*progress)(void *context, const char *phase, int64_t done, int64_t total),
                       void *progress_context, struct error *err)
{
    int64_t total = ops_group_bytes(m->ops, m->head_group), done = total, slot = 0;
    enum status s;

    if (ops_is_host(m->ops))
        return STATUS_OK;
    for (int i = 0; i < m->config.layers; i++) {
        int64_t bytes = ops_group_bytes(m->ops, m->layer[i].group);

        total += bytes;
        if (streamed[i]) {
            m->streamed_layers++;
            slot = bytes > slot ? bytes : slot;
        }
    }
    s = ops_group_slots(m->ops, slot);
    if (s)
        return error_set(err, s, "no room for two layers at a time: %s", ops_last_error(m->ops));
    s = load_group(m, m->head_group, false, "head", 0, err);
    if (!s && m->config.mtp)
        s = load_group(m, m->layer[m->config.layers].group, false, "MTP layer", m->config.layers, err);
    for (int i = 0; i < m->config.layers && !s; i++) {
        if (progress)
            progress(progress_context, "uploading", done, total);
        s = load_group(m, m->layer[i].group, streamed[i], "layer", i, err);
        done += ops_group_bytes(m->ops, m->layer[i].group);
    }
    if (!s && progress)
        progress(progress_context, "uploading", total, total);
    for (; m->owned_host_count; m->owned_host_count--) /* nothing reads them again */
        free(m->owned_host[m->owned_host_count - 1]);
    return s;
}

static void destroy_ffn(struct ops *ops, struct ops_weight *const *weights, size_t count)
{
    for (size_t i = 0; weights && i < count; i++)
        ops_weight_destroy(ops, weights[i]);
}

void model_close(struct model *m)
{
    for (int i = 0; m->layer && i < m->config.layers + m->config.mtp; i++) {
        struct layer_weights *w = &m->layer[i];
        struct ops_weight *single[] = {w->q_a, w->q, w->kv_a, w->uk, w->uv, w->o, w->index_q, w->index_k, w->index_w,
                                       w->ffn.gate, w->ffn.up, w->ffn.down, w->router};

        destroy_ffn(m->ops, single, sizeof single / sizeof *single);
        destroy_ffn(m->ops, w->expert_gate, (size_t)m->config.experts);
        destroy_ffn(m->ops, w->expert_up, (size_t)m->config.experts);
        destroy_ffn(m->ops, w->expert_down, (size_t)m->config.experts);
        ops_group_destroy(m->ops, w->group);
        free(w->expert_gate);
        free(w->expert_up);
        free(w->expert_down);
    }
    if (m->head)
        ops_weight_destroy(m->ops, m->head);
    if (m->mtp.project)
        ops_weight_destroy(m->ops, m->mtp.project);
    if (m->mtp.head)
        ops_weight_destroy(m->ops, m->mtp.head);
    ops_group_destroy(m->ops, m->head_group);
    for (size_t i = 0; i < m->owned_device_count; i++)
        ops_free(m->ops, m->owned_device[i]);
    for (size_t i = 0; i < m->owned_host_count; i++)
        free(m->owned_host[i]);
    free(m->owned_device);
    free(m->owned_host);
    vec_finish(&m->weights);
    free(m->layer);
    safetensors_close(m->files);
    *m = (struct model){0};
}
