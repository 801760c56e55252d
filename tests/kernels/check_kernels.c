/* check_kernels.c: every op of a backend against the reference, case by case; with --bench, timed.
 *
 *   build/tests/kernels/check_kernels [--op NAME] [--case TEXT] [--not TEXT] [--backend cpu|ref|cuda]
 *       [--plugin-dir DIR] [--features portable|avx2|avx512] [--threads N] [--seed N] [--bench] [--csv] [--verbose]
 *       [--repeat N] [--seconds N]
 *
 * Cases whose name begins with "full" have published sizes and run only if --case names them (--case full: all of
 * them); of their rows a sample is compared. --repeat N also demands the same bits from N runs. --seconds N takes one
 * case of each op in turn and begins none after N seconds, for tools that make everything slow.
 *
 * Prints TAP. Exits 77 where the backend or the instruction set is not there; 0 with --skip-is-ok, since meson takes
 * TAP's word for a skip and any exit status but 0 for an error. */
#include "tests/kernels/check_kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "kernels/fp8.h"
#include "tests/kernels/peaks.h"

enum { GUARD_BYTES = 256, MAX_BOXES = 4096, POISON = 0xA5, FAILED = 1, SKIPPED = 2 };

struct check {
    struct ops *ref, *device;
    const char *backend, *plugin_dir, *features, *only_op, *only_case, *not_case;
    int threads, repeat, seconds;
    uint64_t seed, state;
    bool bench, csv, verbose, skip_is_ok;
    struct box *boxes[MAX_BOXES];
    int box_count;
    jmp_buf back;
    char message[1024];
    double worst; /* largest share of its budget that a comparison of this case used */
    struct peaks peaks;
    const char *op, *name;
};

static const struct check_op *const all_ops[] = {
    &check_op_linear,  &check_op_linears, &check_op_rows, &check_op_rope,      &check_op_hadamard, &check_op_cache,
    &check_op_changed, &check_op_indexer, &check_op_topk, &check_op_attention, &check_op_router,   &check_op_moe,
    &check_op_best,    &check_op_shortlist, &check_op_linear_pair, &check_op_norm_linears};

struct ops *check_ref(struct check *check)
{
    return check->ref;
}

struct ops *check_device(struct check *check)
{
    return check->device;
}

bool check_short_sums(struct check *check, enum dtype dtype, enum numerics numerics)
{
    return dtype == DTYPE_F8E4M3 && numerics == NUMERICS_FP8 &&
           strncmp(ops_description(check->device), "cuda sm_9", 9) == 0;
}

bool check_is_bench(const struct check *check)
{
    return check->bench;
}

void check_case_fail(struct check *check, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(check->message, sizeof check->message, format, arguments);
    va_end(arguments);
    longjmp(check->back, FAILED);
}

void check_status(struct check *check, struct ops *ops, enum status status)
{
    if (status == STATUS_UNSUPPORTED && ops == check->device) {
        (void)snprintf(check->message, sizeof check->message, "%s", ops_last_error(ops));
        longjmp(check->back, SKIPPED);
    }
    if (status)
        check_case_fail(check, "%s: %s: %s", ops_backend_name(ops), status_name(status), ops_last_error(ops));
}

/* --- Random numbers: splitmix64, the same on every machine -------------------------------------------- */

static uint64_t next_random(struct check *check)
{
    uint64_t z = check->state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double check_unit(struct check *check)
{
    return (double)(next_random(check) >> 11) * 0x1p-53;
}

double check_normal(struct check *check)
{
    double u = check_unit(check), v = check_unit(check);

    return sqrt(-2 * log(u + 0x1p-60)) * cos(6.283185307179586 * v);
}

int64_t check_int(struct check *check, int64_t low, int64_t high)
{
    return low + (int64_t)(next_random(check) % (uint64_t)(high - low));
}

/* --- Boxes -------------------------------------------------------------------------------------------- */

static void *allocate(struct check *check, size_t bytes)
{
    void *memory = NULL;

    if (posix_memalign(&memory, 64, bytes))
        check_case_fail(check, "no memory for %zu bytes", bytes);
    return memory;
}

struct box *box_new(struct check *check, enum dtype dtype, int dim_count, const int64_t *dims, int64_t pad)
{
    struct box *box = calloc(1, sizeof *box);
    struct tensor *t;
    int64_t stride;

    if (!box || check->box_count == MAX_BOXES)
        check_case_fail(check, "no memory for a box");
    check->boxes[check->box_count++] = box;
    t = &box->host;
    t->dtype = dtype;
    t->dim_count = dim_count;
    stride = dims[dim_count - 1] + pad;
    t->strides[dim_count - 1] = 1;
    t->dims[dim_count - 1] = dims[dim_count - 1];
    for (int i = dim_count - 2; i >= 0; i--) {
        t->dims[i] = dims[i];
        t->strides[i] = stride;
        stride *= dims[i];
    }
    box->bytes = 2 * GUARD_BYTES + (size_t)stride * dtype_bytes(dtype);
    box->host_memory = allocate(check, box->bytes);
    box->result = allocate(check, box->bytes);
    check_status(check, check->device, ops_alloc(check->device, box->bytes, &box->device_memory));
    memset(box->host_memory, POISON, box->bytes);
    box->device = box->host;
    box->host.data = box->host_memory + GUARD_BYTES;
    box->device.data = (unsigned char *)box->device_memory + GUARD_BYTES;
    return box;
}

static void free_boxes(struct check *check)
{
    for (int i = 0; i < check->box_count; i++) {
        free(check->boxes[i]->host_memory);
        free(check->boxes[i]->result);
        ops_free(check->device, check->boxes[i]->device_memory);
        free(check->boxes[i]);
    }
    check->box_count = 0;
}

/* The offset, in elements, of the i-th element in row-major order of the dimensions. */
static int64_t offset_of(const struct tensor *t, int64_t i)
{
    int64_t offset = 0;

    for (int d = t->dim_count - 1; d >= 0; d--) {
        offset += i % t->dims[d] * t->strides[d];
        i /= t->dims[d];
    }
    return offset;
}

void box_fill_normal(struct check *check, struct box *box, double deviation)
{
    int64_t count = tensor_count(&box->host);

    for (int64_t i = 0; i < count; i++) {
        float value = (float)(check_normal(check) * deviation);

        if (box->host.dtype == DTYPE_BF16)
            ((uint16_t *)box->host.data)[offset_of(&box->host, i)] = bf16_from_f32(value);
        else if (box->host.dtype == DTYPE_F8E4M3)
            ((uint8_t *)box->host.data)[offset_of(&box->host, i)] = e4m3_from_f32(value);
        else
            ((float *)box->host.data)[offset_of(&box->host, i)] = value;
    }
}

void box_fill_uniform_int(struct check *check, struct box *box, int32_t low, int32_t high)
{
    for (int64_t i = 0; i < tensor_count(&box->host); i++)
        ((int32_t *)box->host.data)[offset_of(&box->host, i)] = (int32_t)check_int(check, low, high);
}

void box_fill_codes(struct check *check, struct box *box)
{
    for (int64_t i = 0; i < tensor_count(&box->host); i++) {
        uint8_t code = (uint8_t)next_random(check);

        ((uint8_t *)box->host.data)[offset_of(&box->host, i)] = (code & 0x7f) == 0x7f ? 0x7e : code;
    }
}

float *box_f32(struct box *box, int64_t row)
{
    return (float *)box->host.data + row * box->host.strides[0];
}

int32_t *box_i32(struct box *box, int64_t row)
{
    return (int32_t *)box->host.data + row * box->host.strides[0];
}

void box_upload(struct check *check, struct box *box)
{
    check_status(check, check->device, ops_upload(check->device, box->device_memory, box->host_memory, box->bytes));
}

/* Everything that is no element must still be as the host has it: the reference does not write there. */
static void compare_outside(struct check *check, struct box *box)
{
    size_t size = dtype_bytes(box->host.dtype);
    unsigned char *inside = calloc(1, box->bytes);
    int64_t count = tensor_count(&box->host);
    size_t i;

    if (!inside)
        check_case_fail(check, "no memory");
    for (int64_t e = 0; e < count; e++)
        memset(inside + GUARD_BYTES + (size_t)offset_of(&box->host, e) * size, 1, size);
    for (i = 0; i < box->bytes; i++)
        if (!inside[i] && box->result[i] != box->host_memory[i])
            break;
    free(inside);
    if (i < box->bytes)
        check_case_fail(check, "byte %lld from the first element was written, outside the tensor",
                        (long long)i - GUARD_BYTES);
}

void box_download(struct check *check, struct box *box, struct tensor *view)
{
    check_status(check, check->device, ops_sync(check->device));
    check_status(check, check->device, ops_download(check->device, box->result, box->device_memory, box->bytes));
    *view = box->host;
    view->data = box->result + GUARD_BYTES;
    compare_outside(check, box);
}

/* --- Comparing ---------------------------------------------------------------------------------------- */

static void print_place(const struct tensor *t, int64_t i, char *text, size_t bytes)
{
    int64_t places[TENSOR_MAX_DIMS];
    size_t used = 0;

    for (int d = t->dim_count - 1; d >= 0; d--) {
        places[d] = i % t->dims[d];
        i /= t->dims[d];
    }
    text[0] = '\0';
    for (int d = 0; d < t->dim_count && used < bytes; d++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld", d ? "," : "", (long long)places[d]);
}

void box_compare_exact(struct check *check, struct box *box, const char *what)
{
    size_t size = dtype_bytes(box->host.dtype);
    struct tensor view;
    int64_t count = tensor_count(&box->host);

    box_download(check, box, &view);
    for (int64_t i = 0; i < count; i++) {
        size_t at = (size_t)offset_of(&view, i) * size;
        char place[96];

        if (memcmp((char *)view.data + at, (char *)box->host.data + at, size) == 0)
            continue;
        print_place(&view, i, place, sizeof place);
        if (view.dtype == DTYPE_F32)
            check_case_fail(check, "%s[%s] is %.9g, ref has %.9g", what, place,
                            (double)*(float *)((char *)view.data + at),
                            (double)*(float *)((char *)box->host.data + at));
        if (view.dtype == DTYPE_I32)
            check_case_fail(check, "%s[%s] is %d, ref has %d", what, place, *(int32_t *)((char *)view.data + at),
                            *(int32_t *)((char *)box->host.data + at));
        check_case_fail(check, "%s[%s] is %#x, ref has %#x", what, place, *((unsigned char *)view.data + at),
                        *((unsigned char *)box->host.data + at));
    }
}

static void compare_value(struct check *check, const struct tensor *view, int64_t i, double is, double ref,
                          double budget, const char *what)
{
    double error = fabs(is - ref);
    bool same_kind = isnan(is) == isnan(ref) && (isinf(is) || isinf(ref) ? is == ref : true);
    char place[96];

    if (same_kind && (isnan(ref) || isinf(ref) || error <= budget)) {
        if (isfinite(ref) && budget > 0)
            check->worst = fmax(check->worst, error / budget);
        return;
    }
    print_place(view, i, place, sizeof place);
    check_case_fail(check, "%s[%s] is %.9g, ref has %.9g, budget %.3g", what, place, is, ref, budget);
}

void box_compare_close(struct check *check, struct box *box, const char *what, double absolute, double relative)
{
    struct tensor view;
    int64_t count = tensor_count(&box->host);

    box_download(check, box, &view);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = offset_of(&view, i);
        double ref = ((float *)box->host.data)[at];

        compare_value(check, &view, i, ((float *)view.data)[at], ref, absolute + relative * fabs(ref), what);
    }
}

void box_compare_bounds(struct check *check, struct box *box, const char *what, const double *bound)
{
    struct tensor view;
    int64_t count = tensor_count(&box->host);

    box_download(check, box, &view);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = offset_of(&view, i);

        compare_value(check, &view, i, ((float *)view.data)[at], ((float *)box->host.data)[at], bound[i], what);
    }
}

void box_compare_cosine(struct check *check, struct box *box, const char *what, double limit)
{
    struct tensor view;
    int64_t width = box->host.dims[box->host.dim_count - 1], rows = width ? tensor_count(&box->host) / width : 0;

    box_download(check, box, &view);
    for (int64_t r = 0; r < rows; r++) {
        double dot = 0, a2 = 0, b2 = 0, distance;
        char place[96];

        for (int64_t d = 0; d < width; d++) {
            int64_t at = offset_of(&view, r * width + d);
            double a = ((float *)view.data)[at], b = ((float *)box->host.data)[at];

            dot += a * b;
            a2 += a * a;
            b2 += b * b;
        }
        distance = a2 + b2 > 0 ? 1 - 2 * dot / (a2 + b2) : 0; /* also sees a wrong length */
        check->worst = fmax(check->worst, distance / limit);
        print_place(&view, r * width, place, sizeof place);
        if (!(distance <= limit))
            check_case_fail(check, "%s[%s]: 1 - cosine is %.3g, budget %.3g", what, place, distance, limit);
    }
}

/* --- Caches ------------------------------------------------------------------------------------------- */

static void write_tokens(struct check *check, struct cache_box *cache, int B, int32_t tokens)
{
    const struct cache_shape *shape = &cache->shape;
    float *values = calloc((size_t)(shape->Dv + shape->Dr + shape->Di) + 1, sizeof *values);
    int32_t slot_value;
    struct tensor slot = tensor_1d(DTYPE_I32, &slot_value, 1);
    struct ops_rows rows = {.slot = &slot};
    int width = shape->Dv > shape->Di ? shape->Dv : shape->Di;

    if (!values)
        check_case_fail(check, "no memory");
    for (int b = 0; b < B; b++)
        for (int32_t s = 0; s < tokens; s++) {
            struct tensor c = tensor_2d(DTYPE_F32, values, 1, shape->Dv);
            struct tensor k_pe = tensor_2d(DTYPE_F32, values + width, 1, shape->Dr);
            struct tensor k = tensor_2d(DTYPE_F32, values, 1, shape->Di);

            slot_value =
                box_i32(cache->page_table, b)[s / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS + s % CACHE_PAGE_TOKENS;
            for (int d = 0; d < width + shape->Dr && d < shape->Dv + shape->Dr + shape->Di; d++)
                values[d] = (float)check_normal(check);
            if (cache->latent)
                check_status(
                    check, check->ref,
                    ops_latent_write(
                        check->ref,
                        &(struct ops_latent_write_args){
                            .c = &c, .k_pe = &k_pe, .rows = &rows, .shape = *shape, .pool = &cache->latent->host}));
            if (cache->index)
                check_status(check, check->ref,
                             ops_index_write(check->ref, &(struct ops_index_write_args){.k = &k,
                                                                                        .rows = &rows,
                                                                                        .shape = *shape,
                                                                                        .pool = &cache->index->host}));
        }
    free(values);
}

void cache_box_init(struct check *check, struct cache_box *cache, const struct cache_shape *shape, int B,
                    int32_t tokens, int64_t T, const int32_t *visible)
{
    int64_t pages = (tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS, total = B * pages + 3;
    int32_t *order = calloc((size_t)total, sizeof *order);

    *cache = (struct cache_box){.shape = *shape};
    if (!order)
        check_case_fail(check, "no memory");
    for (int32_t i = 0; i < total; i++)
        order[i] = i;
    for (int64_t i = total - 1; i > 0; i--) {
        int64_t j = check_int(check, 0, i + 1);
        int32_t swap = order[i];

        order[i] = order[j];
        order[j] = swap;
    }
    cache->page_table = BOX(check, DTYPE_I32, 2, B, pages + 1);
    for (int b = 0; b < B; b++)
        for (int64_t p = 0; p <= pages; p++)
            box_i32(cache->page_table, b)[p] = p < pages ? order[b * pages + p] : -1;
    free(order);
    if (shape->Dv) {
        cache->latent = BOX(check, DTYPE_U8, 0, total, CACHE_PAGE_TOKENS, (int64_t)cache_record_bytes(shape));
        memset(cache->latent->host.data, 0xff, (size_t)tensor_count(&cache->latent->host));
    }
    if (shape->Di) {
        cache->index = BOX(check, DTYPE_U8, 0, total, (int64_t)cache_index_page_bytes(shape));
        memset(cache->index->host.data, 0xff, (size_t)tensor_count(&cache->index->host));
    }
    write_tokens(check, cache, B, tokens);
    cache->slot = BOX(check, DTYPE_I32, 0, T);
    cache->sequence = BOX(check, DTYPE_I32, 0, T);
    cache->visible = BOX(check, DTYPE_I32, 0, T);
    for (int64_t t = 0; t < T; t++) {
        *box_i32(cache->slot, t) = 0;
        *box_i32(cache->sequence, t) = (int32_t)(t * B / T); /* rows of one sequence come together */
        *box_i32(cache->visible, t) = visible[t];
        if (visible[t] > cache->host.visible_max)
            cache->host.visible_max = visible[t];
    }
    cache->device = cache->host;
    cache->host.slot = &cache->slot->host;
    cache->host.sequence = &cache->sequence->host;
    cache->host.visible = &cache->visible->host;
    cache->host.page_table = &cache->page_table->host;
    cache->device.slot = &cache->slot->device;
    cache->device.sequence = &cache->sequence->device;
    cache->device.visible = &cache->visible->device;
    cache->device.page_table = &cache->page_table->device;
    box_upload(check, cache->page_table);
    box_upload(check, cache->slot);
    box_upload(check, cache->sequence);
    box_upload(check, cache->visible);
    if (cache->latent)
        box_upload(check, cache->latent);
    if (cache->index)
        box_upload(check, cache->index);
}

/* --- Repetition and samples --------------------------------------------------------------------------------- */

void check_repeat(struct check *check, enum status (*run)(struct ops *ops, void *context), void *context,
                  struct box *const *outputs)
{
    enum { MOST_OUTPUTS = 4 };
    unsigned char *first[MOST_OUTPUTS] = {0};
    int differs = -1, again = 1;

    if (check->repeat < 2)
        return;
    for (int i = 0; outputs[i]; i++) {
        struct tensor view;

        box_download(check, outputs[i], &view);
        first[i] = malloc(outputs[i]->bytes);
        if (first[i])
            memcpy(first[i], outputs[i]->result, outputs[i]->bytes);
    }
    for (; again < check->repeat && differs < 0; again++) {
        enum status status;

        for (int i = 0; outputs[i]; i++)
            box_upload(check, outputs[i]);
        status = run(check->device, context);
        for (int i = 0; !status && outputs[i]; i++) {
            status = ops_sync(check->device);
            if (!status)
                status = ops_download(check->device, outputs[i]->result, outputs[i]->device_memory, outputs[i]->bytes);
            if (!status && (!first[i] || memcmp(first[i], outputs[i]->result, outputs[i]->bytes) != 0))
                differs = i;
        }
        if (status)
            differs = MOST_OUTPUTS;
    }
    for (int i = 0; i < MOST_OUTPUTS; i++)
        free(first[i]);
    if (differs >= 0)
        check_case_fail(check, "run %d differs from the first in output %d", again, differs);
}

int check_sample_rows(struct check *check, int64_t T, int64_t *rows)
{
    int count = T < CHECK_SAMPLES ? (int)T : CHECK_SAMPLES;

    for (int i = 0; i < count; i++) {
        int64_t low = i * T / count, high = (i + 1) * T / count;

        rows[i] = i == 0 ? 0 : i == count - 1 ? T - 1 : check_int(check, low, high);
    }
    return count;
}

void box_download_row(struct check *check, struct box *box, int64_t row, struct box *copy)
{
    size_t bytes = (size_t)box->host.strides[0] * dtype_bytes(box->host.dtype);

    if (copy->bytes < 2 * (size_t)GUARD_BYTES + bytes)
        check_case_fail(check, "a copy that is too short for a row");
    check_status(check, check->device, ops_sync(check->device));
    check_status(check, check->device,
                 ops_download(check->device, copy->host.data,
                              (char *)box->device_memory + GUARD_BYTES + (size_t)row * bytes, bytes));
}

/* --- Bench -------------------------------------------------------------------------------------------- */

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

/* Wall time; for one thread of the host, that thread's CPU time, so that what else the machine does counts less. */
static int64_t bench_now_ns(const struct check *check)
{
    struct timespec now;
    bool one = ops_thread_count(check->device) == 1 && strcmp(check->backend, "cuda") != 0;

    (void)clock_gettime(one ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void check_bench(struct check *check, enum status (*run)(struct ops *ops, void *context), void *context, double flops,
                 double bytes, const char *peak)
{
    enum { MOST = 41, FEWEST = 10, BUDGET_MS = 600 };
    double times[MOST], gflops, gbytes, limit;
    int count = 0;
    int64_t start;

    if (!check->bench)
        return;
    for (int i = 0; i < 2; i++)
        check_status(check, check->device, run(check->device, context));
    check_status(check, check->device, ops_sync(check->device));
    start = clock_monotonic_ns();
    while (count < MOST && (count < FEWEST || clock_monotonic_ns() - start < BUDGET_MS * (int64_t)1000000)) {
        int64_t begin = bench_now_ns(check);

        check_status(check, check->device, run(check->device, context));
        check_status(check, check->device, ops_sync(check->device));
        times[count++] = (double)(bench_now_ns(check) - begin) * 1e-3;
    }
    qsort(times, (size_t)count, sizeof *times, ascending);
    gflops = flops / times[count / 2] * 1e-3;
    gbytes = bytes / times[count / 2] * 1e-3;
    limit = strcmp(peak, "bf16") == 0 ? check->peaks.bf16_gflops : check->peaks.f32_gflops;
    if (check->csv)
        printf("%s,%s,%s,%.2f,%.2f,%.2f,%.2f,%.3f,%.3f\n", check->op, check->name, ops_description(check->device),
               times[count / 2], times[count / 10], gflops, gbytes, limit > 0 ? gflops / limit : 0,
               check->peaks.read_gbytes > 0 ? gbytes / check->peaks.read_gbytes : 0);
    else
        printf("# %-10s %-44s %10.1f us (p10 %.1f)  %7.1f GFLOP/s %3.0f%%  %6.1f GB/s %3.0f%%\n", check->op,
               check->name, times[count / 2], times[count / 10], gflops, limit > 0 ? 100 * gflops / limit : 0, gbytes,
               check->peaks.read_gbytes > 0 ? 100 * gbytes / check->peaks.read_gbytes : 0);
    (void)fflush(stdout);
}

/* --- Running ------------------------------------------------------------------------------------------ */

static bool run_case(struct check *check, const struct check_op *op, const struct check_case *one, int number)
{
    clock_t begun = clock();
    char label[160];
    int outcome;

    check->op = op->name;
    check->name = one->name;
    (void)snprintf(label, sizeof label, "%s\t%s", op->name, one->name);
    (void)setenv("DSA_CHECK_CASE", label, 1); /* for the emulator's trace of what a case meets */
    check->worst = 0;
    check->state = check->seed;
    for (const char *c = one->name; *c; c++)
        check->state = (check->state ^ (unsigned char)*c) * 0x100000001b3u;
    outcome = setjmp(check->back);
    if (!outcome)
        op->run(check, one->parameters);
    free_boxes(check);
    if (outcome == FAILED) {
        printf("not ok %d - %s %s\n  # %s\n  # again: check_kernels --backend %s%s%s --op %s --case '%s' --seed %llu\n",
               number, op->name, one->name, check->message, check->backend, check->features ? " --features " : "",
               check->features ? check->features : "", op->name, one->name, (unsigned long long)check->seed);
        return false;
    }
    if (!check->csv && !check->bench)
        printf("ok %d - %s %s%s%s\n", number, op->name, one->name, outcome == SKIPPED ? " # SKIP " : "",
               outcome == SKIPPED ? check->message : "");
    if (check->verbose)
        printf("  # used %.3f of the error budget, %.2f s of processor time\n", check->worst,
               (double)(clock() - begun) / CLOCKS_PER_SEC);
    (void)fflush(stdout);
    return true;
}

static unsigned feature_mask(const char *name)
{
    if (!name)
        return 0;
    if (strcmp(name, "portable") == 0)
        return CPU_PORTABLE;
    if (strcmp(name, "avx2") == 0)
        return CPU_AVX2;
    return CPU_AVX512 | CPU_AVX512_BF16 | CPU_AVX512_VBMI;
}

static enum status open_backends(struct check *check, struct error *err)
{
    struct ops_options options = {.backend = check->backend,
                                  .plugin_dir = check->plugin_dir,
                                  .threads = check->threads,
                                  .cpu_features = feature_mask(check->features)};
    enum status s = ops_open(&(struct ops_options){.backend = "ref"}, &check->ref, err);

    return s ? s : ops_open(&options, &check->device, err);
}

static void parse(struct check *check, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--bench") == 0)
            check->bench = true;
        else if (strcmp(argv[i], "--csv") == 0)
            check->csv = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            check->verbose = true;
        else if (strcmp(argv[i], "--skip-is-ok") == 0)
            check->skip_is_ok = true;
        else if (strcmp(argv[i], "--op") == 0)
            check->only_op = value, i++;
        else if (strcmp(argv[i], "--case") == 0)
            check->only_case = value, i++;
        else if (strcmp(argv[i], "--not") == 0 && value)
            check->not_case = value, i++;
        else if (strcmp(argv[i], "--backend") == 0)
            check->backend = value, i++;
        else if (strcmp(argv[i], "--plugin-dir") == 0)
            check->plugin_dir = value, i++;
        else if (strcmp(argv[i], "--features") == 0)
            check->features = value, i++;
        else if (strcmp(argv[i], "--threads") == 0)
            check->threads = atoi(value), i++;
        else if (strcmp(argv[i], "--repeat") == 0)
            check->repeat = atoi(value), i++;
        else if (strcmp(argv[i], "--seconds") == 0)
            check->seconds = atoi(value), i++;
        else if (strcmp(argv[i], "--seed") == 0)
            check->seed = strtoull(value, NULL, 10), i++;
        else {
            (void)fprintf(stderr, "check_kernels: unknown argument '%s'\n", argv[i]);
            exit(2);
        }
    }
}

static bool is_wanted(const struct check *check, const struct check_op *op, int c)
{
    const struct check_case *one = c < op->case_count ? &op->cases[c] : NULL;

    if (!one || (check->only_op && strcmp(check->only_op, op->name) != 0) ||
        (check->only_case && !strstr(one->name, check->only_case)) ||
        (check->not_case && strstr(one->name, check->not_case)))
        return false;
    if (one->level == CHECK_FULL)
        return check->only_case && strncmp(check->only_case, "full", 4) == 0;
    return one->level == CHECK_ALWAYS || check->bench;
}

static int most_cases(void)
{
    int most = 0;

    for (size_t i = 0; i < sizeof all_ops / sizeof *all_ops; i++)
        most = all_ops[i]->case_count > most ? all_ops[i]->case_count : most;
    return most;
}

int main(int argc, char **argv)
{
    static struct check check = {.backend = "cpu", .seed = 1};
    struct error err = {0};
    int number = 0, failed = 0;

    parse(&check, argc, argv);
    if (open_backends(&check, &err)) {
        printf("1..0 # SKIP %s\n", err.message);
        return err.status != STATUS_UNSUPPORTED ? 1 : check.skip_is_ok ? 0 : 77;
    }
    printf("# %s, seed %llu\n", ops_description(check.device), (unsigned long long)check.seed);
    if (check.bench) {
        check.peaks = peaks_measure(ops_thread_count(check.device), check.features);
        printf("# measured peaks: %.0f GFLOP/s F32 FMA, %.0f GFLOP/s BF16, %.1f GB/s read\n", check.peaks.f32_gflops,
               check.peaks.bf16_gflops, check.peaks.read_gbytes);
    }
    if (check.seconds) {
        int64_t end = clock_monotonic_ns() + check.seconds * (int64_t)1000000000;
        int left_out = 0;

        for (int c = 0; c < most_cases(); c++)
            for (size_t i = 0; i < sizeof all_ops / sizeof *all_ops; i++) {
                if (!is_wanted(&check, all_ops[i], c))
                    continue;
                if (clock_monotonic_ns() < end)
                    failed += !run_case(&check, all_ops[i], &all_ops[i]->cases[c], ++number);
                else
                    left_out++;
            }
        printf("# %d cases left out for lack of time\n", left_out);
    } else {
        for (size_t i = 0; i < sizeof all_ops / sizeof *all_ops; i++)
            for (int c = 0; c < all_ops[i]->case_count; c++)
                if (is_wanted(&check, all_ops[i], c))
                    failed += !run_case(&check, all_ops[i], &all_ops[i]->cases[c], ++number);
    }
    printf("1..%d\n", number);
    ops_close(check.device);
    ops_close(check.ref);
    return failed ? 1 : 0;
}
