/* engine/pretokenize.h: cuts text into the pieces that BPE then encodes one by one. Internal to the tokenizer.
 *
 * A list of steps, each cutting what the step before it left. Immutable after building; a run belongs to one thread. */
#ifndef ENGINE_PRETOKENIZE_H
#define ENGINE_PRETOKENIZE_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdbool.h>

#include "base/span.h"
#include "base/status.h"

enum { PRETOKENIZE_MAX_STEPS = 8, PRETOKENIZE_MAX_PATTERN = 8192 };

struct pretokenize_step {
    pcre2_code *code;
    bool jit;
    bool drop_matches, drop_gaps; /* "Removed"; with "invert", the gaps instead */
};

struct pretokenizer {
    struct pretokenize_step steps[PRETOKENIZE_MAX_STEPS];
    int count;
};

enum pretokenize_keep { PRETOKENIZE_ISOLATED, PRETOKENIZE_REMOVE_MATCHES, PRETOKENIZE_REMOVE_GAPS };

/* `regex` is in the dialect of the `tokenizers` package (Oniguruma); with `literal` it is matched byte for byte. */
enum status pretokenizer_add(struct pretokenizer *pretokenizer, struct span regex, bool literal,
                             enum pretokenize_keep keep, struct error *err) MUST_CHECK;
void pretokenizer_finish(struct pretokenizer *pretokenizer);

/* What one thread needs to run it. */
struct pretokenize_run {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};
enum status pretokenize_begin(struct pretokenize_run *run) MUST_CHECK;
void pretokenize_end(struct pretokenize_run *run);

/* Calls put() for every piece of `text`, which must be valid UTF-8, in order. */
typedef enum status (*pretokenize_put)(void *context, struct span piece);
enum status pretokenize(const struct pretokenizer *pretokenizer, struct pretokenize_run *run, struct span text,
                        pretokenize_put put, void *context) MUST_CHECK;

#endif
