/* tools/quantize.h: a BF16 or F32 checkpoint to FP8 e4m3 with one scale for each 128 x 128 block, as DeepSeek-V3.2 is
 * published. What dsa-quantize(1) does; apart from it so that it can be tested. */
#ifndef TOOLS_QUANTIZE_H
#define TOOLS_QUANTIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/tensor.h"

/* What became of one tensor. */
struct quantize_report {
    const char *name;
    enum dtype from;
    bool quantized;
    size_t bytes_before, bytes_after;     /* the scales included */
    double relative_error, largest_error; /* root of sum (w - q)^2 / sum w^2; largest |w - q|. 0 where it is kept */
};

struct quantize_options {
    const char *in, *out; /* directories; `out` must not exist */
    bool float_scales;    /* scales amax / 448; false: rounded up to powers of two (ue8m0), as V3.2 has them */
    int threads;          /* 0: every CPU of the process */
    void (*report)(void *context, const struct quantize_report *tensor); /* in the order of the files; may be NULL */
    void *context;
};

struct quantize_totals {
    size_t tensors, quantized, shards;
    uint64_t bytes_before, bytes_after;
    double relative_error; /* over all quantised tensors together */
};

/* Writes OUT.part, makes it durable, and renames it to OUT at the end: OUT is there whole or not at all. */
enum status quantize_checkpoint(const struct quantize_options *options, struct quantize_totals *totals,
                                struct error *err) MUST_CHECK;

/* Is this one of the matrices that V3.2 has in FP8? */
bool quantize_wants(const char *name, const struct tensor *tensor);

/* One matrix, BF16 or F32 [N, K], to codes [N, K] and scales [ceil(N/128), ceil(K/128)], both row-major. BAD_INPUT when
 * a value is not finite. *squared_error and *squared_sum are set. */
struct quantize_matrix {
    const struct tensor *source;
    uint8_t *codes;
    float *scales;
    bool float_scales;
    double squared_error, squared_sum, largest_error;
};
enum status quantize_matrix(struct quantize_matrix *matrix, int threads) MUST_CHECK;

#endif
