/* peaks.c: arithmetic and bandwidth ceilings. Twelve independent chains hide the latency of any of these
 * instructions; each figure is the best of several short runs, because everything that disturbs lowers it. */
#include "tests/kernels/peaks.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ROUNDS = 400000, RUNS = 7, MAX_THREADS = 256 };
static const size_t READ_BYTES = (size_t)128 << 20;

static volatile float sink; /* keeps results alive */

#if defined(__x86_64__)
#define CHAINS(statement) statement(0) statement(1) statement(2) statement(3) statement(4) statement(5) \
    statement(6) statement(7) statement(8) statement(9) statement(10) statement(11)

__attribute__((target("avx512f,avx512bf16"))) static double burn_bf16(void)
{
    __m512 sum[12];
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80), b = (__m512bh)_mm512_set1_epi32(0x33803380);

    for (int i = 0; i < 12; i++)
        sum[i] = _mm512_setzero_ps();
    for (int r = 0; r < ROUNDS; r++) {
#define STEP(i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
        CHAINS(STEP)
#undef STEP
    }
    for (int i = 0; i < 12; i++)
        sink = sink + _mm512_reduce_add_ps(sum[i]);
    return 12.0 * 64 * ROUNDS;
}

__attribute__((target("avx512f"))) static double burn_avx512(void)
{
    __m512 sum[12], a = _mm512_set1_ps(1e-7f), b = _mm512_set1_ps(1.0f);

    for (int i = 0; i < 12; i++)
        sum[i] = _mm512_setzero_ps();
    for (int r = 0; r < ROUNDS; r++) {
#define STEP(i) sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
        CHAINS(STEP)
#undef STEP
    }
    for (int i = 0; i < 12; i++)
        sink = sink + _mm512_reduce_add_ps(sum[i]);
    return 12.0 * 32 * ROUNDS;
}

__attribute__((target("avx2,fma"))) static double burn_avx2(void)
{
    __m256 sum[12], a = _mm256_set1_ps(1e-7f), b = _mm256_set1_ps(1.0f);

    for (int i = 0; i < 12; i++)
        sum[i] = _mm256_setzero_ps();
    for (int r = 0; r < ROUNDS; r++) {
#define STEP(i) sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
        CHAINS(STEP)
#undef STEP
    }
    for (int i = 0; i < 12; i++) {
        float lanes[8];

        _mm256_storeu_ps(lanes, sum[i]);
        sink = sink + lanes[0];
    }
    return 12.0 * 16 * ROUNDS;
}
#endif

static double burn_portable(void)
{
    float sum[16] = {0}, a = 1e-7f;

    for (int r = 0; r < ROUNDS; r++) {
        for (int i = 0; i < 16; i++)
            sum[i] = sum[i] * 0.5f + a;
        __asm__ volatile("" : "+m"(sum));
    }
    sink = sink + sum[0];
    return 32.0 * ROUNDS;
}

static unsigned char *read_memory;

static double read_all(void)
{
    const uint64_t *p = (const uint64_t *)read_memory;
    uint64_t sum[8] = {0};

    for (size_t i = 0; i < READ_BYTES / 8; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += p[i + (size_t)j];
    sink = sink + (float)(sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
    return (double)READ_BYTES;
}

struct burner {
    double (*burn)(void);
    double work, seconds;
    pthread_barrier_t *start;
};

/* CPU time: a peak is what a thread reaches while it runs. */
static int64_t thread_cpu_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void *burn(void *argument)
{
    struct burner *burner = argument;
    int64_t begin;

    (void)pthread_barrier_wait(burner->start);
    begin = thread_cpu_ns();
    burner->work = burner->burn();
    burner->seconds = (double)(thread_cpu_ns() - begin) * 1e-9;
    return NULL;
}

/* Work per second of all threads together, in units of 1e9. */
static double rate(double (*work)(void), int threads)
{
    double best = 0;

    for (int run = 0; run < RUNS; run++) {
        struct burner burners[MAX_THREADS];
        pthread_t ids[MAX_THREADS];
        pthread_barrier_t start;
        double total = 0;

        (void)pthread_barrier_init(&start, NULL, (unsigned)threads);
        for (int i = 0; i < threads; i++) {
            burners[i] = (struct burner){.burn = work, .start = &start};
            if (pthread_create(&ids[i], NULL, burn, &burners[i]))
                abort();
        }
        for (int i = 0; i < threads; i++) {
            (void)pthread_join(ids[i], NULL);
            total += burners[i].work / burners[i].seconds;
        }
        (void)pthread_barrier_destroy(&start);
        best = total > best ? total : best;
    }
    return best * 1e-9;
}

struct peaks peaks_measure(int threads, const char *features)
{
    struct peaks peaks = {0};

    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    peaks.f32_gflops = rate(burn_portable, threads);
    peaks.bf16_gflops = peaks.f32_gflops;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if ((!features || strcmp(features, "portable") != 0) && __builtin_cpu_supports("avx2"))
        peaks.f32_gflops = peaks.bf16_gflops = rate(burn_avx2, threads);
    if ((!features || strcmp(features, "avx512") == 0) && __builtin_cpu_supports("avx512f"))
        peaks.f32_gflops = rate(burn_avx512, threads);
    if ((!features || strcmp(features, "avx512") == 0) && __builtin_cpu_supports("avx512bf16"))
        peaks.bf16_gflops = rate(burn_bf16, threads);
#endif
    read_memory = calloc(1, READ_BYTES);
    if (read_memory) {
        memset(read_memory, 1, READ_BYTES);
        peaks.read_gbytes = rate(read_all, threads);
    }
    free(read_memory);
    return peaks;
}
