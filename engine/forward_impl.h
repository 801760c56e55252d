/* engine/forward_impl.h: what forward.c and mtp.c share: the working memory of a pass, and its pieces. */
#ifndef ENGINE_FORWARD_IMPL_H
#define ENGINE_FORWARD_IMPL_H

#include "engine/model.h"

enum { MAX_BUFFERS = 32, MAX_MARK_ROWS = 64 };

struct forward {
    const struct model *model;
    struct kv_cache *cache;
    enum dtype latent;
    int max_rows, max_sweep_rows, max_logit_rows;
    int64_t bytes;
    void *buffer[MAX_BUFFERS];
    int buffer_count;
    float *hidden, *normed, *delta, *qr, *q, *kv, *heads;
    void *q_latent, *o_latent; /* of type `latent` */
    float *index_q, *index_k, *index_w, *ffn_gate, *ffn_up, *router_logits, *expert_weights, *logits;
    int32_t *selected, *experts;
    int32_t *best, *host_best; /* [2, logit rows] columns, then log probabilities; NULL on the host and with MTP */
    /* Of R rows of which some are drawn from: temperature, length (V) and total [R], selected and their logits [R, k].
     * The first two go to the device, the others come back. */
    int32_t *list, *host_list;
    int list_length; /* k */

    /* The rows of the pass in one block, sent at once: token, position, slot, sequence, visible, page table. */
    int32_t *rows, *host_rows;
    size_t rows_cap;
    int32_t *order;  /* of a sweep: order[i] is the batch's row that runs as row i; */
    int32_t *place;  /* place[row] the other way round */
    struct recordings *recordings; /* NULL on the host */

    /* With an MTP layer alone; [rows, D] unless said otherwise. */
    float *last_hidden;  /* of every row of the last forward_run(), after the final norm */
    float *draft_hidden; /* of every row of the last forward_mtp(), after shared_head.norm */
    float *pair;         /* [rows, 2 D] embedding and hidden state side by side */
    int32_t *hidden_row; /* [rows] */
};

/* Sends the rows and makes the pass's views of the working memory; not for a sweep. */
enum status forward_begin(struct forward *forward, const struct forward_batch *batch, struct pass *pass) MUST_CHECK;
/* One block on pass->hidden, to which `residual` (NULL: nothing) is added first. The block's own sum is left in
 * pass->delta, for the next norm to add. */
enum status forward_layer(struct pass *pass, int layer, const struct tensor *residual) MUST_CHECK;
/* normed = norm(hidden + delta) of the first rows, as many as `normed` has. */
enum status forward_norm(struct pass *pass, const struct tensor *weight, struct tensor *normed) MUST_CHECK;
/* Logits of the first logit_rows normed rows, left on the device, and what brings them to the host. */
enum status forward_head(struct forward *forward, const struct ops_weight *head, const struct tensor *normed,
                         int logit_rows) MUST_CHECK;
enum status forward_take_logits(struct forward *forward, int logit_rows, float *logits) MUST_CHECK;

#endif
