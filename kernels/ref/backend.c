/* backend.c: opening, memory and the table of the reference backend. */
#include <stdlib.h>
#include <string.h>

#include "kernels/host.h"
#include "kernels/ref/ref.h"

static enum status ref_open(const struct ops_options *options, struct ops *ops, struct error *err)
{
    (void)snprintf(ops->description, sizeof ops->description, "ref double 1 thread");
    return STATUS_OK;
}

static void ref_close(struct ops *ops)
{
}

const struct ops_backend ops_backend_ref = {
    .abi = OPS_BACKEND_ABI,
    .bytes = sizeof(struct ops_backend),
    .name = "ref",
    .host = true,
    .open = ref_open,
    .close = ref_close,
    .alloc = host_alloc,
    .free = host_free,
    .upload = host_upload,
    .download = host_download,
    .fill = host_fill,
    .sync = host_sync,
    .weight_create = ref_weight_create,
    .weight_destroy = ref_weight_destroy,
    .linear = ref_linear,
    .embed = ref_embed,
    .rmsnorm = ref_rmsnorm,
    .layernorm = ref_layernorm,
    .add = ref_add,
    .swiglu = ref_swiglu,
    .rope = ref_rope,
    .hadamard = ref_hadamard,
    .latent_write = ref_latent_write,
    .index_write = ref_index_write,
    .indexer_scores = ref_indexer_scores,
    .topk = ref_topk,
    .indexer_topk = ref_indexer_topk,
    .attention = ref_attention,
    .router = ref_router,
    .moe = ref_moe,
    .best = host_best,
    .shortlist = host_shortlist,
};
