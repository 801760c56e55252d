/* test_tokenizer.c: exact against the files of tests/vectors/tokenizer, which the tokenizers package made, against the
 * published vectors where they are at hand, and against itself on anything at all. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "engine/tokenizer.h"
#include "tests/engine/vectors.h"
#include "tests/harness/check.h"

static const char *const shapes[] = {"gpt2", "llama3", "qwen2", "glm", "deepseek", "reader"};
enum { SHAPES = sizeof shapes / sizeof *shapes, MANY = 1 << 24 };

static void check_ids(const struct tokenizer *tokenizer, struct span text, enum tokenizer_special special,
                      const json_t *ids, const char *name, size_t number)
{
    struct token_list tokens = {0};
    struct error *none = NULL;

    CHECK_OK(tokenizer_encode(tokenizer, text, special, MANY, &tokens), none);
    for (size_t i = 0; i < tokens.count || i < json_array_size(ids); i++) {
        long long ours = i < tokens.count ? tokens.ids[i] : -1;
        long long wanted = i < json_array_size(ids) ? json_integer_value(json_array_get(ids, i)) : -1;

        if (ours != wanted)
            FAIL("%s case %zu '%.60s': token %zu is %lld, expected %lld", name, number, text.ptr, i, ours, wanted);
    }
    token_list_finish(&tokens);
}

TEST(committed_vectors)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        struct tokenizer *tokenizer = vectors_open_tokenizer(shapes[shape]);
        json_error_t where;
        json_t *cases = json_load_file(vectors_path(shapes[shape], ".cases.json"), JSON_ALLOW_NUL, &where);
        const json_t *item;
        size_t i, count = 0;

        if (!cases)
            FAIL("%s: line %d: %s", shapes[shape], where.line, where.text);
        json_array_foreach(cases, i, item) {
            const json_t *text = json_object_get(item, "text");

            check_ids(tokenizer, span_of(json_string_value(text), json_string_length(text)),
                      json_is_true(json_object_get(item, "special")) ? TOKENIZER_SPECIAL : TOKENIZER_TEXT,
                      json_object_get(item, "ids"), shapes[shape], i);
            count++;
        }
        CHECK(count > 100);
        json_decref(cases);
        tokenizer_close(tokenizer);
    }
}

/* --- Published vectors -------------------------------------------------------------------------------- */

static char *read_file(const char *folder, const char *name, size_t *len)
{
    char path[4096], *bytes;
    FILE *file;
    long size;

    (void)snprintf(path, sizeof path, "%s/tokenizers/%s", folder, name);
    file = fopen(path, "rb");
    if (!file)
        FAIL("cannot read %s", path);
    CHECK(fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0);
    bytes = malloc((size_t)size + 1);
    CHECK(bytes && fread(bytes, 1, (size_t)size, file) == (size_t)size);
    bytes[size] = '\0';
    *len = (size_t)size;
    (void)fclose(file);
    return bytes;
}

/* A tokenizer.json out of vocab.json and merges.txt. */
static struct tokenizer *assemble(const char *folder, const char *name, json_t *pre_tokenizer)
{
    json_t *merges = json_array(), *vocab, *root;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char path[4096], *text, *line, *rest;
    json_error_t where;
    size_t len;

    (void)snprintf(path, sizeof path, "%s/merges.txt", name);
    text = read_file(folder, path, &len);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "#version", 8) != 0)
            CHECK(json_array_append_new(merges, json_string(line)) == 0);
    }
    free(text);
    (void)snprintf(path, sizeof path, "%s/tokenizers/%s/vocab.json", folder, name);
    vocab = json_load_file(path, 0, &where);
    CHECK(vocab != NULL);
    root = json_pack("{s:[],s:o,s:{s:s},s:{s:s,s:o,s:o}}", "added_tokens", "pre_tokenizer", pre_tokenizer, "decoder",
                     "type", "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges", merges);
    CHECK(root != NULL);
    (void)snprintf(path, sizeof path, "%s/%s.json", check_temp_dir(), name);
    CHECK(json_dump_file(root, path, JSON_COMPACT) == 0);
    json_decref(root);
    CHECK_OK(tokenizer_open(path, &tokenizer, &err), &err);
    return tokenizer;
}

/* Cases are separated by a line; a line of ids for each. Returns how many were compared. */
static int check_published(const char *folder, const char *name, const struct tokenizer *tokenizer, const char *except)
{
    static const char BETWEEN[] = "\n__ggml_vocab_test__\n";
    char path[256], *inputs, *outputs, *at, *line;
    size_t len;
    int count = 0;

    (void)snprintf(path, sizeof path, "vectors/%s.inp", name);
    inputs = at = read_file(folder, path, &len);
    (void)snprintf(path, sizeof path, "vectors/%s.out", name);
    outputs = line = read_file(folder, path, &len);
    while (at) {
        char *next = strstr(at, BETWEEN), *line_end = strchr(line, '\n'), *end;
        struct span text = span_of(at, next ? (size_t)(next - at) : strlen(at));
        json_t *ids = json_array();

        line_end = line_end ? line_end : line + strlen(line); /* the last line has no end */
        for (char *p = line; p < line_end; p = end) {
            long id = strtol(p, &end, 10);

            if (end == p || end > line_end)
                break;
            CHECK(json_array_append_new(ids, json_integer(id)) == 0);
        }
        if (!except || !span_equal_cstr(text, except)) {
            check_ids(tokenizer, text, TOKENIZER_TEXT, ids, name, (size_t)count);
            count++;
        }
        json_decref(ids);
        line = *line_end ? line_end + 1 : line_end;
        at = next ? next + sizeof BETWEEN - 1 : NULL;
    }
    free(inputs);
    free(outputs);
    return count;
}

TEST(published_vectors_of_gpt2)
{
    const char *folder = check_data_dir();
    struct tokenizer *tokenizer =
        assemble(folder, "gpt-2", json_pack("{s:s,s:b}", "type", "ByteLevel", "add_prefix_space", 0));

    CHECK_EQ_INT(tokenizer_vocab_size(tokenizer), 50257);
    CHECK_EQ_INT(check_published(folder, "gpt-2", tokenizer, NULL), 47);
    tokenizer_close(tokenizer);
}

static json_t *split(const char *regex)
{
    return json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex", regex, "behavior", "Isolated",
                     "invert", 0);
}

TEST(published_vectors_of_deepseek_llm)
{
    /* Cased letters are \p{Lu}, \p{Ll} and \p{Lt} of the scripts that the published expression lists by ranges; the
     * ranges that the cases reach are Latin, Greek and Cyrillic. */
    static const char LETTERS[] =
        "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{370}-\\x{373}\\x{386}"
        "\\x{388}-\\x{3FF}\\x{400}-\\x{481}\\x{48A}-\\x{52F}\\x{1E00}-\\x{1FFC}]+";
    const char *folder = check_data_dir();
    json_t *steps =
        json_pack("[o,o,o,o,o,{s:s,s:b},{s:s,s:b,s:b}]", split("[\r\n]"), split(LETTERS),
                  split("\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"),
                  split("\\s+$"), split("[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"), "type",
                  "Digits", "individual_digits", 1, "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
    struct tokenizer *tokenizer = assemble(folder, "deepseek-llm", json_pack("{s:s,s:o}", "type", "Sequence",
                                                                             "pretokenizers", steps));

    /* Its first case knows the letter u-umlaut as an added token, which the vocabulary at hand does not have. */
    CHECK_EQ_INT(check_published(folder, "deepseek-llm", tokenizer, "F\xC3\xBChrer"), 46);
    tokenizer_close(tokenizer);
}

/* --- Properties --------------------------------------------------------------------------------------- */

static void random_bytes(struct buf *text, bool valid)
{
    static const char *const pieces[] = {
        "the ",    "ship",     " ",   "\n", "'s", "12", "\xC3\xA9", "e\xCC\x81", "\xE8\x88\xB9", "\xF0\x9F\x98\x80",
        "<|end|>", "\xC2\x85", "...", "\t"};

    for (uint64_t k = check_random() % 30; k > 0; k--) {
        char byte = (char)(valid ? check_random() % 128 : check_random());

        if (check_random() % 2)
            CHECK_STATUS(buf_append_cstr(text, pieces[check_random() % 14]), STATUS_OK);
        else
            CHECK_STATUS(buf_append(text, &byte, 1), STATUS_OK);
    }
}

/* Every byte comes back, whatever it was (normalisation apart), and streaming shows the same text. */
TEST(decoding_gives_back_every_byte)
{
    for (int shape = 0; shape < SHAPES; shape++) {
        struct tokenizer *tokenizer = vectors_open_tokenizer(shapes[shape]);

        for (int round = 0; round < 2000; round++) {
            struct token_list tokens = {0};
            struct buf text, bytes, shown;
            struct decoder decoder;
            size_t count = 0;

            buf_init(&text, 4096);
            buf_init(&bytes, 4096);
            buf_init(&shown, 3 * 4096);
            random_bytes(&text, round % 2);
            CHECK_STATUS(tokenizer_encode(tokenizer, buf_span(&text), TOKENIZER_TEXT, MANY, &tokens), STATUS_OK);
            CHECK_STATUS(tokenizer_count(tokenizer, buf_span(&text), &count), STATUS_OK);
            CHECK_EQ_INT(tokens.count, count);
            decoder_init(&decoder, tokenizer);
            for (size_t i = 0; i < tokens.count; i++) {
                CHECK(!tokenizer_is_special(tokenizer, tokens.ids[i]));
                CHECK_STATUS(buf_append_span(&bytes, tokenizer_bytes(tokenizer, tokens.ids[i])), STATUS_OK);
                CHECK_STATUS(decoder_put(&decoder, tokens.ids[i], &shown), STATUS_OK);
                CHECK(utf8_valid(buf_span(&shown)));
            }
            CHECK_STATUS(decoder_flush(&decoder, &shown), STATUS_OK);
            CHECK(utf8_valid(buf_span(&shown)));
            if (strcmp(shapes[shape], "qwen2") != 0)
                CHECK_EQ_SPAN(buf_span(&bytes), buf_span(&text));
            if (utf8_valid(buf_span(&bytes)))
                CHECK_EQ_SPAN(buf_span(&shown), buf_span(&bytes));
            token_list_finish(&tokens);
            buf_finish(&text);
            buf_finish(&bytes);
            buf_finish(&shown);
        }
        tokenizer_close(tokenizer);
    }
}

/* Bytes one by one: the decoder shows a character when it is whole, and U+FFFD for each broken one. */
TEST(decoder_never_splits_a_character)
{
    static const struct {
        const char *bytes, *shown;
    } cases[] = {
        {"a\xC3\xA9\xE8\x88\xB9\xF0\x9F\x98\x80z", "a\xC3\xA9\xE8\x88\xB9\xF0\x9F\x98\x80z"},
        {"\xE8\x88", "\xEF\xBF\xBD"},
        {"\xE8\x88z", "\xEF\xBF\xBDz"},
        {"\xE8\xE8\xE8\x88\xB9", "\xEF\xBF\xBD\xEF\xBF\xBD\xE8\x88\xB9"},
        {"\xFF\x80\xC0", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x9F\x98", "\xEF\xBF\xBD"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xE8\xE8\xE8\xE8\xE8\xE8\xE8\xE8\xE8\xE8\xE8\x88\xB9", NULL},
    };
    struct tokenizer *tokenizer = vectors_open_tokenizer("gpt2");
    int32_t of_byte[256];

    for (int32_t id = 0; id < tokenizer_vocab_size(tokenizer); id++) {
        struct span bytes = tokenizer_bytes(tokenizer, id);

        if (bytes.len == 1 && !tokenizer_is_special(tokenizer, id))
            of_byte[(unsigned char)bytes.ptr[0]] = id;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct decoder decoder;
        struct buf out;

        buf_init(&out, 4096);
        decoder_init(&decoder, tokenizer);
        for (const char *p = cases[i].bytes; *p; p++) {
            CHECK_STATUS(decoder_put(&decoder, of_byte[(unsigned char)*p], &out), STATUS_OK);
            CHECK(utf8_valid(buf_span(&out)));
            CHECK(decoder.held_len <= 3);
        }
        CHECK_STATUS(decoder_flush(&decoder, &out), STATUS_OK);
        if (cases[i].shown)
            CHECK_EQ_STR(buf_cstr(&out), cases[i].shown);
        else
            CHECK_EQ_INT(out.len, 33);
        CHECK_STATUS(decoder_put(&decoder, -1, &out), STATUS_BAD_INPUT);
        CHECK_STATUS(decoder_put(&decoder, tokenizer_vocab_size(tokenizer), &out), STATUS_BAD_INPUT);
        buf_finish(&out);
    }
    tokenizer_close(tokenizer);
}

TEST(special_tokens_only_where_asked)
{
    struct tokenizer *tokenizer = vectors_open_tokenizer("reader");
    struct span text = span_from_cstr("say <|answer|> now");
    int32_t answer = tokenizer_special_id(tokenizer, "<|answer|>");
    struct token_list plain = {0}, special = {0};
    int found = 0;

    CHECK(answer >= 0 && tokenizer_is_special(tokenizer, answer));
    CHECK_EQ_INT(tokenizer_special_id(tokenizer, "<|nothing|>"), -1);
    CHECK_STATUS(tokenizer_encode(tokenizer, text, TOKENIZER_TEXT, MANY, &plain), STATUS_OK);
    CHECK_STATUS(tokenizer_encode(tokenizer, text, TOKENIZER_SPECIAL, MANY, &special), STATUS_OK);
    for (size_t i = 0; i < plain.count; i++)
        CHECK(!tokenizer_is_special(tokenizer, plain.ids[i]));
    for (size_t i = 0; i < special.count; i++)
        found += special.ids[i] == answer;
    CHECK_EQ_INT(found, 1);
    token_list_finish(&plain);
    token_list_finish(&special);
    tokenizer_close(tokenizer);
}

TEST(a_limit_leaves_the_list_as_it_was)
{
    struct tokenizer *tokenizer = vectors_open_tokenizer("llama3");
    struct token_list tokens = {0};

    CHECK_STATUS(tokenizer_encode(tokenizer, span_from_cstr("x"), TOKENIZER_TEXT, 10, &tokens), STATUS_OK);
    CHECK_EQ_INT(tokens.count, 1);
    CHECK_STATUS(tokenizer_encode(tokenizer, span_from_cstr("1 2 3 4 5 6 7 8 9"), TOKENIZER_TEXT, 10, &tokens),
                 STATUS_LIMIT);
    CHECK_EQ_INT(tokens.count, 1);
    CHECK_STATUS(tokenizer_encode(tokenizer, span_of(NULL, 0), TOKENIZER_TEXT, 1, &tokens), STATUS_OK);
    CHECK_EQ_INT(tokens.count, 1);
    token_list_finish(&tokens);
    tokenizer_close(tokenizer);
}

/* One word of 256 KiB, and runs that make an expression look far back: quadratic time would be minutes. */
TEST(hostile_text_is_linear)
{
    enum { BYTES = 1 << 18 };
    static const char *const repeats[] = {"a",        "ab",           " ",    "\n",   " \t", "'", "1",
                                          "\xCC\x81", "\xE8\x88\xB9", "\xFF", "aB1 ", "!?"};
    char *text = malloc(BYTES);

    CHECK(text != NULL);
    for (int shape = 0; shape < SHAPES; shape++) {
        struct tokenizer *tokenizer = vectors_open_tokenizer(shapes[shape]);

        for (size_t i = 0; i < sizeof repeats / sizeof *repeats; i++) {
            int64_t start = clock_monotonic_ns();
            size_t len = strlen(repeats[i]), count;

            for (size_t at = 0; at < BYTES; at++)
                text[at] = repeats[i][at % len];
            CHECK_STATUS(tokenizer_count(tokenizer, span_of(text, BYTES - BYTES % len), &count), STATUS_OK);
            if (clock_monotonic_ns() - start > INT64_C(10000000000))
                FAIL("%s: 256 KiB of '%s' takes more than 10 s", shapes[shape], repeats[i]);
        }
        tokenizer_close(tokenizer);
    }
    free(text);
}

/* --- Files of other kinds ----------------------------------------------------------------------------- */

static enum status open_json(const char *text, struct error *err)
{
    struct tokenizer *tokenizer = NULL;
    enum status status;
    char path[4096];
    FILE *file;

    (void)snprintf(path, sizeof path, "%s/tokenizer.json", check_temp_dir());
    file = fopen(path, "wb");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
    status = tokenizer_open(path, &tokenizer, err);
    tokenizer_close(tokenizer);
    return status;
}

TEST(other_kinds_are_refused_by_name)
{
    static const struct {
        const char *json;
        enum status status;
        const char *names;
    } cases[] = {
        {"", STATUS_CORRUPT, "line"},
        {"[1,2", STATUS_CORRUPT, "line"},
        {"{}", STATUS_CORRUPT, "model"},
        {"{\"model\":{\"type\":\"Unigram\"}}", STATUS_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", STATUS_CORRUPT, "merges"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", STATUS_UNSUPPORTED,
         "end_of_word_suffix"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"decoder\":{\"type\":\"Metaspace\"}}", STATUS_UNSUPPORTED,
         "Metaspace"},
#define REST ",\"decoder\":{\"type\":\"ByteLevel\"}"
#define LEVEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}" REST "}", STATUS_UNSUPPORTED, "pre_tokenizer"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}" REST LEVEL "}", STATUS_UNSUPPORTED, "byte 0x00"},
        {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}" REST LEVEL "}", STATUS_CORRUPT, "'a'"},
        {"{\"model\":{\"vocab\":{\"a\":1e9},\"merges\":[]}" REST LEVEL "}", STATUS_CORRUPT, "'a'"},
        {"{\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}" REST LEVEL "}", STATUS_CORRUPT, "'a'"},
        {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}" REST LEVEL "}", STATUS_CORRUPT, "twice"},
        {"{\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}" REST LEVEL "}", STATUS_CORRUPT, "merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}" REST LEVEL "}", STATUS_CORRUPT, "merges[0]"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[7]}" REST LEVEL "}", STATUS_CORRUPT, "merges[0]"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]}" REST LEVEL "}", STATUS_CORRUPT, "empty"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Lowercase\"}" REST LEVEL "}",
         STATUS_UNSUPPORTED, "Lowercase"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Whitespace\"}" REST "}",
         STATUS_UNSUPPORTED, "Whitespace"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_"
         "space\":true}" REST "}",
         STATUS_UNSUPPORTED, "add_prefix_space"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":"
         "\"(\"},"
         "\"behavior\":\"Isolated\"}" REST "}",
         STATUS_UNSUPPORTED, "regular expression"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":"
         "\"[a&&b]\"},"
         "\"behavior\":\"Isolated\"}" REST "}",
         STATUS_UNSUPPORTED, "class"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":"
         "\"a\"},"
         "\"behavior\":\"MergedWithNext\"}" REST "}",
         STATUS_UNSUPPORTED, "MergedWithNext"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":5}]" REST LEVEL "}", STATUS_CORRUPT,
         "added_tokens[0].content"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":\"x\",\"content\":\"b\"}]" REST LEVEL
         "}",
         STATUS_CORRUPT, "added_tokens[0].id"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":1,\"content\":\"b\",\"single_word\":"
         "true}]" REST LEVEL "}",
         STATUS_UNSUPPORTED, "single_word"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":0,\"content\":\"b\"}]" REST LEVEL
         "}",
         STATUS_CORRUPT, "another entry"},
    };
    struct error err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum status status = open_json(cases[i].json, &err);

        if (status != cases[i].status || !strstr(err.message, cases[i].names))
            FAIL("%s: %s: %s (expected %s, naming %s)", cases[i].json, status_name(status), err.message,
                 status_name(cases[i].status), cases[i].names);
    }
    CHECK_STATUS(tokenizer_open("/nonexistent/tokenizer.json", &(struct tokenizer *){NULL}, &err), STATUS_NOT_FOUND);
    CHECK_STATUS(tokenizer_open(check_temp_dir(), &(struct tokenizer *){NULL}, &err), STATUS_LIMIT);
}

/* A real file with one byte changed anywhere: opened or refused, never anything else. */
TEST(damaged_files_are_refused_or_work)
{
    struct tokenizer *tokenizer = NULL;
    char path[4096], *bytes = NULL;
    size_t len = 0;
    FILE *file = fopen(vectors_path("reader", ".json"), "rb");

    CHECK(file != NULL);
    bytes = malloc(1 << 20);
    CHECK(bytes && (len = fread(bytes, 1, 1 << 20, file)) > 1000);
    (void)fclose(file);
    (void)snprintf(path, sizeof path, "%s/damaged.json", check_temp_dir());
    for (int round = 0; round < 400; round++) {
        size_t at = check_random() % len, size = round % 4 ? len : at;
        char before = bytes[at];
        struct error err = {0};

        bytes[at] = (char)(check_random() % 3 ? "0129\"{}[],:-\\ "[check_random() % 14] : (char)check_random());
        file = fopen(path, "wb");
        CHECK(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
        if (tokenizer_open(path, &tokenizer, &err) == STATUS_OK) {
            size_t count;

            CHECK_STATUS(tokenizer_count(tokenizer, span_from_cstr("the ship, 12\n\xC3\xA9"), &count), STATUS_OK);
            tokenizer_close(tokenizer);
        } else {
            CHECK(err.message[0] != '\0');
        }
        bytes[at] = before;
    }
    free(bytes);
}
