/* layer_moe.c: the feed-forward half of a layer: one dense block, or routed experts and a shared one.
 *
 *   dense:   delta = down(silu(gate x) * up x)
 *   experts: delta = shared(x) (or 0) + sum over the chosen e of weight_e · expert_e(x)
 *
 * The router's product is never rounded (weights.c); its choice is ops_router()'s. Source: DeepSeek-V3 (arXiv
 * 2412.19437) §2.1.2. */
#include "engine/model.h"

/* Norm included. */
static enum status feed_forward(struct pass *p, const struct ops_rmsnorm_args *norm, const struct ffn_weights *w,
                                int64_t inter)
{
    struct ops *ops = p->model->ops;
    struct tensor gate = tensor_2d(DTYPE_F32, p->ffn_gate.data, p->ffn_gate.dims[0], inter);
    struct tensor up = tensor_2d(DTYPE_F32, p->ffn_up.data, p->ffn_up.dims[0], inter);
    struct ops_linear_args gate_and_up[] = {{.x = &p->normed, .w = w->gate, .y = &gate},
                                            {.x = &p->normed, .w = w->up, .y = &up}};
    struct ops_linear_args project_down = {.x = &gate, .w = w->down, .y = &p->delta};
    enum status s;

    s = ops_norm_linears(ops, norm, gate_and_up, 2);
    if (!s)
        s = ops_swiglu(ops, &gate, &up, &gate);
    if (!s)
        s = ops_linear(ops, &project_down);
    return s;
}

static enum status route(struct pass *p, const struct layer_weights *w, int layer)
{
    const struct model_config *c = &p->model->config;
    struct ops *ops = p->model->ops;
    struct ops_linear_args project = {.x = &p->normed, .w = w->router, .y = &p->router_logits};
    struct ops_router_args choose = {.logits = &p->router_logits,
                                     .bias = w->router_bias.data ? &w->router_bias : NULL,
                                     .scoring = c->scoring,
                                     .groups = c->groups,
                                     .kept_groups = c->kept_groups,
                                     .normalise = c->normalise,
                                     .scaling = c->routed_scaling,
                                     .experts = &p->experts,
                                     .weights = &p->expert_weights};
    enum status s;

    s = ops_linear(ops, &project);
    if (!s)
        s = ops_router(ops, &choose);
    if (!s)
        s = pass_trace(p, "experts", layer, &p->experts, true);
    if (!s)
        s = pass_trace(p, "weights", layer, &p->expert_weights, true);
    return s;
}

/* The shared expert comes before the router, so that its products follow the norm. */
enum status layer_ffn(struct pass *p, int layer, const struct ops_rmsnorm_args *norm)
{
    const struct layer_weights *w = &p->model->layer[layer];
    const struct model_config *c = &p->model->config;
    struct ops *ops = p->model->ops;
    struct ops_moe_args moe = {.x = &p->normed,
                               .experts = &p->experts,
                               .weights = &p->expert_weights,
                               .gate = (const struct ops_weight *const *)w->expert_gate,
                               .up = (const struct ops_weight *const *)w->expert_up,
                               .down = (const struct ops_weight *const *)w->expert_down,
                               .expert_count = c->experts,
                               .y = &p->delta};
    enum status s;

    if (c->layer[layer].dense)
        return feed_forward(p, norm, &w->ffn, c->dense_inter);
    if (w->ffn.gate) {
        s = feed_forward(p, norm, &w->ffn, (int64_t)c->expert_inter * c->shared_experts);
    } else {
        s = ops_rmsnorm(ops, norm);
        if (!s)
            s = ops_fill(ops, p->delta.data, 0, (size_t)tensor_count(&p->delta) * sizeof(float));
    }
    if (!s)
        s = route(p, w, layer);
    return s ? s : ops_moe(ops, &moe);
}
