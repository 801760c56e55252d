/* bench_kernels.c: matrix products of the CPU backend beside OpenBLAS and oneDNN, on one thread.
 *
 *   build/bench/bench_kernels [--csv]
 *
 * Each shape is run in turn by all of them, again and again, so that what else the machine does falls on all alike;
 * times are this thread's CPU time, the best tenth of the runs. Weights are packed beforehand where the library can
 * (ours, oneDNN); OpenBLAS takes [N, K] as it is. Everything else about kernels is in check_kernels --bench. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/ops.h"

#ifdef HAVE_OPENBLAS
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc);
void openblas_set_num_threads(int threads);
#endif
#ifdef HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

enum { MOST_RUNS = 60, BUDGET_MS = 300 };

static double cpu_seconds(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void check(bool ok, const char *what)
{
    if (!ok) {
        (void)fprintf(stderr, "bench_kernels: %s failed\n", what);
        exit(1);
    }
}

static void *allocate(size_t bytes)
{
    void *memory = NULL;

    check(posix_memalign(&memory, 64, bytes) == 0, "memory");
    memset(memory, 0, bytes);
    return memory;
}

/* One way to compute y [M, N] = x [M, K] w^T, w [N, K]. */
struct way {
    const char *name;
    void (*run)(void *context);
    void *context;
    double best;
};

/* --- Ours ------------------------------------------------------------------------------------------- */

struct own {
    struct ops *ops;
    struct ops_weight *weight;
    struct tensor x, y;
};

static void run_own(void *context)
{
    struct own *own = context;

    check(ops_linear(own->ops, &(struct ops_linear_args){&own->x, own->weight, &own->y, false}) == STATUS_OK, "linear");
}

static struct own *own_create(struct ops *ops, enum dtype dtype, const float *x, const void *w,
                              const struct tensor *scale, float *y, int M, int N, int K)
{
    struct own *own = allocate(sizeof *own);
    struct ops_weight_args args = {tensor_2d(dtype, (void *)(uintptr_t)w, N, K), dtype == DTYPE_F8E4M3 ? scale : NULL,
                                   NUMERICS_FP8};

    own->ops = ops;
    own->x = tensor_2d(DTYPE_F32, (float *)(uintptr_t)x, M, K);
    own->y = tensor_2d(DTYPE_F32, y, M, N);
    check(ops_weight_create(ops, &args, &own->weight) == STATUS_OK, "weight_create");
    return own;
}

/* --- OpenBLAS --------------------------------------------------------------------------------------- */

struct shape {
    int M, N, K;
    const float *x, *w;
    float *y;
};

#ifdef HAVE_OPENBLAS
static void run_openblas(void *context)
{
    const struct shape *s = context;
    enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };

    cblas_sgemm(ROW_MAJOR, AS_IS, TRANSPOSED, s->M, s->N, s->K, 1, s->x, s->K, s->w, s->K, 0, s->y, s->N);
}
#endif

/* --- oneDNN ----------------------------------------------------------------------------------------- */

#ifdef HAVE_ONEDNN
struct onednn {
    dnnl_primitive_t matmul;
    dnnl_stream_t stream;
    dnnl_exec_arg_t args[3];
};

static void run_onednn(void *context)
{
    struct onednn *d = context;

    check(dnnl_primitive_execute(d->matmul, d->stream, 3, d->args) == dnnl_success, "dnnl_primitive_execute");
    (void)dnnl_stream_wait(d->stream);
}

/* Activations and weights of `type`; the weight in the order the library asks for. */
static struct onednn *onednn_create(dnnl_data_type_t type, int M, int N, int K)
{
    struct onednn *d = allocate(sizeof *d);
    dnnl_dims_t x_dims = {M, K}, w_dims = {K, N}, y_dims = {M, N};
    dnnl_memory_desc_t x, w, y;
    const dnnl_memory_desc_t *packed;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t primitive;
    dnnl_engine_t engine;
    dnnl_memory_t memory[3];

    check(dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success, "dnnl_engine_create");
    check(dnnl_stream_create(&d->stream, engine, dnnl_stream_default_flags) == dnnl_success, "dnnl_stream_create");
    (void)dnnl_memory_desc_init_by_tag(&x, 2, x_dims, type, dnnl_ab);
    (void)dnnl_memory_desc_init_by_tag(&w, 2, w_dims, type, dnnl_format_tag_any);
    (void)dnnl_memory_desc_init_by_tag(&y, 2, y_dims, dnnl_f32, dnnl_ab);
    check(dnnl_matmul_desc_init(&desc, &x, &w, NULL, &y) == dnnl_success, "dnnl_matmul_desc_init");
    check(dnnl_primitive_desc_create(&primitive, &desc, NULL, engine, NULL) == dnnl_success, "primitive_desc");
    packed = dnnl_primitive_desc_query_md(primitive, dnnl_query_weights_md, 0);
    check(dnnl_memory_create(&memory[0], &x, engine, allocate(dnnl_memory_desc_get_size(&x))) == dnnl_success, "x");
    check(dnnl_memory_create(&memory[1], packed, engine, allocate(dnnl_memory_desc_get_size(packed))) == dnnl_success,
          "w");
    check(dnnl_memory_create(&memory[2], &y, engine, allocate(dnnl_memory_desc_get_size(&y))) == dnnl_success, "y");
    check(dnnl_primitive_create(&d->matmul, primitive) == dnnl_success, "dnnl_primitive_create");
    d->args[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, memory[0]};
    d->args[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, memory[1]};
    d->args[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, memory[2]};
    return d;
}
#endif

/* --- Measuring -------------------------------------------------------------------------------------- */

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

static void measure(struct way *ways, int count)
{
    static double times[16][MOST_RUNS];
    double begin = cpu_seconds();
    int runs = 0;

    for (int i = 0; i < count; i++)
        ways[i].run(ways[i].context);
    while (runs < 5 || (runs < MOST_RUNS && cpu_seconds() - begin < BUDGET_MS * 1e-3 * count)) {
        for (int i = 0; i < count; i++) {
            double start = cpu_seconds();

            ways[i].run(ways[i].context);
            times[i][runs] = cpu_seconds() - start;
        }
        runs++;
    }
    for (int i = 0; i < count; i++) {
        qsort(times[i], (size_t)runs, sizeof(double), ascending);
        ways[i].best = times[i][runs / 10];
    }
}

static void bench_shape(struct ops *ops, int M, int N, int K, bool csv)
{
    size_t values = (size_t)N * (size_t)K;
    float *x = allocate(4 * (size_t)M * (size_t)K), *w = allocate(4 * values), *y = allocate(4 * (size_t)M * (size_t)N);
    float *scales = allocate(4 * ((size_t)N / 128 + 1) * ((size_t)K / 128 + 1));
    uint16_t *halves = allocate(2 * values);
    uint8_t *codes = allocate(values);
    struct tensor scale = tensor_2d(DTYPE_F32, scales, (N + 127) / 128, (K + 127) / 128);
    struct shape shape = {M, N, K, x, w, y};
    struct own *own[3];
    struct way ways[8];
    int count = 0;

    own[0] = own_create(ops, DTYPE_F8E4M3, x, codes, &scale, y, M, N, K);
    own[1] = own_create(ops, DTYPE_BF16, x, halves, NULL, y, M, N, K);
    own[2] = own_create(ops, DTYPE_F32, x, w, NULL, y, M, N, K);
    ways[count++] = (struct way){"own fp8", run_own, own[0], 0};
    ways[count++] = (struct way){"own bf16", run_own, own[1], 0};
    ways[count++] = (struct way){"own f32", run_own, own[2], 0};
#ifdef HAVE_ONEDNN
    ways[count++] = (struct way){"oneDNN bf16", run_onednn, onednn_create(dnnl_bf16, M, N, K), 0};
    ways[count++] = (struct way){"oneDNN f32", run_onednn, onednn_create(dnnl_f32, M, N, K), 0};
#endif
#ifdef HAVE_OPENBLAS
    ways[count++] = (struct way){"OpenBLAS f32", run_openblas, &shape, 0};
#endif
    (void)shape;
    measure(ways, count);
    for (int i = 0; i < count; i++) {
        double gflops = 2.0 * M * N * K / ways[i].best * 1e-9;

        if (csv)
            printf("%d,%d,%d,%s,%.1f,%.2f\n", M, N, K, ways[i].name, ways[i].best * 1e6, gflops);
        else
            printf("%s%dx%dx%d %s %.0f us %.0f GFLOP/s", i ? " | " : "", M, N, K, ways[i].name, ways[i].best * 1e6,
                   gflops);
    }
    if (!csv)
        printf("\n");
    (void)fflush(stdout);
    for (int i = 0; i < 3; i++) {
        ops_weight_destroy(ops, own[i]->weight);
        free(own[i]);
    }
    free(x);
    free(w);
    free(y);
    free(scales);
    free(halves);
    free(codes);
}

int main(int argc, char **argv)
{
    static const int shapes[][3] = {{1, 512, 512},  {8, 512, 512},  {64, 512, 512},   {512, 512, 512},
                                    {1, 2048, 2048}, {8, 2048, 2048}, {64, 2048, 2048}, {512, 2048, 2048},
                                    {64, 2048, 7168}, {512, 2048, 512}};
    bool csv = argc > 1 && strcmp(argv[1], "--csv") == 0;
    void (*omp_set_num_threads)(int);
    struct ops *ops = NULL;
    struct error err = {0};

    if (ops_open(&(struct ops_options){.backend = "cpu", .threads = 1}, &ops, &err)) {
        (void)fprintf(stderr, "bench_kernels: %s\n", err.message);
        return 1;
    }
    *(void **)&omp_set_num_threads = dlsym(RTLD_DEFAULT, "omp_set_num_threads"); /* oneDNN's threads */
    if (omp_set_num_threads)
        omp_set_num_threads(1);
#ifdef HAVE_OPENBLAS
    openblas_set_num_threads(1);
#endif
    if (csv)
        printf("M,N,K,way,us,gflops\n");
    else
        printf("# %s\n", ops_description(ops));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(ops, shapes[i][0], shapes[i][1], shapes[i][2], csv);
    ops_close(ops);
    return 0;
}
