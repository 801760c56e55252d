/* check.c: registration, selection by name, TAP output, temporary directories, seeded randomness. */
#include "tests/harness/check.h"

#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { MAX_TESTS = 1024 };

static struct {
    struct {
        const char *name;
        void (*run)(void);
    } tests[MAX_TESTS];
    int count;
    jmp_buf back; /* where a failed or skipped test goes */
    char message[4096];
    char temp_dir[4096];
    uint64_t seed, state[4];
} suite;

enum outcome { PASSED, FAILED, SKIPPED };

void check_register(const char *name, void (*run)(void))
{
    if (suite.count == MAX_TESTS)
        abort();
    suite.tests[suite.count].name = name;
    suite.tests[suite.count++].run = run;
}

void check_fail(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    int used = snprintf(suite.message, sizeof suite.message, "%s:%d: ", file, line);

    va_start(arguments, format);
    (void)vsnprintf(suite.message + used, sizeof suite.message - (size_t)used, format, arguments);
    va_end(arguments);
    longjmp(suite.back, FAILED);
}

void check_skip(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(suite.message, sizeof suite.message, format, arguments);
    va_end(arguments);
    longjmp(suite.back, SKIPPED);
}

void check_eq_span(const char *file, int line, const char *what, struct span actual, struct span expected)
{
    if (!span_equal(actual, expected))
        check_fail(file, line, "%s is '%.*s', expected '%.*s'", what, (int)actual.len,
                   actual.ptr ? actual.ptr : "", (int)expected.len, expected.ptr ? expected.ptr : "");
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    (void)remove(path);
    return 0;
}

static void remove_temp_dir(void)
{
    if (suite.temp_dir[0])
        (void)nftw(suite.temp_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    suite.temp_dir[0] = '\0';
}

const char *check_temp_dir(void)
{
    const char *parent = getenv("TMPDIR");

    if (suite.temp_dir[0])
        return suite.temp_dir;
    (void)snprintf(suite.temp_dir, sizeof suite.temp_dir, "%s/dsa-test-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(suite.temp_dir)) {
        suite.temp_dir[0] = '\0';
        FAIL("no temporary directory");
    }
    return suite.temp_dir;
}

const char *check_data_dir(void)
{
    const char *dir = getenv("DSA_DATA");

    if (!dir || access(dir, R_OK) != 0)
        SKIP("no evaluation data (DSA_DATA)");
    return dir;
}

/* splitmix64, to spread a seed over the generator's state. */
static uint64_t split_mix(uint64_t *x)
{
    uint64_t z = (*x += 0x9E3779B97F4A7C15u);

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void seed_for(const char *name)
{
    uint64_t x = suite.seed;

    for (; *name; name++)
        x = (x ^ (unsigned char)*name) * 0x100000001B3u;
    for (int i = 0; i < 4; i++)
        suite.state[i] = split_mix(&x);
}

static uint64_t rotate_left(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

uint64_t check_random(void)
{
    uint64_t *s = suite.state, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double check_random_unit(void)
{
    return (double)(check_random() >> 11) * 0x1p-53;
}

double check_random_normal(void)
{
    double u = 1.0 - check_random_unit(), v = check_random_unit();

    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

static enum outcome run_one(void (*run)(void))
{
    int outcome = setjmp(suite.back);

    if (outcome == 0)
        run();
    return (enum outcome)outcome;
}

int main(int argc, char **argv)
{
    const char *wanted = NULL;
    int failed = 0, ran = 0;

    suite.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            suite.seed = strtoull(argv[++i], NULL, 10);
        else
            wanted = argv[i];
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < suite.count; i++) {
        const char *name = suite.tests[i].name;
        enum outcome outcome;
        int64_t began = clock_monotonic_ns();

        if (wanted && !strstr(name, wanted))
            continue;
        seed_for(name);
        outcome = run_one(suite.tests[i].run);
        ran++;
        if (outcome == PASSED)
            printf("ok %d - %s\n", ran, name);
        else if (outcome == SKIPPED)
            printf("ok %d - %s # SKIP %s\n", ran, name, suite.message);
        else
            printf("not ok %d - %s\n# %s\n# again: %s %s --seed %llu\n", ran, name, suite.message, argv[0], name,
                   (unsigned long long)suite.seed);
        if (clock_monotonic_ns() - began > 2000000000) /* where the time goes, for whoever sets a limit */
            printf("# took %.1f s\n", (double)(clock_monotonic_ns() - began) / 1e9);
        failed += outcome == FAILED;
        remove_temp_dir();
    }
    printf("1..%d\n", ran);
    return failed || ran == 0 ? 1 : 0;
}
