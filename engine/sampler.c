/* sampler.c: penalties, mask, temperature, min-p, top-p, and one draw.
 *
 * The order, fixed and tested: repetition penalty on the raw logits, mask, temperature, softmax, min-p, top-p, draw.
 * A draw goes down the ranks, the most probable token first: so most are decided by the first few of them, and the rest
 * of the row need not be here (sampler_next_of).
 * Every operation is a single IEEE one in a fixed order, exp included, so that the same logits give the same token on
 * every machine (the C library's exp differs between processors in its last bit).
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
    struct candidate *candidates; /* [vocab] scratch: what may be drawn, in the order of ids */
    struct candidate *best;       /* [vocab] scratch: the most probable of them, sorted; `id` is a place among them */
    double *weight;               /* [vocab] scratch: of `candidates`, the best one's is 1 */
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
        made->best = malloc((size_t)vocab * sizeof *made->best);
        made->weight = malloc((size_t)vocab * sizeof *made->weight);
    }
    if (!made->seen || (params->temperature > 0 && (!made->candidates || !made->best || !made->weight))) {
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
    free(sampler->best);
    free(sampler->weight);
    free(sampler);
}

bool sampler_is_plain(const struct sampler *sampler)
{
    return sampler->params.temperature == 0 && sampler->params.repetition_penalty == 1;
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

/* --- The exponential function ------------------------------------------------------------------------- */

/* Two at a time: SSE2 has registers for it, and every other processor gets the same bits. */
typedef double pair __attribute__((vector_size(16)));
typedef uint64_t pair_bits __attribute__((vector_size(16)));

/* exp(x) for x <= 0, within 2 units in the last place; 0 below -708. With n = x / ln 2 rounded, x = n ln 2 + r and
 * |r| <= 0.3466, so that r^14 / 14! is below 2^-57. */
static inline pair exp_pair(pair x)
{
    /* 1.5 * 2^52: adding it rounds to an integer and leaves that integer in the low bits. */
    const double magic = 0x1.8p52, log2e = 0x1.71547652b82fep0, ln2_high = 0x1.62e42fefa0000p-1,
                 ln2_low = 0x1.cf79abc9e3b3ap-40;
    pair_bits tiny = (pair_bits)(x < -708.0);
    pair shifted = x * log2e + magic, n = shifted - magic, r = x - n * ln2_high - n * ln2_low, sum;
    pair_bits bits;

    sum = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    bits = ((pair_bits)sum + ((pair_bits)shifted << 52)) & ~tiny; /* times 2^n */
    return (pair)bits;
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

/* Collects what the mask leaves, in the order of ids. */
static int32_t gather(struct sampler *sampler, const float *logits, const struct token_mask *mask)
{
    int32_t count = 0;

    for (int32_t id = 0; id < sampler->vocab; id++) {
        if (allowed(mask, id))
            sampler->candidates[count++] = (struct candidate){penalised(sampler, logits, id), id};
    }
    return count;
}

/* Leaves of `given` candidates what min-p does, in the order of ids, with weights; false when that is nothing. */
static bool weigh(struct sampler *sampler, int32_t given, int32_t *count, double *total)
{
    struct candidate *candidates = sampler->candidates;
    double temperature = (double)sampler->params.temperature, least;
    float largest = -INFINITY;
    int32_t kept = 0;

    for (int32_t i = 0; i < given; i++)
        largest = candidates[i].logit > largest ? candidates[i].logit : largest;
    if (!(largest > -INFINITY))
        return false;
    if (largest == INFINITY) { /* the limit of the softmax: equal shares among the infinite ones */
        for (int32_t i = 0; i < given; i++)
            candidates[i].logit = candidates[i].logit == INFINITY ? 0 : -INFINITY;
        largest = 0;
    }
    least = (double)largest - NEGLIGIBLE * temperature;
    for (int32_t i = 0; i < given; i++) {
        if ((double)candidates[i].logit >= least)
            candidates[kept++] = candidates[i];
    }
    for (int32_t i = 0; i < kept; i += 2) {
        pair x = {((double)candidates[i].logit - (double)largest) / temperature, 0};

        if (i + 1 < kept)
            x[1] = ((double)candidates[i + 1].logit - (double)largest) / temperature;
        x = exp_pair(x);
        sampler->weight[i] = x[0];
        if (i + 1 < kept)
            sampler->weight[i + 1] = x[1];
    }
    *count = 0;
    *total = 0;
    for (int32_t i = 0; i < kept; i++) {
        if (sampler->weight[i] < (double)sampler->params.min_p) /* of the best one's weight, which is 1 */
            continue;
        candidates[*count] = candidates[i];
        sampler->weight[*count] = sampler->weight[i];
        *total += sampler->weight[i];
        (*count)++;
    }
    return true;
}

/* How many of the first `ranked` in `best` it takes until their weights reach `wanted` (all, should they not), and the
 * sum of those. */
static int32_t ranks_until(const struct sampler *sampler, int32_t ranked, double wanted, double *sum)
{
    int32_t kept = 0;

    *sum = 0;
    while (kept < ranked) {
        *sum += sampler->weight[sampler->best[kept++].id];
        if (*sum >= wanted)
            break;
    }
    return kept;
}

/* Puts into `best` the places among the candidates of the first ranks, the more probable first, ties by id, until their
 * weights reach `wanted`, or all: how many, and their sum. Sorts no more of them than it takes: those near the best
 * one, and farther until it is enough. */
static int32_t rank(struct sampler *sampler, int32_t count, double wanted, double *sum)
{
    int32_t taken = 0, kept = 0;

    *sum = 0;
    for (double threshold = 0x1p-8; taken < count; threshold *= threshold) {
        double unsorted = 0;

        taken = 0;
        for (int32_t i = 0; i < count; i++) {
            if (sampler->weight[i] >= threshold) {
                sampler->best[taken++] = (struct candidate){sampler->candidates[i].logit, i};
                unsorted += sampler->weight[i];
            }
        }
        if (taken < count && unsorted < wanted * (1 - 0x1p-30)) /* far from enough, in whatever order */
            continue;
        qsort(sampler->best, (size_t)taken, sizeof *sampler->best, compare_candidates);
        kept = ranks_until(sampler, taken, wanted, sum);
        if (*sum >= wanted)
            break;
    }
    return kept;
}

/* Draws from `count` candidates whose weights are `low` to `high` in all, going down the ranks. With low < high there
 * may be more candidates, of later ranks than these; false where it depends on what is not known. */
static bool draw(struct sampler *sampler, int32_t count, double low, double high, uint64_t step, int32_t *token)
{
    double random = uniform(sampler->params.seed, step), top_p = (double)sampler->params.top_p, sum, again;
    int32_t kept;

    /* Of the draw itself: the first rank whose sum is above it; the last one, should rounding leave a rest. */
    if (sampler->params.top_p < 1) {
        low *= top_p;
        high *= top_p;
    } else {
        low = nextafter(random * low, INFINITY);
        high = nextafter(random * high, INFINITY);
    }
    kept = rank(sampler, count, high, &sum);
    if (low != high && (!(sum >= high) || ranks_until(sampler, kept, low, &again) != kept))
        return false;
    if (sampler->params.top_p < 1)
        kept = ranks_until(sampler, kept, nextafter(random * sum, INFINITY), &again);
    *token = sampler->candidates[sampler->best[kept - 1].id].id;
    return true;
}

static bool next_random(struct sampler *sampler, const float *logits, const struct token_mask *mask, uint64_t step,
                        int32_t *token)
{
    int32_t count = gather(sampler, logits, mask);
    double total;

    return weigh(sampler, count, &count, &total) && draw(sampler, count, total, total, step, token);
}

/* log softmax of the raw logits. */
static double log_probability(const float *logits, int32_t vocab, int32_t token)
{
    double largest = -INFINITY, rest = 0;
    pair sum = {0, 0};
    int32_t id = 0;

    for (int32_t i = 0; i < vocab; i++)
        largest = (double)logits[i] > largest ? (double)logits[i] : largest;
    if (isinf(largest)) /* infinite logits take all of the probability; -inf everywhere was refused before */
        return logits[token] < INFINITY ? -INFINITY : 0;
    for (; id + 1 < vocab; id += 2)
        sum += exp_pair((pair){(double)logits[id] - largest, (double)logits[id + 1] - largest});
    if (id < vocab)
        rest = exp_pair((pair){(double)logits[id] - largest, 0})[0];
    return (double)logits[token] - largest - log(sum[0] + sum[1] + rest);
}

enum status sampler_peek(struct sampler *sampler, const float *logits, const struct token_mask *mask, uint64_t step,
                         int32_t *token)
{
    for (int32_t id = 0; id < sampler->vocab; id++) {
        if (isnan(logits[id]))
            return STATUS_BAD_INPUT;
    }
    if (!(sampler->params.temperature > 0 ? next_random(sampler, logits, mask, step, token)
                                          : next_greedy(sampler, logits, mask, token)))
        return STATUS_BAD_INPUT;
    return STATUS_OK;
}

bool sampler_draws(const struct sampler *sampler, float *temperature)
{
    *temperature = sampler->params.temperature;
    return sampler->params.temperature > 0 && sampler->params.repetition_penalty == 1;
}

enum status sampler_next_of(struct sampler *sampler, const struct shortlist *list, uint64_t step,
                            struct sampled *sampled, bool *decided)
{
    double low = (double)list->total * (1 - SHORTLIST_ERROR), high = (double)list->total * (1 + SHORTLIST_ERROR), total,
           edge;
    float largest = -INFINITY, smallest = INFINITY;
    bool whole = list->count == sampler->vocab;
    int32_t count = list->count, token = -1;

    *decided = true;
    if (list->best < 0)
        return STATUS_BAD_INPUT;
    for (int32_t i = 0; i < count; i++) {
        sampler->candidates[i] = (struct candidate){list->logit[i], list->id[i]};
        largest = list->logit[i] > largest ? list->logit[i] : largest;
        smallest = list->logit[i] < smallest ? list->logit[i] : smallest;
    }
    /* What is not in the list has the smallest's weight at most. */
    whole |= (double)smallest < (double)largest - NEGLIGIBLE * (double)sampler->params.temperature;
    if (largest == INFINITY || !weigh(sampler, count, &count, &total)) {
        *decided = false;
        return STATUS_OK;
    }
    edge = exp_pair((pair){((double)smallest - (double)largest) / (double)sampler->params.temperature, 0})[0];
    whole |= edge < (double)sampler->params.min_p * (1 - 0x1p-40); /* exp_pair does not fall steadily in its last bit */
    if (whole)
        low = high = total;
    else if (sampler->params.min_p > 0)
        *decided = false; /* how far its set goes is not known */
    *decided = *decided && draw(sampler, count, low, high, step, &token);
    if (!*decided)
        return STATUS_OK;
    for (int32_t i = 0; i < list->count; i++) {
        if (list->id[i] == token)
            sampled->logprob = (float)((double)list->logit[i] - (double)largest + (double)list->best_log_probability);
    }
    sampled->token = token;
    sampler_accept(sampler, token);
    return STATUS_OK;
}

enum status sampler_next(struct sampler *sampler, const float *logits, const struct token_mask *mask, uint64_t step,
                         struct sampled *sampled)
{
    int32_t token = 0;
    enum status s = sampler_peek(sampler, logits, mask, step, &token);

    if (s)
        return s;
    sampled->token = token;
    sampled->logprob = (float)log_probability(logits, sampler->vocab, token);
    sampler_accept(sampler, token);
    return STATUS_OK;
}
