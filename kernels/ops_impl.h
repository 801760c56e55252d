/* kernels/ops_impl.h: what a backend fills. Only ops.c, the backends and tests include it.
 *
 * ops.c has checked dtypes, dimensions and strides (and, for host backends, every index) before a function of
 * this table runs; it never calls with zero rows. A function that fails reports through ops_fail() and leaves
 * its outputs untouched.
 *
 * A plug-in is a shared object that exports one symbol,
 *     const struct ops_backend dsa_ops_backend;
 * with .abi = OPS_BACKEND_ABI and .bytes = sizeof(struct ops_backend). It is opened by ops_open("NAME") from
 * dsa-backend-NAME.so. It needs nothing from the program: everything here is inline or reached through the
 * table. The header may be included from C++. */
#ifndef KERNELS_OPS_IMPL_H
#define KERNELS_OPS_IMPL_H

#include <stdarg.h>
#include <stdio.h>

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { OPS_BACKEND_ABI = 8 };
#define OPS_BACKEND_SYMBOL "dsa_ops_backend"

struct ops {
    const struct ops_backend *backend;
    void *state;      /* the backend's own; set by open(), released by close() */
    int thread_count; /* set by open(), at least 1 */
    char description[160];
    char error[ERROR_MESSAGE_BYTES];
};

/* The first member of every backend's weight. Filled by ops.c after create() returned. */
struct ops_weight {
    enum dtype dtype;
    enum numerics numerics;
    int64_t H, N, K; /* H is 0 for a 2-D weight */
};

struct ops_backend {
    uint32_t abi;
    uint32_t bytes;
    const char *name;
    bool host; /* tensors are ordinary memory: ops.c may read indices to check them */

    enum status (*open)(const struct ops_options *options, struct ops *ops, struct error *err);
    void (*close)(struct ops *ops);

    enum status (*alloc)(struct ops *ops, size_t bytes, void **memory);
    void (*free)(struct ops *ops, void *memory);
    enum status (*upload)(struct ops *ops, void *device, const void *host, size_t bytes);
    enum status (*download)(struct ops *ops, void *host, const void *device, size_t bytes);
    enum status (*fill)(struct ops *ops, void *device, int byte, size_t bytes);
    enum status (*sync)(struct ops *ops);

    enum status (*weight_create)(struct ops *ops, const struct ops_weight_args *args, struct ops_weight **weight);
    void (*weight_destroy)(struct ops *ops, struct ops_weight *weight);

    enum status (*linear)(struct ops *ops, const struct ops_linear_args *args);
    enum status (*linears)(struct ops *ops, const struct ops_linear_args *args, int count); /* NULL: one by one */
    /* These two NULL: the ops that they join, one after the other. */
    enum status (*linear_pair)(struct ops *ops, const struct ops_linear_args *first,
                               const struct ops_linear_args *second);
    enum status (*norm_linears)(struct ops *ops, const struct ops_rmsnorm_args *norm,
                                const struct ops_linear_args *products, int count);
    enum status (*embed)(struct ops *ops, const struct ops_embed_args *args);
    enum status (*rmsnorm)(struct ops *ops, const struct ops_rmsnorm_args *args);
    enum status (*layernorm)(struct ops *ops, const struct ops_layernorm_args *args);
    enum status (*add)(struct ops *ops, struct tensor *y, const struct tensor *x);
    enum status (*swiglu)(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y);
    enum status (*rope)(struct ops *ops, const struct ops_rope_args *args);
    enum status (*hadamard)(struct ops *ops, struct tensor *x);
    enum status (*latent_write)(struct ops *ops, const struct ops_latent_write_args *args);
    enum status (*index_write)(struct ops *ops, const struct ops_index_write_args *args);
    enum status (*indexer_scores)(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score);
    enum status (*topk)(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                        struct tensor *selected);
    enum status (*indexer_topk)(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected);
    enum status (*attention)(struct ops *ops, const struct ops_attention_args *args);
    enum dtype (*latent_dtype)(struct ops *ops, const struct cache_shape *shape); /* NULL: F32 whatever the shape */
    enum status (*router)(struct ops *ops, const struct ops_router_args *args);
    enum status (*moe)(struct ops *ops, const struct ops_moe_args *args);
    enum status (*best)(struct ops *ops, const struct ops_best_args *args);
    enum status (*shortlist)(struct ops *ops, const struct ops_shortlist_args *args);

    /* Devices with memory of their own; all NULL on the host, where ops.c answers. */
    enum status (*memory)(struct ops *ops, struct ops_memory *memory);
    enum status (*host_alloc)(struct ops *ops, size_t bytes, void **memory);
    void (*host_free)(struct ops *ops, void *memory);
    enum status (*upload_queued)(struct ops *ops, void *device, const void *host, size_t bytes);
    enum status (*download_queued)(struct ops *ops, void *host, const void *device, size_t bytes);
    void (*rehearse)(struct ops *ops, bool on);
    enum status (*record_begin)(struct ops *ops);
    enum status (*record_end)(struct ops *ops, struct ops_recording **recording);
    enum status (*replay)(struct ops *ops, struct ops_recording *recording);
    void (*recording_destroy)(struct ops *ops, struct ops_recording *recording);
    enum status (*group_begin)(struct ops *ops, struct ops_group **group);
    void (*group_end)(struct ops *ops);
    int64_t (*group_bytes)(const struct ops_group *group);
    enum status (*group_slots)(struct ops *ops, int64_t bytes);
    enum status (*group_load)(struct ops *ops, struct ops_group *group, bool streamed);
    enum status (*group_use)(struct ops *ops, struct ops_group *group);
    enum status (*group_done)(struct ops *ops, struct ops_group *group);
    void (*group_destroy)(struct ops *ops, struct ops_group *group);

    /* A packed form of weights; NULL where a backend has none. */
    const char *packed_form;
    size_t (*weight_packed_bytes)(const struct ops_weight *weight);
    enum status (*weight_pack)(struct ops *ops, const struct ops_weight *weight, void *packed);
    void (*weight_adopt)(struct ops *ops, struct ops_weight *weight, const void *packed);
};

/* Remembers the message for ops_last_error() and returns `status`. */
static inline enum status ops_fail(struct ops *ops, enum status status, const char *format, ...) PRINTF_LIKE(3, 4);
static inline enum status ops_fail(struct ops *ops, enum status status, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(ops->error, sizeof ops->error, format, arguments);
    va_end(arguments);
    return status;
}

/* The backends that are part of the program. */
extern const struct ops_backend ops_backend_ref;
extern const struct ops_backend ops_backend_cpu;

#ifdef __cplusplus
}
#endif
#endif
