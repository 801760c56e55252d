/* engine/model.h: the parts that engine/ shares among its own files: weights in the backend's form, the working
 * memory of a forward pass, and the pass itself. Nothing outside engine/ and its tests includes this. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "base/vec.h"
#include "engine/config.h"
#include "engine/kv_cache.h"
#include "engine/safetensors.h"
#include "engine/sampler.h"
#include "kernels/ops.h"

/* One feed-forward: down(silu(gate x) * up x). */
struct ffn_weights {
    struct ops_weight *gate, *up, *down;
};

struct layer_weights {
    struct ops_group *group; /* all of the layer's matrices, where the backend keeps them together */
    struct tensor input_norm, post_norm; /* F32 on the device */

    /* Attention. q_a and q_norm are NULL/empty without q_lora; q is then q_proj. */
    struct ops_weight *q_a, *q, *kv_a, *uk, *uv, *o;
    struct tensor q_norm, kv_norm;

    /* Indexer, full layers only. The head weights carry Hi^-0.5 Di^-0.5. */
    struct ops_weight *index_q, *index_k, *index_w;
    struct tensor index_norm, index_norm_bias;

    struct ffn_weights ffn; /* dense layers; else the shared expert, all NULL without one */
    struct ops_weight *router;
    struct tensor router_bias; /* data NULL without one */
    struct ops_weight **expert_gate, **expert_up, **expert_down; /* experts each */
};

/* What the MTP layer has besides a block of its own, layer[config.layers]; see mtp.c. */
struct mtp_weights {
    struct tensor embed_norm, hidden_norm, final_norm; /* enorm, hnorm, shared_head.norm */
    struct tensor embedding;                           /* the model's own where the layer has none */
    struct ops_weight *project;                        /* eh_proj [D, 2 D] */
    struct ops_weight *head;                           /* NULL: the model's own */
};

struct model {
    struct model_config config;
    enum numerics numerics;
    enum dtype latent; /* of what passes between absorption's products and attention; F32 if one layer's must be */
    struct ops *ops;   /* borrowed */
    struct safetensors *files;
    struct layer_weights *layer;
    struct tensor embedding, rope_table, final_norm;
    struct ops_weight *head;
    struct ops_group *head_group;
    int streamed_layers; /* whose matrices come to the device with each use */
    struct mtp_weights mtp; /* empty unless config.mtp */
    int64_t parameter_count;
    void **owned_host;   /* dequantised copies that weights read from */
    void **owned_device; /* norms, tables */
    size_t owned_host_count, owned_device_count;
    VEC(struct ops_weight *) weights; /* all of them, in the order they were made; borrowed */
};

/* Loads DIR's weights onto `ops`, a device's matrices excepted. `window` rows of rotary table are made. */
enum status model_open(const char *model_dir, const struct model_config *config, struct ops *ops, bool plain,
                       void (*progress)(void *context, const char *phase, int64_t done, int64_t total),
                       void *progress_context, struct model *model, struct error *err) MUST_CHECK;
/* On a device: sends what model_open() has described; `streamed` [layers] stay in pinned memory. Progress is in bytes.
 * On the host model_open() has done everything. */
enum status model_load(struct model *model, const bool *streamed,
                       void (*progress)(void *context, const char *phase, int64_t done, int64_t total),
                       void *progress_context, struct error *err) MUST_CHECK;
void model_close(struct model *model); /* half-built allowed */

/* --- One forward pass ------------------------------------------------------------------------------------------ */

/* What tests and dsa-logits --dump watch and replace. Both may be NULL. Names are those of tools/dsa-reference.py:
 * "hidden" F32 [T, D] and "scores" F32 [T, S], "selected" I32 [T, k], "experts" I32 [T, k], "weights" F32 [T, k].
 * Before the scores "index_q" F32 [T, Hi, Di] and "index_w" F32 [T, Hi], for the size of their errors. */
struct forward_trace {
    void *context;
    /* Shows a host copy of a result; borrowed for the call. */
    void (*put)(void *context, const char *name, int layer, const struct tensor *value);
    /* Fills `value` (host, of the result's shape) with what is to be used in its place; false keeps the result.
     * Asked for "selected", "experts", "weights" and "hidden" (so that each layer's error is its own). */
    bool (*replace)(void *context, const char *name, int layer, struct tensor *value);
};

/* The rows of one pass, host memory. Rows may stand in any order and belong to any sequences: all of a pass's
 * cache writes of a layer come before its reads, and no row's result depends on another's place. */
struct forward_batch {
    int rows;
    const int32_t *token, *position;
    const int32_t *slot;       /* page * 64 + offset being written */
    const int32_t *sequence;   /* row of page_table */
    const int32_t *page_table; /* [sequences, pages], -1 where unused */
    int sequences, pages;
    int logit_rows;            /* logits are made of rows 0 .. logit_rows - 1 */
    int mark_rows;             /* of the mark_rows after them: logit of pair[i][0] less that of pair[i][1], … */
    const int32_t (*mark_pair)[2];
    float *mark;               /* … into mark[i] */
    const bool *row_wanted;    /* [logit_rows] whose logits come to the host; NULL: all */
    int32_t *best;             /* [logit_rows] of every row: ops_best(); NULL: not wanted. Devices alone, without an */
    float *best_log_probability; /* MTP layer */
    const float *temperature;    /* [logit_rows] above 0 where a shortlist is wanted; NULL: nowhere. Where best is: */
    struct shortlist *list;      /* … into list[i], in memory that is the forward's until the next pass */
    const struct forward_trace *trace;
};

/* Working memory for passes of up to `rows` rows, of which `logit_rows` give logits; up to `sweep_rows` go through the
 * layers together, `rows` at a time. */
struct forward_sizes {
    int rows, sweep_rows, logit_rows; /* logit_rows <= rows; sweep_rows 0: as many as rows */
};
struct forward;
enum status forward_create(const struct model *model, struct kv_cache *cache, const struct forward_sizes *sizes,
                           struct forward **forward, struct error *err) MUST_CHECK;
void forward_destroy(struct forward *forward);
int64_t forward_bytes(const struct forward *forward);
/* Before it is made; `latent`: the model's. */
int64_t forward_bytes_of(const struct model_config *config, enum dtype latent, const struct forward_sizes *sizes);
/* Has the backend take the scratch that the largest passes need, so that none runs out of memory. Weights need not be
 * loaded yet. */
enum status forward_rehearse(struct forward *forward, struct error *err) MUST_CHECK;

struct forward_stats {
    int64_t launched, recorded, replayed, dropped; /* decode steps; recordings made and thrown away */
    int kept;
};
void forward_get_stats(const struct forward *forward, struct forward_stats *stats); /* zeros on host backends */
void forward_set_recording(struct forward *forward, bool on);                       /* for comparisons */

/* logits: host F32 [logit_rows, V]; may be NULL with logit_rows 0. */
enum status forward_run(struct forward *forward, const struct forward_batch *batch, float *logits, struct error *err)
    MUST_CHECK;
/* Row `row` of its logits once more: of a pass without marks on a device, before anything else runs there. */
enum status forward_take_row(struct forward *forward, int row, float *logits, struct error *err) MUST_CHECK;

/* The rows of a drafting pass. Row j stands for the pair of a position's hidden state and the token after it: token[j]
 * is that of position[j] + 1, and the result of row j tells of the token at position[j] + 2. Slots and pages are those
 * of position[j]: what the MTP layer caches of the pair lies there, beside what the other layers cached. */
struct mtp_batch {
    struct forward_batch rows;
    const int32_t *hidden_row; /* [rows] the row of the last forward_run() whose hidden state it takes */
    bool chained;              /* … or, further ahead than the model itself has seen, of the last forward_mtp() */
};
/* logits as in forward_run(). */
enum status forward_mtp(struct forward *forward, const struct mtp_batch *batch, float *logits, struct error *err)
    MUST_CHECK;

/* --- Inside a pass (layer_*.c) --------------------------------------------------------------------------------- */

/* Everything the layers of one pass read and write, on the device. Tensors are views of this pass's rows. */
struct pass {
    const struct model *model;
    struct kv_cache *cache;
    const struct forward_trace *trace;
    struct tensor all_tokens, all_positions, all_slots, all_sequences, all_visible; /* of the whole pass */
    struct tensor token, position, slot, sequence, visible, page_table;             /* of the rows at hand */
    struct ops_rows rows;
    bool sparse; /* some row sees more than index_topk positions. Where none does everything is selected, which dense
                    attention gives bit for bit */
    struct tensor hidden;              /* [T, D] the residual stream */
    struct tensor normed;              /* [T, D] the layer's input after its norm */
    struct tensor qr, q, kv;           /* [T, q_lora] [T, H, nope + rope] [T, Dv + Dr] */
    struct tensor q_latent, o_latent;  /* model->latent [T, H, Dv] */
    struct tensor heads;               /* [T, H, value] */
    struct tensor index_q, index_k, index_w; /* [T, Hi, Di] [T, Di] [T, Hi] */
    struct tensor selected;            /* [T, index_topk], of the last full layer */
    struct tensor ffn_gate, ffn_up;    /* [T * widest] */
    struct tensor router_logits, experts, expert_weights;
    struct tensor delta;               /* [T, D] what the block adds to the residual stream */
};

/* The two halves of a layer: `norm` makes normed, which becomes delta. */
enum status layer_mla(struct pass *pass, int layer, const struct ops_rmsnorm_args *norm) MUST_CHECK;
enum status layer_ffn(struct pass *pass, int layer, const struct ops_rmsnorm_args *norm) MUST_CHECK;
enum status layer_indexer(struct pass *pass, int layer) MUST_CHECK; /* normed, qr -> keys cached, selected */

/* Hands a device tensor to the trace as a host copy, and lets it be replaced. */
enum status pass_trace(struct pass *pass, const char *name, int layer, struct tensor *value, bool replaceable)
    MUST_CHECK;

#endif
