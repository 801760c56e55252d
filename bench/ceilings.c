/* ceilings.c: see ceilings.h. The best of nine runs, as a ceiling is; every thread works on its own data. */
#include "bench/ceilings.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { RUNS = 9, MAX_THREADS = 256, FMA_ROUNDS = 1 << 23 };
static const size_t read_bytes = (size_t)256 << 20; /* a thread */

struct work {
    double (*run)(void *data); /* flops or bytes done */
    void *data;
    double done, cpu_ns;
};

static double thread_cpu_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static volatile float sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double fma_512(void *data)
{
    __m512 a[12], x = _mm512_set1_ps(1.0000001f), y = _mm512_set1_ps(1e-9f), sum = _mm512_setzero_ps();

    (void)data;
    for (int i = 0; i < 12; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < FMA_ROUNDS / 8; n++) {
        for (int i = 0; i < 12; i++)
            a[i] = _mm512_fmadd_ps(a[i], x, y);
    }
    for (int i = 0; i < 12; i++)
        sum = _mm512_add_ps(sum, a[i]);
    sink = _mm512_reduce_add_ps(sum);
    return 2.0 * 16 * 12 * (FMA_ROUNDS / 8);
}

__attribute__((target("avx2,fma"))) static double fma_256(void *data)
{
    __m256 a[12], x = _mm256_set1_ps(1.0000001f), y = _mm256_set1_ps(1e-9f), sum = _mm256_setzero_ps();
    float out[8];

    (void)data;
    for (int i = 0; i < 12; i++)
        a[i] = _mm256_set1_ps((float)i);
    for (int n = 0; n < FMA_ROUNDS / 4; n++) {
        for (int i = 0; i < 12; i++)
            a[i] = _mm256_fmadd_ps(a[i], x, y);
    }
    for (int i = 0; i < 12; i++)
        sum = _mm256_add_ps(sum, a[i]);
    _mm256_storeu_ps(out, sum);
    sink = out[0];
    return 2.0 * 8 * 12 * (FMA_ROUNDS / 4);
}

__attribute__((target("avx512f,avx512bf16"))) static double bf16_512(void *data)
{
    __m512 a[12], sum = _mm512_setzero_ps();
    __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1), _mm512_set1_ps(1));

    (void)data;
    for (int i = 0; i < 12; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < FMA_ROUNDS / 8; n++) {
        for (int i = 0; i < 12; i++)
            a[i] = _mm512_dpbf16_ps(a[i], x, x);
    }
    for (int i = 0; i < 12; i++)
        sum = _mm512_add_ps(sum, a[i]);
    sink = _mm512_reduce_add_ps(sum);
    return 4.0 * 16 * 12 * (FMA_ROUNDS / 8);
}
#endif

static double fma_portable(void *data)
{
    float a[32], x = 1.0000001f, y = 1e-9f;

    (void)data;
    for (int i = 0; i < 32; i++)
        a[i] = (float)i;
    for (int n = 0; n < FMA_ROUNDS / 32; n++) {
        for (int i = 0; i < 32; i++)
            a[i] = a[i] * x + y;
    }
    sink = a[7];
    return 2.0 * 32 * (FMA_ROUNDS / 32);
}

/* Eight sums, so that adding hides behind reading. */
static double read_memory(void *data)
{
    const uint64_t *words = data;
    uint64_t sum[8] = {0};

    for (size_t i = 0; i < read_bytes / 8; i += 8) {
        for (int k = 0; k < 8; k++)
            sum[k] += words[i + (size_t)k];
    }
    sink = (float)(sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7]);
    return (double)read_bytes;
}

static void *run_work(void *context)
{
    struct work *work = context;
    double start = thread_cpu_ns();

    work->done = work->run(work->data);
    work->cpu_ns = thread_cpu_ns() - start;
    return NULL;
}

/* Units of 1e9 a second, all threads together. */
static double measure(double (*run)(void *data), int threads, void **data)
{
    double best = 0;

    for (int r = 0; r < RUNS; r++) {
        struct work work[MAX_THREADS];
        pthread_t thread[MAX_THREADS];
        bool started[MAX_THREADS] = {false};
        double done = 0, cpu_ns = 0;
        int ran = 0;

        for (int i = 0; i < threads; i++) {
            work[i] = (struct work){.run = run, .data = data ? data[i] : NULL};
            started[i] = i > 0 && !pthread_create(&thread[i], NULL, run_work, &work[i]);
        }
        run_work(&work[0]);
        for (int i = 1; i < threads; i++) {
            if (started[i])
                pthread_join(thread[i], NULL);
        }
        for (int i = 0; i < threads; i++) {
            done += work[i].done;
            cpu_ns += work[i].cpu_ns;
            ran += work[i].cpu_ns > 0;
        }
        if (done * ran / cpu_ns > best)
            best = done * ran / cpu_ns;
    }
    return best;
}

struct ceilings ceilings_measure(int threads)
{
    double (*fma)(void *) = fma_portable;
    struct ceilings c = {0};
    void *data[MAX_THREADS] = {0};
    bool full = true;

    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        fma = fma_512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        fma = fma_256;
    if (__builtin_cpu_supports("avx512bf16"))
        c.bf16_gflops = measure(bf16_512, threads, NULL);
#endif
    c.fma_gflops = measure(fma, threads, NULL);
    for (int i = 0; i < threads; i++) {
        data[i] = malloc(read_bytes);
        full = full && data[i];
        if (data[i])
            memset(data[i], i + 1, read_bytes);
    }
    if (full)
        c.read_gb_s = measure(read_memory, threads, data);
    for (int i = 0; i < threads; i++)
        free(data[i]);
    return c;
}
