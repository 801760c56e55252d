/* sampler.c: penalties, mask, temperature, min-p, top-p, and one draw.
 *
 * The order, fixed and tested: repetition penalty on the raw logits, mask, temperature, softmax, min-p, top-p, draw.
 * All sums run in double over tokens from the most to the least probable, ties by id, and exp() is the only library
 * function: the same logits give the same token wherever exp() is correctly rounded to the last place that decides,
 * and always on one machine.
 *
 * Random number i is a hash of (seed, i): nothing is carried from one step to the next. */
#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

const struct sampler_params sampler_default = {.temperature = 0, .top_p = 1, .min_p = 0, .repetition_penalty = 1};

struct candidate {
    float logit; /* after the penalty */
    int32_t id;
};

struct sampler {
    struct sampler_params params;
    int32_t vocab;
    uint64_t *seen;               /* one bit a token: generated already */
    struct candidate *candidates; /* [vocab] scratch */
    double *weight;               /* [vocab] scratch: of the sorted candidates */
};

enum status sampler_check(const struct sampler_params *params, struct error *err)
{
    if (!(params->temperature >= 0 && params->temperature <= 100))
        return error_set(err, STATUS_BAD_INPUT, "temperature must be between 0 and 100");
    if (!(params->top_p > 0 && params->top_p <= 1))
        return error_set(err, STATUS_BAD_INPUT, "top_p must be above 0 and at most 1");
    if (!(params->min_p >= 0 && params->min_p < 1))
        return error_set(err, STATUS_BAD_INPUT, "min_p must be at least 0 and below 1");
    if (!(params->repetition_penalty >= 1 && params->repetition_penalty <= 100))
        return error_set(err, STATUS_BAD_INPUT, "repetition_penalty must be between 1 and 100");
    return STATUS_OK;
}

enum status sampler_create(const struct sampler_params *params, int32_t vocab, struct sampler **sampler)
{
    enum status status = sampler_check(params, NULL);
    struct sampler *made;

    if (status || vocab < 1)
        return STATUS_BAD_INPUT;
    made = calloc(1, sizeof *made);
    if (!made)
        return STATUS_NO_MEMORY;
    made->params = *params;
    made->vocab = vocab;
    made->seen = calloc(((size_t)vocab + 63) / 64, sizeof *made->seen);
    if (params->temperature > 0) {
        made->candidates = malloc((size_t)vocab * sizeof *made->candidates);
        made->weight = malloc((size_t)vocab * sizeof *made->weight);
    }
    if (!made->seen || (params->temperature > 0 && (!made->candidates || !made->weight))) {
        sampler_destroy(made);
        return STATUS_NO_MEMORY;
    }
    *sampler = made;
    return STATUS_OK;
}

void sampler_destroy(struct sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->seen);
    free(sampler->candidates);
    free(sampler->weight);
    free(sampler);
}

void sampler_accept(struct sampler *sampler, int32_t token)
{
    if (token >= 0 && token < sampler->vocab)
        sampler->seen[token / 64] |= UINT64_C(1) << (token % 64);
}

/* --- Random numbers ----------------------------------------------------------------------------------- */

/* The finaliser of splitmix64, a bijection that mixes every bit. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* [0, 1), 53 bits: number `step` of the seed's own sequence. */
static double uniform(uint64_t seed, uint64_t step)
{
    return (double)(mix(mix(seed + 0x9E3779B97F4A7C15u) + step * 0x9E3779B97F4A7C15u) >> 11) * 0x1p-53;
}

/* --- Choosing ----------------------------------------------------------------------------------------- */

/* The logit that the choice sees. A positive one shrinks and a negative one grows, as CTRL's penalty does. */
static float penalised(const struct sampler *sampler, const float *logits, int32_t id)
{
    float penalty = sampler->params.repetition_penalty, logit = logits[id];

    if (penalty == 1 || !(sampler->seen[id / 64] >> (id % 64) & 1))
        return logit;
    return logit > 0 ? logit / penalty : logit * penalty;
}

static bool allowed(const struct token_mask *mask, int32_t id)
{
    return !mask || (id < mask->vocab && (mask->bits[id / 64] >> (id % 64) & 1));
}

/* Of two equal logits the lower id goes first. */
static bool goes_before(struct candidate a, struct candidate b)
{
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *left = a, *right = b;

    return goes_before(*left, *right) ? -1 : goes_before(*right, *left);
}

static bool next_greedy(const struct sampler *sampler, const float *logits, const struct token_mask *mask,
                        int32_t *token)
{
    struct candidate best = {-INFINITY, -1};

    for (int32_t id = 0; id < sampler->vocab; id++) {
        struct candidate here;

        if (!allowed(mask, id))
            continue;
        here = (struct candidate){penalised(sampler, logits, id), id};
        if (best.id < 0 || here.logit > best.logit)
            best = here;
    }
    *token = best.id;
    return best.id >= 0 && best.logit > -INFINITY;
}

/* Tokens so improbable that all of them together could not change one bit of the 53 that are drawn. */
static const double NEGLIGIBLE = 60;

static bool next_random(struct sampler *sampler, const float *logits, const struct token_mask *mask, uint64_t step,
                        int32_t *token)
{
    const struct sampler_params *params = &sampler->params;
    struct candidate *candidates = sampler->candidates;
    double total = 0, keep = 0, drawn, sum = 0, temperature = (double)params->temperature;
    float largest = -INFINITY, least;
    int32_t count = 0, kept = 0;

    for (int32_t id = 0; id < sampler->vocab; id++) {
        float logit;

        if (!allowed(mask, id))
            continue;
        logit = penalised(sampler, logits, id);
        candidates[count++] = (struct candidate){logit, id};
        if (logit > largest)
            largest = logit;
    }
    if (!(largest > -INFINITY))
        return false;
    if (largest == INFINITY) { /* the limit of the softmax: equal shares among the infinite ones */
        for (int32_t i = 0; i < count; i++)
            candidates[i].logit = candidates[i].logit == INFINITY ? 0 : -INFINITY;
        largest = 0;
    }
    least = (float)((double)largest - NEGLIGIBLE * temperature);
    for (int32_t i = 0; i < count; i++) {
        if (candidates[i].logit >= least)
            candidates[kept++] = candidates[i];
    }
    qsort(candidates, (size_t)kept, sizeof *candidates, compare_candidates);
    for (int32_t i = 0; i < kept; i++) {
        double weight = exp(((double)candidates[i].logit - (double)largest) / temperature);

        if (weight < (double)params->min_p) { /* the best one's weight is 1; the rest are no larger than this one */
            kept = i;
            break;
        }
        sampler->weight[i] = weight;
        total += weight;
    }
    for (int32_t i = 0; i < kept; i++) { /* the smallest set whose share reaches top_p */
        keep += sampler->weight[i];
        if (params->top_p < 1 && keep >= (double)params->top_p * total) {
            kept = i + 1;
            break;
        }
    }
    drawn = uniform(params->seed, step) * keep;
    *token = candidates[kept - 1].id;
    for (int32_t i = 0; i < kept; i++) {
        sum += sampler->weight[i];
        if (drawn < sum) {
            *token = candidates[i].id;
            break;
        }
    }
    return true;
}

/* log softmax of the raw logits. */
static double log_probability(const float *logits, int32_t vocab, int32_t token)
{
    double largest = -INFINITY, sum = 0;

    for (int32_t id = 0; id < vocab; id++)
        largest = (double)logits[id] > largest ? (double)logits[id] : largest;
    if (isinf(largest)) /* infinite logits share the probability equally; -inf everywhere was refused before */
        return logits[token] < INFINITY ? -INFINITY : 0;
    for (int32_t id = 0; id < vocab; id++)
        sum += exp((double)logits[id] - largest);
    return (double)logits[token] - largest - log(sum);
}

enum status sampler_next(struct sampler *sampler, const float *logits, const struct token_mask *mask, uint64_t step,
                         struct sampled *sampled)
{
    int32_t token;

    for (int32_t id = 0; id < sampler->vocab; id++) {
        if (isnan(logits[id]))
            return STATUS_BAD_INPUT;
    }
    if (!(sampler->params.temperature > 0 ? next_random(sampler, logits, mask, step, &token)
                                          : next_greedy(sampler, logits, mask, &token)))
        return STATUS_BAD_INPUT;
    sampled->token = token;
    sampled->logprob = (float)log_probability(logits, sampler->vocab, token);
    sampler_accept(sampler, token);
    return STATUS_OK;
}
