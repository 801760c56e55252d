/* tokenizer.c: text to tokens and back.
 *
 *   text ─(added tokens, where asked)→ runs of valid UTF-8 ─(pretokenize.c)→ pieces ─(bpe.c)→ tokens
 *
 * Bytes that are not valid UTF-8 become their own byte tokens, so that decoding gives back every byte. */
#include "engine/tokenizer_impl.h"

#include <assert.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "engine/nfc.h"

struct encoding { /* one call of tokenizer_encode() */
    const struct tokenizer *tokenizer;
    struct bpe_sink sink;
    struct bpe_scratch scratch;
    struct pretokenize_run run;
};

enum status tokenizer_open(const char *path, struct tokenizer **tokenizer, struct error *err)
{
    struct tokenizer *made = calloc(1, sizeof *made);
    enum status status;

    if (!made)
        return error_set(err, STATUS_NO_MEMORY, "no memory");
    status = tokenizer_load_json(path, made, err);
    if (status) {
        error_prefix(err, "'%s'", path);
        tokenizer_close(made);
        return status;
    }
    *tokenizer = made;
    return STATUS_OK;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    bpe_finish(&tokenizer->bpe);
    pretokenizer_finish(&tokenizer->pretokenizer);
    free(tokenizer->added);
    free(tokenizer);
}

int32_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return tokenizer->bpe.vocab_size;
}

int32_t tokenizer_special_id(const struct tokenizer *tokenizer, const char *content)
{
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        if (span_equal_cstr(tokenizer->added[i].content, content))
            return tokenizer->added[i].id;
    }
    return -1;
}

struct span tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || id >= tokenizer->bpe.vocab_size)
        return span_of(NULL, 0);
    return bpe_bytes(&tokenizer->bpe, id);
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    unsigned flags = id >= 0 && id < tokenizer->bpe.vocab_size ? tokenizer->bpe.flags[id] : 0;

    return (flags & BPE_USED) && (!(flags & BPE_WORD) || (flags & BPE_ADDED));
}

void token_list_finish(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}

bool tokenizer_white_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
           code == 0x205F || code == 0x3000;
}

/* --- Text --------------------------------------------------------------------------------------------- */

static enum status put_piece(void *context, struct span piece)
{
    struct encoding *encoding = context;

    return bpe_encode(&encoding->tokenizer->bpe, piece, &encoding->scratch, &encoding->sink);
}

/* The length of the valid UTF-8 at the start of `text`. */
static size_t valid_prefix(struct span text)
{
    size_t at = 0;

    while (at < text.len) {
        uint64_t word;
        uint32_t code;
        size_t len;

        if (text.len - at >= 8) {
            memcpy(&word, text.ptr + at, 8);
            if (!(word & 0x8080808080808080u)) {
                at += 8;
                continue;
            }
        }
        len = utf8_decode(text.ptr + at, text.len - at, &code);
        if (len == 0)
            break;
        at += len;
    }
    return at;
}

/* One run of valid UTF-8, normalised where the tokenizer says so. */
static enum status encode_valid(struct encoding *encoding, struct span text)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct buf normal;
    enum status status;

    if (!tokenizer->nfc || nfc_quick(text))
        return pretokenize(&tokenizer->pretokenizer, &encoding->run, text, put_piece, encoding);
    buf_init(&normal, SIZE_MAX / 2);
    status = nfc_append(text, &normal);
    if (!status)
        status = pretokenize(&tokenizer->pretokenizer, &encoding->run, buf_span(&normal), put_piece, encoding);
    buf_finish(&normal);
    return status;
}

static enum status encode_text(struct encoding *encoding, struct span text)
{
    enum status status;

    while (text.len) {
        size_t valid = valid_prefix(text);

        if (valid) {
            status = encode_valid(encoding, span_slice(text, 0, valid));
        } else {
            valid = 1;
            status = put_piece(encoding, span_slice(text, 0, 1));
        }
        if (status)
            return status;
        text = span_slice(text, valid, text.len);
    }
    return STATUS_OK;
}

/* --- Added tokens ------------------------------------------------------------------------------------- */

static const struct added_token *added_at(const struct tokenizer *tokenizer, struct span text, bool normalized)
{
    if (!tokenizer->added_first[normalized][(unsigned char)text.ptr[0]])
        return NULL;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct added_token *token = &tokenizer->added[i];

        if (token->normalized == normalized && token->content.len <= text.len &&
            memcmp(token->content.ptr, text.ptr, token->content.len) == 0)
            return token;
    }
    return NULL;
}

static size_t white_space_before(struct span text, size_t end, size_t least)
{
    while (end > least) {
        size_t start = end - 1;
        uint32_t code;

        while (start > least && ((unsigned char)text.ptr[start] & 0xC0) == 0x80)
            start--;
        if (utf8_decode(text.ptr + start, end - start, &code) != end - start || !tokenizer_white_space(code))
            break;
        end = start;
    }
    return end;
}

static size_t white_space_after(struct span text, size_t start)
{
    while (start < text.len) {
        uint32_t code;
        size_t len = utf8_decode(text.ptr + start, text.len - start, &code);

        if (len == 0 || !tokenizer_white_space(code))
            break;
        start += len;
    }
    return start;
}

/* Cuts `text` at its added tokens: those matched in the raw text first, then, in what is left, the others. */
static enum status encode_special(struct encoding *encoding, struct span text, bool normalized)
{
    size_t done = 0, at = 0;
    enum status status;

    while (at <= text.len) {
        const struct added_token *token = at < text.len ? added_at(encoding->tokenizer,
                                                                   span_slice(text, at, text.len), normalized) : NULL;
        size_t start = at, end = at;

        if (!token && at < text.len) {
            at++;
            continue;
        }
        if (token) {
            end = at + token->content.len;
            start = token->lstrip ? white_space_before(text, at, done) : at;
            end = token->rstrip ? white_space_after(text, end) : end;
        }
        if (start > done) {
            struct span gap = span_slice(text, done, start);

            status = normalized ? encode_text(encoding, gap) : encode_special(encoding, gap, true);
            if (status)
                return status;
        }
        if (!token)
            break;
        if ((status = bpe_emit(&encoding->sink, token->id)))
            return status;
        done = at = end;
    }
    return STATUS_OK;
}

/* --- Encoding ----------------------------------------------------------------------------------------- */

static enum status encode(const struct tokenizer *tokenizer, struct span text, enum tokenizer_special special,
                          struct bpe_sink *sink)
{
    struct encoding encoding = {.tokenizer = tokenizer, .sink = *sink};
    enum status status = pretokenize_begin(&encoding.run);

    if (!status)
        status = special == TOKENIZER_SPECIAL ? encode_special(&encoding, text, false) : encode_text(&encoding, text);
    pretokenize_end(&encoding.run);
    bpe_scratch_finish(&encoding.scratch);
    *sink = encoding.sink;
    return status;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, struct span text, enum tokenizer_special special,
                             size_t max_tokens, struct token_list *tokens)
{
    struct bpe_sink sink = {.ids = tokens->ids, .count = tokens->count, .cap = tokens->cap, .max = max_tokens,
                            .keep = true};
    enum status status = encode(tokenizer, text, special, &sink);

    tokens->ids = sink.ids;
    tokens->cap = sink.cap;
    if (!status)
        tokens->count = sink.count;
    return status;
}

enum status tokenizer_count(const struct tokenizer *tokenizer, struct span text, size_t *count)
{
    struct bpe_sink sink = {.max = SIZE_MAX};
    enum status status = encode(tokenizer, text, TOKENIZER_TEXT, &sink);

    if (!status)
        *count = sink.count;
    return status;
}

/* --- Decoding ----------------------------------------------------------------------------------------- */

void decoder_init(struct decoder *decoder, const struct tokenizer *tokenizer)
{
    *decoder = (struct decoder){.tokenizer = tokenizer};
}

/* Appends valid UTF-8, U+FFFD for each longest run of bytes that begins a character and breaks off. */
static enum status append_valid(struct buf *out, struct span text)
{
    enum status status = STATUS_OK;

    while (text.len && !status) {
        size_t valid = valid_prefix(text), bad = 0;

        if (valid) {
            status = buf_append(out, text.ptr, valid);
        } else {
            bad = 1;
            while (bad < text.len && utf8_complete_prefix(span_slice(text, 0, bad)) == 0 &&
                   ((unsigned char)text.ptr[bad] & 0xC0) == 0x80 &&
                   utf8_complete_prefix(span_slice(text, 0, bad + 1)) == 0)
                bad++;
            status = buf_append_cstr(out, "\xEF\xBF\xBD");
        }
        text = span_slice(text, valid + bad, text.len);
    }
    return status;
}

enum status decoder_put(struct decoder *decoder, int32_t id, struct buf *out)
{
    struct span bytes = tokenizer_bytes(decoder->tokenizer, id);
    char head[2 * sizeof decoder->held];
    size_t used = 0, head_len = decoder->held_len, start_len = out->len, whole;
    enum status status;

    if (id < 0 || id >= tokenizer_vocab_size(decoder->tokenizer))
        return STATUS_BAD_INPUT;
    /* The held bytes and as many of the token's as could complete them; then the token's rest on its own. */
    memcpy(head, decoder->held, head_len);
    while (head_len && used < bytes.len && head_len < sizeof head &&
           utf8_complete_prefix(span_of(head, head_len)) < head_len)
        head[head_len++] = bytes.ptr[used++];
    whole = utf8_complete_prefix(span_of(head, head_len));
    status = append_valid(out, span_of(head, whole));
    if (status)
        goto out;
    if (whole < head_len && used < bytes.len) { /* rubbish: the last bytes begin a character of the token's own */
        used -= head_len - whole;
    } else if (whole < head_len) { /* the token was used up, and the character is still not whole */
        memmove(decoder->held, head + whole, head_len - whole);
        decoder->held_len = head_len - whole;
        return STATUS_OK;
    }
    bytes = span_slice(bytes, used, bytes.len);
    whole = utf8_complete_prefix(bytes);
    status = append_valid(out, span_slice(bytes, 0, whole));
    if (status)
        goto out;
    decoder->held_len = bytes.len - whole;
    memcpy(decoder->held, bytes.ptr + whole, decoder->held_len);

out:
    if (status && out->ptr) {
        out->len = start_len;
        out->ptr[start_len] = '\0';
    }
    return status;
}

enum status decoder_flush(struct decoder *decoder, struct buf *out)
{
    enum status status = append_valid(out, span_of(decoder->held, decoder->held_len));

    if (!status)
        decoder->held_len = 0;
    return status;
}
