/* test_quote.c: whatever a model wants, its quotations are words of one block, named rightly, and it never gets stuck.
 *
 * The property is tested by random walks: at each step a random one of the allowed tokens is taken, with a taste for
 * the close mark or against it. Every walk's bytes are then checked against the blocks themselves. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "engine/quote.h"
#include "engine/render.h"
#include "tests/engine/vectors.h"
#include "tests/harness/check.h"

enum { MAX_STEPS = 3000, MAX_TEXT = 1 << 20 };

struct rig {
    struct tokenizer *tokenizer;
    struct quote_vocab *vocab;
    struct quote_index *index;
    struct quote *quote;
    struct quote_block *blocks;
    size_t block_count;
    struct quote_params params;
    int32_t stop;
    bool reader;
};

static void rig_open(struct rig *rig, const char *shape, const char *stop)
{
    struct error err = {0};

    *rig = (struct rig){.reader = strcmp(shape, "reader") == 0};
    rig->tokenizer = vectors_open_tokenizer(shape);
    CHECK_OK(quote_vocab_create(rig->tokenizer, &rig->vocab, &err), &err);
    rig->stop = tokenizer_special_id(rig->tokenizer, stop);
    CHECK(rig->stop >= 0);
}

static void rig_index(struct rig *rig, struct quote_block *blocks, size_t count, struct quote_params params)
{
    struct error err = {0};

    quote_index_destroy(rig->index);
    rig->index = NULL;
    rig->blocks = blocks;
    rig->block_count = count;
    rig->params = params;
    CHECK_OK(quote_index_create(rig->vocab, blocks, count, &params, &rig->index, &err), &err);
}

static void rig_start(struct rig *rig)
{
    struct error err = {0};

    quote_destroy(rig->quote);
    rig->quote = NULL;
    CHECK_OK(quote_create(rig->index, &rig->stop, 1, &rig->quote, &err), &err);
}

static void rig_close(struct rig *rig)
{
    quote_destroy(rig->quote);
    quote_index_destroy(rig->index);
    quote_vocab_destroy(rig->vocab);
    tokenizer_close(rig->tokenizer);
}

static bool allowed(struct rig *rig, int32_t token)
{
    const struct token_mask *mask = quote_mask(rig->quote);

    return !mask || (token < mask->vocab && (mask->bits[token / 64] >> (token % 64) & 1));
}

static int32_t pick(struct rig *rig)
{
    const struct token_mask *mask = quote_mask(rig->quote);
    int32_t size = tokenizer_vocab_size(rig->tokenizer), chosen = -1;
    uint64_t count = 0;

    for (int32_t id = 0; id < size; id++) {
        if (!mask || (mask->bits[id / 64] >> (id % 64) & 1)) {
            count++;
            if (check_random() % count == 0)
                chosen = id;
        }
    }
    if (chosen < 0)
        FAIL("nothing is allowed");
    return chosen;
}

static int32_t special(const struct rig *rig, const char *name)
{
    int32_t id = tokenizer_special_id(rig->tokenizer, name);

    CHECK(id >= 0);
    return id;
}

/* Gives text token by token, as the tokenizer cuts it; false where one is not allowed. */
static bool give(struct rig *rig, const char *text)
{
    struct token_list tokens = {0};
    struct error *none = NULL;
    bool all = true;

    CHECK_OK(tokenizer_encode(rig->tokenizer, span_from_cstr(text), TOKENIZER_TEXT, 10000, &tokens), none);
    for (size_t i = 0; i < tokens.count && all; i++)
        all = quote_accept(rig->quote, tokens.ids[i]) == STATUS_OK;
    token_list_finish(&tokens);
    return all;
}

static bool give_special(struct rig *rig, const char *name)
{
    return quote_accept(rig->quote, special(rig, name)) == STATUS_OK;
}

static const struct quote_block *block_of(const struct rig *rig, int id)
{
    for (size_t i = 0; i < rig->block_count; i++) {
        if (rig->blocks[i].id == id)
            return &rig->blocks[i];
    }
    FAIL("no block %d", id);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct span trim(struct span text)
{
    while (text.len && is_space(text.ptr[0]))
        text = span_slice(text, 1, text.len);
    while (text.len && is_space(text.ptr[text.len - 1]))
        text.len--;
    return text;
}

/* The quotations of a walk: their bytes as the tokens gave them, and the number given after each. */
struct heard {
    struct buf text[16];
    int id[16];
    size_t count;
};

static void check_heard(const struct rig *rig, struct heard *heard)
{
    const struct quote_span *spans;
    size_t count = quote_spans(rig->quote, &spans);

    CHECK_EQ_INT(count, heard->count);
    for (size_t i = 0; i < count; i++) {
        const struct quote_block *block = block_of(rig, spans[i].block_id);
        struct span quoted = trim(buf_span(&heard->text[i]));

        CHECK_EQ_INT(heard->id[i], spans[i].block_id);
        CHECK(spans[i].start < spans[i].end && spans[i].end <= block->text.len);
        CHECK_EQ_SPAN(span_slice(block->text, spans[i].start, spans[i].end), quoted);
        CHECK(utf8_valid(quoted));
        CHECK(heard->text[i].len <= (rig->params.max_bytes ? rig->params.max_bytes : 600));
        CHECK(heard->text[i].len >= rig->params.min_bytes);
        buf_finish(&heard->text[i]);
    }
}

/* One random answer in the token form. `close_odds` of 8 times the close mark is taken when it may be. */
static void walk_reader(struct rig *rig, unsigned close_odds)
{
    int32_t open = special(rig, "<|open|>"), close = special(rig, "<|close|>"), none = special(rig, "<|none|>");
    struct heard heard = {0};
    enum { OUTSIDE, INSIDE, ID } where = OUTSIDE;
    bool abstained = false;
    int steps = 0;

    rig_start(rig);
    for (; steps < MAX_STEPS; steps++) {
        int32_t token = allowed(rig, close) && check_random() % 8 < close_odds ? close : pick(rig);
        struct span bytes = tokenizer_bytes(rig->tokenizer, token);

        CHECK_STATUS(quote_accept(rig->quote, token), STATUS_OK);
        if (token == rig->stop)
            break;
        if (token == open) {
            CHECK(where != INSIDE);
            CHECK(heard.count < 16);
            where = INSIDE;
            buf_init(&heard.text[heard.count], MAX_TEXT);
        } else if (token == close) {
            CHECK(where == INSIDE);
            where = ID;
            heard.id[heard.count++] = 0;
        } else if (token == none) {
            CHECK(where == OUTSIDE && !heard.count);
            abstained = true;
        } else if (where == INSIDE) {
            CHECK_STATUS(buf_append_span(&heard.text[heard.count], bytes), STATUS_OK);
        } else {
            CHECK(where == ID);
            for (size_t i = 0; i < bytes.len; i++) {
                CHECK(bytes.ptr[i] >= '0' && bytes.ptr[i] <= '9');
                heard.id[heard.count - 1] = heard.id[heard.count - 1] * 10 + (bytes.ptr[i] - '0');
            }
        }
    }
    CHECK(steps < MAX_STEPS);
    CHECK(quote_finished(rig->quote));
    CHECK(!abstained || heard.count == 0);
    check_heard(rig, &heard);
}

/* The same for the text form: the answer's bytes are read by the grammar, independently of the automaton. */
static void walk_text(struct rig *rig, unsigned close_odds)
{
    int32_t close = -1;
    struct heard heard = {0};
    struct buf answer;
    size_t at = 0;
    int steps = 0;

    for (int32_t id = 0; id < tokenizer_vocab_size(rig->tokenizer); id++) {
        if (span_equal_cstr(tokenizer_bytes(rig->tokenizer, id), rig->params.close))
            close = id;
    }
    buf_init(&answer, MAX_TEXT);
    rig_start(rig);
    for (; steps < MAX_STEPS; steps++) {
        int32_t token = allowed(rig, close) && check_random() % 8 < close_odds ? close : pick(rig);

        if (rig->params.free_text && steps > 400 && allowed(rig, rig->stop))
            token = rig->stop;
        CHECK_STATUS(quote_accept(rig->quote, token), STATUS_OK);
        if (token == rig->stop)
            break;
        if (!tokenizer_is_special(rig->tokenizer, token))
            CHECK_STATUS(buf_append_span(&answer, tokenizer_bytes(rig->tokenizer, token)), STATUS_OK);
        else
            CHECK(rig->params.free_text);
    }
    CHECK(steps < MAX_STEPS);
    if (rig->params.none && span_equal_cstr(buf_span(&answer), rig->params.none))
        at = answer.len;
    while (at < answer.len) {
        const char *open = memmem(answer.ptr + at, answer.len - at, rig->params.open, strlen(rig->params.open)), *end;
        char *after;

        if (!rig->params.free_text) {
            CHECK(open == answer.ptr + at + (heard.count ? 1 : 0));
            CHECK(!heard.count || answer.ptr[at] == ' ');
        }
        if (!open)
            break;
        open += strlen(rig->params.open);
        end = memmem(open, (size_t)(answer.ptr + answer.len - open), rig->params.close, strlen(rig->params.close));
        CHECK(end != NULL);
        buf_init(&heard.text[heard.count], MAX_TEXT);
        CHECK_STATUS(buf_append(&heard.text[heard.count], open, (size_t)(end - open)), STATUS_OK);
        end += strlen(rig->params.close);
        CHECK(end[0] == ' ' && end[1] == '[');
        heard.id[heard.count++] = (int)strtol(end + 2, &after, 10);
        CHECK(*after == ']');
        at = (size_t)(after + 1 - answer.ptr);
    }
    check_heard(rig, &heard);
    buf_finish(&answer);
}

#define BLOCK(number, string) {number, {string, sizeof(string) - 1}}

static struct quote_block plain_blocks[] = {
    BLOCK(1, "The harbour master wrote down every ship. He didn't trust memory."),
    BLOCK(2, "Salt, rope and timber: every ship that came in, and 3.14 barrels."),
    BLOCK(
        12,
        "He didn't trust memory. La facture \xC3\xA9tait de 45,50 \xE2\x82\xAC. \xE8\x88\xB9\xE3\x81\xAF\xE6\x9C\x9D."),
};

/* Every kind of block that could make an automaton stumble. */
static struct quote_block hostile_blocks[] = {
    BLOCK(1, ""),
    BLOCK(2, "a"),
    BLOCK(3, " \n\t  "),
    BLOCK(4, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    BLOCK(5, "the same words the same words the same words the same words the same words the same words"),
    BLOCK(6, "the same words the same words"),
    BLOCK(
        7,
        "he said \"no\" and \xE2\x80\x9Cyes\xE2\x80\x9D and \xE2\x80\x9C and \" \xE2\x80\x9D[7] <|close|>7<|end|> [3]"),
    BLOCK(8, "good \xFF\xFE bad \xC3 half \xE2\x82 cut \xED\xA0\x80 surrogate \xF0\x9F\x98\x80 whole \xC0\x80"),
    BLOCK(9, "\xF0\x9F\x98\x80\xF0\x9F\x98\x80"
             "e\xCC\x81\xE8\x88\xB9\xE8\x88\xB9\xE8\x88\xB9"),
    BLOCK(10, "\xE2\x80\x94 dashes \xE2\x80\x94 and \xE2\x80\x99 share bytes with the marks \xE2\x80\xA6"),
    BLOCK(11, "nul \0 inside\r\n and \x1b[31m escapes"),
    BLOCK(123456, "."),
    BLOCK(2147483647, "the last words"),
    BLOCK(100, "\x80\x80\x80"),
};

static const struct quote_params rule_sets[] = {
    {.none = "Not in these documents."},
    {.none = "Not in these documents.", .word_edges = true},
    {.min_bytes = 5, .max_bytes = 12, .max_quotations = 3},
    {.min_bytes = 8, .max_bytes = 40, .max_quotations = 1, .word_edges = true},
    {.min_bytes = 1, .max_bytes = 1},
    {.min_bytes = 30, .max_bytes = 30, .word_edges = true, .none = "no"},
    {.min_bytes = 500, .max_bytes = 600},
};

enum { RULE_SETS = sizeof rule_sets / sizeof *rule_sets };

TEST(reader_walks_quote_only_what_is_there)
{
    struct rig rig;

    rig_open(&rig, "reader", "<|end|>");
    for (int rules = 0; rules < RULE_SETS; rules++) {
        rig_index(&rig, plain_blocks, 3, rule_sets[rules]);
        for (unsigned i = 0; i < 60; i++)
            walk_reader(&rig, i % 9);
        rig_index(&rig, hostile_blocks, sizeof hostile_blocks / sizeof *hostile_blocks, rule_sets[rules]);
        for (unsigned i = 0; i < 120; i++)
            walk_reader(&rig, i % 9);
        for (size_t one = 0; one < sizeof hostile_blocks / sizeof *hostile_blocks; one++) {
            rig_index(&rig, &hostile_blocks[one], 1, rule_sets[rules]);
            for (unsigned i = 0; i < 9; i++)
                walk_reader(&rig, i);
        }
        rig_index(&rig, NULL, 0, rule_sets[rules]);
        walk_reader(&rig, 4);
    }
    rig_close(&rig);
}

TEST(text_walks_quote_only_what_is_there)
{
    static const char *const marks[][2] = {{"\"", "\""}, {"[", "]"}};
    struct rig rig;

    rig_open(&rig, "deepseek", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>");
    for (int rules = 0; rules < RULE_SETS; rules++) {
        for (int mark = 0; mark < 2; mark++) {
            struct quote_params params = rule_sets[rules];

            params.open = marks[mark][0];
            params.close = marks[mark][1];
            for (int free_text = 0; free_text < 2; free_text++) {
                params.free_text = free_text;
                if (free_text)
                    params.none = NULL;
                rig_index(&rig, plain_blocks, 3, params);
                for (unsigned i = 0; i < 18; i++)
                    walk_text(&rig, i % 9);
                rig_index(&rig, hostile_blocks, sizeof hostile_blocks / sizeof *hostile_blocks, params);
                for (unsigned i = 0; i < 36; i++)
                    walk_text(&rig, i % 9);
            }
        }
    }
    rig_close(&rig);
}

TEST(random_texts_and_rules)
{
    static const char *const pieces[] = {"a",    "b",    "ab",  " ", ".", "\n", "\xC3\xA9", "\xE8\x88\xB9",
                                         "\xFF", "the ", "ship"};
    struct rig rig;

    rig_open(&rig, "reader", "<|end|>");
    for (int round = 0; round < 150; round++) {
        struct quote_block blocks[4];
        struct buf texts[4];
        struct quote_params params = {.min_bytes = 1 + check_random() % 6, .max_bytes = 6 + check_random() % 30,
                                      .word_edges = check_random() % 2, .none = check_random() % 2 ? "none" : NULL,
                                      .max_quotations = 1 + (int)(check_random() % 4)};

        for (int i = 0; i < 4; i++) {
            buf_init(&texts[i], MAX_TEXT);
            for (uint64_t k = check_random() % 40; k > 0; k--)
                CHECK_STATUS(buf_append_cstr(&texts[i], pieces[check_random() % 11]), STATUS_OK);
            blocks[i] = (struct quote_block){i + 1, buf_span(&texts[i])};
        }
        rig_index(&rig, blocks, 4, params);
        for (unsigned i = 0; i < 9; i++)
            walk_reader(&rig, i);
        for (int i = 0; i < 4; i++)
            buf_finish(&texts[i]);
    }
    rig_close(&rig);
}

/* The mask against its definition, computed by hand for a short text and every token. */
TEST(the_mask_is_exact)
{
    static struct quote_block block[] = {BLOCK(1, "the ship, the shop: the ships")};
    struct span text = block[0].text;
    struct rig rig;

    rig_open(&rig, "reader", "<|end|>");
    rig_index(&rig, block, 1, (struct quote_params){.min_bytes = 3, .max_bytes = 12});
    rig_start(&rig);
    CHECK(give_special(&rig, "<|open|>") && give(&rig, "the sh"));
    for (int32_t id = 0; id < tokenizer_vocab_size(rig.tokenizer); id++) {
        struct span bytes = tokenizer_bytes(rig.tokenizer, id);
        bool expected = false;

        for (size_t at = 0; at < text.len && bytes.len && !tokenizer_is_special(rig.tokenizer, id); at++) {
            size_t end = at + 6 + bytes.len;

            if (end <= text.len && end - at <= 12 && memcmp(text.ptr + at, "the sh", 6) == 0 &&
                memcmp(text.ptr + at + 6, bytes.ptr, bytes.len) == 0)
                expected = true;
        }
        if (id == special(&rig, "<|close|>"))
            expected = true;
        if (allowed(&rig, id) != expected)
            FAIL("token %d '%.*s' is %s", (int)id, (int)bytes.len, bytes.ptr, expected ? "refused" : "allowed");
    }
    rig_close(&rig);
}

TEST(an_answer_of_the_reader)
{
    struct rig rig;
    const struct quote_span *spans;

    rig_open(&rig, "reader", "<|end|>");
    rig_index(&rig, plain_blocks, 3, (struct quote_params){.word_edges = true, .none = "x", .min_bytes = 4});
    rig_start(&rig);
    CHECK(allowed(&rig, special(&rig, "<|none|>")) && !allowed(&rig, rig.stop));
    CHECK(give_special(&rig, "<|open|>"));
    CHECK(!give(&rig, "hip")); /* inside a word */
    rig_start(&rig);
    CHECK(give_special(&rig, "<|open|>") && give(&rig, " He didn't"));
    CHECK(allowed(&rig, special(&rig, "<|close|>")));
    CHECK(give(&rig, " trust memory."));
    CHECK(!give_special(&rig, "<|open|>") && !give_special(&rig, "<|none|>") && !give_special(&rig, "<|end|>"));
    CHECK(give_special(&rig, "<|close|>"));
    CHECK(!give(&rig, "2")); /* does not hold it */
    CHECK(!allowed(&rig, rig.stop));
    CHECK(give(&rig, "1"));
    CHECK(allowed(&rig, rig.stop)); /* block 1: done; block 12: may go on */
    CHECK_EQ_INT(quote_spans(rig.quote, &spans), 0);
    CHECK(give_special(&rig, "<|open|>"));
    CHECK_EQ_INT(quote_spans(rig.quote, &spans), 1);
    CHECK_EQ_INT(spans[0].block_id, 1);
    CHECK_EQ_INT(spans[0].start, 42);
    CHECK_EQ_INT(spans[0].end, 65);
    CHECK(give(&rig, "every ship") && give_special(&rig, "<|close|>") && give(&rig, "2") &&
          give_special(&rig, "<|end|>"));
    CHECK_EQ_INT(quote_spans(rig.quote, &spans), 2);
    CHECK_EQ_INT(spans[1].block_id, 2);
    CHECK_EQ_INT(spans[1].start, 23);
    CHECK(quote_finished(rig.quote));
    CHECK(!give(&rig, "a"));
    rig_start(&rig);
    CHECK(give_special(&rig, "<|none|>") && quote_finished(rig.quote) && !give_special(&rig, "<|open|>"));
    CHECK(give_special(&rig, "<|end|>"));
    rig_close(&rig);
}

TEST(words_hold_together)
{
    static struct quote_block block[] = {
        BLOCK(3, "He didn't pay 3.14 pounds, well-known. E.g. \xE8\x88\xB9\xE6\x9C\x9D ends")};
    static const struct {
        const char *text;
        bool begins, ends;
    } cases[] = {
        {"didn't", true, true},  {"didn", true, false},        {"t pay", false, false},
        {"3.14", true, true},    {"3", true, false},           {"14 pounds", false, false},
        {"pounds,", true, true}, {", well", false, false},     {"well-known", true, true},
        {"well", true, false},   {"\xE8\x88\xB9", true, true}, {"\xE6\x9C\x9D", true, true},
        {"ends", true, true},    {" pounds", true, true},
    };
    struct rig rig;

    rig_open(&rig, "reader", "<|end|>");
    rig_index(&rig, block, 1, (struct quote_params){.word_edges = true});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool begins;

        rig_start(&rig);
        CHECK(give_special(&rig, "<|open|>"));
        begins = give(&rig, cases[i].text);
        if (begins != cases[i].begins)
            FAIL("'%s' may %sbe quoted", cases[i].text, begins ? "" : "not ");
        if (begins && allowed(&rig, special(&rig, "<|close|>")) != cases[i].ends)
            FAIL("a quotation may %send after '%s'", cases[i].ends ? "not " : "", cases[i].text);
    }
    rig_close(&rig);
}

TEST(free_text_opens_by_the_mark_alone)
{
    struct rig rig;
    const struct quote_span *spans;

    rig_open(&rig, "deepseek", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>");
    rig_index(&rig, plain_blocks, 3,
              (struct quote_params){.free_text = true, .open = "\"", .close = "\"", .max_quotations = 1});
    rig_start(&rig);
    CHECK(give(&rig, "The text says ") && give(&rig, "\""));
    CHECK(!give(&rig, "~"));
    CHECK(give(&rig, "every ship") && give(&rig, "\"") && !give(&rig, "."));
    CHECK(give(&rig, " [2]"));
    CHECK_EQ_INT(quote_spans(rig.quote, &spans), 1);
    CHECK(give(&rig, " and so on. "));
    CHECK(!give(&rig, "\"")); /* one quotation was allowed */
    CHECK(quote_accept(rig.quote, rig.stop) == STATUS_OK && quote_finished(rig.quote));
    rig_close(&rig);
}

TEST(bad_parameters_are_refused)
{
    static const struct quote_params bad[] = {
        {.min_bytes = 10, .max_bytes = 5}, {.max_bytes = QUOTE_MAX_QUOTATION + 1}, {.max_quotations = -1}, {.none = ""},
    };
    static struct quote_block no_id[] = {BLOCK(0, "text")};
    struct quote_index *index;
    struct quote *quote;
    struct rig rig;
    struct error err;

    rig_open(&rig, "deepseek", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_STATUS(quote_index_create(rig.vocab, plain_blocks, 3, &bad[i], &index, &err), STATUS_BAD_INPUT);
    CHECK_STATUS(quote_index_create(rig.vocab, plain_blocks, 3, &(struct quote_params){.open = "\""}, &index, &err),
                 STATUS_BAD_INPUT);
    CHECK_STATUS(quote_index_create(rig.vocab, plain_blocks, 3, &(struct quote_params){.open = "<<<", .close = ">>>"},
                                    &index, &err), STATUS_UNSUPPORTED);
    CHECK_STATUS(quote_index_create(rig.vocab, no_id, 1, &(struct quote_params){0}, &index, &err), STATUS_BAD_INPUT);
    rig_index(&rig, plain_blocks, 3, (struct quote_params){0});
    CHECK_STATUS(quote_create(rig.index, NULL, 0, &quote, &err), STATUS_BAD_INPUT);
    CHECK_STATUS(quote_create(rig.index, &(int32_t){1 << 20}, 1, &quote, &err), STATUS_BAD_INPUT);
    rig_close(&rig);
}

/* Sorting equal and nearly equal texts is where a suffix index goes quadratic. */
TEST(repetitive_blocks_are_indexed_in_time)
{
    enum { BYTES = 256 * 1024 };
    char *text = malloc(BYTES);
    struct quote_block block = {1, {text, BYTES}};
    struct rig rig;

    CHECK(text != NULL);
    rig_open(&rig, "reader", "<|end|>");
    for (int kind = 0; kind < 3; kind++) {
        int64_t start = clock_monotonic_ns(), taken;

        for (size_t i = 0; i < BYTES; i++)
            text[i] = kind == 0 ? 'a' : kind == 1 ? "ab "[i % 3] : "the same line again and again.\n"[i % 31];
        rig_index(&rig, &block, 1, (struct quote_params){.word_edges = kind == 2});
        taken = clock_monotonic_ns() - start;
        CHECK(taken < INT64_C(20000000000));
        walk_reader(&rig, 1);
    }
    free(text);
    rig_close(&rig);
}

TEST(what_is_shown_is_what_was_quoted)
{
    static struct quote_block blocks[] = {BLOCK(1, "It is here.\nAnd 12 there."),
                                          BLOCK(12, "And 12 there. Caf\xC3\xA9 x")};
    static const char *const expected[] = {"\xE2\x80\x9CIt is here.\xE2\x80\x9D [1] \xE2\x80\x9C"
                                           "12 there. Caf\xC3\xA9\xE2\x80\x9D [12]",
                                           RENDER_NONE};
    struct rig rig;

    rig_open(&rig, "reader", "<|end|>");
    rig_index(&rig, blocks, 2, (struct quote_params){0});
    for (int abstain = 0; abstain < 2; abstain++) {
        const char *const steps[] = {"<|open|>", "It is here.\n",           "<|close|>", "1",
                                     "<|open|>", " 12 there. Caf\xC3\xA9 ", "<|close|>", "12",
                                     "<|end|>"};
        const char *const none[] = {"<|none|>", "<|end|>"};
        struct render render;
        struct buf out;

        buf_init(&out, MAX_TEXT);
        render_init(&render, rig.tokenizer, PROMPT_READER);
        for (size_t i = 0; i < (abstain ? 2u : 9u); i++) {
            struct token_list tokens = {0};

            CHECK_STATUS(tokenizer_encode(rig.tokenizer, span_from_cstr(abstain ? none[i] : steps[i]),
                                          TOKENIZER_SPECIAL, 1000, &tokens),
                         STATUS_OK);
            for (size_t k = 0; k < tokens.count; k++) {
                CHECK_STATUS(render_put(&render, tokens.ids[k], &out), STATUS_OK);
                CHECK(utf8_valid(buf_span(&out)));
            }
            token_list_finish(&tokens);
        }
        CHECK_STATUS(render_flush(&render, &out), STATUS_OK);
        CHECK_EQ_STR(buf_cstr(&out), expected[abstain]);
        buf_finish(&out);
    }
    rig_close(&rig);
}
