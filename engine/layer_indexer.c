/* layer_indexer.c: the lightning indexer: which positions a query attends to.
 *
 *   q = wq_b qr [T, Hi, Di]     k = LayerNorm(wk x) [T, Di]     w = weights_proj x · Hi^-0.5 Di^-0.5 [T, Hi]
 *   rope on the first Dr of q and k, Hadamard (not in plain mode), k cached as e4m3 with one scale per key
 *   I[t,s] = sum_h w[t,h] max(0, q[t,h]·k[s]);  selected[t] = the index_topk best s <= t
 *
 * layer_mla.c multiplies q and k, beside its own products of the same rows, before it calls this.
 * Keys are cached at every position, also where nothing is to be selected yet: a later query needs them.
 * In each head the rotary part comes first (in MLA it comes last), and its style is the model's own: half-split in
 * DeepSeek-V3.2, interleaved in GLM-5. Source: DeepSeek-V3.2-Exp report, eq. (1). */
#include <stdlib.h>

#include "engine/model.h"

static const float index_norm_eps = 1e-6f; /* fixed in the reference, whatever rms_norm_eps says */

static enum status rotate(struct pass *p, struct tensor *heads)
{
    const struct model_config *c = &p->model->config;
    struct tensor first = tensor_columns(heads, 0, c->rope);
    struct tensor flat = tensor_2d(DTYPE_F32, heads->data, heads->dims[0] * heads->dims[1], heads->dims[2]);
    struct ops_rope_args rope = {&first, &p->model->rope_table, &p->position, c->index_rope};
    enum status s = ops_rope(p->model->ops, &rope);

    if (!s && p->model->numerics == NUMERICS_FP8)
        s = ops_hadamard(p->model->ops, &flat);
    return s;
}

static enum status cache_key(struct pass *p, const struct layer_weights *w, int layer)
{
    struct ops_index_write_args write = {.k = &p->index_k,
                                         .rows = &p->rows,
                                         .shape = kv_cache_shape(p->cache, layer),
                                         .pool = kv_cache_index(p->cache, layer),
                                         .norm = &w->index_norm,
                                         .norm_bias = &w->index_norm_bias,
                                         .norm_eps = index_norm_eps,
                                         .rope = {&p->model->rope_table, &p->position, p->model->config.index_rope},
                                         .hadamard = p->model->numerics == NUMERICS_FP8};

    return ops_index_write(p->model->ops, &write);
}

static enum status trace_scores(struct pass *p, int layer, const struct ops_indexer_args *args)
{
    int64_t T = p->index_q.dims[0], S = p->rows.visible_max;
    struct ops *ops = p->model->ops;
    struct tensor score;
    void *memory;
    enum status s;

    if (!p->trace)
        return STATUS_OK;
    s = pass_trace(p, "index_q", layer, &p->index_q, false);
    if (!s)
        s = pass_trace(p, "index_w", layer, &p->index_w, false);
    if (!s)
        s = ops_alloc(ops, (size_t)(T * S) * sizeof(float), &memory);
    if (s)
        return s;
    score = tensor_2d(DTYPE_F32, memory, T, S);
    s = ops_indexer_scores(ops, args, &score);
    if (!s)
        s = pass_trace(p, "scores", layer, &score, false);
    ops_free(ops, memory);
    return s;
}

enum status layer_indexer(struct pass *p, int layer)
{
    const struct layer_weights *w = &p->model->layer[layer];
    struct ops *ops = p->model->ops;
    struct ops_linear_args project_w = {.x = &p->normed, .w = w->index_w, .y = &p->index_w};
    struct ops_indexer_args select = {&p->index_q, &p->index_w, &p->rows, kv_cache_shape(p->cache, layer),
                                      kv_cache_index(p->cache, layer)};
    enum status s = cache_key(p, w, layer);

    if (s || (!p->sparse && !p->trace))
        return s;
    s = rotate(p, &p->index_q);
    if (!s)
        s = ops_linear(ops, &project_w);
    if (!s)
        s = trace_scores(p, layer, &select);
    if (!s)
        s = ops_indexer_topk(ops, &select, &p->selected);
    if (!s)
        s = pass_trace(p, "selected", layer, &p->selected, true);
    return s;
}
