/* check_kernels.h: one op after another, a backend against the reference.
 *
 * A case makes boxes: a tensor twice, once for `ref` on the host and once for the backend under test in its own
 * memory, with guard bands around it and poison between strided rows. Inputs are filled and uploaded; both run the
 * op; box_compare…() downloads the result, checks that guards and padding are as they were, and compares. The
 * first difference ends the case and prints where, both values and the command that runs it again. */
#ifndef TESTS_KERNELS_CHECK_KERNELS_H
#define TESTS_KERNELS_CHECK_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

struct check;

struct box {
    struct tensor host;   /* what ref reads and writes             */
    struct tensor device; /* what the backend under test does      */
    unsigned char *host_memory, *result;
    void *device_memory;
    size_t bytes;
};

struct check_case {
    const char *name;
    const void *parameters;
    int level; /* CHECK_ALWAYS; CHECK_BENCH (true): only timed; CHECK_FULL: published sizes, only when asked for */
};
enum { CHECK_ALWAYS, CHECK_BENCH, CHECK_FULL };

struct check_op {
    const char *name;
    const struct check_case *cases;
    int case_count;
    void (*run)(struct check *check, const void *parameters);
};

extern const struct check_op check_op_linear, check_op_linears, check_op_rows, check_op_rope, check_op_hadamard,
    check_op_cache, check_op_changed, check_op_indexer, check_op_topk, check_op_attention, check_op_router,
    check_op_moe, check_op_best, check_op_shortlist, check_op_linear_pair, check_op_norm_linears;

struct ops *check_ref(struct check *check);
struct ops *check_device(struct check *check);
/* Whether products of these types run on Hopper's FP8 tensor cores, which keep about 14 bits of a product inside a
 * group of 128: budgets are wider there. */
bool check_short_sums(struct check *check, enum dtype dtype, enum numerics numerics);
bool check_is_bench(const struct check *check);

/* --- Boxes ------------------------------------------------------------------------------------------ */

/* `pad` extra columns between rows make a strided view. Freed when the case ends. Contents: poison. */
struct box *box_new(struct check *check, enum dtype dtype, int dim_count, const int64_t *dims, int64_t pad);
#define BOX(check, dtype, pad, ...) \
    box_new(check, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}, pad)
void box_fill_normal(struct check *check, struct box *box, double deviation);
void box_fill_uniform_int(struct check *check, struct box *box, int32_t low, int32_t high); /* [low, high) */
void box_fill_codes(struct check *check, struct box *box); /* every e4m3 code but NaN */
float *box_f32(struct box *box, int64_t row);              /* host values, of row `row` of the first dimension */
int32_t *box_i32(struct box *box, int64_t row);
void box_upload(struct check *check, struct box *box);
/* Copies the backend's result to box->result, seen through *view; guards and padding must be untouched. */
void box_download(struct check *check, struct box *box, struct tensor *view);

/* --- Comparing -------------------------------------------------------------------------------------- */

/* Every byte of every element. */
void box_compare_exact(struct check *check, struct box *box, const char *what);
/* |device - ref| <= absolute + relative * |ref|; infinities and NaN must agree in place. */
void box_compare_close(struct check *check, struct box *box, const char *what, double absolute, double relative);
/* |device - ref| <= bound[i], i over elements in order. */
void box_compare_bounds(struct check *check, struct box *box, const char *what, const double *bound);
/* 1 - cosine of each last-dimension row against ref's, at most `limit`. */
void box_compare_cosine(struct check *check, struct box *box, const char *what, double limit);

void check_case_fail(struct check *check, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
/* The status must be STATUS_OK; STATUS_UNSUPPORTED of the device skips the case. */
void check_status(struct check *check, struct ops *ops, enum status status);
/* With --repeat N: runs the op N - 1 times more on the device, from the same inputs; `outputs` (ended by NULL) must
 * come out the same to the bit. Call it after the device's first run and before ref's, which changes outputs too. */
void check_repeat(struct check *check, enum status (*run)(struct ops *ops, void *context), void *context,
                  struct box *const *outputs);
/* For cases too large for ref: a few of T rows, first and last among them, ascending. Returns how many. */
enum { CHECK_SAMPLES = 6 };
int check_sample_rows(struct check *check, int64_t T, int64_t *rows);
/* Copies row `row` of the first dimension from the device to *copy, a box of one row. */
void box_download_row(struct check *check, struct box *box, int64_t row, struct box *copy);
/* With --bench: times `run` and prints µs, GFLOP/s, GB/s and the shares of the measured peaks. */
void check_bench(struct check *check, enum status (*run)(struct ops *ops, void *context), void *context, double flops,
                 double bytes, const char *peak);

double check_normal(struct check *check);
double check_unit(struct check *check);
int64_t check_int(struct check *check, int64_t low, int64_t high); /* [low, high) */

/* --- Caches for the ops that read them -------------------------------------------------------------- */

struct cache_box {
    struct cache_shape shape;
    struct box *latent, *index; /* index NULL where Di is 0 */
    struct box *slot, *sequence, *visible, *page_table;
    struct ops_rows host, device;
};

/* `B` sequences of `tokens` positions each in shuffled pages; every byte of a page that no token uses, and of
 * pages that no sequence owns, is 0xFF (NaN in every format). Keys and latents are normal deviates. Rows: T, of
 * sequence t % B, with visible[t] given. */
void cache_box_init(struct check *check, struct cache_box *cache, const struct cache_shape *shape, int B,
                    int32_t tokens, int64_t T, const int32_t *visible);

#endif
