/* ops.c: the front of every backend: opens it, checks each call once, forwards.
 *
 * The only place with errors of shape. Backends rely on what is checked here: dtypes, dimensions, strides,
 * and, where memory can be read (ref, cpu), every index. Calls with zero rows end here. */
#include <assert.h>
#include <dlfcn.h>
#include <limits.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/ops_impl.h"
#include "kernels/rows.h"

/* --- Opening --------------------------------------------------------------------------------------- */

static enum status backend_accept(const struct ops_backend *backend, const char *path, struct error *err)
{
    if (backend->abi != OPS_BACKEND_ABI || backend->bytes != sizeof *backend)
        return error_set(err, STATUS_UNSUPPORTED, "'%s' was built for another version of this program", path);
    return STATUS_OK;
}

static enum status plugin_try(const char *path, const struct ops_backend **backend, struct error *err)
{
    /* Never unloaded: a GPU runtime does not survive that, and a process opens few backends. */
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const struct ops_backend *found;
    enum status s;

    if (!handle)
        return error_set(err, STATUS_UNSUPPORTED, "%s", dlerror());
    found = (const struct ops_backend *)dlsym(handle, OPS_BACKEND_SYMBOL);
    if (!found) {
        s = error_set(err, STATUS_UNSUPPORTED, "'%s' has no %s", path, OPS_BACKEND_SYMBOL);
        goto out;
    }
    s = backend_accept(found, path, err);
    if (!s)
        *backend = found;
out:
    (void)dlclose(handle);
    return s;
}

static enum status plugin_find(const char *dir, const char *name, const struct ops_backend **backend,
                               struct error *err)
{
    char path[PATH_MAX], program[PATH_MAX];
    ssize_t len;
    char *slash;

    for (const char *c = name; *c; c++) /* part of a file name from here on */
        if (!((*c >= 'a' && *c <= 'z') || *c == '-'))
            return error_set(err, STATUS_UNSUPPORTED, "no backend is called '%s'", name);
    if (dir) {
        (void)snprintf(path, sizeof path, "%s/dsa-backend-%s.so", dir, name);
        return plugin_try(path, backend, err);
    }
    len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len > 0) {
        program[len] = '\0';
        slash = strrchr(program, '/');
        if (slash)
            *slash = '\0';
        if (snprintf(path, sizeof path, "%s/dsa-backend-%s.so", program, name) < (int)sizeof path &&
            access(path, R_OK) == 0)
            return plugin_try(path, backend, err);
    }
    (void)snprintf(path, sizeof path, "%s/dsa-backend-%s.so", DSA_PLUGIN_DIR, name);
    return plugin_try(path, backend, err);
}

enum status ops_open(const struct ops_options *options, struct ops **out, struct error *err)
{
    static const struct ops_backend *const built_in[] = {&ops_backend_ref, &ops_backend_cpu};
    const char *name = options->backend ? options->backend : "cpu";
    const struct ops_backend *backend = NULL;
    struct ops *ops = NULL;
    enum status s = STATUS_OK;

    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
        if (strcmp(name, built_in[i]->name) == 0)
            backend = built_in[i];
    if (!backend)
        s = plugin_find(options->plugin_dir, name, &backend, err);
    if (s)
        goto out;
    ops = calloc(1, sizeof *ops);
    if (!ops) {
        s = error_set(err, STATUS_NO_MEMORY, "no memory for a backend");
        goto out;
    }
    ops->backend = backend;
    ops->thread_count = 1;
    s = backend->open(options, ops, err);
    if (s)
        goto out;
    *out = ops;
    ops = NULL;
out:
    free(ops);
    if (s)
        error_prefix(err, "backend '%s'", name);
    return s;
}

void ops_close(struct ops *ops)
{
    if (!ops)
        return;
    ops->backend->close(ops);
    free(ops);
}

const char *ops_backend_name(const struct ops *ops)
{
    return ops->backend->name;
}

const char *ops_description(const struct ops *ops)
{
    return ops->description;
}

int ops_thread_count(const struct ops *ops)
{
    return ops->thread_count;
}

const char *ops_last_error(const struct ops *ops)
{
    return ops->error;
}

/* --- Memory ---------------------------------------------------------------------------------------- */

enum status ops_alloc(struct ops *ops, size_t bytes, void **memory)
{
    return ops->backend->alloc(ops, bytes ? bytes : 1, memory);
}

void ops_free(struct ops *ops, void *memory)
{
    if (memory)
        ops->backend->free(ops, memory);
}

enum status ops_upload(struct ops *ops, void *device, const void *host, size_t bytes)
{
    return bytes ? ops->backend->upload(ops, device, host, bytes) : STATUS_OK;
}

enum status ops_download(struct ops *ops, void *host, const void *device, size_t bytes)
{
    return bytes ? ops->backend->download(ops, host, device, bytes) : STATUS_OK;
}

enum status ops_fill(struct ops *ops, void *device, int byte, size_t bytes)
{
    return bytes ? ops->backend->fill(ops, device, byte, bytes) : STATUS_OK;
}

enum status ops_sync(struct ops *ops)
{
    return ops->backend->sync(ops);
}

/* --- Checking -------------------------------------------------------------------------------------- */

enum { ANY = -1, MAX_DIM = INT32_MAX };

/* One call under check. The first wrong argument is kept in ops->error; later checks change nothing. */
struct call {
    struct ops *ops;
    const char *op;
    bool wrong;
};

static void wrong(struct call *call, const char *format, ...) PRINTF_LIKE(2, 3);
static void wrong(struct call *call, const char *format, ...)
{
    va_list arguments;
    int used;

    if (call->wrong)
        return;
    call->wrong = true;
    used = snprintf(call->ops->error, sizeof call->ops->error, "%s: ", call->op);
    va_start(arguments, format);
    (void)vsnprintf(call->ops->error + used, sizeof call->ops->error - (size_t)used, format, arguments);
    va_end(arguments);
}

static void print_dims(char *text, size_t bytes, int count, const int64_t *dims)
{
    size_t used = 0;

    text[0] = '\0';
    for (int i = 0; i < count && used < bytes; i++) {
        int n = dims[i] == ANY ? snprintf(text + used, bytes - used, "%sany", i ? ", " : "")
                               : snprintf(text + used, bytes - used, "%s%lld", i ? ", " : "", (long long)dims[i]);
        used += (size_t)n;
    }
}

/* `tensor` must have this dtype and these dims (ANY: no matter), a unit last stride, and strides that keep
 * rows apart. */
static void want(struct call *call, const char *name, const struct tensor *tensor, enum dtype dtype, int dim_count,
                 const int64_t *dims)
{
    char is[96], wants[96];
    bool fits;

    if (call->wrong)
        return;
    if (!tensor) {
        wrong(call, "%s is NULL", name);
        return;
    }
    fits = tensor->dtype == dtype && tensor->dim_count == dim_count;
    for (int i = 0; fits && i < dim_count; i++)
        fits = tensor->dims[i] >= 0 && tensor->dims[i] <= MAX_DIM && (dims[i] == ANY || tensor->dims[i] == dims[i]);
    if (!fits) {
        print_dims(is, sizeof is, tensor->dim_count < 0 || tensor->dim_count > TENSOR_MAX_DIMS ? 0 : tensor->dim_count,
                   tensor->dims);
        print_dims(wants, sizeof wants, dim_count, dims);
        wrong(call, "%s is %s [%s], wanted %s [%s]", name, dtype_name(tensor->dtype), is, dtype_name(dtype), wants);
        return;
    }
    if (tensor_count(tensor) > 0 && !tensor->data)
        wrong(call, "%s has no data", name);
    if ((uintptr_t)tensor->data % dtype_bytes(dtype))
        wrong(call, "%s is not aligned to its values", name);
    if (tensor->dims[dim_count - 1] > 1 && tensor->strides[dim_count - 1] != 1)
        wrong(call, "%s: the last stride is %lld, wanted 1", name, (long long)tensor->strides[dim_count - 1]);
    for (int i = 0; i + 1 < dim_count; i++)
        if (tensor->dims[i] > 1 && tensor->strides[i] < tensor->dims[dim_count - 1])
            wrong(call, "%s: stride %d is %lld, below a row of %lld", name, i, (long long)tensor->strides[i],
                  (long long)tensor->dims[dim_count - 1]);
}

#define WANT(call, args, field, dtype, ...)                                                             \
    want(call, #field, (args)->field, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
         (int64_t[]){__VA_ARGS__})
#define WANT_AS(call, name, tensor, dtype, ...)                                                  \
    want(call, name, tensor, dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
         (int64_t[]){__VA_ARGS__})

/* The type that a tensor must have which may be BF16 as well as F32 if `allowed`. */
static enum dtype f32_or_bf16(const struct tensor *tensor, bool allowed)
{
    return allowed && tensor && tensor->dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

/* Dimension `i` of a tensor that may be missing or of another rank: then ANY, and WANT will tell. */
static int64_t dim(const struct tensor *tensor, int i)
{
    return tensor && i < tensor->dim_count ? tensor->dims[i] : ANY;
}

/* Every value of an I32 [T] or [T, k] tensor lies in [low, high). */
static void want_range(struct call *call, const char *name, const struct tensor *tensor, int64_t low, int64_t high)
{
    int64_t columns;

    if (call->wrong || !call->ops->backend->host)
        return;
    columns = tensor->dim_count == 2 ? tensor->dims[1] : 1;
    for (int64_t t = 0; t < tensor->dims[0]; t++)
        for (int64_t j = 0; j < columns; j++)
            if (row_i32(tensor, t)[j] < low || row_i32(tensor, t)[j] >= high) {
                wrong(call, "%s[%lld] is %d, outside %lld..%lld", name, (long long)t, row_i32(tensor, t)[j],
                      (long long)low, (long long)high - 1);
                return;
            }
}

static bool shape_is_sane(const struct cache_shape *shape)
{
    return shape->Dv >= 0 && shape->Dv <= 65536 && shape->Dr >= 0 && shape->Dr <= 65536 && shape->Di >= 0 &&
           shape->Di <= 65536 && (shape->numerics == NUMERICS_FP8 || shape->numerics == NUMERICS_PLAIN);
}

static void want_latent_pool(struct call *call, const struct cache_shape *shape, const struct tensor *pool)
{
    if (!call->wrong && (!shape_is_sane(shape) || shape->Dv < 1))
        wrong(call, "a cache of Dv %d, Dr %d is not possible", shape->Dv, shape->Dr);
    else
        WANT_AS(call, "pool", pool, DTYPE_U8, ANY, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(shape));
}

static void want_index_pool(struct call *call, const struct cache_shape *shape, const struct tensor *pool)
{
    if (!call->wrong && (!shape_is_sane(shape) || shape->Di < 1))
        wrong(call, "an index cache of Di %d is not possible", shape->Di);
    else
        WANT_AS(call, "pool", pool, DTYPE_U8, ANY, (int64_t)cache_index_page_bytes(shape));
}

static void want_slots(struct call *call, const struct ops_rows *rows, int64_t T, const struct tensor *pool)
{
    if (call->wrong)
        return;
    if (!rows) {
        wrong(call, "rows is NULL");
        return;
    }
    WANT_AS(call, "rows.slot", rows->slot, DTYPE_I32, T);
    want_range(call, "rows.slot", rows->slot, 0, pool ? pool->dims[0] * CACHE_PAGE_TOKENS : 0);
}

/* Every page that a row may read exists. Rows of one sequence come together, so a page is mostly looked at
 * once. */
static void want_pages(struct call *call, const struct ops_rows *rows, int64_t T, int64_t page_count)
{
    int32_t last_sequence = -1, checked_pages = 0;

    if (call->wrong || !call->ops->backend->host)
        return;
    for (int64_t t = 0; t < T; t++) {
        int32_t sequence = *row_i32(rows->sequence, t);
        int32_t wanted = (rows_visible(rows, t) + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
        const int32_t *pages = rows_pages(rows, t);

        if (sequence != last_sequence)
            checked_pages = 0;
        last_sequence = sequence;
        for (; checked_pages < wanted; checked_pages++)
            if (pages[checked_pages] < 0 || pages[checked_pages] >= page_count) {
                wrong(call, "page %d of sequence %d is %d, of %lld pages", checked_pages, sequence,
                      pages[checked_pages], (long long)page_count);
                return;
            }
    }
}

static void want_rows(struct call *call, const struct ops_rows *rows, int64_t T, const struct tensor *pool)
{
    if (call->wrong)
        return;
    if (!rows) {
        wrong(call, "rows is NULL");
        return;
    }
    WANT_AS(call, "rows.sequence", rows->sequence, DTYPE_I32, T);
    WANT_AS(call, "rows.visible", rows->visible, DTYPE_I32, T);
    WANT_AS(call, "rows.page_table", rows->page_table, DTYPE_I32, ANY, ANY);
    if (call->wrong)
        return;
    if (rows->visible_max < 0 || rows->visible_max > rows->page_table->dims[1] * CACHE_PAGE_TOKENS)
        wrong(call, "rows.visible_max is %d, with %lld pages a sequence", rows->visible_max,
              (long long)rows->page_table->dims[1]);
    want_range(call, "rows.sequence", rows->sequence, 0, rows->page_table->dims[0]);
    want_range(call, "rows.visible", rows->visible, 0, (int64_t)rows->visible_max + 1);
    want_pages(call, rows, T, pool->dims[0]);
}

/* --- Weights and products -------------------------------------------------------------------------- */

enum status ops_weight_create(struct ops *ops, const struct ops_weight_args *args, struct ops_weight **out)
{
    struct call call = {ops, "weight_create", false};
    const struct tensor *w = &args->w;
    struct ops_weight *weight = NULL;
    int per_head = w->dim_count == 3;
    enum status s;

    if (w->dtype != DTYPE_F32 && w->dtype != DTYPE_BF16 && w->dtype != DTYPE_F8E4M3)
        wrong(&call, "a weight cannot be %s", dtype_name(w->dtype));
    if (per_head)
        WANT_AS(&call, "w", w, w->dtype, ANY, ANY, ANY);
    else
        WANT_AS(&call, "w", w, w->dtype, ANY, ANY);
    for (int i = 0; !call.wrong && i < w->dim_count; i++)
        if (w->dims[i] < 1)
            wrong(&call, "w has an empty dimension");
    if (w->dtype == DTYPE_F8E4M3 && !call.wrong) {
        if (per_head)
            wrong(&call, "an FP8 weight per head is not possible");
        WANT(&call, args, scale, DTYPE_F32, (dim(w, 0) + FP8_SCALE_BLOCK - 1) / FP8_SCALE_BLOCK,
             (dim(w, 1) + FP8_SCALE_BLOCK - 1) / FP8_SCALE_BLOCK);
    } else if (args->scale) {
        wrong(&call, "a scale goes with an FP8 weight only");
    }
    if (args->numerics != NUMERICS_FP8 && args->numerics != NUMERICS_PLAIN)
        wrong(&call, "unknown numerics %d", (int)args->numerics);
    if (call.wrong)
        return STATUS_BUG;
    s = ops->backend->weight_create(ops, args, &weight);
    if (s)
        return s;
    weight->dtype = w->dtype;
    weight->numerics = args->numerics;
    weight->H = per_head ? w->dims[0] : 0;
    weight->N = w->dims[per_head];
    weight->K = w->dims[per_head + 1];
    *out = weight;
    return STATUS_OK;
}

void ops_weight_destroy(struct ops *ops, struct ops_weight *weight)
{
    if (weight)
        ops->backend->weight_destroy(ops, weight);
}

const char *ops_packed_form(const struct ops *ops)
{
    return ops->backend->packed_form;
}

size_t ops_weight_packed_bytes(const struct ops *ops, const struct ops_weight *weight)
{
    return ops->backend->weight_packed_bytes(weight);
}

enum status ops_weight_pack(struct ops *ops, const struct ops_weight *weight, void *packed)
{
    return ops->backend->weight_pack(ops, weight, packed);
}

void ops_weight_adopt(struct ops *ops, struct ops_weight *weight, const void *packed)
{
    ops->backend->weight_adopt(ops, weight, packed);
}

static bool linear_is_wrong(struct ops *ops, const struct ops_linear_args *args)
{
    struct call call = {ops, "linear", false};
    int64_t T = dim(args->x, 0);

    if (!args->w) {
        wrong(&call, "w is NULL");
    } else if (args->w->H) {
        bool bf16 = ops->backend->latent_dtype && args->w->dtype == DTYPE_BF16 && args->w->numerics == NUMERICS_FP8;

        WANT(&call, args, x, f32_or_bf16(args->x, bf16), ANY, args->w->H, args->w->K);
        WANT(&call, args, y, f32_or_bf16(args->y, bf16 && !args->accumulate), T, args->w->H, args->w->N);
    } else {
        WANT(&call, args, x, DTYPE_F32, ANY, args->w->K);
        WANT(&call, args, y, DTYPE_F32, T, args->w->N);
    }
    return call.wrong;
}

enum status ops_linear(struct ops *ops, const struct ops_linear_args *args)
{
    if (linear_is_wrong(ops, args))
        return STATUS_BUG;
    return dim(args->x, 0) ? ops->backend->linear(ops, args) : STATUS_OK;
}

static bool linears_are_wrong(struct ops *ops, const struct ops_linear_args *args, int count)
{
    struct call call = {ops, "linears", false};

    if (count < 1 || count > OPS_LINEARS_MOST)
        wrong(&call, "%d products", count);
    for (int i = 0; i < count && !call.wrong; i++) {
        if (linear_is_wrong(ops, &args[i]))
            return true;
        if (args[i].w->H || args[i].x != args[0].x)
            wrong(&call, "product %d is per head, or not of the same x", i);
    }
    return call.wrong;
}

static enum status run_linears(struct ops *ops, const struct ops_linear_args *args, int count)
{
    enum status status = STATUS_OK;

    if (ops->backend->linears)
        return ops->backend->linears(ops, args, count);
    for (int i = 0; i < count && !status; i++)
        status = ops->backend->linear(ops, &args[i]);
    return status;
}

enum status ops_linears(struct ops *ops, const struct ops_linear_args *args, int count)
{
    if (linears_are_wrong(ops, args, count))
        return STATUS_BUG;
    return dim(args->x, 0) ? run_linears(ops, args, count) : STATUS_OK;
}

/* `second`'s x is `first`'s y as [T, H N]. */
static bool heads_lie_side_by_side(const struct tensor *heads, const struct tensor *row)
{
    return heads->data == row->data && heads->dims[1] * heads->dims[2] == row->dims[1] &&
           heads->strides[0] == row->strides[0] && heads->strides[1] == heads->dims[2];
}

enum status ops_linear_pair(struct ops *ops, const struct ops_linear_args *first, const struct ops_linear_args *second)
{
    struct call call = {ops, "linear_pair", false};
    enum status status;

    if (linear_is_wrong(ops, first) || linear_is_wrong(ops, second))
        return STATUS_BUG;
    if (!first->w->H || second->w->H)
        wrong(&call, "the first product is not per head, or the second is");
    else if (first->accumulate)
        wrong(&call, "the first product is added to what is there");
    else if (first->y->dtype != DTYPE_F32 || dim(first->y, 0) != dim(second->x, 0) ||
             !heads_lie_side_by_side(first->y, second->x))
        wrong(&call, "the second's x is not the first's y, heads side by side");
    if (call.wrong)
        return STATUS_BUG;
    if (!dim(first->x, 0))
        return STATUS_OK;
    if (ops->backend->linear_pair)
        return ops->backend->linear_pair(ops, first, second);
    status = ops->backend->linear(ops, first);
    return status ? status : ops->backend->linear(ops, second);
}

/* --- Rows ------------------------------------------------------------------------------------------ */

enum status ops_embed(struct ops *ops, const struct ops_embed_args *args)
{
    struct call call = {ops, "embed", false};
    int64_t T = dim(args->tokens, 0), V = dim(args->table, 0), D = dim(args->table, 1);

    if (args->table && args->table->dtype == DTYPE_BF16)
        WANT(&call, args, table, DTYPE_BF16, ANY, ANY);
    else
        WANT(&call, args, table, DTYPE_F32, ANY, ANY);
    WANT(&call, args, tokens, DTYPE_I32, ANY);
    WANT(&call, args, y, DTYPE_F32, T, D);
    want_range(&call, "tokens", args->tokens, 0, V);
    if (call.wrong)
        return STATUS_BUG;
    return T && D ? ops->backend->embed(ops, args) : STATUS_OK;
}

static bool rmsnorm_is_wrong(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    struct call call = {ops, "rmsnorm", false};
    int64_t T = dim(args->x, 0), D = dim(args->x, 1);

    WANT(&call, args, x, DTYPE_F32, ANY, ANY);
    if (args->residual)
        WANT(&call, args, residual, DTYPE_F32, T, D);
    WANT(&call, args, weight, DTYPE_F32, D);
    WANT(&call, args, y, DTYPE_F32, T, D);
    if (!call.wrong && args->residual && args->x->data == args->y->data)
        wrong(&call, "y is x, which also receives the residual");
    return call.wrong;
}

enum status ops_rmsnorm(struct ops *ops, const struct ops_rmsnorm_args *args)
{
    if (rmsnorm_is_wrong(ops, args))
        return STATUS_BUG;
    return tensor_count(args->x) ? ops->backend->rmsnorm(ops, args) : STATUS_OK;
}

enum status ops_norm_linears(struct ops *ops, const struct ops_rmsnorm_args *norm,
                             const struct ops_linear_args *products, int count)
{
    struct call call = {ops, "norm_linears", false};
    enum status status;

    if (rmsnorm_is_wrong(ops, norm) || linears_are_wrong(ops, products, count))
        return STATUS_BUG;
    if (products->x != norm->y) {
        wrong(&call, "the products' x is not the norm's y");
        return STATUS_BUG;
    }
    if (!tensor_count(norm->x))
        return ops_linears(ops, products, count);
    if (ops->backend->norm_linears)
        return ops->backend->norm_linears(ops, norm, products, count);
    status = ops->backend->rmsnorm(ops, norm);
    return status ? status : run_linears(ops, products, count);
}

enum status ops_layernorm(struct ops *ops, const struct ops_layernorm_args *args)
{
    struct call call = {ops, "layernorm", false};
    int64_t T = dim(args->x, 0), D = dim(args->x, 1);

    WANT(&call, args, x, DTYPE_F32, ANY, ANY);
    WANT(&call, args, weight, DTYPE_F32, D);
    WANT(&call, args, bias, DTYPE_F32, D);
    WANT(&call, args, y, DTYPE_F32, T, D);
    if (call.wrong)
        return STATUS_BUG;
    return T && D ? ops->backend->layernorm(ops, args) : STATUS_OK;
}

enum status ops_add(struct ops *ops, struct tensor *y, const struct tensor *x)
{
    struct call call = {ops, "add", false};

    WANT_AS(&call, "y", y, DTYPE_F32, ANY, ANY);
    WANT_AS(&call, "x", x, DTYPE_F32, dim(y, 0), dim(y, 1));
    if (call.wrong)
        return STATUS_BUG;
    return y->dims[0] && y->dims[1] ? ops->backend->add(ops, y, x) : STATUS_OK;
}

enum status ops_swiglu(struct ops *ops, const struct tensor *gate, const struct tensor *up, struct tensor *y)
{
    struct call call = {ops, "swiglu", false};

    WANT_AS(&call, "gate", gate, DTYPE_F32, ANY, ANY);
    WANT_AS(&call, "up", up, DTYPE_F32, dim(gate, 0), dim(gate, 1));
    WANT_AS(&call, "y", y, DTYPE_F32, dim(gate, 0), dim(gate, 1));
    if (call.wrong)
        return STATUS_BUG;
    return y->dims[0] && y->dims[1] ? ops->backend->swiglu(ops, gate, up, y) : STATUS_OK;
}

enum status ops_rope(struct ops *ops, const struct ops_rope_args *args)
{
    struct call call = {ops, "rope", false};
    int64_t T = dim(args->x, 0), Dr = dim(args->x, 2);

    WANT(&call, args, x, DTYPE_F32, ANY, ANY, ANY);
    WANT(&call, args, table, DTYPE_F32, ANY, Dr);
    WANT(&call, args, position, DTYPE_I32, T);
    if (!call.wrong && Dr % 2)
        wrong(&call, "Dr is %lld, which is odd", (long long)Dr);
    if (args->style != ROPE_INTERLEAVED && args->style != ROPE_HALF_SPLIT)
        wrong(&call, "unknown style %d", (int)args->style);
    want_range(&call, "position", args->position, 0, dim(args->table, 0));
    if (call.wrong)
        return STATUS_BUG;
    return tensor_count(args->x) ? ops->backend->rope(ops, args) : STATUS_OK;
}

static bool is_hadamard_width(int64_t Di)
{
    return Di >= 1 && Di <= 4096 && !(Di & (Di - 1));
}

enum status ops_hadamard(struct ops *ops, struct tensor *x)
{
    struct call call = {ops, "hadamard", false};

    WANT_AS(&call, "x", x, DTYPE_F32, ANY, ANY);
    if (!call.wrong && !is_hadamard_width(x->dims[1]))
        wrong(&call, "Di is %lld, not a power of two up to 4096", (long long)x->dims[1]);
    if (call.wrong)
        return STATUS_BUG;
    return x->dims[0] ? ops->backend->hadamard(ops, x) : STATUS_OK;
}

/* --- Caches ---------------------------------------------------------------------------------------- */

/* Of the first values of rows of `width`, or (`whole`) of all. */
static void want_rotation(struct call *call, const struct ops_rotation *rope, int64_t T, int64_t width, bool whole)
{
    int64_t R = dim(rope->table, 1);

    if (!rope->table)
        return;
    WANT_AS(call, "rope.table", rope->table, DTYPE_F32, ANY, ANY);
    WANT_AS(call, "rope.position", rope->position, DTYPE_I32, T);
    if (!call->wrong && (R % 2 || R > width || (whole && R != width)))
        wrong(call, "%lld of %lld values cannot be rotated", (long long)R, (long long)width);
    if (!call->wrong && rope->style != ROPE_INTERLEAVED && rope->style != ROPE_HALF_SPLIT)
        wrong(call, "unknown style %d", (int)rope->style);
    want_range(call, "rope.position", rope->position, 0, dim(rope->table, 0));
}

enum status ops_latent_write(struct ops *ops, const struct ops_latent_write_args *args)
{
    struct call call = {ops, "latent_write", false};
    int64_t T = dim(args->c, 0);

    want_latent_pool(&call, &args->shape, args->pool);
    WANT(&call, args, c, DTYPE_F32, ANY, args->shape.Dv);
    WANT(&call, args, k_pe, DTYPE_F32, T, args->shape.Dr);
    want_rotation(&call, &args->rope, T, args->shape.Dr, true);
    want_slots(&call, args->rows, T, args->pool);
    if (call.wrong)
        return STATUS_BUG;
    return T ? ops->backend->latent_write(ops, args) : STATUS_OK;
}

enum status ops_index_write(struct ops *ops, const struct ops_index_write_args *args)
{
    struct call call = {ops, "index_write", false};
    int64_t T = dim(args->k, 0);

    want_index_pool(&call, &args->shape, args->pool);
    WANT(&call, args, k, DTYPE_F32, ANY, args->shape.Di);
    if (args->norm || args->norm_bias) {
        WANT(&call, args, norm, DTYPE_F32, args->shape.Di);
        WANT(&call, args, norm_bias, DTYPE_F32, args->shape.Di);
    }
    want_rotation(&call, &args->rope, T, args->shape.Di, false);
    if (!call.wrong && args->hadamard && !is_hadamard_width(args->shape.Di))
        wrong(&call, "Di is %d, not a power of two up to 4096", args->shape.Di);
    want_slots(&call, args->rows, T, args->pool);
    if (call.wrong)
        return STATUS_BUG;
    return T ? ops->backend->index_write(ops, args) : STATUS_OK;
}

/* --- Indexer and attention ------------------------------------------------------------------------- */

static void want_indexer(struct call *call, const struct ops_indexer_args *args)
{
    int64_t T = dim(args->q, 0), Hi = dim(args->q, 1);

    want_index_pool(call, &args->shape, args->pool);
    WANT(call, args, q, DTYPE_F32, ANY, ANY, args->shape.Di);
    WANT(call, args, w, DTYPE_F32, T, Hi);
    want_rows(call, args->rows, T, args->pool);
}

enum status ops_indexer_scores(struct ops *ops, const struct ops_indexer_args *args, struct tensor *score)
{
    struct call call = {ops, "indexer_scores", false};

    want_indexer(&call, args);
    if (!call.wrong)
        WANT_AS(&call, "score", score, DTYPE_F32, args->q->dims[0], args->rows->visible_max);
    if (call.wrong)
        return STATUS_BUG;
    return tensor_count(score) ? ops->backend->indexer_scores(ops, args, score) : STATUS_OK;
}

enum status ops_topk(struct ops *ops, const struct tensor *score, const struct tensor *visible,
                     struct tensor *selected)
{
    struct call call = {ops, "topk", false};

    WANT_AS(&call, "score", score, DTYPE_F32, ANY, ANY);
    WANT_AS(&call, "visible", visible, DTYPE_I32, dim(score, 0));
    WANT_AS(&call, "selected", selected, DTYPE_I32, dim(score, 0), ANY);
    want_range(&call, "visible", visible, 0, dim(score, 1) + 1);
    if (call.wrong)
        return STATUS_BUG;
    return tensor_count(selected) ? ops->backend->topk(ops, score, visible, selected) : STATUS_OK;
}

enum status ops_indexer_topk(struct ops *ops, const struct ops_indexer_args *args, struct tensor *selected)
{
    struct call call = {ops, "indexer_topk", false};

    want_indexer(&call, args);
    WANT_AS(&call, "selected", selected, DTYPE_I32, dim(args->q, 0), ANY);
    if (call.wrong)
        return STATUS_BUG;
    return tensor_count(selected) ? ops->backend->indexer_topk(ops, args, selected) : STATUS_OK;
}

enum status ops_attention(struct ops *ops, const struct ops_attention_args *args)
{
    struct call call = {ops, "attention", false};
    int64_t T = dim(args->q_latent, 0), H = dim(args->q_latent, 1);
    enum dtype latent;

    want_latent_pool(&call, &args->shape, args->pool);
    latent = f32_or_bf16(args->q_latent, !call.wrong && ops_latent_dtype(ops, &args->shape) == DTYPE_BF16);
    WANT(&call, args, q_latent, latent, ANY, ANY, args->shape.Dv);
    WANT(&call, args, q_pe, DTYPE_F32, T, H, args->shape.Dr);
    WANT(&call, args, out, latent, T, H, args->shape.Dv);
    if (args->lse)
        WANT(&call, args, lse, DTYPE_F32, T, H);
    if (args->selected)
        WANT(&call, args, selected, DTYPE_I32, T, ANY);
    want_rows(&call, args->rows, T, args->pool);
    if (args->selected)
        want_range(&call, "selected", args->selected, -1, INT32_MAX);
    if (call.wrong)
        return STATUS_BUG;
    return T && H ? ops->backend->attention(ops, args) : STATUS_OK;
}

enum dtype ops_latent_dtype(struct ops *ops, const struct cache_shape *shape)
{
    return ops->backend->latent_dtype ? ops->backend->latent_dtype(ops, shape) : DTYPE_F32;
}

/* --- Mixture of experts ---------------------------------------------------------------------------- */

enum status ops_router(struct ops *ops, const struct ops_router_args *args)
{
    struct call call = {ops, "router", false};
    int64_t T = dim(args->logits, 0), E = dim(args->logits, 1), k = dim(args->experts, 1);

    WANT(&call, args, logits, DTYPE_F32, ANY, ANY);
    if (args->bias)
        WANT(&call, args, bias, DTYPE_F32, E);
    WANT(&call, args, experts, DTYPE_I32, T, ANY);
    WANT(&call, args, weights, DTYPE_F32, T, k);
    if (!call.wrong && (E < 1 || E > OPS_MAX_EXPERTS || k < 1))
        wrong(&call, "%lld of %lld experts is not possible", (long long)k, (long long)E);
    if (!call.wrong && (args->groups < 1 || E % args->groups || args->kept_groups < 1 ||
                        args->kept_groups > args->groups || k > E / args->groups * args->kept_groups))
        wrong(&call, "%lld of %lld experts from %d of %d groups is not possible", (long long)k, (long long)E,
              args->kept_groups, args->groups);
    if (!call.wrong && args->groups > 1 && args->scoring == ROUTER_SIGMOID && E / args->groups < 2)
        wrong(&call, "groups of one expert have no two best");
    if (args->scoring != ROUTER_SIGMOID && args->scoring != ROUTER_SOFTMAX)
        wrong(&call, "unknown scoring %d", (int)args->scoring);
    if (call.wrong)
        return STATUS_BUG;
    return T ? ops->backend->router(ops, args) : STATUS_OK;
}

static void want_expert(struct call *call, const char *name, const struct ops_weight *w, int64_t N, int64_t K)
{
    if (!w)
        wrong(call, "%s is NULL", name);
    else if (w->H || w->N != N || w->K != K)
        wrong(call, "%s is [%lld, %lld], wanted [%lld, %lld]", name, (long long)w->N, (long long)w->K, (long long)N,
              (long long)K);
}

enum status ops_moe(struct ops *ops, const struct ops_moe_args *args)
{
    struct call call = {ops, "moe", false};
    int64_t T = dim(args->x, 0), D = dim(args->x, 1);

    WANT(&call, args, x, DTYPE_F32, ANY, ANY);
    WANT(&call, args, experts, DTYPE_I32, T, ANY);
    WANT(&call, args, weights, DTYPE_F32, T, dim(args->experts, 1));
    WANT(&call, args, y, DTYPE_F32, T, D);
    if (args->expert_count < 1 || args->expert_count > OPS_MAX_EXPERTS)
        wrong(&call, "%d experts are not possible", args->expert_count);
    for (int e = 0; !call.wrong && e < args->expert_count; e++) {
        int64_t J = args->gate[0] ? args->gate[0]->N : 0;

        want_expert(&call, "gate", args->gate[e], J, D);
        want_expert(&call, "up", args->up[e], J, D);
        want_expert(&call, "down", args->down[e], D, J);
    }
    want_range(&call, "experts", args->experts, 0, args->expert_count);
    if (!call.wrong && args->x->data == args->y->data && T)
        wrong(&call, "y is x");
    if (call.wrong)
        return STATUS_BUG;
    return tensor_count(args->experts) ? ops->backend->moe(ops, args) : STATUS_OK;
}

enum status ops_best(struct ops *ops, const struct ops_best_args *args)
{
    struct call call = {ops, "best", false};
    int64_t T = dim(args->logits, 0);

    WANT(&call, args, logits, DTYPE_F32, ANY, ANY);
    WANT(&call, args, best, DTYPE_I32, T);
    WANT(&call, args, log_probability, DTYPE_F32, T);
    if (!call.wrong && dim(args->logits, 1) < 1)
        wrong(&call, "logits has no columns");
    if (call.wrong)
        return STATUS_BUG;
    return T ? ops->backend->best(ops, args) : STATUS_OK;
}

enum status ops_shortlist(struct ops *ops, const struct ops_shortlist_args *args)
{
    struct call call = {ops, "shortlist", false};
    int64_t T = dim(args->logits, 0), k = dim(args->selected, 1);

    WANT(&call, args, logits, DTYPE_F32, ANY, ANY);
    WANT(&call, args, selected, DTYPE_I32, T, ANY);
    WANT(&call, args, temperature, DTYPE_F32, T);
    WANT(&call, args, values, DTYPE_F32, T, k);
    WANT(&call, args, total, DTYPE_F32, T);
    if (!call.wrong && k < 1)
        wrong(&call, "selected has no columns");
    want_range(&call, "selected", args->selected, -1, dim(args->logits, 1));
    if (call.wrong)
        return STATUS_BUG;
    return T ? ops->backend->shortlist(ops, args) : STATUS_OK;
}
