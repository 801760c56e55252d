/* engine/sampler.h: from one row of logits to one token.
 *
 * Deterministic: the same logits, history, parameters and seed give the same token on every machine (the
 * generator is counter-based: random number i of a sequence depends on the seed and i alone, so a resumed
 * sequence goes on exactly). One sampler per sequence, one thread. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct sampler_params {
    float temperature;        /* 0: greedy, ties to the lowest id                          */
    float top_p;              /* (0, 1]; 1: off                                            */
    float min_p;              /* [0, 1): drop tokens under min_p * the best probability; 0: off */
    float repetition_penalty; /* >= 1 on tokens already generated; 1: off                  */
    uint64_t seed;
};
extern const struct sampler_params sampler_default; /* greedy, everything off, seed 0 */
enum status sampler_check(const struct sampler_params *params, struct error *err) MUST_CHECK;

/* Which tokens may come next: bit i of `bits` set means token i is allowed. Made by quote mode. */
struct token_mask {
    uint64_t *bits; /* ceil(vocab / 64) words, owned by whoever made the mask */
    int32_t vocab;
};

struct sampler;
enum status sampler_create(const struct sampler_params *params, int32_t vocab, struct sampler **sampler) MUST_CHECK;
void sampler_destroy(struct sampler *sampler);

struct sampled {
    int32_t token;
    float logprob; /* natural log of the token's probability before temperature and filters */
};
/* `mask` NULL: everything is allowed. `step` counts this sequence's generated tokens from 0. A row of NaN, or
 * a mask that allows nothing, is STATUS_BAD_INPUT. */
enum status sampler_next(struct sampler *sampler, const float *logits, const struct token_mask *mask,
                         uint64_t step, struct sampled *sampled) MUST_CHECK;
/* The token that sampler_next() would choose, and nothing is remembered: for guesses ahead. */
enum status sampler_peek(struct sampler *sampler, const float *logits, const struct token_mask *mask, uint64_t step,
                         int32_t *token) MUST_CHECK;
/* Whether its choice is the largest logit, nothing else: greedy and without a penalty. */
bool sampler_is_plain(const struct sampler *sampler);

/* --- From the most probable tokens of a row, where all of it lies elsewhere --- */

/* Total is that of all weights exp((logit - largest) / temperature), to SHORTLIST_ERROR of itself. */
#define SHORTLIST_ERROR 1e-6
struct shortlist {
    const int32_t *id; /* [count] ascending: the largest logits of the row, of equal ones the lowest ids */
    const float *logit;
    int32_t count;
    float total;
    int32_t best; /* below 0: the row holds a NaN, or nothing above -inf */
    float best_log_probability;
};
/* Whether it draws by the logits alone: a temperature, which is set, and no penalty. */
bool sampler_draws(const struct sampler *sampler, float *temperature);
/* The token that sampler_next() chooses from the whole row without a mask, or `decided` false: the list does not tell,
 * and nothing has happened. The same token, not nearly: where `total` leaves two possible it does not decide. The
 * logprob goes by best_log_probability. */
enum status sampler_next_of(struct sampler *sampler, const struct shortlist *list, uint64_t step,
                            struct sampled *sampled, bool *decided) MUST_CHECK;
/* Tells the sampler of a token that was chosen elsewhere (a resumed sequence). */
void sampler_accept(struct sampler *sampler, int32_t token);

#endif
