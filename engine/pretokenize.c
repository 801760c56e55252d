/* pretokenize.c: the regular expressions of tokenizer.json on PCRE2.
 *
 * They were written for Oniguruma. What differs there, for the expressions that occur: `\s` is Unicode White_Space,
 * while PCRE2's also holds U+180E, so it is spelled out; and the tables of Unicode versions differ in characters
 * assigned since (README, "Tokenizer"). Constructs whose meaning differs otherwise are refused. */
#include "engine/pretokenize.h"

#include <string.h>

#include "base/buf.h"

/* Unicode White_Space, to stand inside [ ]. */
#define WHITE_SPACE \
    "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

enum { JIT_STACK_START = 32 * 1024, JIT_STACK_MAX = 4 << 20, PATTERN_ROOM = 16 * PRETOKENIZE_MAX_PATTERN };

/* Rewrites \s and \S; refuses what would silently mean something else. */
static enum status translate(struct span regex, struct buf *out, struct error *err)
{
    bool in_class = false;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < regex.len && !status; i++) {
        char c = regex.ptr[i], next = i + 1 < regex.len ? regex.ptr[i + 1] : '\0';

        if (c == '\\' && (next == 's' || (next == 'S' && !in_class))) {
            if (in_class)
                status = buf_append_cstr(out, WHITE_SPACE);
            else
                status = buf_append_cstr(out, next == 's' ? "[" WHITE_SPACE "]" : "[^" WHITE_SPACE "]");
            i++;
        } else if (c == '\\' && next != '\0' && strchr("hHKRXyYOSgk", next)) {
            return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: '\\%c' in a regular expression%s", next,
                             in_class ? " class" : "");
        } else if (c == '\\' && next != '\0') {
            status = buf_append(out, regex.ptr + i, 2);
            i++;
        } else if (in_class && ((c == '&' && next == '&') || c == '[')) {
            return error_set(err, STATUS_UNSUPPORTED,
                             "pre_tokenizer: nested or intersected class in a regular expression");
        } else {
            if (c == '[' && !in_class) {
                in_class = true;
                if (next == ']' || (next == '^' && i + 2 < regex.len && regex.ptr[i + 2] == ']'))
                    return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: ']' first in a class");
            } else if (c == ']') {
                in_class = false;
            }
            status = buf_append_byte(out, c);
        }
    }
    return status ? error_set(err, status, "pre_tokenizer: regular expression too long") : STATUS_OK;
}

enum status pretokenizer_add(struct pretokenizer *pretokenizer, struct span regex, bool literal,
                             enum pretokenize_keep keep, struct error *err)
{
    struct pretokenize_step step = {.drop_matches = keep == PRETOKENIZE_REMOVE_MATCHES,
                                    .drop_gaps = keep == PRETOKENIZE_REMOVE_GAPS};
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    PCRE2_UCHAR message[128];
    size_t jit_bytes = 0;
    struct buf pattern;
    enum status status;
    PCRE2_SIZE where;
    int code;

    buf_init(&pattern, PATTERN_ROOM);
    if (pretokenizer->count == PRETOKENIZE_MAX_STEPS)
        return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: more than %d steps", PRETOKENIZE_MAX_STEPS);
    if (regex.len == 0 || regex.len > PRETOKENIZE_MAX_PATTERN)
        return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: a regular expression of %zu bytes", regex.len);
    if (literal) {
        options = PCRE2_UTF | PCRE2_LITERAL;
        status = buf_append_span(&pattern, regex);
    } else {
        status = translate(regex, &pattern, err);
    }
    if (status)
        goto out;
    step.code = pcre2_compile((PCRE2_SPTR)pattern.ptr, pattern.len, options, &code, &where, NULL);
    if (!step.code) {
        (void)pcre2_get_error_message(code, message, sizeof message);
        status = error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: regular expression: %s", (char *)message);
        goto out;
    }
    /* Where executable memory is refused (a hardened service) the interpreter gives the same answer, slower. */
    if (pcre2_jit_compile(step.code, PCRE2_JIT_COMPLETE) == 0 &&
        pcre2_pattern_info(step.code, PCRE2_INFO_JITSIZE, &jit_bytes) == 0)
        step.jit = jit_bytes > 0;
    pretokenizer->steps[pretokenizer->count++] = step;

out:
    buf_finish(&pattern);
    return status;
}

void pretokenizer_finish(struct pretokenizer *pretokenizer)
{
    for (int i = 0; i < pretokenizer->count; i++)
        pcre2_code_free(pretokenizer->steps[i].code);
    *pretokenizer = (struct pretokenizer){0};
}

enum status pretokenize_begin(struct pretokenize_run *run)
{
    *run = (struct pretokenize_run){0};
    run->match = pcre2_match_data_create(1, NULL);
    run->context = pcre2_match_context_create(NULL);
    if (!run->match || !run->context) {
        pretokenize_end(run);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

void pretokenize_end(struct pretokenize_run *run)
{
    pcre2_match_data_free(run->match);
    pcre2_match_context_free(run->context);
    pcre2_jit_stack_free(run->stack);
    *run = (struct pretokenize_run){0};
}

/* The compiled code runs on the thread's own stack, 32 KiB of it, until an expression wants more. */
static bool more_stack(struct pretokenize_run *run)
{
    if (run->stack)
        return false;
    run->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (run->stack)
        pcre2_jit_stack_assign(run->context, NULL, run->stack);
    return run->stack != NULL;
}

static int match_once(const struct pretokenize_step *step, struct pretokenize_run *run, struct span text, size_t from)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text.ptr;

    for (;;) {
        int found =
            step->jit
                ? pcre2_jit_match(step->code, subject, text.len, from, PCRE2_NO_UTF_CHECK, run->match, run->context)
                : pcre2_match(step->code, subject, text.len, from, PCRE2_NO_UTF_CHECK, run->match, run->context);

        if (found != PCRE2_ERROR_JIT_STACKLIMIT || !more_stack(run))
            return found;
    }
}

static enum status run_step(const struct pretokenizer *pretokenizer, int index, struct pretokenize_run *run,
                            struct span text, pretokenize_put put, void *context)
{
    const struct pretokenize_step *step = &pretokenizer->steps[index];
    size_t done = 0, from = 0;
    enum status status;

    if (text.len == 0)
        return STATUS_OK;
    if (index == pretokenizer->count)
        return put(context, text);
    while (from <= text.len) {
        int found = match_once(step, run, text, from);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(run->match);
        size_t start, end;

        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0)
            return found == PCRE2_ERROR_NOMEMORY ? STATUS_NO_MEMORY : STATUS_LIMIT;
        start = at[0];
        end = at[1];
        if (end <= start) { /* an empty match cuts nothing: try from the next character */
            from = start + 1;
            while (from < text.len && ((unsigned char)text.ptr[from] & 0xC0) == 0x80)
                from++;
            continue;
        }
        if (start > done && !step->drop_gaps &&
            (status = run_step(pretokenizer, index + 1, run, span_slice(text, done, start), put, context)))
            return status;
        if (!step->drop_matches &&
            (status = run_step(pretokenizer, index + 1, run, span_slice(text, start, end), put, context)))
            return status;
        done = from = end;
    }
    if (done < text.len && !step->drop_gaps)
        return run_step(pretokenizer, index + 1, run, span_slice(text, done, text.len), put, context);
    return STATUS_OK;
}

enum status pretokenize(const struct pretokenizer *pretokenizer, struct pretokenize_run *run, struct span text,
                        pretokenize_put put, void *context)
{
    return run_step(pretokenizer, 0, run, text, put, context);
}
