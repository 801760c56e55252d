/* tensor.c: views of numbers. */
#include "kernels/tensor.h"

#include <assert.h>

size_t dtype_bytes(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32: return 4;
    case DTYPE_BF16: return 2;
    case DTYPE_F8E4M3: return 1;
    case DTYPE_I32: return 4;
    case DTYPE_U8: return 1;
    }
    return 0;
}

const char *dtype_name(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32: return "f32";
    case DTYPE_BF16: return "bf16";
    case DTYPE_F8E4M3: return "f8e4m3";
    case DTYPE_I32: return "i32";
    case DTYPE_U8: return "u8";
    }
    return "unknown";
}

static struct tensor row_major(enum dtype dtype, void *data, int dim_count, const int64_t *dims)
{
    struct tensor tensor = {.dtype = dtype, .dim_count = dim_count, .data = data};
    int64_t stride = 1;

    for (int i = dim_count - 1; i >= 0; i--) {
        tensor.dims[i] = dims[i];
        tensor.strides[i] = stride;
        stride *= dims[i];
    }
    return tensor;
}

struct tensor tensor_1d(enum dtype dtype, void *data, int64_t d0)
{
    return row_major(dtype, data, 1, (int64_t[]){d0});
}

struct tensor tensor_2d(enum dtype dtype, void *data, int64_t d0, int64_t d1)
{
    return row_major(dtype, data, 2, (int64_t[]){d0, d1});
}

struct tensor tensor_3d(enum dtype dtype, void *data, int64_t d0, int64_t d1, int64_t d2)
{
    return row_major(dtype, data, 3, (int64_t[]){d0, d1, d2});
}

struct tensor tensor_4d(enum dtype dtype, void *data, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
    return row_major(dtype, data, 4, (int64_t[]){d0, d1, d2, d3});
}

int64_t tensor_count(const struct tensor *tensor)
{
    int64_t count = 1;

    for (int i = 0; i < tensor->dim_count; i++)
        count *= tensor->dims[i];
    return count;
}

bool tensor_is_contiguous(const struct tensor *tensor)
{
    int64_t stride = 1;

    for (int i = tensor->dim_count - 1; i >= 0; i--) {
        if (tensor->dims[i] != 1 && tensor->strides[i] != stride)
            return false;
        stride *= tensor->dims[i];
    }
    return true;
}

static struct tensor slice(const struct tensor *tensor, int dim, int64_t start, int64_t count)
{
    struct tensor view = *tensor;

    assert(start >= 0 && count >= 0 && start + count <= tensor->dims[dim]);
    view.dims[dim] = count;
    if (view.data) /* NULL + 0 is for C to forbid and for us to avoid */
        view.data = (char *)view.data + start * tensor->strides[dim] * (int64_t)dtype_bytes(tensor->dtype);
    return view;
}

struct tensor tensor_rows(const struct tensor *tensor, int64_t start, int64_t count)
{
    return slice(tensor, 0, start, count);
}

struct tensor tensor_columns(const struct tensor *tensor, int64_t start, int64_t count)
{
    return slice(tensor, tensor->dim_count - 1, start, count);
}
