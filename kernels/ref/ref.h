/* ref/ref.h: the reference backend: every op as its formula is written, one value after another, sums in
 * double. It is the truth that tests compare with and is never used in service, so it is never optimised. */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H

#include "kernels/ops_impl.h"

struct ref_weight {
    struct ops_weight base; /* first: ops.c sees this part */
    struct tensor w;
    struct tensor scale; /* F8E4M3 only */
};

/* y[0..N) = row x[0..K) times matrix `head` (0 for a 2-D weight), rounded once, to F32. */
enum status ref_product(struct ops *ops, const struct ops_weight *weight, int64_t head, const float *x, float *y);

enum status ref_weight_create(struct ops *ops, const struct ops_weight_args *args, struct ops_weight **weight);
void ref_weight_destroy(struct ops *ops, struct ops_weight *weight);
enum status ref_linear(struct ops *ops, const struct ops_linear_args *args);
enum status ref_embed(struct ops *ops, const struct ops_embed_args *args);
enum status ref_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args);
enum status ref_layernorm(struct ops *ops, const struct ops_layernorm_args *args);
enum status ref_add(struct ops *ops, struct tensor *y, const struct tensor *x);
enum status ref_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y);
enum status ref_rope(struct ops *ops, const struct ops_rope_args *args);
enum status ref_hadamard(struct ops *ops, struct tensor *x);
enum status ref_latent_write(struct ops *ops, const struct ops_latent_write_args *args);
enum status ref_index_write(struct ops *ops, const struct ops_index_write_args *args);
enum status ref_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score);
enum status ref_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                     struct tensor *selected);
enum status ref_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected);
enum status ref_attention(struct ops *ops, const struct ops_attention_args *args);
enum status ref_router(struct ops *ops, const struct ops_router_args *args);
enum status ref_moe(struct ops *ops, const struct ops_moe_args *args);

#endif
