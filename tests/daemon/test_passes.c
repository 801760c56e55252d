/* test_passes.c: summaries pass by pass, with a scripted model in the engine's place: what is asked, in what order,
 * what of the answers is kept, and what a second run finds. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/passes.h"
#include "tests/engine/random_model.h"
#include "tests/store/documents.h"

enum { MOST_PAGES = 400, ANSWER_BYTES = 1 << 16 };

/* The tokenizer has a token for each byte, so that tokens can be counted by eye. */
static struct tokenizer *open_tokenizer(bool reader)
{
    struct random_model model = random_model_default(RANDOM_V32, RANDOM_F32);
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char dir[256], path[300];

    model.reader = reader;
    (void)snprintf(dir, sizeof dir, "%s/%s", check_temp_dir(), reader ? "reader" : "model");
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (mkdir(dir, 0755) == 0)
        CHECK_OK(random_model_write(&model, dir, &err), &err);
    CHECK_OK(tokenizer_open(path, &tokenizer, &err), &err);
    return tokenizer;
}

struct scene {
    struct store *store;
    struct tokenizer *tokenizer;
    struct passes_options options;
    int64_t document;
    struct passes *passes;
    /* what was asked */
    int asked, reduces;
    char seen[1 << 20]; /* the pages' text as it came, all passes */
    size_t seen_len;
    int pages_seen[4 * MOST_PAGES], page_count;
    size_t longest_prompt;
};

/* Each page speaks of a thing of its own. */
static void put_pages(struct scene *scene, int count, size_t page_bytes, const char *path)
{
    static char text[MOST_PAGES][4096];
    const char *texts[MOST_PAGES];
    struct store_document document = named_document(path, "The inventory");
    struct error err = {0};

    CHECK(count <= MOST_PAGES && page_bytes < sizeof text[0] - 80);
    for (int i = 0; i < count; i++) {
        size_t len = (size_t)snprintf(text[i], sizeof text[i], "Room %d holds thing%d and chairs.", i + 1, i + 1);

        while (len < page_bytes)
            len += (size_t)snprintf(text[i] + len, sizeof text[i] - len, " Dust lies on shelf %zu.", len);
        texts[i] = text[i];
    }
    document.page_count = count;
    CHECK_OK(put_document(scene->store, &document, texts, count, &scene->document, &err), &err);
}

static void open_scene(struct scene *scene, enum passes_mode mode, size_t window)
{
    char dir[256];
    static int number;

    memset(scene, 0, sizeof *scene);
    (void)snprintf(dir, sizeof dir, "%s/p%d", check_temp_dir(), ++number);
    scene->store = open_new_store(dir);
    scene->tokenizer = open_tokenizer(mode == PASSES_QUOTES);
    scene->options = (struct passes_options){.mode = mode, .tokenizer = scene->tokenizer,
                                             .style = mode == PASSES_QUOTES ? PROMPT_READER : PROMPT_PLAIN,
                                             .window_tokens = window, .answer_tokens = 300, .parameters = "test/0"};
}

static void close_scene(struct scene *scene)
{
    passes_destroy(scene->passes);
    store_close(scene->store);
    tokenizer_close(scene->tokenizer);
}

static void begin(struct scene *scene)
{
    struct error err = {0};

    passes_destroy(scene->passes);
    scene->passes = NULL;
    scene->asked = scene->reduces = scene->page_count = 0;
    scene->seen_len = 0;
    CHECK_OK(passes_create(scene->store, scene->document, &scene->options, &scene->passes, &err), &err);
}

/* A model: reads the prompt, writes the answer. */
typedef void (*script)(struct scene *scene, const char *prompt, bool reduce, char *answer);

static void note_prompt(struct scene *scene, const struct packed *pass, const char *prompt)
{
    CHECK(pass->token_count + passes_answer_tokens(scene->passes) <= scene->options.window_tokens);
    scene->longest_prompt = pass->token_count > scene->longest_prompt ? pass->token_count : scene->longest_prompt;
    scene->asked++;
    if (strstr(prompt, "Sum these notes up.")) {
        scene->reduces++;
        return;
    }
    for (size_t i = 0; i < pass->pack.count; i++) {
        const struct pack_block *block = &pass->pack.blocks[i];

        CHECK(scene->page_count < (int)(sizeof scene->pages_seen / sizeof *scene->pages_seen));
        scene->pages_seen[scene->page_count++] = block->id;
        CHECK(scene->seen_len + block->text.len < sizeof scene->seen);
        memcpy(scene->seen + scene->seen_len, block->text.ptr, block->text.len);
        scene->seen_len += block->text.len;
    }
}

/* Runs at most `most` passes. True: the summary is there. */
static bool run(struct scene *scene, int most, script answer_with)
{
    static char answer[ANSWER_BYTES];

    for (int i = 0;; i++) {
        struct packed *pass = packed_create();
        struct error err = {0};
        struct buf prompt;
        bool done = false;

        CHECK(pass);
        CHECK_OK(passes_next(scene->passes, scene->store, pass, &done, &err), &err);
        if (done || i == most) {
            packed_unref(pass);
            return done;
        }
        buf_init(&prompt, 1 << 20);
        for (size_t k = 0; k < pass->token_count; k++)
            CHECK(buf_append_span(&prompt, tokenizer_bytes(scene->tokenizer, pass->tokens[k])) == STATUS_OK);
        note_prompt(scene, pass, buf_cstr(&prompt));
        answer[0] = '\0';
        answer_with(scene, buf_cstr(&prompt), strstr(buf_cstr(&prompt), "Sum these notes up.") != NULL, answer);
        CHECK_OK(passes_take(scene->passes, scene->store, span_from_cstr(answer), NULL, 0, &err), &err);
        buf_finish(&prompt);
        packed_unref(pass);
    }
}

static void append(char *answer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void append(char *answer, const char *format, ...)
{
    size_t len = strlen(answer);
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(answer + len, ANSWER_BYTES - len, format, arguments);
    va_end(arguments);
}

/* A statement for each page shown; of notes, every other one. */
static void honest(struct scene *scene, const char *prompt, bool reduce, char *answer)
{
    (void)scene;
    if (reduce) {
        const char *at = strchr(prompt, '\n');

        for (int line = 0; (at = strstr(at, "Room ")); at++, line++)
            if (line % 2 == 0)
                append(answer, "%.*s\n", (int)strcspn(at, "\n"), at);
        return;
    }
    for (const char *at = prompt; (at = strstr(at, "[page ")); at++) {
        int page = atoi(at + 6);

        if (strstr(at, " begin]") && strstr(at, " begin]") < strchr(at, ']'))
            append(answer, "Room %d holds \"thing%d\" [%d].\n", page, page, page);
    }
}

static size_t count_pages(const struct note *note, int *pages)
{
    size_t count = 0;

    for (size_t i = 0; i < note->count; i++)
        for (size_t k = 0; k < note->statements[i].place_count; k++)
            pages[count++] = note->statements[i].places[k].page;
    return count;
}

TEST(a_document_that_fits_is_one_pass)
{
    struct scene scene;
    const struct note *note;
    struct arena arena;
    struct error err = {0};
    struct span words = {0};

    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 3, 100, "/inventory");
    begin(&scene);
    CHECK(run(&scene, 100, honest));
    CHECK_EQ_INT(scene.asked, 1);
    CHECK_EQ_INT(passes_counts(scene.passes)->sections, 1);
    CHECK_EQ_INT(passes_counts(scene.passes)->levels, 1);
    note = passes_summary(scene.passes);
    CHECK_EQ_INT(note->count, 3);
    CHECK(span_equal(note->statements[1].text, span_from_cstr("Room 2 holds \"thing2\".")));
    CHECK_EQ_INT(note->statements[1].place_count, 1);
    CHECK_EQ_INT(note->statements[1].places[0].page, 2);
    arena_init(&arena, 1 << 16);
    CHECK_OK(store_page_slice(scene.store, scene.document, 2, note->statements[1].places[0].start,
                              note->statements[1].places[0].end, &arena, &words, &err), &err);
    CHECK(span_equal(words, span_from_cstr("thing2")));
    arena_finish(&arena);
    close_scene(&scene);
}

TEST(a_longer_one_goes_section_by_section_and_keeps_its_pages)
{
    static int pages[4 * MOST_PAGES];
    struct scene scene;
    const struct passes_counts *counts;
    size_t count;

    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 40, 300, "/inventory");
    begin(&scene);
    CHECK(run(&scene, 1000, honest));
    counts = passes_counts(scene.passes);
    CHECK(counts->sections >= 5);
    CHECK_EQ_INT(counts->levels, 2);
    CHECK_EQ_INT(scene.asked, (int)counts->sections + 1);
    CHECK_EQ_INT(scene.reduces, 1);
    CHECK_EQ_INT(scene.page_count, 40); /* each page once, in order */
    for (int i = 0; i < 40; i++)
        CHECK_EQ_INT(scene.pages_seen[i], i + 1);
    count = count_pages(passes_summary(scene.passes), pages);
    CHECK_EQ_INT(count, 20);
    for (size_t i = 0; i < count; i++)
        CHECK_EQ_INT(pages[i], 2 * (int)i + 1);
    CHECK_EQ_INT(counts->claims[CLAIM_UNCITED] + counts->claims[CLAIM_NO_PAGE] + counts->claims[CLAIM_MISQUOTED] +
                 counts->claims[CLAIM_UNSUPPORTED], 0);
    close_scene(&scene);
}

TEST(notes_that_do_not_fit_one_pass_are_reduced_in_levels)
{
    static int pages[4 * MOST_PAGES];
    struct scene scene;
    size_t count;

    open_scene(&scene, PASSES_TEXT, 2600);
    put_pages(&scene, MOST_PAGES, 60, "/inventory");
    begin(&scene);
    CHECK(run(&scene, 10000, honest));
    CHECK(passes_counts(scene.passes)->levels >= 3);
    CHECK(scene.reduces >= 3);
    count = count_pages(passes_summary(scene.passes), pages);
    CHECK(count > 0);
    for (size_t i = 1; i < count; i++)
        CHECK(pages[i] > pages[i - 1]);
    CHECK(pages[count - 1] > MOST_PAGES - 40); /* the end of the document has its part */
    close_scene(&scene);
}

TEST(a_page_longer_than_the_window_is_cut_and_nothing_of_it_is_lost)
{
    static char text[20000];
    struct scene scene;
    const char *texts[] = {"A short page.", text, "Another short page."};
    struct store_document document = named_document("/long", "Long");
    struct error err = {0};
    size_t len = 0;
    char *whole;

    open_scene(&scene, PASSES_TEXT, 3000);
    while (len < sizeof text - 100)
        len += (size_t)snprintf(text + len, sizeof text - len, "The caf\xC3\xA9 number %zu has a t\xC3\xA9rrace.%s",
                                len, check_random() % 3 ? " " : "\n\n");
    document.page_count = 3;
    CHECK_OK(put_document(scene.store, &document, texts, 3, &scene.document, &err), &err);
    begin(&scene);
    CHECK(run(&scene, 1000, honest));
    CHECK(scene.asked >= 8);
    CHECK(asprintf(&whole, "%s%s%s", texts[0], texts[1], texts[2]) > 0);
    CHECK(scene.seen_len == strlen(whole) && memcmp(scene.seen, whole, scene.seen_len) == 0);
    free(whole);
    close_scene(&scene);
}

TEST(an_interrupted_run_asks_only_what_was_not_answered)
{
    struct scene scene;
    int all;

    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 40, 300, "/inventory");
    begin(&scene);
    CHECK(run(&scene, 1000, honest));
    all = scene.asked;
    close_scene(&scene);
    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 40, 300, "/inventory");
    for (int done = 0; done < all; done++) { /* killed after every pass */
        begin(&scene);
        CHECK(run(&scene, 1, honest) == (done == all - 1));
        CHECK_EQ_INT(scene.asked, 1);
        CHECK_EQ_INT(passes_counts(scene.passes)->passes_before, done);
    }
    begin(&scene);
    CHECK(run(&scene, 1000, honest));
    CHECK_EQ_INT(scene.asked, 0);
    CHECK_EQ_INT(passes_counts(scene.passes)->passes_before, all);
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 20);
    scene.options.parameters = "test/1"; /* another model, other settings: nothing of before counts */
    begin(&scene);
    CHECK(run(&scene, 1000, honest));
    CHECK_EQ_INT(scene.asked, all);
    close_scene(&scene);
}

/* Of every kind of lie one, and one truth. */
static void liar(struct scene *scene, const char *prompt, bool reduce, char *answer)
{
    (void)scene;
    (void)prompt;
    append(answer, "Room 1 holds \"thing1\" [1].\n");
    append(answer, "Rooms are nice.\n");                        /* no page */
    append(answer, "Room 99 holds thing99 [99].\n");            /* no such page */
    append(answer, "Room 2 holds \"a crown\" [2].\n");          /* not its words */
    append(answer, "Submarine telegraphy prospered [2].\n");    /* nothing in common */
    if (reduce)
        append(answer, "Room 3 holds thing3 [3].\n");           /* true, but no note said so */
}

TEST(what_can_not_be_checked_is_left_out_and_counted)
{
    struct scene scene;
    const struct passes_counts *counts;

    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 3, 100, "/inventory");
    begin(&scene);
    CHECK(run(&scene, 100, liar));
    counts = passes_counts(scene.passes);
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 1);
    CHECK_EQ_INT(counts->claims[CLAIM_KEPT], 1);
    CHECK_EQ_INT(counts->claims[CLAIM_UNCITED], 1);
    CHECK_EQ_INT(counts->claims[CLAIM_NO_PAGE], 1);
    CHECK_EQ_INT(counts->claims[CLAIM_MISQUOTED], 1);
    CHECK_EQ_INT(counts->claims[CLAIM_UNSUPPORTED], 1);
    close_scene(&scene);
}

/* Honest about sections; lies when it reduces. */
static void late_liar(struct scene *scene, const char *prompt, bool reduce, char *answer)
{
    if (!reduce) {
        honest(scene, prompt, false, answer);
        return;
    }
    append(answer, "Room 1 holds \"thing1\" [1].\nRoom 2 holds \"a crown\" [2].\nAll is well.\n");
    append(answer, "Room 500 holds thing500 [500].\n");
}

static void nonsense(struct scene *scene, const char *prompt, bool reduce, char *answer)
{
    if (reduce)
        append(answer, "I am a language model.");
    else
        honest(scene, prompt, false, answer);
}

TEST(a_reduce_is_held_against_the_pages_of_its_notes)
{
    struct scene scene;
    const struct passes_counts *counts;

    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 20, 300, "/inventory");
    begin(&scene);
    CHECK(run(&scene, 100, late_liar));
    counts = passes_counts(scene.passes);
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 1);
    CHECK_EQ_INT(counts->claims[CLAIM_MISQUOTED], 1);
    CHECK_EQ_INT(counts->claims[CLAIM_UNCITED], 1);
    CHECK_EQ_INT(counts->claims[CLAIM_NO_PAGE], 1);
    CHECK_EQ_INT(counts->unreduced, 0);
    scene.options.parameters = "test/2";
    begin(&scene);
    CHECK(run(&scene, 100, nonsense)); /* nothing to keep: the notes stand, and that is said */
    CHECK_EQ_INT(passes_counts(scene.passes)->unreduced, 1);
    CHECK(passes_summary(scene.passes)->count >= 10);
    close_scene(&scene);
}

static void noise(struct scene *scene, const char *prompt, bool reduce, char *answer)
{
    static const char *const parts[] = {"[1]", "[2", "Room ", "\"", "\xE2\x80\x9C", "thing3 ", ". ", "\n", "[40]",
                                        "\xFF"};

    (void)scene;
    (void)prompt;
    (void)reduce;
    for (size_t count = check_random() % 200; count; count--)
        append(answer, "%s", parts[check_random() % (sizeof parts / sizeof *parts)]);
}

static void silence(struct scene *scene, const char *prompt, bool reduce, char *answer)
{
    (void)scene;
    (void)prompt;
    (void)reduce;
    (void)answer;
}

TEST(any_answer_comes_to_an_end)
{
    struct scene scene;

    open_scene(&scene, PASSES_TEXT, 3000);
    put_pages(&scene, 60, 200, "/inventory");
    for (int round = 0; round < 20; round++) {
        char parameters[32];

        (void)snprintf(parameters, sizeof parameters, "noise/%d", round);
        scene.options.parameters = parameters;
        begin(&scene);
        CHECK(run(&scene, 1000, noise));
    }
    scene.options.parameters = "silence";
    begin(&scene);
    CHECK(run(&scene, 1000, silence));
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 0);
    CHECK_EQ_INT(scene.reduces, 0);
    close_scene(&scene);
}

TEST(nothing_to_read_and_no_room_to_read_in)
{
    struct scene scene;
    struct error err = {0};

    open_scene(&scene, PASSES_TEXT, 4096);
    put_pages(&scene, 0, 0, "/empty");
    begin(&scene);
    CHECK(run(&scene, 10, honest));
    CHECK_EQ_INT(scene.asked, 0);
    passes_destroy(scene.passes);
    scene.passes = NULL;
    scene.options.window_tokens = 700;
    CHECK_STATUS(passes_create(scene.store, scene.document, &scene.options, &scene.passes, &err), STATUS_LIMIT);
    CHECK(strstr(err.message, "too small"));
    CHECK_STATUS(passes_create(scene.store, 99, &scene.options, &scene.passes, &err), STATUS_NOT_FOUND);
    close_scene(&scene);
}

/* --- The reader --------------------------------------------------------------------------------------------------- */

/* Quotes the first words of each block. */
static bool run_quoting(struct scene *scene, int bytes)
{
    for (;;) {
        struct quote_span spans[64];
        struct packed *pass = packed_create();
        struct error err = {0};
        size_t count = 0;
        bool done = false;

        CHECK(pass);
        CHECK_OK(passes_next(scene->passes, scene->store, pass, &done, &err), &err);
        if (!done) {
            CHECK(pass->token_count + passes_answer_tokens(scene->passes) <= scene->options.window_tokens);
            scene->asked++;
            for (size_t i = pass->pack.count; i-- > 0 && count < 64;) { /* out of order: a model may */
                CHECK_EQ_INT(pass->pack.blocks[i].id, (int)i + 1);
                spans[count++] = (struct quote_span){(int)i + 1, 0, (size_t)bytes};
            }
            spans[count++] = (struct quote_span){(int)pass->pack.count + 1, 0, 5}; /* a block that is not there */
            spans[count++] = (struct quote_span){1, 2, 100000};                    /* beyond its end */
            CHECK_OK(passes_take(scene->passes, scene->store, span_of("", 0), spans, count, &err), &err);
        }
        packed_unref(pass);
        if (done)
            return true;
    }
}

TEST(quotations_keep_their_places_through_all_passes)
{
    struct scene scene;
    const struct note *note;

    open_scene(&scene, PASSES_QUOTES, 3000);
    put_pages(&scene, 20, 400, "/inventory");
    begin(&scene);
    CHECK(run_quoting(&scene, 15));
    CHECK(passes_counts(scene.passes)->sections >= 3);
    CHECK(passes_counts(scene.passes)->levels >= 2);
    note = passes_summary(scene.passes);
    CHECK_EQ_INT(note->count, 20);
    for (size_t i = 0; i < note->count; i++) {
        CHECK_EQ_INT(note->statements[i].text.len, 0);
        CHECK_EQ_INT(note->statements[i].places[0].page, (int)i + 1);
        CHECK_EQ_INT(note->statements[i].places[0].start, 0);
        CHECK_EQ_INT(note->statements[i].places[0].end, 15);
    }
    CHECK_EQ_INT(passes_counts(scene.passes)->claims[CLAIM_NO_PAGE], (int)scene.asked);
    CHECK_EQ_INT(passes_counts(scene.passes)->claims[CLAIM_MISQUOTED], (int)scene.asked);
    close_scene(&scene);
}

/* A scene of one document, of one page: `first`, an empty line, `second`. → the length of its text */
static int open_page(struct scene *scene, const char *first, const char *second)
{
    char text[128];
    const char *texts[] = {text};
    struct store_document document = named_document("/page", "One page");
    struct error err = {0};

    (void)snprintf(text, sizeof text, "%s\n\n%s", first, second);
    open_scene(scene, PASSES_QUOTES, 3000);
    document.page_count = 1;
    CHECK_OK(put_document(scene->store, &document, texts, 1, &scene->document, &err), &err);
    begin(scene);
    return (int)strlen(text);
}

static void begin_again(struct scene *scene)
{
    scene->options.parameters = "test/1"; /* another run, which finds no parts */
    begin(scene);
}

TEST(rows_of_a_table_are_no_quotation)
{
    static const char rows[] = "Year\tTons\n1901\t12\n1902\t14";
    struct scene scene;
    int whole = open_page(&scene, rows, "The harvest rose in both years.");

    CHECK(run_quoting(&scene, (int)strlen(rows)));
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 0);
    CHECK_EQ_INT(passes_counts(scene.passes)->claims[CLAIM_NO_SENTENCE], 1);
    begin_again(&scene);
    CHECK(run_quoting(&scene, whole));
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 1);
    close_scene(&scene);
}

TEST(a_quotation_does_not_begin_with_a_heading)
{
    static const char heading[] = "The order of a sum";
    const struct retrieval_quote *place;
    struct scene scene;
    int whole = open_page(&scene, heading, "The result depends on the order of adding.");

    CHECK(run_quoting(&scene, whole));
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 1);
    place = &passes_summary(scene.passes)->statements[0].places[0];
    CHECK_EQ_INT(place->start, strlen(heading) + 2);
    CHECK_EQ_INT(place->end, whole);
    CHECK_EQ_INT(passes_counts(scene.passes)->claims[CLAIM_NO_SENTENCE], 0);
    begin_again(&scene);
    CHECK(run_quoting(&scene, (int)strlen(heading)));
    CHECK_EQ_INT(passes_summary(scene.passes)->count, 0);
    CHECK_EQ_INT(passes_counts(scene.passes)->claims[CLAIM_NO_SENTENCE], 1);
    close_scene(&scene);
}
