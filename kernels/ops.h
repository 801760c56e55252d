/* kernels/ops.h: the numeric operations of a DSA model, one contract for every backend.
 *
 * Dimensions: T query tokens (rows of this call, of any number of sequences) · S keys · H heads · D hidden ·
 * N, K outputs and inputs of a product · Dv latent (512) · Dr RoPE (64) · Hi, Di indexer heads and their
 * width (128) · K also top-k (2048) where no product is meant · E experts.
 *
 * Rules that hold for every op:
 * - Shapes, dtypes and strides are checked once, in ops.c; a backend may rely on them. A wrong call answers
 *   STATUS_BUG and touches nothing. A backend may answer STATUS_UNSUPPORTED for a shape, outputs untouched.
 * - Ops are queued in order on one internal stream; inputs must stay alive until ops_sync(). On `ref` and
 *   `cpu` every op has finished when it returns.
 * - One thread calls into a given `struct ops`. Backends use their own pool inside.
 * - Determinism: on `ref` and `cpu` a row's result depends on that row's inputs alone, never on T, on the
 *   other rows, on chunking or on the number of threads: every reduction has a fixed order.
 * - Numerics (`enum numerics`): NUMERICS_FP8 rounds as DeepSeek-V3.2's corrected reference does
 *   (facts in kernels/README.md, "Rounding"); NUMERICS_PLAIN rounds nothing to FP8, leaves out the Hadamard
 *   transform, computes products in F32 on dequantised weights and keeps caches in F32.
 * - Sums run in F32 in backends and in double in `ref`. Each op's error budget against `ref` is in
 *   kernels/README.md, and is what tests/kernels checks.
 *
 * Sources: DeepSeek-V3.2-Exp technical report (arXiv 2512.02556) and the corrected reference inference code;
 * byte layouts of FlashMLA and DeepGEMM. The mathematics is restated op by op below. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ops;        /* a backend, opened on one device */
struct ops_weight; /* a matrix in the form the backend wants it */

enum numerics { NUMERICS_FP8, NUMERICS_PLAIN };

enum {
    FP8_SCALE_BLOCK = 128, /* rows and columns of a weight, and values of a cache record, that share a scale */
    OPS_MAX_EXPERTS = 4096 /* ten times the largest model known; bounds the scratch of the router */
};

/* --- The backend ----------------------------------------------------------------------------------- */

/* Which of them is taken changes no bit of a result. */
enum ops_tier { OPS_TIER_CHOSEN, OPS_TIER_GATHER /* row by row */, OPS_TIER_TILES /* rows together, where possible */ };

struct ops_options {
    const char *backend;    /* "ref", "cpu", "cuda"; NULL takes "cpu" */
    const char *plugin_dir; /* where dsa-backend-cuda.so is looked for; NULL: beside the program, then libdir */
    int device;             /* CUDA device number */
    int threads;            /* 0: every CPU this process may use */
    unsigned cpu_features;  /* 0: all that CPUID shows; else only these (enum cpu_feature), for tests. On "cuda"
                             * CPU_PORTABLE takes the generic kernels, CPU_AVX2 those of compute capability 8.0 */
    int64_t memory_bytes;   /* a device's memory is used up to this much; 0: all that is free */
    bool pin_threads;       /* cpu: every thread of the pool stays on one processor; for a machine of one's own */
    enum ops_tier tier;     /* cpu: how attention shares the reading of keys, for tests and measurements */
};

enum cpu_feature { CPU_AVX2 = 1, CPU_AVX512 = 2, CPU_AVX512_BF16 = 4, CPU_AVX512_VBMI = 8, CPU_PORTABLE = 1 << 30 };

/* Opens a backend. The caller closes it with ops_close(), after every weight and buffer made from it. */
enum status ops_open(const struct ops_options *options, struct ops **ops, struct error *err) MUST_CHECK;
void ops_close(struct ops *ops);

const char *ops_backend_name(const struct ops *ops); /* "cpu" */
/* One line for logs and for the key of stored caches: "cpu avx512-bf16 2 threads". Numerics-relevant words come
 * first; borrowed. */
const char *ops_description(const struct ops *ops);
int ops_thread_count(const struct ops *ops);
/* The message of the last op of this backend that failed; "" if none. Borrowed until the next call. */
const char *ops_last_error(const struct ops *ops);

/* Memory on the backend's device, 64-byte aligned, not initialised. ops_free(NULL) is allowed. On the host
 * backends this is ordinary memory and upload/download are copies. */
enum status ops_alloc(struct ops *ops, size_t bytes, void **memory) MUST_CHECK;
void ops_free(struct ops *ops, void *memory);
enum status ops_upload(struct ops *ops, void *device, const void *host, size_t bytes) MUST_CHECK;
enum status ops_download(struct ops *ops, void *host, const void *device, size_t bytes) MUST_CHECK;
enum status ops_fill(struct ops *ops, void *device, int byte, size_t bytes) MUST_CHECK;
enum status ops_sync(struct ops *ops) MUST_CHECK; /* waits; returns the first error of a queued op */

/* --- A device with memory of its own ----------------------------------------------------------------- */

/* Tensors are ordinary memory: nothing is uploaded, and everything in this section does nothing or next to it. */
bool ops_is_host(const struct ops *ops);

struct ops_memory {
    int64_t total, available; /* of the device; what is left for ops_alloc() and scratch, under memory_bytes */
    int64_t used;             /* by this backend, scratch included */
    int64_t scratch;          /* working memory inside ops; grows to the largest call seen, or rehearsed */
};
enum status ops_memory(struct ops *ops, struct ops_memory *memory) MUST_CHECK; /* zeros on the host */

/* Host memory that a device reads and writes by itself (pinned); on the host backends ordinary memory. */
enum status ops_host_alloc(struct ops *ops, size_t bytes, void **memory) MUST_CHECK;
void ops_host_free(struct ops *ops, void *memory);
/* As ops_upload() and ops_download(), queued like an op: `host` comes from ops_host_alloc() and is left alone (or has
 * arrived) until ops_sync(). */
enum status ops_upload_queued(struct ops *ops, void *device, const void *host, size_t bytes) MUST_CHECK;
enum status ops_download_queued(struct ops *ops, void *host, const void *device, size_t bytes) MUST_CHECK;

/* Between begin and end ops are checked and take the scratch they need, and compute nothing: after a rehearsal of the
 * largest calls to come, none of them runs out of memory. Outputs are of no meaning. Weights need no data yet. */
void ops_rehearsal_begin(struct ops *ops);
void ops_rehearsal_end(struct ops *ops);

/* Between begin and end ops are recorded instead of run; the recording runs them all again, with the same addresses
 * and shapes, as one launch. Call each of them once before: what a first call prepares cannot be recorded. begin() is
 * always followed by end(); where an op between them failed, the recording is of no use and is destroyed. It is out of
 * date (STATUS_AGAIN, nothing ran) once scratch has moved. Host backends: STATUS_UNSUPPORTED. */
struct ops_recording;
enum status ops_record_begin(struct ops *ops) MUST_CHECK;
enum status ops_record_end(struct ops *ops, struct ops_recording **recording) MUST_CHECK;
enum status ops_replay(struct ops *ops, struct ops_recording *recording) MUST_CHECK;
void ops_recording_destroy(struct ops *ops, struct ops_recording *recording);

/* --- Weights --------------------------------------------------------------------------------------- */

/* A matrix product's right side: `w` is [N, K], or [H, N, K] for a product per head, on the host.
 *   F32, BF16: `scale` is NULL.     F8E4M3: `scale` is F32 [ceil(N/128), ceil(K/128)], multiplied (§1.2 of
 *   the facts: HF's weight_scale_inv); only 2-D.
 * The host memory must stay mapped while the weight lives: backends may read it in place, pack it lazily, or
 * copy it. `numerics` decides how products round:
 *   FP8 weight:  NUMERICS_FP8 quantises each activation row per 128 columns to e4m3 with a ue8m0 scale
 *                s = 2^ceil(log2(max(amax, 1e-4) / 448)), and promotes to F32 every 128 of K:
 *                y[m,n] = sum_g (sum_{k in g} a8[m,k] w8[n,k]) * sa[m,g] * sw[n/128, g].
 *   BF16 weight: NUMERICS_FP8 rounds the activation to BF16 (nearest even), sums in F32.
 *   F32 weight, and all of NUMERICS_PLAIN: products of F32 values, F32 sums.  */
struct ops_weight_args {
    struct tensor w;
    const struct tensor *scale; /* NULL unless w is F8E4M3 */
    enum numerics numerics;
};
enum status ops_weight_create(struct ops *ops, const struct ops_weight_args *args, struct ops_weight **weight)
    MUST_CHECK;
void ops_weight_destroy(struct ops *ops, struct ops_weight *weight); /* NULL allowed */

/* Weights that are used together, as one layer's. Those created between begin and end belong to the group: on a device
 * they have no data until ops_group_load() puts all of them into one block of its memory, or, for a group that is to be
 * streamed, into one block of pinned host memory, from which ops_group_use() brings them into one of two slots that
 * all streamed groups share. On host backends *group is NULL, which every function here takes and ignores.
 *
 *   begin, ops_weight_create …, end      for every layer;  ops_group_bytes: what it takes
 *   ops_group_slots                      the largest streamed group's bytes, twice; before the first streamed load
 *   ops_group_load                       host memory behind the weights is not read again afterwards
 *   ops_group_use, ops …, ops_group_done in the order of loading: each done() begins to bring in the group after next
 *
 * Groups are destroyed before ops_close(), with or after their weights. */
struct ops_group;
enum status ops_group_begin(struct ops *ops, struct ops_group **group) MUST_CHECK;
void ops_group_end(struct ops *ops);
int64_t ops_group_bytes(struct ops *ops, const struct ops_group *group);
enum status ops_group_slots(struct ops *ops, int64_t bytes) MUST_CHECK;
enum status ops_group_load(struct ops *ops, struct ops_group *group, bool streamed) MUST_CHECK;
enum status ops_group_use(struct ops *ops, struct ops_group *group) MUST_CHECK;
enum status ops_group_done(struct ops *ops, struct ops_group *group) MUST_CHECK;
void ops_group_destroy(struct ops *ops, struct ops_group *group);

/* A backend may multiply with a form of its own, which it makes of a weight at its first use. That form can be made
 * into memory of the caller's, kept in a file, and adopted again in another process: it depends on the weight's bytes,
 * shape, dtype and numerics, and on nothing else but this name of it ("cpu-panels-1", whatever the instruction set).
 * NULL: the backend has none; the functions below are then not called. */
const char *ops_packed_form(const struct ops *ops);
size_t ops_weight_packed_bytes(const struct ops *ops, const struct ops_weight *weight);
enum status ops_weight_pack(struct ops *ops, const struct ops_weight *weight, void *packed) MUST_CHECK;
/* Multiplies with `packed` from now on: 64-byte aligned, borrowed until the weight is destroyed, never written. */
void ops_weight_adopt(struct ops *ops, struct ops_weight *weight, const void *packed);

/* y = x wᵀ (+ y if accumulate). 2-D weight: x F32 [T, K], y F32 [T, N]. Per head: x F32 [T, H, K], y F32
 * [T, H, N]; row strides are free (columns of a wider tensor), the last stride is 1.
 * Per head, with BF16 weights of NUMERICS_FP8, a backend whose ops_latent_dtype() is BF16 for some shape takes x as
 * BF16 as well (what rounding makes of F32), and y as BF16 where it is not added to: the F32 sum, rounded (nearest
 * even). Rows of a BF16 x start on 16 bytes. */
struct ops_linear_args {
    const struct tensor *x;
    const struct ops_weight *w;
    struct tensor *y;
    bool accumulate;
};
enum status ops_linear(struct ops *ops, const struct ops_linear_args *args) MUST_CHECK;
/* Several of them with 2-D weights and the same x, which no y overlaps: bit for bit as one after another, but what has
 * to be done with x may be done once, and the products side by side. */
enum { OPS_LINEARS_MOST = 4 };
enum status ops_linears(struct ops *ops, const struct ops_linear_args *args, int count) MUST_CHECK;
/* Two in a row: `first` is per head with y in F32, not added to, and `second`'s x is that y, its heads side by side
 * ([T, H N] over the same memory). `second` gets the bits of one call after the other. What first's y holds afterwards
 * is not said: a backend may hand it on in another form and never write it. */
enum status ops_linear_pair(struct ops *ops, const struct ops_linear_args *first, const struct ops_linear_args *second)
    MUST_CHECK;

/* --- Rows of the residual stream -------------------------------------------------------------------- */

/* y[t] = table[token[t]], as F32. table F32 or BF16 [V, D] on the device; tokens I32 [T], 0 <= token < V. */
struct ops_embed_args {
    const struct tensor *table, *tokens;
    struct tensor *y;
};
enum status ops_embed(struct ops *ops, const struct ops_embed_args *args) MUST_CHECK;

/* x = x + residual where residual is not NULL (written back to x), then
 * y[t,d] = x[t,d] / sqrt(mean_d x² + eps) * weight[d].  All F32; y may be x where residual is NULL. */
struct ops_rmsnorm_args {
    struct tensor *x;              /* [T, D], strided rows allowed */
    const struct tensor *residual; /* [T, D] or NULL */
    const struct tensor *weight;   /* [D] */
    float eps;
    struct tensor *y;              /* [T, D] */
};
enum status ops_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args) MUST_CHECK;
/* ops_rmsnorm(), then ops_linears() of its y, bit for bit; y is written as well. What products do with their x first
 * may be done while the norm has it at hand. Every product's x is norm->y, the same struct. */
enum status ops_norm_linears(struct ops *ops, const struct ops_rmsnorm_args *norm,
                             const struct ops_linear_args *products, int count) MUST_CHECK;

/* y[t,d] = (x[t,d] - mean) / sqrt(var + eps) * weight[d] + bias[d], biased variance; all F32. y may be x. */
struct ops_layernorm_args {
    const struct tensor *x, *weight, *bias;
    float eps;
    struct tensor *y;
};
enum status ops_layernorm(struct ops *ops, const struct ops_layernorm_args *args) MUST_CHECK;

/* y += x, F32 [T, D]. */
enum status ops_add(struct ops *ops, struct tensor *y, const struct tensor *x) MUST_CHECK;

/* y[t,j] = silu(gate[t,j]) * up[t,j], silu(a) = a / (1 + exp(-a)); F32 [T, J]; y may be gate or up. */
enum status ops_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y)
    MUST_CHECK;

/* --- Rotary embedding, Hadamard --------------------------------------------------------------------- */

enum rope_style {
    ROPE_INTERLEAVED, /* pairs (2i, 2i+1): MLA's q_pe and k_pe, GLM-5's indexer */
    ROPE_HALF_SPLIT   /* pairs (i, i + Dr/2): DeepSeek-V3.2's indexer           */
};

/* In place on x F32 [T, H, Dr] (a view into wider rows): (a, b) -> (a cos - b sin, a sin + b cos), with
 * cos/sin of row position[t] of `table`, F32 [P, Dr] = Dr/2 cosines then Dr/2 sines. Interleaved rotation
 * writes back to the same interleaved places. */
struct ops_rope_args {
    struct tensor *x;
    const struct tensor *table;
    const struct tensor *position; /* I32 [T], 0 <= position < P */
    enum rope_style style;
};
enum status ops_rope(struct ops *ops, const struct ops_rope_args *args) MUST_CHECK;

/* In place on x F32 [R, Di], Di a power of two: x <- H x * Di^-0.5 in Sylvester order, after rounding x to
 * BF16; the result is rounded to BF16 as well, as the reference stores it. */
enum status ops_hadamard(struct ops *ops, struct tensor *x) MUST_CHECK;

/* --- Caches ----------------------------------------------------------------------------------------- */

enum { CACHE_PAGE_TOKENS = 64 };

/* Two pools per layer, both in pages of 64 tokens; a sequence's page table names pages of both at once.
 *
 * NUMERICS_FP8, latent record of Dv + 4*ceil(Dv/128) + 2*Dr bytes (656 for 512/64; FlashMLA's layout):
 *   Dv e4m3 values · one F32 scale per 128 of them (ue8m0 rule above) · Dr BF16 rotary values, not quantised.
 *   Latent pool: U8 [pages, 64, record_bytes].
 * NUMERICS_FP8, indexer page of 64*(Di + 4) bytes (DeepGEMM's layout): 64 rows of Di e4m3 values, then 64 F32
 *   scales (one per key: max(amax, 1e-4)/448 rounded up to 2^n). Index pool: U8 [pages, 64 * (Di + 4)].
 * NUMERICS_PLAIN: records of 4*(Dv + Dr) bytes and pages of 64*4*Di bytes, all F32. */
struct cache_shape {
    int Dv, Dr, Di; /* Di is 0 for a layer without an indexer */
    enum numerics numerics;
};
size_t cache_record_bytes(const struct cache_shape *shape);     /* one token of the latent pool */
size_t cache_index_page_bytes(const struct cache_shape *shape); /* one page of the index pool */

/* Where the rows of this call live. `slot[t]` = page * 64 + offset of the token being written; page_table row
 * `sequence[t]` lists the pages of row t's sequence in order; row t may see positions < visible[t]. */
struct ops_rows {
    const struct tensor *slot;       /* I32 [T]                                   */
    const struct tensor *sequence;   /* I32 [T], row of page_table                */
    const struct tensor *visible;    /* I32 [T], causal: position + 1             */
    const struct tensor *page_table; /* I32 [B, max_pages], unused entries -1     */
    int32_t visible_max;             /* the largest of visible, known on the host */
};

/* A rotation on the way into a cache, of the first values of each row: ops_rope() with one head. */
struct ops_rotation {
    const struct tensor *table;    /* F32 [P, even]; NULL: none */
    const struct tensor *position; /* I32 [T], 0 <= position < P */
    enum rope_style style;
};

/* Writes latent c F32 [T, Dv] (after kv_a_layernorm) and k_pe F32 [T, Dr], after `rope` or rotated before, at slot[t].
 * Where a write changes its rows first, the bits written are those of the ops one after another, and the rows hold
 * nothing of use afterwards. */
struct ops_latent_write_args {
    const struct tensor *c, *k_pe;
    const struct ops_rows *rows;
    struct cache_shape shape;
    struct tensor *pool;
    struct ops_rotation rope; /* of all Dr values */
};
enum status ops_latent_write(struct ops *ops, const struct ops_latent_write_args *args) MUST_CHECK;

/* Writes indexer keys k F32 [T, Di] at slot[t], after LayerNorm, RoPE and Hadamard as far as they are asked for here,
 * in this order; what is not has been done before. */
struct ops_index_write_args {
    const struct tensor *k;
    const struct ops_rows *rows;
    struct cache_shape shape;
    struct tensor *pool;
    const struct tensor *norm, *norm_bias; /* F32 [Di]; both NULL: none */
    float norm_eps;
    struct ops_rotation rope;
    bool hadamard; /* Di is a power of two up to 4096 */
};
enum status ops_index_write(struct ops *ops, const struct ops_index_write_args *args) MUST_CHECK;

/* --- Lightning indexer ------------------------------------------------------------------------------ */

/* score[t,s] = ks[s] * sum_h w[t,h] * sq[t,h] * max(0, q8[t,h,:] . k8[s,:])     for s < visible[t]
 *            = -inf                                                            otherwise
 * q F32 [T, Hi, Di] after RoPE (and Hadamard); in NUMERICS_FP8 it is quantised here, one ue8m0 scale sq per
 * (t, h); in PLAIN sq = ks = 1 and q, k are F32. w F32 [T, Hi] already carries Hi^-0.5 * Di^-0.5.
 * The sum over heads runs h = 0, 1, … in F32 with one accumulator, on every backend (double in ref). */
struct ops_indexer_args {
    const struct tensor *q, *w;
    const struct ops_rows *rows;
    struct cache_shape shape;
    const struct tensor *pool;
};
/* score F32 [T, visible_max], written fully. For tests and small contexts. */
enum status ops_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score)
    MUST_CHECK;

/* The `k` positions with the largest score among s < visible[t]; ties go to the lowest position; NaN counts
 * as -inf. selected I32 [T, k]: positions in ascending order, then -1 where visible[t] < k. */
enum status ops_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                     struct tensor *selected) MUST_CHECK;

/* ops_indexer_scores then ops_topk, never holding more than a fixed budget of scores at once. */
enum status ops_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected)
    MUST_CHECK;

/* --- Attention -------------------------------------------------------------------------------------- */

/* Absorbed multi-query attention over latent records:
 *   l[s]  = scale * (q_latent[t,h,:] . c[s,:] + q_pe[t,h,:] . k_pe[s,:])
 *   p     = softmax over the selected s;   out[t,h,:] = sum_s p[s] c[s,:];   lse[t,h] = ln sum_s exp l[s]
 * selected I32 [T, k] as ops_topk writes it (entries -1 or >= visible[t] are skipped; a row with none gives
 * out = 0, lse = +inf, FlashMLA's convention). selected NULL: every position < visible[t].
 * Selected positions are ascending; others are allowed, and cost time. On ref and cpu the order of reduction is
 * ascending position, cut by position alone (kernels/README.md, "Tiers of attention"): dense and "everything
 * selected" agree bit for bit, however many rows come together. */
struct ops_attention_args {
    const struct tensor *q_latent; /* F32 [T, H, Dv], or BF16 where ops_latent_dtype() says so: rows on 16 bytes */
    const struct tensor *q_pe;     /* F32 [T, H, Dr] */
    const struct tensor *selected; /* I32 [T, k] or NULL */
    const struct ops_rows *rows;
    struct cache_shape shape;
    const struct tensor *pool;
    float scale;
    struct tensor *out; /* [T, H, Dv], of q_latent's type and on 16 bytes as well */
    struct tensor *lse; /* F32 [T, H] or NULL */
};
enum status ops_attention(struct ops *ops, const struct ops_attention_args *args) MUST_CHECK;
/* The type for what passes from one product to attention and from there to the next: BF16 where a backend rounds
 * q_latent to BF16 for every call with caches of this shape, else F32. The products' weights must be BF16 too; their
 * rounding of x, and attention's of q_latent, are then done by whoever writes instead of who reads, and no bit of what
 * comes out behind the second product is another. */
enum dtype ops_latent_dtype(struct ops *ops, const struct cache_shape *shape);

/* --- Mixture of experts ----------------------------------------------------------------------------- */

enum router_scoring { ROUTER_SIGMOID, ROUTER_SOFTMAX };

/* p = sigmoid(logits) or softmax(logits); p' = p + bias (bias NULL: p). With groups > 1 the E experts form
 * `groups` equal groups, a group's score is the sum of its two best p' (its best p' for ROUTER_SOFTMAX), and
 * only the best `kept_groups` stay. The top k of p' are chosen, ties to the lowest expert; weight = p of the
 * chosen, divided by (their sum + 1e-20) if `normalise`, times `scaling`. Experts come in descending p'. */
struct ops_router_args {
    const struct tensor *logits; /* F32 [T, E] */
    const struct tensor *bias;   /* F32 [E] or NULL */
    enum router_scoring scoring;
    int groups, kept_groups;
    bool normalise;
    float scaling;
    struct tensor *experts; /* I32 [T, k] */
    struct tensor *weights; /* F32 [T, k] */
};
enum status ops_router(struct ops *ops, const struct ops_router_args *args) MUST_CHECK;

/* y[t] += sum_j weights[t,j] * down_e( silu(gate_e x[t]) * up_e x[t] ), e = experts[t,j], summed in ascending
 * expert order in F32, so that the order of j does not matter. Each product rounds as ops_linear does. */
struct ops_moe_args {
    const struct tensor *x;       /* F32 [T, D] */
    const struct tensor *experts; /* I32 [T, k] */
    const struct tensor *weights; /* F32 [T, k] */
    const struct ops_weight *const *gate, *const *up, *const *down; /* E each */
    int expert_count;
    struct tensor *y; /* F32 [T, D] */
};
enum status ops_moe(struct ops *ops, const struct ops_moe_args *args) MUST_CHECK;

/* --- Choosing --------------------------------------------------------------------------------------- */

/* Of each row of logits: the largest one's column, ties to the lowest, and ln softmax there, so that a greedy choice
 * needs no row of logits on the host. best -1 (log_probability 0) where the row holds a NaN or nothing above -inf; an
 * infinite logit takes all of the probability (0). */
struct ops_best_args {
    const struct tensor *logits;     /* F32 [T, V] */
    struct tensor *best;             /* I32 [T]    */
    struct tensor *log_probability;  /* F32 [T]    */
};
enum status ops_best(struct ops *ops, const struct ops_best_args *args) MUST_CHECK;

/* What a draw needs beside the rank of the most probable columns, which are ops_topk()'s: their logits (-inf where
 * selected is -1), and the sum over all columns of exp((logit - largest of them) / temperature), to OPS_SHORTLIST_ERROR
 * of itself. Rows with a NaN or an infinite largest logit: total is any number. */
struct ops_shortlist_args {
    const struct tensor *logits;      /* F32 [T, V]          */
    const struct tensor *selected;    /* I32 [T, k], k >= 1  */
    const struct tensor *temperature; /* F32 [T], above 0    */
    struct tensor *values;            /* F32 [T, k]          */
    struct tensor *total;             /* F32 [T]             */
};
#define OPS_SHORTLIST_ERROR 1e-6
enum status ops_shortlist(struct ops *ops, const struct ops_shortlist_args *args) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
