/* kernels/tensor.h: a view of numbers: element type, shape, strides, address.
 *
 * A tensor owns nothing: whoever made the memory (a mapped file, ops_alloc, a test) frees it. Strides count
 * elements; the last one is 1 unless an op's contract says otherwise. The dimension alphabet is in
 * kernels/README.md. */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype {
    DTYPE_F32,
    DTYPE_BF16,   /* upper 16 bits of a float32                        */
    DTYPE_F8E4M3, /* OCP FP8 "e4m3fn": no infinities, NaN = 0x7F/0xFF, largest 448 */
    DTYPE_I32,
    DTYPE_U8
};

size_t dtype_bytes(enum dtype dtype);
const char *dtype_name(enum dtype dtype); /* "f32", "bf16", "f8e4m3", "i32", "u8" */

enum { TENSOR_MAX_DIMS = 4 };

struct tensor {
    enum dtype dtype;
    int dim_count;
    int64_t dims[TENSOR_MAX_DIMS];
    int64_t strides[TENSOR_MAX_DIMS]; /* in elements */
    void *data;                       /* on the device of the ops that will read it */
};

/* Row-major views. Dimensions must be >= 0; the product is the caller's to bound. */
struct tensor tensor_1d(enum dtype dtype, void *data, int64_t d0);
struct tensor tensor_2d(enum dtype dtype, void *data, int64_t d0, int64_t d1);
struct tensor tensor_3d(enum dtype dtype, void *data, int64_t d0, int64_t d1, int64_t d2);
struct tensor tensor_4d(enum dtype dtype, void *data, int64_t d0, int64_t d1, int64_t d2, int64_t d3);

int64_t tensor_count(const struct tensor *tensor); /* product of the dimensions */
bool tensor_is_contiguous(const struct tensor *tensor);
/* Rows [start, start + count) of the first dimension; shares the memory. */
struct tensor tensor_rows(const struct tensor *tensor, int64_t start, int64_t count);
/* Columns [start, start + count) of the last dimension; shares the memory, keeps the strides. */
struct tensor tensor_columns(const struct tensor *tensor, int64_t start, int64_t count);

#endif
