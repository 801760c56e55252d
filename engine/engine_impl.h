/* engine/engine_impl.h: what engine.c, scheduler.c and sequence.c share. */
#ifndef ENGINE_ENGINE_IMPL_H
#define ENGINE_ENGINE_IMPL_H

#include <stdatomic.h>

#include "base/buf.h"
#include "base/vec.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/packed_weights.h"
#include "engine/prefix_cache.h"
#include "engine/reading_impl.h"
#include "engine/render.h"

enum {
    MAX_LIVE_SEQUENCES = 4096,
    MAX_DECODE_ROWS = 128,          /* decoding sequences stepped at once; more take turns */
    LOGIT_BUDGET_BYTES = 64 << 20,  /* logits held at once, whatever the vocabulary */
    MAX_STOPS = 64,
    MAX_STOP_BYTES = 1024,
    MAX_TEXT_BYTES = 64 << 20
};

/* A share of a pass: `count` positions from the sequence's `done` on, with logits of the last `logits` of them: none
 * while a prompt goes on, one at its end, and while decoding all: of the last token and of the guesses after it. */
struct share {
    struct sequence *sequence;
    size_t count;
    int logits;
    bool prefill;
    int first_logit; /* row of the pass */
    bool best;       /* its token is the device's choice: the row of logits stays there */
    bool draws;      /* its token is drawn from a shortlist: so does the row, unless that does not tell */
    int kept;        /* how many of the logits became tokens */
};

struct plan {
    VEC(struct share) shares;
    int rows, logit_rows;
};

/* Tokens served to one owner, in each class, while it has work: the scheduler takes the least served next. */
struct owner {
    uint64_t id;
    uint64_t served[2]; /* by class */
    size_t sequences;
};

struct engine {
    struct engine_info info;
    struct reading_rules reading; /* where info.reading is not NULL */
    struct model_config config;
    struct ops *ops;
    struct model model;
    struct tokenizer *tokenizer;
    struct quote_vocab *quote_vocab; /* NULL where the tokenizer cannot quote */
    struct kv_cache *cache;
    struct prefix_cache *prefix;     /* NULL without cache_dir */
    struct forward *forward;
    struct packed_weights *packed;   /* NULL without cache_dir, or where the backend packs nothing */
    struct hash256 model_key;        /* what model_hash spells */
    struct hash256 root_key;         /* stands for "no tokens before": model, numerics, backend, cache format */
    char model_hash[HASH_HEX_BYTES];
    char *description;
    int prefill_chunk, max_rows, max_logit_rows, draft_tokens;
    int64_t kv_tokens;
    struct forward_sizes sizes;

    VEC(struct sequence *) sequences; /* alive, in order of creation */
    VEC(struct owner) owners;
    uint64_t turn; /* counts steps */

    /* The next pass, host side; sized for max_rows. */
    int32_t *token, *position, *slot, *row_sequence;
    VEC(int32_t) page_table;
    float *logits;
    bool *row_wanted;              /* rows of logits that a sampler looks at; the others' choice is the device's */
    int32_t *best;                 /* NULL where no device chooses */
    float *best_log_probability;
    float *temperature; /* of rows drawn from; both NULL where best is */
    struct shortlist *list;
    size_t rows_asked_for;            /* rows that a shortlist could not decide */
    int32_t *next_token, *hidden_row; /* of a drafting pass; NULL without an MTP layer */
    int32_t (*mark_pair)[2];
    float *mark;
    float *weighed; /* [V] logits with what weighted quotations add */
};

struct sequence {
    struct engine *engine;
    enum sequence_class class;
    uint64_t owner;
    atomic_bool cancelled;
    struct sequence_status status;
    char error[ERROR_MESSAGE_BYTES];

    /* The timeline: prompt, then output. `done` positions are in the caches. */
    VEC(int32_t) timeline;
    size_t prompt_count, done;
    int32_t *forced;
    size_t forced_count;
    VEC(int32_t) pages;
    int64_t reserved;         /* pages promised and not yet taken */
    struct hash256 seal_key;  /* key of the last sealed page, or the root */
    size_t sealed;            /* pages sealed */
    size_t paired;            /* positions the MTP layer has cached; between two steps as many as `done` */
    int32_t draft[ENGINE_MAX_DRAFT]; /* what the next tokens may be */
    size_t draft_count;
    size_t draft_right;       /* how many of the last step's guesses were right */
    uint64_t last_turn;

    struct sampler *sampler;
    struct quote *quote;
    struct choice *choice;    /* NULL without a reading */
    bool greedy;
    size_t max_tokens;
    int32_t *stop_id;
    size_t stop_id_count;
    char **stop_string;
    size_t stop_string_count;
    bool logprobs;

    size_t *mark_at;          /* [mark_count] positions; the first `marked` of them are computed */
    float *mark;
    size_t mark_count, marked;
    int32_t mark_pair[2];

    VEC(struct sequence_token) output;
    struct render render;
    struct buf text;
    size_t text_shown; /* what sequence_text() may show: nothing that could still become a stop string */
};

/* sequence.c. Takes the next output token of a decoding sequence from its row of logits (or, where one is left, from
 * the forced ones) and ends the sequence where that token says so. */
enum status sequence_advance(struct sequence *sequence, const float *logits, struct error *err) MUST_CHECK;
/* The same for a sequence that sequence_takes_best(): greedy, nothing masked, penalised, forced or marked. */
bool sequence_takes_best(const struct sequence *sequence);
/* A draw that sequence_draws() from a shortlist, at this temperature. */
bool sequence_draws(const struct sequence *sequence, float *temperature);
enum status sequence_advance_draw(struct sequence *sequence, const struct shortlist *list, bool *decided,
                                  struct error *err) MUST_CHECK;
enum status sequence_advance_best(struct sequence *sequence, int32_t best, float log_probability, struct error *err)
    MUST_CHECK;
void sequence_end(struct sequence *sequence, enum sequence_reason reason); /* gives its pages back */
void sequence_fail(struct sequence *sequence, const char *message);
bool sequence_alive(const struct sequence *sequence);
bool sequence_is_stop_id(const struct sequence *sequence, int32_t token);
/* Positions that can be computed before the next token must be chosen. */
size_t sequence_ready(const struct sequence *sequence);
void sequence_take_pages(struct sequence *sequence, size_t positions); /* of its reservation, until they hold so many */
/* Makes the pages findable that are complete; those of the prompt are kept on disk too. */
void sequence_seal_pages(struct sequence *sequence);
/* How many marks stand in positions [done, end). */
size_t sequence_marks_before(const struct sequence *sequence, size_t end);

/* engine.c: engine_logits() with the passes watched; for tests and dsa-logits. */
enum status engine_logits_traced(struct engine *engine, const int32_t *tokens, size_t count, float *logits,
                                 const struct forward_trace *trace, struct error *err) MUST_CHECK;

/* engine.c: the MTP layer's logits [count - 1, V]: row i, from position i and token i + 1, is about token i + 2. */
enum status engine_mtp_logits(struct engine *engine, const int32_t *tokens, size_t count, float *logits,
                              const struct forward_trace *trace, struct error *err) MUST_CHECK;

/* speculate.c: guesses by the MTP layer; see there. */
size_t speculate_drafts(const struct sequence *sequence, size_t room); /* guesses to verify with the next row */
/* Between a pass and its tokens: the MTP layer over the positions whose next token is known. */
enum status speculate_pair(struct engine *engine, const struct plan *plan, const struct forward_batch *batch,
                           struct error *err) MUST_CHECK;
void speculate_roll_back(struct sequence *sequence, size_t end); /* positions from `done` to `end` hold no tokens */
/* After the tokens: the MTP layer over them, and guesses for the next step. */
enum status speculate_draft(struct engine *engine, const struct plan *plan, struct error *err) MUST_CHECK;

/* memory.c. check: refuses what cannot fit, before anything is taken, and fills in most of info.memory. plan: with
 * caches, working memory and scratch taken, which layers are streamed. On the host both refuse nothing. */
enum status memory_check(struct engine *engine, struct error *err) MUST_CHECK;
enum status memory_plan(struct engine *engine, bool *streamed, struct error *err) MUST_CHECK;
/* The fewest layers to stream so that the rest and two slots fit `room`, spread evenly; -1 where none will do. */
int memory_choose_streamed(const int64_t *bytes, int layers, int64_t room, bool *streamed);

/* scheduler.c */
enum status scheduler_owner_add(struct engine *engine, uint64_t id) MUST_CHECK;
void scheduler_owner_remove(struct engine *engine, uint64_t id);

#endif
