/* tokenizer_json.c: reads tokenizer.json, and refuses by name whatever this tokenizer would not do exactly.
 *
 * Vocabulary entries are written in the byte alphabet of GPT-2: each of the 256 bytes has a printable character,
 * itself where it is printable Latin-1, else the next free one from U+0100 on. */
#include "engine/tokenizer_impl.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/utf8.h"

enum { MAX_JSON_BYTES = 256 << 20, MAX_ADDED = 1 << 16, ALPHABET_CODES = 324 };

/* The expression inside ByteLevel with "use_regex": contractions, then letters, numbers, others, each with at most
 * one space before it, then runs of white space. */
static const char BYTE_LEVEL_REGEX[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* --- The byte alphabet -------------------------------------------------------------------------------- */

static void alphabet_init(int16_t byte_of[ALPHABET_CODES])
{
    int next = 256;

    for (int i = 0; i < ALPHABET_CODES; i++)
        byte_of[i] = -1;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;

        byte_of[printable ? byte : next++] = (int16_t)byte;
    }
}

/* Writes the bytes that `text` spells to out[text.len]; false where a character is not of the alphabet. */
static bool alphabet_decode(const int16_t byte_of[ALPHABET_CODES], struct span text, char *out, size_t *out_len)
{
    size_t at = 0, count = 0;

    while (at < text.len) {
        uint32_t code;
        size_t len = utf8_decode(text.ptr + at, text.len - at, &code);

        if (len == 0 || code >= ALPHABET_CODES || byte_of[code] < 0)
            return false;
        out[count++] = (char)byte_of[code];
        at += len;
    }
    *out_len = count;
    return true;
}

/* --- Small readers of JSON ---------------------------------------------------------------------------- */

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));

    return type ? type : "(none)";
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

static struct span string_span(const json_t *value)
{
    return span_of(json_string_value(value), json_string_length(value));
}

static enum status get_bool(const json_t *object, const char *where, const char *key, int otherwise, bool *value,
                            struct error *err)
{
    const json_t *field = json_object_get(object, key);

    if (!field && otherwise >= 0) {
        *value = otherwise != 0;
        return STATUS_OK;
    }
    if (!json_is_boolean(field))
        return error_set(err, STATUS_CORRUPT, "%s: '%s' must be true or false", where, key);
    *value = json_is_true(field);
    return STATUS_OK;
}

/* --- Normalizer, pre-tokenizer, decoder --------------------------------------------------------------- */

static enum status load_normalizer(const json_t *normalizer, bool *nfc, struct error *err)
{
    const char *type = type_of(normalizer);
    enum status status;
    const json_t *item;
    size_t i;

    if (is_absent(normalizer))
        return STATUS_OK;
    if (strcmp(type, "Sequence") == 0 && json_is_array(json_object_get(normalizer, "normalizers"))) {
        json_array_foreach(json_object_get(normalizer, "normalizers"), i, item) {
            if (strcmp(type_of(item), "Sequence") == 0)
                return error_set(err, STATUS_UNSUPPORTED, "normalizer: a Sequence inside a Sequence");
            if ((status = load_normalizer(item, nfc, err)))
                return status;
        }
        return STATUS_OK;
    }
    if (strcmp(type, "NFC") == 0) {
        *nfc = true;
        return STATUS_OK;
    }
    return error_set(err, STATUS_UNSUPPORTED, "normalizer: type '%s' is not supported", type);
}

static enum status load_split(const json_t *step, struct pretokenizer *out, struct error *err)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *literal = json_object_get(pattern, "String");
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    enum pretokenize_keep keep = PRETOKENIZE_ISOLATED;
    enum status status;
    bool invert = false;

    if (!json_is_string(regex) && !json_is_string(literal))
        return error_set(err, STATUS_CORRUPT, "pre_tokenizer: Split without a pattern");
    if ((status = get_bool(step, "pre_tokenizer: Split", "invert", 0, &invert, err)))
        return status;
    if (behavior && strcmp(behavior, "Removed") == 0)
        keep = invert ? PRETOKENIZE_REMOVE_GAPS : PRETOKENIZE_REMOVE_MATCHES;
    else if (!behavior || strcmp(behavior, "Isolated") != 0)
        return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: Split with behavior '%s'",
                         behavior ? behavior : "(none)");
    return pretokenizer_add(out, string_span(regex ? regex : literal), !regex, keep, err);
}

static enum status load_pre_tokenizer_step(const json_t *step, struct pretokenizer *out, bool *byte_level,
                                           struct error *err)
{
    const char *type = type_of(step);
    enum status status;
    bool flag = false;

    if (*byte_level)
        return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: '%s' after ByteLevel", type);
    if (strcmp(type, "Split") == 0)
        return load_split(step, out, err);
    if (strcmp(type, "Digits") == 0) {
        if ((status = get_bool(step, "pre_tokenizer: Digits", "individual_digits", 0, &flag, err)))
            return status;
        return pretokenizer_add(out, span_from_cstr(flag ? "\\p{N}" : "\\p{N}+"), false, PRETOKENIZE_ISOLATED, err);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        if ((status = get_bool(step, "pre_tokenizer: ByteLevel", "add_prefix_space", 1, &flag, err)))
            return status;
        if (flag)
            return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: ByteLevel with add_prefix_space");
        *byte_level = true;
        if ((status = get_bool(step, "pre_tokenizer: ByteLevel", "use_regex", 1, &flag, err)) || !flag)
            return status;
        return pretokenizer_add(out, span_from_cstr(BYTE_LEVEL_REGEX), false, PRETOKENIZE_ISOLATED, err);
    }
    return error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: type '%s' is not supported", type);
}

static enum status load_pre_tokenizer(const json_t *root, struct pretokenizer *out, struct error *err)
{
    const json_t *steps = json_object_get(root, "pretokenizers"), *step;
    bool byte_level = false;
    enum status status;
    size_t i;

    if (strcmp(type_of(root), "Sequence") == 0 && json_is_array(steps)) {
        json_array_foreach(steps, i, step) {
            if ((status = load_pre_tokenizer_step(step, out, &byte_level, err)))
                return status;
        }
    } else if ((status = load_pre_tokenizer_step(root, out, &byte_level, err))) {
        return status;
    }
    return byte_level ? STATUS_OK : error_set(err, STATUS_UNSUPPORTED, "pre_tokenizer: not byte-level");
}

static enum status check_decoder(const json_t *decoder, struct error *err)
{
    const json_t *parts = json_object_get(decoder, "decoders");

    if (strcmp(type_of(decoder), "Sequence") == 0 && json_array_size(parts) == 1)
        decoder = json_array_get(parts, 0);
    if (strcmp(type_of(decoder), "ByteLevel") != 0)
        return error_set(err, STATUS_UNSUPPORTED, "decoder: type '%s' is not supported", type_of(decoder));
    return STATUS_OK;
}

/* --- Vocabulary and merges ---------------------------------------------------------------------------- */

static enum status check_model(const json_t *model, struct error *err)
{
    static const char *const must_be_empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *type = json_object_get(model, "type"), *dropout = json_object_get(model, "dropout");

    if (!json_is_object(model))
        return error_set(err, STATUS_CORRUPT, "model: missing");
    if (type && strcmp(type_of(model), "BPE") != 0)
        return error_set(err, STATUS_UNSUPPORTED, "model.type: '%s' is not supported", type_of(model));
    for (size_t i = 0; i < sizeof must_be_empty / sizeof *must_be_empty; i++) {
        const json_t *field = json_object_get(model, must_be_empty[i]);

        if (!is_absent(field) && json_string_length(field) != 0)
            return error_set(err, STATUS_UNSUPPORTED, "model.%s is not supported", must_be_empty[i]);
    }
    if (!is_absent(dropout) && json_number_value(dropout) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "model.dropout is not supported");
    if (!json_is_object(json_object_get(model, "vocab")))
        return error_set(err, STATUS_CORRUPT, "model.vocab: missing");
    if (!json_is_array(json_object_get(model, "merges")))
        return error_set(err, STATUS_CORRUPT, "model.merges: missing");
    return STATUS_OK;
}

/* The size that the tables need: 1 + the largest id, and the bytes of all texts. */
static enum status measure(json_t *vocab, const json_t *added, int32_t *vocab_size, size_t *blob_bytes,
                           struct error *err)
{
    json_int_t largest = -1;
    const char *text;
    json_t *value;
    size_t len, i;

    *blob_bytes = 0;
    json_object_keylen_foreach(vocab, text, len, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;

        if (id < 0 || id >= BPE_MAX_VOCAB)
            return error_set(err, STATUS_CORRUPT, "model.vocab: the id of '%.40s' is out of range", text);
        if (len > BPE_MAX_TOKEN_BYTES)
            return error_set(err, STATUS_LIMIT, "model.vocab: an entry of %zu bytes", len);
        largest = id > largest ? id : largest;
        *blob_bytes += len;
    }
    json_array_foreach(added, i, value) {
        const json_t *id = json_object_get(value, "id"), *content = json_object_get(value, "content");

        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= BPE_MAX_VOCAB)
            return error_set(err, STATUS_CORRUPT, "added_tokens[%zu].id: out of range", i);
        if (!json_is_string(content) || json_string_length(content) > BPE_MAX_TOKEN_BYTES)
            return error_set(err, STATUS_CORRUPT, "added_tokens[%zu].content: missing or too long", i);
        largest = json_integer_value(id) > largest ? json_integer_value(id) : largest;
        *blob_bytes += json_string_length(content);
    }
    if (largest < 0)
        return error_set(err, STATUS_CORRUPT, "model.vocab: empty");
    *vocab_size = (int32_t)largest + 1;
    return STATUS_OK;
}

static enum status load_vocab(json_t *vocab, const int16_t *byte_of, struct bpe *bpe, struct error *err)
{
    char *bytes = malloc(BPE_MAX_TOKEN_BYTES);
    enum status status = STATUS_OK;
    const char *text;
    json_t *value;
    size_t len;

    if (!bytes)
        return error_set(err, STATUS_NO_MEMORY, "model.vocab: no memory");
    json_object_keylen_foreach(vocab, text, len, value) {
        int32_t id = (int32_t)json_integer_value(value);
        size_t byte_len = 0;

        if (bpe->flags[id] & BPE_USED) {
            status = error_set(err, STATUS_CORRUPT, "model.vocab: id %d is given twice", (int)id);
            break;
        }
        if (alphabet_decode(byte_of, span_of(text, len), bytes, &byte_len) && byte_len)
            bpe_put_token(bpe, id, span_of(bytes, byte_len), BPE_WORD);
        else
            bpe_put_token(bpe, id, span_of(text, len), 0); /* never made of text; shown as it is written */
    }
    free(bytes);
    return status;
}

/* Either "left right" or ["left", "right"]. */
static bool merge_sides(const json_t *merge, struct span *left, struct span *right)
{
    struct span line;
    const char *space;

    if (json_is_array(merge) && json_array_size(merge) == 2) {
        *left = string_span(json_array_get(merge, 0));
        *right = string_span(json_array_get(merge, 1));
        return left->ptr && right->ptr;
    }
    line = string_span(merge);
    space = line.ptr ? memchr(line.ptr, ' ', line.len) : NULL;
    if (!space)
        return false;
    *left = span_of(line.ptr, (size_t)(space - line.ptr));
    *right = span_of(space + 1, line.len - left->len - 1);
    return true;
}

static enum status load_merges(const json_t *merges, const int16_t *byte_of, struct bpe *bpe, struct error *err)
{
    char *bytes = malloc(2 * BPE_MAX_TOKEN_BYTES);
    enum status status = STATUS_OK;
    const json_t *merge;
    size_t rank;

    if (!bytes)
        return error_set(err, STATUS_NO_MEMORY, "model.merges: no memory");
    json_array_foreach(merges, rank, merge) {
        struct span left, right;
        size_t left_len = 0, right_len = 0;
        int32_t left_id, right_id, merged;

        if (!merge_sides(merge, &left, &right) || left.len > BPE_MAX_TOKEN_BYTES || right.len > BPE_MAX_TOKEN_BYTES ||
            !alphabet_decode(byte_of, left, bytes, &left_len) ||
            !alphabet_decode(byte_of, right, bytes + left_len, &right_len)) {
            status = error_set(err, STATUS_CORRUPT, "model.merges[%zu]: not a pair of byte-level entries", rank);
            break;
        }
        left_id = bpe_find(bpe, span_of(bytes, left_len));
        right_id = bpe_find(bpe, span_of(bytes + left_len, right_len));
        merged = bpe_find(bpe, span_of(bytes, left_len + right_len));
        if (left_id < 0 || right_id < 0 || merged < 0) {
            status = error_set(err, STATUS_CORRUPT, "model.merges[%zu]: not in the vocabulary", rank);
            break;
        }
        bpe_put_merge(bpe, left_id, right_id, (int32_t)rank, merged);
    }
    free(bytes);
    return status;
}

/* --- Added tokens ------------------------------------------------------------------------------------- */

static int longer_first(const void *a, const void *b)
{
    const struct added_token *left = a, *right = b;

    if (left->content.len != right->content.len)
        return left->content.len < right->content.len ? 1 : -1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static enum status load_added(const json_t *added, struct tokenizer *tokenizer, struct error *err)
{
    struct bpe *bpe = &tokenizer->bpe;
    enum status status;
    const json_t *item;
    size_t i;

    if (json_array_size(added) == 0)
        return STATUS_OK;
    tokenizer->added = calloc(json_array_size(added), sizeof *tokenizer->added);
    if (!tokenizer->added)
        return error_set(err, STATUS_NO_MEMORY, "added_tokens: no memory");
    json_array_foreach(added, i, item) {
        struct added_token token = {.id = (int32_t)json_integer_value(json_object_get(item, "id"))};
        struct span content = string_span(json_object_get(item, "content"));
        bool single_word = false;
        char where[48];

        (void)snprintf(where, sizeof where, "added_tokens[%zu]", i);
        if ((status = get_bool(item, where, "single_word", 0, &single_word, err)) ||
            (status = get_bool(item, where, "lstrip", 0, &token.lstrip, err)) ||
            (status = get_bool(item, where, "rstrip", 0, &token.rstrip, err)) ||
            (status = get_bool(item, where, "normalized", 1, &token.normalized, err)))
            return status;
        if (single_word)
            return error_set(err, STATUS_UNSUPPORTED, "%s.single_word is not supported", where);
        if (token.normalized && tokenizer->nfc)
            return error_set(err, STATUS_UNSUPPORTED, "%s: matched after normalisation", where);
        if (content.len == 0)
            continue;
        if (!(bpe->flags[token.id] & BPE_WORD) || !span_equal(bpe_bytes(bpe, token.id), content)) {
            if (bpe->flags[token.id] & BPE_WORD)
                return error_set(err, STATUS_CORRUPT, "%s.id: %d is another entry of the vocabulary", where,
                                 (int)token.id);
            bpe_put_token(bpe, token.id, content, 0);
        }
        bpe->flags[token.id] |= BPE_ADDED;
        token.content = bpe_bytes(bpe, token.id);
        tokenizer->added_first[token.normalized][(unsigned char)content.ptr[0]] = true;
        tokenizer->added[tokenizer->added_count++] = token;
    }
    qsort(tokenizer->added, tokenizer->added_count, sizeof *tokenizer->added, longer_first);
    return STATUS_OK;
}

/* --- The file ----------------------------------------------------------------------------------------- */

static enum status load_root(json_t *root, struct tokenizer *tokenizer, struct error *err)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges"), *added = json_object_get(root, "added_tokens");
    int16_t byte_of[ALPHABET_CODES];
    enum status status;
    int32_t vocab_size = 0;
    size_t blob_bytes;

    alphabet_init(byte_of);
    if ((status = check_model(model, err)) || (status = check_decoder(json_object_get(root, "decoder"), err)) ||
        (status = load_normalizer(json_object_get(root, "normalizer"), &tokenizer->nfc, err)) ||
        (status = load_pre_tokenizer(json_object_get(root, "pre_tokenizer"), &tokenizer->pretokenizer, err)) ||
        (status = get_bool(model, "model", "ignore_merges", 0, &tokenizer->bpe.ignore_merges, err)))
        return status;
    if (json_array_size(added) > MAX_ADDED)
        return error_set(err, STATUS_LIMIT, "added_tokens: more than %d", MAX_ADDED);
    if ((status = measure(vocab, added, &vocab_size, &blob_bytes, err)))
        return status;
    {
        bool ignore_merges = tokenizer->bpe.ignore_merges;

        status = bpe_init(&tokenizer->bpe, vocab_size, blob_bytes, json_array_size(merges));
        if (status)
            return error_set(err, status, "model: %d entries, %zu merges", (int)vocab_size, json_array_size(merges));
        tokenizer->bpe.ignore_merges = ignore_merges;
    }
    if ((status = load_vocab(vocab, byte_of, &tokenizer->bpe, err)) ||
        (status = load_merges(merges, byte_of, &tokenizer->bpe, err)) ||
        (status = load_added(added, tokenizer, err)))
        return status;
    return bpe_seal(&tokenizer->bpe, err);
}

enum status tokenizer_load_json(const char *path, struct tokenizer *tokenizer, struct error *err)
{
    json_error_t where;
    struct stat st;
    json_t *root;
    enum status status;

    if (stat(path, &st) != 0)
        return error_set(err, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > MAX_JSON_BYTES)
        return error_set(err, STATUS_LIMIT, "not a regular file of at most %d MiB", MAX_JSON_BYTES >> 20);
    root = json_load_file(path, JSON_ALLOW_NUL, &where);
    if (!root)
        return error_set(err, STATUS_CORRUPT, "line %d: %s", where.line, where.text);
    status = load_root(root, tokenizer, err);
    json_decref(root);
    return status;
}
