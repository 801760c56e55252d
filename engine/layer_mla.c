/* layer_mla.c: multi-head latent attention in its absorbed form.
 *
 *   qr = norm(q_a x)        q = q_b qr = nope ‖ rope per head           (q = q_proj x without q_lora)
 *   c ‖ k_pe = kv_a x       c = norm(c);  rope on q_pe, k_pe            cached: c, k_pe
 *   q_latent[h] = q_nope[h] W_UK[h]      o_latent = attention(q_latent ‖ q_pe, cache)
 *   o[h] = o_latent[h] W_UV[h]ᵀ          delta = o_proj o
 *
 * A norm and the products of it are one call, and so are the last two products: a backend may hand on what lies between
 * in another form, and p->heads may stay unwritten.
 * q_latent and o_latent are of the type that the backend asks for (ops_latent_dtype()).
 * One record serves all heads, so prefill and decode run the same code on the same caches.
 * Source: DeepSeek-V2 (arXiv 2405.04434) §2.1; DeepSeek-V3.2-Exp report. */
#include "engine/model.h"

/* The layer's norm, and what the layer makes of its input: qr (or q), c and k_pe, the indexer's key. One call, since
 * they share their x. */
static enum status project(struct pass *p, const struct layer_weights *w, const struct ops_rmsnorm_args *norm,
                           struct tensor *q, bool indexed)
{
    struct ops_linear_args products[OPS_LINEARS_MOST] = {
        {.x = &p->normed, .w = w->q_a ? w->q_a : w->q, .y = w->q_a ? &p->qr : q},
        {.x = &p->normed, .w = w->kv_a, .y = &p->kv},
        {.x = &p->normed, .w = w->index_k, .y = &p->index_k},
    };

    return ops_norm_linears(p->model->ops, norm, products, indexed ? 3 : 2);
}

/* The queries of attention and, where positions are selected, those of the indexer. */
static enum status project_q(struct pass *p, const struct layer_weights *w, struct tensor *q, bool indexed)
{
    const struct model_config *c = &p->model->config;
    struct ops *ops = p->model->ops;
    struct tensor index_q =
        tensor_2d(DTYPE_F32, p->index_q.data, p->index_q.dims[0], (int64_t)c->index_heads * c->index_dim);
    struct ops_linear_args products[OPS_LINEARS_MOST] = {
        {.x = &p->qr, .w = w->q, .y = q},
        {.x = &p->qr, .w = w->index_q, .y = &index_q},
    };
    struct ops_rmsnorm_args norm = {.x = &p->qr, .weight = &w->q_norm, .eps = c->norm_eps, .y = &p->qr};
    struct tensor q_pe = tensor_columns(&p->q, c->nope, c->rope);
    struct ops_rope_args rope = {&q_pe, &p->model->rope_table, &p->position, ROPE_INTERLEAVED};
    enum status s = STATUS_OK;

    if (w->q_a)
        s = ops_norm_linears(ops, &norm, products, indexed && (p->sparse || p->trace) ? 2 : 1);
    return s ? s : ops_rope(ops, &rope);
}

static enum status cache_latent(struct pass *p, const struct layer_weights *w, int layer)
{
    const struct model_config *c = &p->model->config;
    struct ops *ops = p->model->ops;
    struct tensor latent = tensor_columns(&p->kv, 0, c->latent), k_pe = tensor_columns(&p->kv, c->latent, c->rope);
    struct ops_rmsnorm_args norm = {.x = &latent, .weight = &w->kv_norm, .eps = c->norm_eps, .y = &latent};
    struct ops_latent_write_args write = {.c = &latent,
                                          .k_pe = &k_pe,
                                          .rows = &p->rows,
                                          .shape = kv_cache_shape(p->cache, layer),
                                          .pool = kv_cache_latent(p->cache, layer),
                                          .rope = {&p->model->rope_table, &p->position, ROPE_INTERLEAVED}};
    enum status s = ops_rmsnorm(ops, &norm);

    return s ? s : ops_latent_write(ops, &write);
}

static enum status attend(struct pass *p, const struct layer_weights *w, int layer)
{
    const struct model_config *c = &p->model->config;
    struct ops *ops = p->model->ops;
    struct tensor q_nope = tensor_columns(&p->q, 0, c->nope), q_pe = tensor_columns(&p->q, c->nope, c->rope);
    struct tensor heads = tensor_2d(DTYPE_F32, p->heads.data, p->heads.dims[0], p->heads.dims[1] * p->heads.dims[2]);
    struct ops_linear_args absorb = {.x = &q_nope, .w = w->uk, .y = &p->q_latent};
    struct ops_attention_args attention = {.q_latent = &p->q_latent,
                                           .q_pe = &q_pe,
                                           .selected = p->sparse ? &p->selected : NULL,
                                           .rows = &p->rows,
                                           .shape = kv_cache_shape(p->cache, layer),
                                           .pool = kv_cache_latent(p->cache, layer),
                                           .scale = c->attention_scale,
                                           .out = &p->o_latent};
    struct ops_linear_args expand = {.x = &p->o_latent, .w = w->uv, .y = &p->heads};
    struct ops_linear_args output = {.x = &heads, .w = w->o, .y = &p->delta};
    enum status s;

    s = ops_linear(ops, &absorb);
    if (!s)
        s = ops_attention(ops, &attention);
    return s ? s : ops_linear_pair(ops, &expand, &output);
}

enum status layer_mla(struct pass *p, int layer, const struct ops_rmsnorm_args *norm)
{
    const struct layer_weights *w = &p->model->layer[layer];
    struct tensor q = tensor_2d(DTYPE_F32, p->q.data, p->q.dims[0], p->q.dims[1] * p->q.dims[2]);
    bool indexed = p->model->config.layer[layer].indexer == INDEXER_FULL;
    enum status s = project(p, w, norm, &q, indexed);

    if (!s)
        s = project_q(p, w, &q, indexed);
    if (!s)
        s = cache_latent(p, w, layer);
    if (!s && indexed)
        s = layer_indexer(p, layer);
    if (!s)
        s = attend(p, w, layer);
    return s;
}
