/* test_sampler.c: the choice of a token is exact, and its draws follow the computed distribution. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "tests/harness/check.h"

enum { VOCAB = 8 };

static int32_t next(const struct sampler_params *params, const float *logits, int32_t vocab,
                    const struct token_mask *mask, uint64_t step)
{
    struct sampler *sampler = NULL;
    struct sampled sampled = {-1, 0};
    struct error *none = NULL;

    CHECK_OK(sampler_create(params, vocab, &sampler), none);
    CHECK_OK(sampler_next(sampler, logits, mask, step, &sampled), none);
    sampler_destroy(sampler);
    return sampled.token;
}

TEST(greedy_takes_the_largest_and_the_lowest_id_among_equals)
{
    const float logits[VOCAB] = {1, 5, 2, 5, 5, -INFINITY, 0, 4.99999f};

    CHECK_EQ_INT(next(&sampler_default, logits, VOCAB, NULL, 0), 1);
}

TEST(greedy_obeys_the_mask)
{
    const float logits[VOCAB] = {1, 5, 2, 5, 5, 3, 0, 4};
    uint64_t bits = 1 << 2 | 1 << 5 | 1 << 6;
    const struct token_mask mask = {&bits, VOCAB};

    CHECK_EQ_INT(next(&sampler_default, logits, VOCAB, &mask, 0), 5);
}

TEST(what_cannot_be_sampled_is_refused)
{
    float logits[VOCAB] = {1, 5, 2, 5, 5, 3, 0, 4};
    uint64_t nothing = 0;
    const struct token_mask mask = {&nothing, VOCAB}, short_mask = {&(uint64_t){1}, 1};
    const float temperatures[] = {0, 1};

    for (int i = 0; i < 2; i++) {
        struct sampler_params params = sampler_default;
        struct sampler *sampler = NULL;
        struct sampled sampled = {-7, 0};
        struct error *none = NULL;

        params.temperature = temperatures[i];
        CHECK_OK(sampler_create(&params, VOCAB, &sampler), none);
        CHECK_STATUS(sampler_next(sampler, logits, &mask, 0, &sampled), STATUS_BAD_INPUT);
        CHECK_OK(sampler_next(sampler, logits, &short_mask, 0, &sampled), none);
        CHECK_EQ_INT(sampled.token, 0);
        sampled.token = -7;
        logits[3] = NAN;
        CHECK_STATUS(sampler_next(sampler, logits, NULL, 0, &sampled), STATUS_BAD_INPUT);
        logits[3] = 5;
        CHECK_EQ_INT(sampled.token, -7);
        for (int k = 0; k < VOCAB; k++)
            logits[k] = -INFINITY;
        CHECK_STATUS(sampler_next(sampler, logits, NULL, 0, &sampled), STATUS_BAD_INPUT);
        logits[6] = INFINITY;
        CHECK_OK(sampler_next(sampler, logits, NULL, 0, &sampled), none);
        CHECK_EQ_INT(sampled.token, 6);
        CHECK_NEAR(sampled.logprob, 0, 0);
        for (int k = 0; k < VOCAB; k++)
            logits[k] = (float)k;
        sampler_destroy(sampler);
    }
}

TEST(parameters_out_of_range_are_named)
{
    static const struct {
        struct sampler_params params;
        const char *name;
    } cases[] = {
        {{-0.1f, 1, 0, 1, 0}, "temperature"},
        {{NAN, 1, 0, 1, 0}, "temperature"},
        {{INFINITY, 1, 0, 1, 0}, "temperature"},
        {{1, 0, 0, 1, 0}, "top_p"},
        {{1, 1.01f, 0, 1, 0}, "top_p"},
        {{1, NAN, 0, 1, 0}, "top_p"},
        {{1, 1, -1, 1, 0}, "min_p"},
        {{1, 1, 1, 1, 0}, "min_p"},
        {{1, 1, 0, 0.9f, 0}, "repetition_penalty"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sampler *sampler;
        struct error err = {0};

        CHECK_STATUS(sampler_check(&cases[i].params, &err), STATUS_BAD_INPUT);
        CHECK(strncmp(err.message, cases[i].name, strlen(cases[i].name)) == 0);
        CHECK_STATUS(sampler_create(&cases[i].params, VOCAB, &sampler), STATUS_BAD_INPUT);
    }
    CHECK_STATUS(sampler_check(&sampler_default, NULL), STATUS_OK);
}

TEST(logprob_is_of_the_raw_logits)
{
    const float logits[3] = {0, 1, 2};
    struct sampler_params params = sampler_default;
    struct sampler *sampler = NULL;
    struct sampled sampled;
    struct error *none = NULL;
    uint64_t bits = 1;
    const struct token_mask mask = {&bits, 3};

    params.temperature = 0.1f;
    params.top_p = 0.5f;
    CHECK_OK(sampler_create(&params, 3, &sampler), none);
    CHECK_OK(sampler_next(sampler, logits, &mask, 0, &sampled), none);
    CHECK_EQ_INT(sampled.token, 0);
    CHECK_NEAR(sampled.logprob, -log(1 + exp(1) + exp(2)), 1e-6);
    sampler_destroy(sampler);
}

/* Draws `count` tokens and compares with the expected probabilities: chi-square below the 1 in 10^5 point of the
 * Wilson-Hilferty approximation; what must not be drawn is never drawn. */
static void check_distribution(const struct sampler_params *params, const float *logits, const struct token_mask *mask,
                               const double *expected, int count)
{
    struct sampler *sampler = NULL;
    struct error *none = NULL;
    int drawn[VOCAB] = {0}, degrees = -1;
    double chi = 0, limit;

    CHECK_OK(sampler_create(params, VOCAB, &sampler), none);
    for (int step = 0; step < count; step++) {
        struct sampled sampled;

        CHECK_OK(sampler_next(sampler, logits, mask, (uint64_t)step, &sampled), none);
        drawn[sampled.token]++;
    }
    sampler_destroy(sampler);
    for (int i = 0; i < VOCAB; i++) {
        double wanted = expected[i] * count;

        if (expected[i] == 0) {
            CHECK_EQ_INT(drawn[i], 0);
            continue;
        }
        chi += (drawn[i] - wanted) * (drawn[i] - wanted) / wanted;
        degrees++;
    }
    CHECK(degrees > 0);
    limit = degrees * pow(1 - 2.0 / (9 * degrees) + 4.265 * sqrt(2.0 / (9 * degrees)), 3);
    if (chi > limit)
        FAIL("chi-square %.2f above %.2f with %d degrees of freedom", chi, limit, degrees);
}

static const float LOGITS[VOCAB] = {0.5f, 2, -1, 1.5f, 0, 2, -3, 1};

static void softmax(double temperature, double *p)
{
    double sum = 0;

    for (int i = 0; i < VOCAB; i++)
        sum += p[i] = exp((double)LOGITS[i] / temperature);
    for (int i = 0; i < VOCAB; i++)
        p[i] /= sum;
}

static void renormalise(double *p)
{
    double sum = 0;

    for (int i = 0; i < VOCAB; i++)
        sum += p[i];
    for (int i = 0; i < VOCAB; i++)
        p[i] /= sum;
}

TEST(draws_follow_softmax_at_each_temperature)
{
    const float temperatures[] = {0.3f, 1, 2.5f};

    for (int i = 0; i < 3; i++) {
        struct sampler_params params = sampler_default;
        double expected[VOCAB];

        params.temperature = temperatures[i];
        params.seed = check_random();
        softmax((double)temperatures[i], expected);
        check_distribution(&params, LOGITS, NULL, expected, 100000);
    }
}

TEST(draws_follow_top_p_min_p_and_mask)
{
    struct sampler_params params = {
        .temperature = 1, .top_p = 0.8f, .min_p = 0, .repetition_penalty = 1, .seed = check_random()};
    double p[VOCAB], expected[VOCAB];
    uint64_t bits = 0xFF & ~UINT64_C(2);
    const struct token_mask mask = {&bits, VOCAB};

    /* From the most probable, ties by id: 1, 5 (28.4% each), 3 (17.2%), 7 (10.5%): 74.1% after three, 84.5% after four.
     */
    softmax(1, p);
    CHECK(p[1] + p[5] + p[3] < 0.8 && p[1] + p[5] + p[3] + p[7] > 0.8);
    for (int i = 0; i < VOCAB; i++)
        expected[i] = i == 1 || i == 5 || i == 3 || i == 7 ? p[i] : 0;
    renormalise(expected);
    check_distribution(&params, LOGITS, NULL, expected, 100000);

    params.top_p = 1;
    params.min_p = 0.3f; /* e^-1.2: logits above 0.8 */
    for (int i = 0; i < VOCAB; i++)
        expected[i] = LOGITS[i] > 0.8f ? p[i] : 0;
    renormalise(expected);
    check_distribution(&params, LOGITS, NULL, expected, 100000);

    params.min_p = 0;
    for (int i = 0; i < VOCAB; i++)
        expected[i] = i == 1 ? 0 : p[i];
    renormalise(expected);
    check_distribution(&params, LOGITS, &mask, expected, 100000);
}

static int by_probability(const void *a, const void *b)
{
    const double *left = a, *right = b;

    return left[0] != right[0] ? (left[0] > right[0] ? -1 : 1) : left[1] < right[1] ? -1 : left[1] > right[1];
}

/* Against a plain computation with the C library's exp: every draw is from the set, and its
 * logprob is right. */
TEST(random_rows_agree_with_a_plain_computation)
{
    enum { ROWS = 200, TOKENS = 1501, DRAWS = 30 };
    static float logits[TOKENS];
    static double ranked[TOKENS][2], share[TOKENS];

    for (int row = 0; row < ROWS; row++) {
        struct sampler_params params = {.temperature = 0.05f + 3 * (float)check_random_unit(),
                                        .top_p = (float)(0.01 + 0.98 * check_random_unit()), .repetition_penalty = 1,
                                        .seed = check_random()};
        double largest = -INFINITY, sum = 0, all = 0, before = 0, spread = check_random_unit() * 30;
        struct sampler *sampler = NULL;
        struct error *none = NULL;

        for (int i = 0; i < TOKENS; i++) {
            logits[i] = (float)(spread * check_random_normal() - 100 * (double)(check_random() % 50 == 0));
            largest = fmax(largest, (double)logits[i]);
        }
        for (int i = 0; i < TOKENS; i++) {
            ranked[i][0] = exp(((double)logits[i] - largest) / (double)params.temperature);
            ranked[i][1] = i;
            sum += ranked[i][0];
            all += exp((double)logits[i] - largest);
        }
        qsort(ranked, TOKENS, sizeof ranked[0], by_probability);
        for (int i = 0; i < TOKENS; i++) {
            share[(int)ranked[i][1]] = before / sum; /* of all that go before it */
            before += ranked[i][0];
        }
        CHECK_OK(sampler_create(&params, TOKENS, &sampler), none);
        for (uint64_t step = 0; step < DRAWS; step++) {
            struct sampled sampled;

            CHECK_OK(sampler_next(sampler, logits, NULL, step, &sampled), none);
            CHECK(share[sampled.token] < (double)params.top_p + 1e-9);
            CHECK_NEAR(sampled.logprob, (double)logits[sampled.token] - largest - log(all), 1e-4);
        }
        sampler_destroy(sampler);
    }
}

TEST(top_p_cuts_a_tie_at_the_lower_id)
{
    const float logits[VOCAB] = {0, 0, 0, 0, 0, 0, 0, 0};
    struct sampler_params params = {.temperature = 1, .top_p = 0.5f, .repetition_penalty = 1, .seed = 3};
    const double expected[VOCAB] = {0.25, 0.25, 0.25, 0.25};

    check_distribution(&params, logits, NULL, expected, 40000);
}

TEST(repetition_penalty_divides_positive_logits_and_multiplies_negative_ones)
{
    struct sampler_params params = {.top_p = 1, .repetition_penalty = 2};
    const float logits[4] = {3, 2, -1, -1.5f};
    const int32_t expected[4] = {0, 1, 0, 0};
    uint64_t low = 4 | 8;
    const struct token_mask low_mask = {&low, 4};
    struct sampler *sampler = NULL;
    struct sampled sampled;
    struct error *none = NULL;

    CHECK_OK(sampler_create(&params, 4, &sampler), none);
    for (int i = 0; i < 4; i++) { /* 3; then 1.5 against 2; then 1.5 against 1 */
        CHECK_OK(sampler_next(sampler, logits, NULL, (uint64_t)i, &sampled), none);
        CHECK_EQ_INT(sampled.token, expected[i]);
    }
    CHECK_OK(sampler_next(sampler, logits, &low_mask, 4, &sampled), none);
    CHECK_EQ_INT(sampled.token, 2);
    CHECK_OK(sampler_next(sampler, logits, &low_mask, 5, &sampled), none); /* -2 against -1.5 */
    CHECK_EQ_INT(sampled.token, 3);
    sampler_destroy(sampler);
}

TEST(a_resumed_sequence_goes_on_exactly)
{
    enum { STEPS = 200, BIG = 500 };
    struct sampler_params params = {.temperature = 0.9f, .top_p = 0.9f, .min_p = 0.01f, .repetition_penalty = 1.3f,
                                    .seed = check_random()};
    struct sampler *whole = NULL, *second = NULL;
    static float logits[STEPS][BIG];
    struct sampled first[STEPS], again;
    struct error *none = NULL;

    for (int i = 0; i < STEPS; i++) {
        for (int k = 0; k < BIG; k++)
            logits[i][k] = (float)(3 * check_random_normal());
    }
    CHECK_OK(sampler_create(&params, BIG, &whole), none);
    CHECK_OK(sampler_create(&params, BIG, &second), none);
    for (int i = 0; i < STEPS; i++)
        CHECK_OK(sampler_next(whole, logits[i], NULL, (uint64_t)i, &first[i]), none);
    for (int i = 0; i < STEPS / 2; i++)
        sampler_accept(second, first[i].token);
    for (int i = STEPS / 2; i < STEPS; i++) {
        CHECK_OK(sampler_next(second, logits[i], NULL, (uint64_t)i, &again), none);
        CHECK_EQ_INT(again.token, first[i].token);
        CHECK(again.logprob == first[i].logprob);
    }
    sampler_destroy(whole);
    sampler_destroy(second);
}

TEST(seeds_and_steps_give_different_streams)
{
    float logits[64] = {0};
    struct sampler_params params = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    int equal_seeds = 0, equal_steps = 0;

    for (uint64_t step = 0; step < 2000; step++) {
        int32_t tokens[2];

        params.seed = 1;
        tokens[0] = next(&params, logits, 64, NULL, step);
        equal_steps += tokens[0] == next(&params, logits, 64, NULL, step + 1);
        params.seed = 2;
        tokens[1] = next(&params, logits, 64, NULL, step);
        equal_seeds += tokens[0] == tokens[1];
    }
    CHECK(equal_seeds < 70 && equal_steps < 70); /* 31 expected, standard deviation 5.5 */
}

TEST(very_small_and_very_large_temperatures_stay_finite)
{
    const float logits[4] = {1e30f, -1e30f, 3e38f, -FLT_MAX};
    struct sampler_params params = {.temperature = FLT_MIN, .top_p = 1, .repetition_penalty = 1};

    for (uint64_t step = 0; step < 100; step++)
        CHECK_EQ_INT(next(&params, logits, 4, NULL, step), 2);
    params.temperature = 100;
    for (uint64_t step = 0; step < 100; step++)
        CHECK_EQ_INT(next(&params, logits, 4, NULL, step), 2);
}

/* --- From a shortlist -------------------------------------------------------------------------------------------- */

enum { LONG = 700 };

static const float *listed;

static int by_rank(const void *a, const void *b)
{
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;

    if (listed[left] != listed[right])
        return listed[left] > listed[right] ? -1 : 1;
    return left < right ? -1 : left > right;
}

static int by_id(const void *a, const void *b)
{
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : *(const int32_t *)a > *(const int32_t *)b;
}

/* The `count` first ranks; `error` in [-1, 1]: where in the allowed band the total lies. */
static void make_list(struct shortlist *list, const float *logits, int32_t count, double temperature, double error,
                      int32_t *ids, float *values)
{
    double sum = 0, all = 0, largest;
    static int32_t order[LONG];

    for (int32_t i = 0; i < LONG; i++)
        order[i] = i;
    listed = logits;
    qsort(order, LONG, sizeof *order, by_rank);
    largest = (double)logits[order[0]];
    for (int32_t i = 0; i < LONG; i++) {
        sum += exp(((double)logits[i] - largest) / temperature);
        all += exp((double)logits[i] - largest);
    }
    *list = (struct shortlist){ids,      values,          count, (float)(sum * (1 + error * 0.9 * SHORTLIST_ERROR)),
                               order[0], (float)-log(all)};
    memcpy(ids, order, (size_t)count * sizeof *ids);
    qsort(ids, (size_t)count, sizeof *ids, by_id);
    for (int32_t i = 0; i < count; i++)
        values[i] = logits[ids[i]];
}

static struct sampler *make_sampler(const struct sampler_params *params)
{
    struct sampler *sampler = NULL;
    struct error *none = NULL;

    CHECK_OK(sampler_create(params, LONG, &sampler), none);
    return sampler;
}

/* Rows flat and steep, of many ties and none, lists of one token up to all, every filter: what a list decides is what
 * the row does, and most is decided. */
TEST(a_shortlist_draws_the_tokens_of_the_whole_row_or_none)
{
    enum { ROWS = 3000, DRAWS = 10 };
    static float logits[LONG], values[LONG];
    static int32_t ids[LONG];
    int decided_count = 0, filtered = 0, plain = 0;

    for (int row = 0; row < ROWS; row++) {
        struct sampler_params params = {.temperature = 0.05f + 2 * (float)check_random_unit(),
                                        .top_p = 1,
                                        .repetition_penalty = 1,
                                        .seed = check_random()};
        int32_t count = 1 + (int32_t)(check_random() % (row % 4 ? 100 : LONG));
        double spread = check_random_unit() * 8, grain = row % 3 ? 1e-9 : 0.5;
        struct sampler *whole, *part;
        struct error *none = NULL;
        struct shortlist list;

        if (row % 5 < 3)
            params.top_p = (float)(0.05 + 0.94 * check_random_unit());
        if (row % 7 < 2)
            params.min_p = (float)(0.2 * check_random_unit());
        for (int i = 0; i < LONG; i++)
            logits[i] = (float)(rint(spread * check_random_normal() / grain) * grain);
        if (row % 11 == 0)
            logits[check_random() % LONG] = -INFINITY;
        make_list(&list, logits, count, (double)params.temperature, 2 * check_random_unit() - 1, ids, values);
        whole = make_sampler(&params);
        part = make_sampler(&params);
        for (uint64_t step = 0; step < DRAWS; step++) {
            struct sampled expected = {-1, 0}, got = {-7, 0};
            bool decided;

            CHECK_OK(sampler_next(whole, logits, NULL, step, &expected), none);
            CHECK_OK(sampler_next_of(part, &list, step, &got, &decided), none);
            CHECK_EQ_INT(got.token, decided ? expected.token : -7);
            if (decided)
                CHECK_NEAR(got.logprob, expected.logprob, 1e-5 * (1 + fabs((double)expected.logprob)));
            CHECK(decided || count < LONG);
            decided_count += decided;
            filtered += decided && params.top_p < 1 && count < LONG / 2;
            plain += decided && params.top_p == 1 && params.min_p == 0 && count < LONG / 2;
        }
        sampler_destroy(whole);
        sampler_destroy(part);
    }
    CHECK(decided_count > ROWS * DRAWS / 3 && decided_count < ROWS * DRAWS);
    CHECK(filtered > 100 && plain > 100);
}

/* Where the total's error leaves two tokens possible, none is drawn: top-p's cut at the border of two ranks. */
TEST(a_shortlist_decides_nothing_on_a_border)
{
    struct sampler_params params = {.temperature = 1, .top_p = 0.5f, .repetition_penalty = 1, .seed = 5};
    static float logits[LONG], values[LONG];
    static int32_t ids[LONG];
    struct sampler *sampler = make_sampler(&params);
    struct error *none = NULL;
    struct sampled got = {-7, 0};
    struct shortlist list;
    bool decided;

    make_list(&list, logits, LONG / 2 + 20, 1, 0, ids, values); /* all equal: the half is reached at rank 350 exactly */
    CHECK_OK(sampler_next_of(sampler, &list, 0, &got, &decided), none);
    CHECK(!decided && got.token == -7);
    sampler_destroy(sampler);
    params.top_p = 0.501f; /* and between two ranks */
    sampler = make_sampler(&params);
    CHECK_OK(sampler_next_of(sampler, &list, 0, &got, &decided), none);
    CHECK(decided && got.token >= 0 && got.token <= 350);
    sampler_destroy(sampler);
}

TEST(a_shortlist_of_what_is_no_number_is_refused_or_left_to_the_row)
{
    struct sampler_params params = {.temperature = 1, .top_p = 0.5f, .repetition_penalty = 1, .seed = 5};
    const int32_t ids[2] = {3, 9};
    const float values[2] = {1, INFINITY};
    struct sampler *sampler = make_sampler(&params);
    struct error *none = NULL;
    struct sampled got = {-7, 0};
    struct shortlist list = {ids, values, 2, NAN, 9, 0};
    bool decided;

    CHECK_OK(sampler_next_of(sampler, &list, 0, &got, &decided), none);
    CHECK(!decided && got.token == -7);
    list.best = -1;
    CHECK_STATUS(sampler_next_of(sampler, &list, 0, &got, &decided), STATUS_BAD_INPUT);
    sampler_destroy(sampler);
}
