/* tests/harness/check.h: a test is a function with a name; a program runs all of its tests or those that are
 * named, and prints TAP.
 *
 *   TEST(chunk_never_cuts_a_sentence) { CHECK_EQ_INT(count, 3); }
 *
 *   build/tests/test_chunk              all tests of that file
 *   build/tests/test_chunk sentence     those whose name contains "sentence"
 *   build/tests/test_chunk --seed 7     other random inputs (the seed is printed)
 *
 * A failed check ends its test and names the file, the line and both values. SKIP("reason") ends a test that
 * this machine cannot run. Each test starts in a fresh state: nothing but constants is shared. */
#ifndef TESTS_HARNESS_CHECK_H
#define TESTS_HARNESS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/status.h"

void check_register(const char *name, void (*run)(void));
void check_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
void check_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A directory of this test's own, removed when the program ends. Borrowed. */
const char *check_temp_dir(void);
/* The folder of public evaluation data (environment variable DSA_DATA); the test is skipped without it. */
const char *check_data_dir(void);

/* A 64-bit generator (xoshiro256**) seeded from --seed and the test's name: the same on every machine. */
uint64_t check_random(void);
double check_random_unit(void); /* [0, 1) */
/* A standard normal deviate. */
double check_random_normal(void);

#define TEST(name)                                                              \
    static void test_##name(void);                                             \
    __attribute__((constructor)) static void register_##name(void)             \
    {                                                                           \
        check_register(#name, test_##name);                                    \
    }                                                                           \
    static void test_##name(void)

#define SKIP(...) check_skip(__VA_ARGS__)
#define FAIL(...) check_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition)                              \
    do {                                              \
        if (!(condition))                             \
            FAIL("'%s' does not hold", #condition);   \
    } while (0)

static inline const char *check_message(const struct error *err)
{
    return err ? err->message : "";
}

#define CHECK_OK(call, err)                                                                     \
    do {                                                                                        \
        enum status check_status_ = (call);                                                     \
        if (check_status_)                                                                      \
            FAIL("%s: %s: %s", #call, status_name(check_status_), check_message(err)); \
    } while (0)

#define CHECK_STATUS(call, expected)                                                              \
    do {                                                                                          \
        enum status check_status_ = (call), check_wanted_ = (expected);                           \
        if (check_status_ != check_wanted_)                                                       \
            FAIL("%s is %s, expected %s", #call, status_name(check_status_), status_name(check_wanted_)); \
    } while (0)

#define CHECK_EQ_INT(actual, expected)                                                         \
    do {                                                                                       \
        long long check_a_ = (long long)(actual), check_e_ = (long long)(expected);            \
        if (check_a_ != check_e_)                                                              \
            FAIL("%s is %lld, expected %lld", #actual, check_a_, check_e_);                    \
    } while (0)

#define CHECK_NEAR(actual, expected, tolerance)                                                        \
    do {                                                                                               \
        double check_a_ = (double)(actual), check_e_ = (double)(expected), check_t_ = (double)(tolerance); \
        if (!(check_a_ - check_e_ <= check_t_ && check_e_ - check_a_ <= check_t_))                     \
            FAIL("%s is %.9g, expected %.9g within %.3g", #actual, check_a_, check_e_, check_t_);      \
    } while (0)

#define CHECK_EQ_STR(actual, expected) check_eq_span(__FILE__, __LINE__, #actual, span_from_cstr(actual), \
                                                     span_from_cstr(expected))
#define CHECK_EQ_SPAN(actual, expected) check_eq_span(__FILE__, __LINE__, #actual, (actual), (expected))

void check_eq_span(const char *file, int line, const char *what, struct span actual, struct span expected);

#endif
