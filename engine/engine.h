/* engine/engine.h: a loaded model and its device (`engine`), and one growing timeline of tokens (`sequence`).
 *
 * The engine knows tokens and sequences; it knows neither documents, SQLite nor sockets.
 *
 *   engine_open → sequence_create → engine_step … (until sequence_result says it is done) → sequence_destroy
 *
 * One thread calls engine_* and sequence_* of one engine; engine_info and the tokenizer may be read from any
 * thread; sequence_cancel from any thread. Kernels use their own pool inside. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/prompt.h"
#include "engine/quote.h"
#include "engine/reading.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"

struct engine;
struct sequence;

enum { ENGINE_MAX_DRAFT = 8 };
/* What the model takes, planned before the weights are read. On the host only caches and working memory are known. */
struct engine_memory {
    int64_t device_bytes, available_bytes; /* 0 on the host; available: to this program, before it took anything */
    int64_t reserve_bytes;                 /* left alone */
    int64_t table_bytes;                   /* embedding, rotary table, norms */
    int64_t cache_bytes, work_bytes, scratch_bytes; /* scratch: the backend's own, rehearsed at the largest pass */
    int64_t head_bytes, layer_bytes;       /* matrices */
    int64_t resident_bytes, streamed_bytes, slot_bytes; /* layers on the device; in pinned host memory; their way in */
    int resident_layers, streamed_layers;
    int step_tokens; /* of prefill a step, at most */
};
/* One line, cut at `bytes`; returns its whole length. */
size_t engine_memory_text(const struct engine_memory *memory, char *text, size_t bytes);

struct engine_options {
    const char *model_dir;   /* Hugging Face directory: config.json, tokenizer.json, *.safetensors             */
    const char *backend;     /* "ref", "cpu", "cuda"; NULL: cuda where a GPU is there, else cpu                */
    const char *plugin_dir;  /* where the CUDA plug-in is looked for; NULL: beside the program, then libdir    */
    const char *cache_dir;   /* packed weights and saved prefixes (the store's kv/); NULL: none on disk        */
    int threads;             /* 0: every CPU of the process                                                    */
    bool pin_threads;        /* each kernel thread stays on one processor: for a machine of one's own          */
    bool plain;              /* no Hadamard, no FP8 rounding of activations and caches: for comparisons        */
    int64_t kv_tokens;       /* capacity of the caches in tokens, all sequences together; 0: one full window   */
    int prefill_chunk;       /* tokens of prefill a step; 0: 512, on a device up to 4096 where there is room   */
    int draft_tokens;        /* speculative decoding: the most tokens that the checkpoint's MTP layer guesses for
                                a sequence a step, up to ENGINE_MAX_DRAFT. What is given is the same with any
                                number. 0: off, and the layer is not loaded                                     */
    int64_t packed_bytes;    /* cap of packed weights under cache_dir; 0: 16 GiB; below 0: none are kept       */
    int64_t disk_cache_bytes;/* cap of saved prefixes under cache_dir; 0: 8 GiB                                */
    int device;              /* which CUDA device                                                              */
    int64_t device_bytes;    /* of its memory at most; 0: all that is free. Layers beyond that are streamed    */
    int sweep_tokens;        /* tokens of prefill a step where layers are streamed: each layer comes by once for all
                                of them; 0: the window, 128K at most                                           */
    void (*planned)(void *context, const struct engine_memory *memory); /* before weights are read; may be NULL */
    void (*progress)(void *context, const char *phase, int64_t done, int64_t total); /* loading; may be NULL   */
    void *progress_context;
};

struct engine_info {
    const char *architecture; /* "DeepseekV32ForCausalLM" */
    const char *backend;      /* ops_description() */
    enum prompt_style prompt_style;
    int32_t vocab_size, layers, index_topk; /* index_topk 0: no indexer (dense) */
    int64_t window_tokens;    /* longest sequence */
    int64_t kv_tokens;        /* cache capacity */
    int64_t parameter_count, weight_bytes, cache_bytes;
    struct engine_memory memory;
    const char *model_hash;   /* 64 hex digits over config and weights; keys caches and stored results */
    const struct reading_rules *reading; /* reader.json; NULL: there is none */
    bool random_weights;      /* generated test checkpoint (config.json says "dsa_random_weights": true) */
};

enum status engine_open(const struct engine_options *options, struct engine **engine, struct error *err) MUST_CHECK;
void engine_close(struct engine *engine); /* destroys the sequences still there */
const struct engine_info *engine_info(const struct engine *engine);
const struct tokenizer *engine_tokenizer(const struct engine *engine);
/* For quote_index_create(), on any thread. NULL where the tokenizer has no token for some byte: no quote mode. */
const struct quote_vocab *engine_quote_vocab(const struct engine *engine);

/* --- Plain forward pass, for tools and tests ------------------------------------------------------------------- */

/* Logits F32 [count, V] of every position of one prompt, row-major, from empty caches. */
enum status engine_logits(struct engine *engine, const int32_t *tokens, size_t count, float *logits,
                          struct error *err) MUST_CHECK;

/* --- Sequences ------------------------------------------------------------------------------------------------- */

enum sequence_class { SEQUENCE_INTERACTIVE, SEQUENCE_BATCH };

/* Places of the prompt where two tokens are compared: a mark is the logit of `yes` less that of `no` after the token
 * at that position, to the bit what engine_logits() gives. Copied. A page that holds a mark is always computed: a
 * prefix cache is used only up to the page of the first one. */
enum { SEQUENCE_MAX_MARKS = 1 << 16 };
struct sequence_marks {
    const size_t *positions; /* ascending, in the prompt */
    size_t count;
    int32_t yes, no;
};

struct sequence_options {
    const int32_t *tokens;    /* the prompt; copied */
    size_t token_count;
    const int32_t *forced;    /* tokens already given by an earlier attempt: driven through, reported again; copied.
                                 They count towards max_tokens, and the generator goes on where it stood */
    size_t forced_count;
    enum sequence_class class;
    uint64_t owner;           /* who it is for: fairness inside a class is between owners */
    struct sampler_params sampling;
    size_t max_tokens;        /* of output */
    const int32_t *stop_ids;
    size_t stop_id_count;
    const char *const *stop_strings; /* generation ends before the first of them */
    size_t stop_string_count;
    const struct quote_index *quotes; /* quote mode, with the rules the index was made with; NULL: off. Must outlive
                                         the sequence */
    bool logprobs; /* also of forced tokens; without it a forced token's logprob is 0 */
    struct sequence_marks marks;
    const struct reading *reading; /* with `quotes`, of the same index: chooses by its rules, with marks of its own
                                      (`marks` must be empty). Must outlive the sequence; NULL: off */
};

enum sequence_state { SEQUENCE_WAITING, SEQUENCE_PREFILL, SEQUENCE_DECODE, SEQUENCE_DONE };
enum sequence_reason { REASON_NONE, REASON_STOP, REASON_LENGTH, REASON_CANCELLED, REASON_FAILED };

struct sequence_token {
    int32_t id;
    float logprob;
};

struct sequence_status {
    enum sequence_state state;
    enum sequence_reason reason;
    size_t prompt_tokens, prompt_done; /* prompt_done counts cached tokens too */
    size_t cached_tokens;              /* of the prompt: found in a prefix cache */
    size_t output_tokens;
    int64_t prefill_ns, decode_ns;
    size_t drafted_tokens, accepted_tokens; /* guessed ahead, and guessed right: draft_tokens */
};

/* Admission: STATUS_LIMIT when prompt + max_tokens exceed the window, STATUS_BUSY when the caches are full of
 * admitted work (retry after another ends); nothing admitted is ever evicted. Batch work is admitted only while a
 * quarter of the caches stays free for interactive work, unless it is alone. */
enum status sequence_create(struct engine *engine, const struct sequence_options *options,
                            struct sequence **sequence, struct error *err) MUST_CHECK;
void sequence_destroy(struct sequence *sequence); /* frees its pages; NULL allowed */
void sequence_cancel(struct sequence *sequence);  /* any thread; takes effect within one step */

void sequence_get_status(const struct sequence *sequence, struct sequence_status *status);
/* Output tokens from index `from` on, a stop id that ended it included; borrowed until the next engine_step(). */
size_t sequence_tokens(const struct sequence *sequence, size_t from, const struct sequence_token **tokens);
/* The text so far without the stop id, cut before a stop string, never splitting a character, and never showing what
 * could still become a stop string: what was shown stays. Borrowed until the next step. */
struct span sequence_text(const struct sequence *sequence);
/* Quotations closed so far (quote mode); borrowed until the next step. */
size_t sequence_quotes(const struct sequence *sequence, const struct quote_span **spans);
/* The marks computed so far, in the order of their positions; all are there once the prompt is done. Borrowed until the
 * sequence is destroyed. */
size_t sequence_mark_values(const struct sequence *sequence, const float **values);
/* How the choice stands, with `reading`; false without. Its arrays are borrowed until the sequence is destroyed. */
bool sequence_reading(const struct sequence *sequence, struct reading_result *result);
/* Why REASON_FAILED; "" otherwise. */
const char *sequence_error(const struct sequence *sequence);

/* One step: at most prefill_chunk tokens of prefill and one token for every decoding sequence (128 at most, in turn).
 * While interactive sequences are there batch ones are parked: they keep their pages and go on later. Inside a class
 * the owner who was served the fewest tokens comes first. *worked is false when there was nothing to do. A failure of
 * one sequence ends that sequence alone (REASON_FAILED); the status returned is for the engine as a whole (a lost
 * device). */
enum status engine_step(struct engine *engine, bool *worked, struct error *err) MUST_CHECK;

#endif
