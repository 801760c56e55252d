/* test_vectors.c: the reference, and the CPU backend, against float64 NumPy (tools/make-kernel-vectors.py). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/harness/check.h"

enum { MOST_ARRAYS = 32 };

struct vectors {
    unsigned char *bytes;
    struct array {
        char name[32];
        struct tensor tensor;
    } arrays[MOST_ARRAYS];
    int count;
};

static void vectors_open(struct vectors *v, const char *name)
{
    char path[4096];
    FILE *file;
    long size, at = 0;

    memset(v, 0, sizeof *v);
    (void)snprintf(path, sizeof path, "%s/%s.vec", DSA_VECTORS, name);
    file = fopen(path, "rb");
    CHECK(file != NULL);
    CHECK(fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0);
    rewind(file);
    v->bytes = malloc((size_t)size + 1);
    CHECK(v->bytes && fread(v->bytes, 1, (size_t)size, file) == (size_t)size);
    (void)fclose(file);
    v->bytes[size] = '\0';
    while (at < size) {
        struct array *array = &v->arrays[v->count++];
        struct tensor *t = &array->tensor;
        char type[8];
        int used, more;
        long long dims[4] = {0};
        int64_t stride = 1;
        size_t bytes;
        void *copy; /* the values lie anywhere in the file: aligned here */

        CHECK(v->count <= MOST_ARRAYS);
        CHECK(sscanf((char *)v->bytes + at, "%31s %7s%n", array->name, type, &used) == 2);
        at += used;
        while (v->bytes[at] != '\n') {
            CHECK(t->dim_count < 4 && sscanf((char *)v->bytes + at, " %lld%n", &dims[t->dim_count], &more) == 1);
            at += more;
            t->dim_count++;
        }
        at++;
        t->dtype = strcmp(type, "f32") == 0   ? DTYPE_F32
                   : strcmp(type, "i32") == 0 ? DTYPE_I32
                   : strcmp(type, "u16") == 0 ? DTYPE_BF16
                                              : DTYPE_U8;
        for (int i = t->dim_count - 1; i >= 0; i--) {
            t->dims[i] = dims[i];
            t->strides[i] = stride;
            stride *= dims[i];
        }
        bytes = (size_t)stride * dtype_bytes(t->dtype);
        CHECK(at + (long)bytes <= size);
        CHECK(posix_memalign(&copy, 64, bytes) == 0);
        memcpy(copy, v->bytes + at, bytes);
        t->data = copy;
        at += (long)bytes;
    }
}

static void vectors_close(struct vectors *v)
{
    for (int i = 0; i < v->count; i++)
        free(v->arrays[i].tensor.data);
    free(v->bytes);
}

static struct tensor *get(struct vectors *v, const char *name)
{
    for (int i = 0; i < v->count; i++)
        if (strcmp(v->arrays[i].name, name) == 0)
            return &v->arrays[i].tensor;
    FAIL("no array '%s'", name);
}

/* A tensor like `like` for results; freed with free(t.data). */
static struct tensor result_like(const struct tensor *like)
{
    struct tensor t = *like;
    size_t bytes = (size_t)tensor_count(like) * dtype_bytes(like->dtype);

    t.data = malloc(bytes);
    CHECK(t.data != NULL);
    memset(t.data, 0x5a, bytes);
    return t;
}

/* |is - expected| <= tolerance * (|expected| + the largest of its row). */
static void check_close(const struct tensor *is, const struct tensor *expected, double tolerance, const char *what)
{
    int64_t width = expected->dims[expected->dim_count - 1];

    for (int64_t i = 0; i < tensor_count(expected); i++) {
        const float *row = (const float *)expected->data + i / width * width;
        double a = ((const float *)is->data)[i], b = ((const float *)expected->data)[i], largest = 0;

        if (isinf(b) || isinf(a)) {
            if (a != b)
                FAIL("%s[%lld] is %g, expected %g", what, (long long)i, a, b);
            continue;
        }
        for (int64_t j = 0; j < width; j++)
            largest = isfinite(row[j]) ? fmax(largest, fabs((double)row[j])) : largest;
        if (!(fabs(a - b) <= tolerance * (fabs(b) + largest)))
            FAIL("%s[%lld] is %.9g, expected %.9g", what, (long long)i, a, b);
    }
}

static void check_same(const struct tensor *is, const struct tensor *expected, const char *what)
{
    size_t size = dtype_bytes(expected->dtype);

    for (int64_t i = 0; i < tensor_count(expected); i++)
        if (memcmp((char *)is->data + (size_t)i * size, (char *)expected->data + (size_t)i * size, size) != 0)
            FAIL("%s differs at %lld", what, (long long)i);
}

static void ok(struct ops *ops, enum status s)
{
    if (s)
        FAIL("%s: %s", ops_description(ops), ops_last_error(ops));
}

/* Runs `test` on the reference with a tight tolerance, then on the CPU backend with a wider one. */
static void on_both(void (*test)(struct ops *ops, struct vectors *v, double tolerance), const char *name,
                    double tolerance)
{
    struct vectors v;
    struct ops *ops = NULL;

    vectors_open(&v, name);
    CHECK(ops_open(&(struct ops_options){.backend = "ref"}, &ops, NULL) == STATUS_OK);
    test(ops, &v, 2e-7);
    ops_close(ops);
    CHECK(ops_open(&(struct ops_options){.backend = "cpu"}, &ops, NULL) == STATUS_OK);
    test(ops, &v, tolerance);
    ops_close(ops);
    vectors_close(&v);
}

/* --- Products ----------------------------------------------------------------------------------------- */

static void product(struct ops *ops, struct vectors *v, enum dtype dtype, enum numerics numerics, const char *expected,
                    double tolerance)
{
    struct ops_weight_args args = {
        .w = *get(v, "w"), .scale = dtype == DTYPE_F8E4M3 ? get(v, "scale") : NULL, .numerics = numerics};
    struct tensor y = result_like(get(v, expected));
    struct ops_weight *weight;

    args.w.dtype = dtype;
    ok(ops, ops_weight_create(ops, &args, &weight));
    ok(ops, ops_linear(ops, &(struct ops_linear_args){get(v, "x"), weight, &y, false}));
    check_close(&y, get(v, expected), tolerance, expected);
    ops_weight_destroy(ops, weight);
    free(y.data);
}

static void fp8_products(struct ops *ops, struct vectors *v, double tolerance)
{
    product(ops, v, DTYPE_F8E4M3, NUMERICS_FP8, "y", tolerance);
    product(ops, v, DTYPE_F8E4M3, NUMERICS_PLAIN, "y_plain", tolerance);
}

static void bf16_products(struct ops *ops, struct vectors *v, double tolerance)
{
    product(ops, v, DTYPE_BF16, NUMERICS_FP8, "y", tolerance);
    product(ops, v, DTYPE_BF16, NUMERICS_PLAIN, "y_plain", tolerance);
}

static void head_products(struct ops *ops, struct vectors *v, double tolerance)
{
    product(ops, v, DTYPE_F32, NUMERICS_FP8, "y", tolerance);
}

TEST(products)
{
    on_both(fp8_products, "linear_fp8", 2e-6);
    on_both(bf16_products, "linear_bf16", 2e-6);
    on_both(head_products, "linear_heads", 2e-6);
}

/* --- Rows --------------------------------------------------------------------------------------------- */

static void norms(struct ops *ops, struct vectors *v, double tolerance)
{
    struct tensor *x = get(v, "x"), *weight = get(v, "weight"), y = result_like(x), total = result_like(x);

    ok(ops, ops_layernorm(ops, &(struct ops_layernorm_args){x, weight, get(v, "bias"), 1e-6f, &y}));
    check_close(&y, get(v, "layer"), tolerance, "layer");
    ok(ops, ops_swiglu(ops, x, get(v, "residual"), &y));
    check_close(&y, get(v, "swiglu"), tolerance, "swiglu");
    memcpy(total.data, x->data, 4 * (size_t)tensor_count(x));
    ok(ops, ops_rmsnorm(ops, &(struct ops_rmsnorm_args){&total, get(v, "residual"), weight, 1e-6f, &y}));
    check_same(&total, get(v, "total"), "total");
    check_close(&y, get(v, "rms"), tolerance, "rms");
    free(y.data);
    free(total.data);
}

static void ropes(struct ops *ops, struct vectors *v, double tolerance)
{
    struct tensor *x = get(v, "x"), y = result_like(x);

    for (int style = 0; style < 2; style++) {
        memcpy(y.data, x->data, 4 * (size_t)tensor_count(x));
        ok(ops, ops_rope(ops, &(struct ops_rope_args){&y, get(v, "table"), get(v, "position"),
                                                      style ? ROPE_HALF_SPLIT : ROPE_INTERLEAVED}));
        check_close(&y, get(v, style ? "half_split" : "interleaved"), tolerance, style ? "half_split" : "interleaved");
    }
    free(y.data);
}

/* A sum next to a rounding border may become the other BF16 neighbour: 2^-8 of it. */
static void hadamard(struct ops *ops, struct vectors *v, double tolerance)
{
    struct tensor *x = get(v, "x"), y = result_like(x);
    int different = 0;

    memcpy(y.data, x->data, 4 * (size_t)tensor_count(x));
    ok(ops, ops_hadamard(ops, &y));
    check_close(&y, get(v, "y"), 0x1p-8, "y");
    for (int64_t i = 0; i < tensor_count(x); i++)
        different += ((float *)y.data)[i] != ((float *)get(v, "y")->data)[i];
    CHECK(different <= 5);
    free(y.data);
}

TEST(rows)
{
    on_both(norms, "norms", 2e-6);
    on_both(ropes, "rope", 1e-6);
    on_both(hadamard, "hadamard", 0);
}

/* --- Caches, indexer, attention ------------------------------------------------------------------------ */

static void attention(struct ops *ops, struct vectors *v, double tolerance)
{
    struct tensor *c = get(v, "c"), *key = get(v, "key"), *visible = get(v, "visible");
    struct tensor latent = result_like(get(v, "latent_pool")), index = result_like(get(v, "index_pool"));
    struct tensor scores = result_like(get(v, "scores")), selected = result_like(get(v, "selected"));
    struct tensor out = result_like(get(v, "sparse")), lse = result_like(get(v, "sparse_lse"));
    struct cache_shape shape = {(int)c->dims[1], (int)get(v, "k_pe")->dims[1], (int)key->dims[1], NUMERICS_FP8};
    int32_t zeros[16] = {0};
    struct tensor sequence = tensor_1d(DTYPE_I32, zeros, visible->dims[0]);
    struct ops_rows rows = {get(v, "slot"), &sequence, visible, get(v, "page_table"), (int32_t)scores.dims[1]};
    struct ops_indexer_args indexer = {get(v, "index_q"), get(v, "index_w"), &rows, shape, &index};
    struct ops_attention_args args = {
        get(v, "q_latent"), get(v, "q_pe"), &selected, &rows, shape, &latent, 0.11f, &out, &lse};
    bool ref = strcmp(ops_backend_name(ops), "ref") == 0;

    memset(latent.data, 0xff, (size_t)tensor_count(&latent));
    memset(index.data, 0xff, (size_t)tensor_count(&index));
    ok(ops, ops_latent_write(ops, &(struct ops_latent_write_args){
                                      .c = c, .k_pe = get(v, "k_pe"), .rows = &rows, .shape = shape, .pool = &latent}));
    ok(ops,
       ops_index_write(ops, &(struct ops_index_write_args){.k = key, .rows = &rows, .shape = shape, .pool = &index}));
    check_same(&latent, get(v, "latent_pool"), "latent_pool");
    check_same(&index, get(v, "index_pool"), "index_pool");
    ok(ops, ops_indexer_scores(ops, &indexer, &scores));
    check_close(&scores, get(v, "scores"), tolerance, "scores");
    ok(ops, ops_indexer_topk(ops, &indexer, &selected));
    check_same(&selected, get(v, "selected"), "selected");
    ok(ops, ops_attention(ops, &args));
    check_close(&out, get(v, "sparse"), ref ? tolerance : 4e-3, "sparse");
    check_close(&lse, get(v, "sparse_lse"), tolerance, "sparse_lse");
    args.selected = NULL;
    ok(ops, ops_attention(ops, &args));
    check_close(&out, get(v, "dense"), ref ? tolerance : 4e-3, "dense");
    check_close(&lse, get(v, "dense_lse"), tolerance, "dense_lse");
    free(latent.data);
    free(index.data);
    free(scores.data);
    free(selected.data);
    free(out.data);
    free(lse.data);
}

TEST(caches_indexer_and_attention)
{
    on_both(attention, "attention", 2e-6);
}

/* --- Router and experts --------------------------------------------------------------------------------- */

static void router(struct ops *ops, struct vectors *v, double tolerance)
{
    struct tensor experts = result_like(get(v, "sigmoid_experts")), weights = result_like(get(v, "sigmoid_weights"));
    struct ops_router_args args = {get(v, "logits"), get(v, "bias"), ROUTER_SIGMOID, 4, 2, true, 2.5f,
                                   &experts,         &weights};

    ok(ops, ops_router(ops, &args));
    check_same(&experts, get(v, "sigmoid_experts"), "sigmoid_experts");
    check_close(&weights, get(v, "sigmoid_weights"), tolerance, "sigmoid_weights");
    free(experts.data);
    free(weights.data);
    experts = result_like(get(v, "softmax_experts"));
    weights = result_like(get(v, "softmax_weights"));
    args = (struct ops_router_args){get(v, "logits"), NULL, ROUTER_SOFTMAX, 1, 1, false, 1.0f, &experts, &weights};
    ok(ops, ops_router(ops, &args));
    check_same(&experts, get(v, "softmax_experts"), "softmax_experts");
    check_close(&weights, get(v, "softmax_weights"), tolerance, "softmax_weights");
    free(experts.data);
    free(weights.data);
}

static void experts(struct ops *ops, struct vectors *v, double tolerance)
{
    static const char *const names[] = {"gate", "up", "down"};
    struct tensor y = result_like(get(v, "y"));
    struct ops_weight *w[3][8];
    int E = (int)get(v, "gate")->dims[0];

    for (int i = 0; i < 3; i++)
        for (int e = 0; e < E; e++) {
            struct tensor one = tensor_rows(get(v, names[i]), e, 1);
            struct ops_weight_args args = {tensor_2d(DTYPE_F32, one.data, one.dims[1], one.dims[2]), NULL,
                                           NUMERICS_FP8};

            ok(ops, ops_weight_create(ops, &args, &w[i][e]));
        }
    memcpy(y.data, get(v, "y0")->data, 4 * (size_t)tensor_count(&y));
    ok(ops, ops_moe(ops, &(struct ops_moe_args){
                             get(v, "x"), get(v, "experts"), get(v, "weights"), (const struct ops_weight *const *)w[0],
                             (const struct ops_weight *const *)w[1], (const struct ops_weight *const *)w[2], E, &y}));
    check_close(&y, get(v, "y"), tolerance, "y");
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < E; e++)
            ops_weight_destroy(ops, w[i][e]);
    free(y.data);
}

TEST(router_and_experts)
{
    on_both(router, "router", 2e-6);
    on_both(experts, "moe", 4e-6);
}
