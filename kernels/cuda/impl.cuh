/* impl.cuh: the functions that backend.cu puts into the operations table, one line an op. */
#ifndef KERNELS_CUDA_IMPL_CUH
#define KERNELS_CUDA_IMPL_CUH

#include "kernels/cuda/device.cuh"

enum status cuda_weight_create(struct ops *ops, const struct ops_weight_args *args, struct ops_weight **weight);
void cuda_weight_destroy(struct ops *ops, struct ops_weight *weight);
enum status cuda_linear(struct ops *ops, const struct ops_linear_args *args);
enum status cuda_linears(struct ops *ops, const struct ops_linear_args *args, int count);
enum status cuda_linear_pair(struct ops *ops, const struct ops_linear_args *first,
                             const struct ops_linear_args *second);
enum status cuda_norm_linears(struct ops *ops, const struct ops_rmsnorm_args *norm,
                              const struct ops_linear_args *products, int count);
enum status cuda_embed(struct ops *ops, const struct ops_embed_args *args);
enum status cuda_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args);
enum status cuda_layernorm(struct ops *ops, const struct ops_layernorm_args *args);
enum status cuda_add(struct ops *ops, struct tensor *y, const struct tensor *x);
enum status cuda_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y);
enum status cuda_rope(struct ops *ops, const struct ops_rope_args *args);
enum status cuda_hadamard(struct ops *ops, struct tensor *x);
enum status cuda_latent_write(struct ops *ops, const struct ops_latent_write_args *args);
enum status cuda_index_write(struct ops *ops, const struct ops_index_write_args *args);
enum status cuda_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score);
enum status cuda_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                      struct tensor *selected);
enum status cuda_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected);
enum status cuda_attention(struct ops *ops, const struct ops_attention_args *args);
enum dtype cuda_latent_dtype(struct ops *ops, const struct cache_shape *shape);
enum status cuda_router(struct ops *ops, const struct ops_router_args *args);
enum status cuda_moe(struct ops *ops, const struct ops_moe_args *args);
enum status cuda_best(struct ops *ops, const struct ops_best_args *args);
enum status cuda_shortlist(struct ops *ops, const struct ops_shortlist_args *args);

/* weights.cu */
enum status cuda_group_begin(struct ops *ops, struct ops_group **group);
void cuda_group_end(struct ops *ops);
int64_t cuda_group_bytes(const struct ops_group *group);
enum status cuda_group_slots(struct ops *ops, int64_t bytes);
enum status cuda_group_load(struct ops *ops, struct ops_group *group, bool streamed);
enum status cuda_group_use(struct ops *ops, struct ops_group *group);
enum status cuda_group_done(struct ops *ops, struct ops_group *group);
void cuda_group_destroy(struct ops *ops, struct ops_group *group);
void cuda_weights_finish(struct ops *ops); /* before the backend closes */

/* record.cu */
enum status cuda_record_begin(struct ops *ops);
enum status cuda_record_end(struct ops *ops, struct ops_recording **recording);
enum status cuda_replay(struct ops *ops, struct ops_recording *recording);
void cuda_recording_destroy(struct ops *ops, struct ops_recording *recording);

/* --- Shared between the files of this folder ---------------------------------------------------------------- */

enum status cuda_alloc(struct ops *ops, size_t bytes, void **memory);
void cuda_free(struct ops *ops, void *memory);
enum status cuda_memory(struct ops *ops, struct ops_memory *memory);
enum status cuda_upload(struct ops *ops, void *device, const void *host, size_t bytes);

/* Device tables of the experts' device pointers, made once for a set of weights: data of gate, up, down, then their
 * scales, expert_count entries each. In a rehearsal the addresses alone are right. */
enum status cuda_expert_tables(struct ops *ops, const struct ops_moe_args *args, const void *tables[6]);
void cuda_expert_tables_finish(struct ops *ops);

/* The left side of a product in the form that weight and device ask for: e4m3 codes, or BF16 values (of codes or of
 * rounded activations), with an F32 scale a group of 128, or plain F32. One of the three pointers is set. */
struct operand {
    const uint8_t *codes;
    const __nv_bfloat16 *values;
    const float *scale;              /* [rows, ceil(K/128)], NULL unless the weight is FP8 */
    const float *plain;              /* the F32 form */
    int64_t row_stride, head_stride; /* elements */
    int64_t scale_row_stride;        /* of scale; a row is (t * heads + head) */
};

/* Rows x into that form; `values` and `scales` are the scratch slots used. */
enum status cuda_operand(struct ops *ops, const struct cuda_weight *like, const float *x, int64_t row_stride,
                         int64_t head_stride, int heads, int64_t T, int K, enum scratch_slot values,
                         enum scratch_slot scales, struct operand *operand);

/* The norm, whose y goes out as an operand of codes as well, where it takes rows like these: codes [T, D], scale
 * [T, ceil(D / 128)]. */
bool cuda_norm_takes_codes(const struct ops_rmsnorm_args *args);
enum status cuda_norm_codes(struct ops *ops, const struct ops_rmsnorm_args *args, uint8_t *codes, float *scale);

/* The indexer's queries: e4m3 codes, or BF16 values of them, one scale a (token, head); Di <= 128. */
enum status cuda_queries(struct ops *ops, const float *q, int64_t row_stride, int64_t head_stride, int heads, int64_t T,
                         int Di, bool codes, enum scratch_slot values, enum scratch_slot scales,
                         struct operand *operand);

/* A grouped product: tile i of R = tile_rows rows uses weight tile_expert[i] and rows row_index[R i …] (-1: none). */
struct grouping {
    const int32_t *tile_expert, *row_index; /* on the device */
    int row_divisor;                        /* operand row = row_index / row_divisor; 0: row_index's own place */
    int tile_rows;                          /* GROUP_TILE_ROWS; twice that for linear_wgmma.cu alone */
    int tile_count;                         /* an upper bound; unused tiles carry expert -1 */
    int64_t most_rows;                      /* no expert has more rows */
    const void *const *weights;             /* device table of device pointers */
    const float *const *scales;             /* likewise, or NULL */
    int matrices, experts;                  /* weights of matrix m, of as many as have y: from m * experts on */
};

/* y[row, h, n] (+)= sum_k operand[row, h, k] w[h, n, k]. With `grouping`, row = tile_rows * tile + i, and h counts
 * matrices that multiply the same rows. */
enum status cuda_product(struct ops *ops, const struct operand *operand, const struct cuda_weight *weight, int64_t T,
                         const struct grouping *grouping, float *y, int64_t y_row_stride, int64_t y_head_stride,
                         bool accumulate);

/* silu(gate) up of each row as e4m3: codes [rows, N], scale [rows, ceil(N / 128)]. `grouping` has two matrices, gates
 * and ups like `gate`, and tiles of twice GROUP_TILE_ROWS. */
enum status cuda_product_inner(struct ops *ops, const struct operand *operand, const struct cuda_weight *gate,
                               int64_t T, const struct grouping *grouping, uint8_t *codes, float *scale);

enum { GROUP_TILE_ROWS = 64 };

#endif
