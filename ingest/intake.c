/* intake.c: see intake.h. The rules for a document's status are in decide_status(). */
#include "ingest/intake.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include <jansson.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "base/vec.h"
#include "ingest/chunk.h"
#include "ingest/clean.h"
#include "ingest/columns.h"
#include "ingest/furniture.h"
#include "ingest/limits.h"

/* Lines take 80 bytes, words 24: a document of LIMIT_DOCUMENT_TEXT_BYTES in words of five letters needs half of
 * this. The rest is for pages, passages and problems. */
#define INTAKE_BYTES (1024LL << 20)

struct intake {
    struct arena arena;
    struct frame_order order;
    VEC(struct page) pages;
    VEC(struct page_line) lines; /* of the open page */
    VEC(struct outline_entry) outline;
    VEC(struct store_problem) problems;
    struct frame_word *words; /* decoding scratch */
    size_t words_cap;
    size_t text_bytes;
    bool archive, cut;    /* cut: a problem says that something is missing */
    const char *error_code, *error; /* of a fatal problem; NULL none */
    char encrypted_error[128];
    size_t unreported;
    const char *media_type, *extractor, *title, *author, *language, *created, *modified;
    VEC(struct store_page) out_pages;
    VEC(struct chunk_page) chunk_pages;
    struct chunk_list chunks;
};

/* Problems that tell something about a document of which nothing is missing. Every other code means that text was
 * left out or damaged, and makes the document partial. */
static const char *const notes[] = {"tiny-text",    "faint-text",  "rotated-text", "repaired-text", "encoding",
                                    "no-geometry",  "hidden-text", "no-text",      "limit-outline", "deleted-text",
                                    "name-unsafe",  "name-long",   "name-not-utf8", "link-skipped",
                                    "special-skipped"};

enum status intake_create(struct intake **intake, struct error *err)
{
    struct intake *made = calloc(1, sizeof *made);

    if (!made)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a document");
    arena_init(&made->arena, INTAKE_BYTES);
    made->media_type = made->extractor = made->title = made->author = "";
    made->language = made->created = made->modified = "";
    *intake = made;
    return STATUS_OK;
}

void intake_destroy(struct intake *intake)
{
    if (!intake)
        return;
    vec_finish(&intake->pages);
    vec_finish(&intake->lines);
    vec_finish(&intake->outline);
    vec_finish(&intake->problems);
    vec_finish(&intake->out_pages);
    vec_finish(&intake->chunk_pages);
    chunk_list_finish(&intake->chunks);
    free(intake->words);
    arena_finish(&intake->arena);
    free(intake);
}

bool intake_ended(const struct intake *intake)
{
    return intake->order.state == FRAME_ORDER_ENDED;
}

bool intake_encrypted(const struct intake *intake)
{
    return intake->error_code && strcmp(intake->error_code, "encrypted") == 0;
}

bool intake_is_archive(const struct intake *intake)
{
    return intake->archive;
}

size_t intake_pages(const struct intake *intake)
{
    return intake->pages.count;
}

/* --- Frames --------------------------------------------------------------------------------------------------- */

/* A string of the child's, fit to be shown and stored: one line without control characters, at most `max` bytes. */
static const char *copy_label(struct arena *arena, struct span text, size_t max)
{
    const struct page_line line = {.kind = LINE_TEXT, .text = text};
    const struct clean_options options = {0};
    struct page_text clean;
    const char *copy = NULL;
    bool soft_hyphen;

    page_text_init(&clean);
    if (utf8_valid(text) && clean_append(&clean, &line, &options, false, 0, &soft_hyphen) == STATUS_OK) {
        struct span cut = span_slice(buf_span(&clean.text), 0, max);

        copy = arena_copy_cstr(arena, span_slice(cut, 0, utf8_complete_prefix(cut)));
    }
    page_text_finish(&clean);
    return copy;
}

static const char *copy_field(struct intake *intake, json_t *object, const char *name, const char *otherwise)
{
    json_t *value = json_object_get(object, name);
    const char *copy;

    if (!json_is_string(value))
        return otherwise;
    copy = copy_label(&intake->arena, span_of(json_string_value(value), json_string_length(value)), LIMIT_META_BYTES);
    return copy ? copy : otherwise;
}

static bool is_note(const char *code)
{
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        if (strcmp(notes[i], code) == 0)
            return true;
    }
    return false;
}

enum status intake_problem(struct intake *intake, int page, const char *code, const char *message)
{
    struct store_problem problem = {.page = page};
    enum status status;

    intake->cut |= !is_note(code);
    if (intake->problems.count >= LIMIT_PROBLEMS) {
        intake->unreported++;
        return STATUS_OK;
    }
    status = vec_reserve(&intake->problems, 2); /* one more for "more-problems" */
    problem.code = copy_label(&intake->arena, span_from_cstr(code), 64);
    problem.message = copy_label(&intake->arena, span_from_cstr(message), LIMIT_META_BYTES);
    if (status || !problem.code || !problem.message)
        return STATUS_NO_MEMORY;
    intake->problems.items[intake->problems.count++] = problem;
    return STATUS_OK;
}

static enum status take_problem(struct intake *intake, json_t *object)
{
    const char *code = copy_field(intake, object, "code", "problem"),
               *message = copy_field(intake, object, "message", "");
    json_int_t page = json_integer_value(json_object_get(object, "page"));

    if (json_is_true(json_object_get(object, "fatal")) && !intake->error_code) {
        intake->error_code = code;
        intake->error = *message ? message : code;
        if (intake_encrypted(intake))
            (void)snprintf(intake->encrypted_error, sizeof intake->encrypted_error, "encrypted: %.100s", message);
    } else if (strcmp(code, "encrypted-member") == 0 && !*intake->encrypted_error) {
        (void)snprintf(intake->encrypted_error, sizeof intake->encrypted_error, "encrypted: %.100s", message);
    }
    return intake_problem(intake, page < 0 || page > LIMIT_PAGES ? 0 : (int)page, code, message);
}

static enum status take_outline(struct intake *intake, json_t *array)
{
    size_t index;
    json_t *entry;

    json_array_foreach(array, index, entry) {
        const char *title = copy_field(intake, entry, "title", "");
        enum status status = vec_reserve(&intake->outline, 1);

        if (status)
            return status;
        intake->outline.items[intake->outline.count++] = (struct outline_entry){
            title, (int)json_integer_value(json_object_get(entry, "level")),
            (int)json_integer_value(json_object_get(entry, "page"))};
    }
    return STATUS_OK;
}

static enum status take_json(struct intake *intake, const struct frame *frame, struct error *err)
{
    json_error_t at;
    json_t *json = json_loadb(frame->payload.ptr, frame->payload.len, JSON_REJECT_DUPLICATES, &at);
    enum status status = STATUS_OK;

    if (!json)
        return error_set(err, STATUS_CORRUPT, "a frame is no JSON: %s", at.text);
    switch (frame->type) {
    case FRAME_START:
        intake->media_type = copy_field(intake, json, "media_type", "");
        intake->extractor = copy_field(intake, json, "extractor", "");
        break;
    case FRAME_META:
        intake->title = copy_field(intake, json, "title", "");
        intake->author = copy_field(intake, json, "author", "");
        intake->language = copy_field(intake, json, "language", "");
        intake->created = copy_field(intake, json, "created", "");
        intake->modified = copy_field(intake, json, "modified", "");
        break;
    case FRAME_OUTLINE: status = take_outline(intake, json); break;
    case FRAME_PROBLEM: status = take_problem(intake, json); break;
    default: break;
    }
    json_decref(json);
    return status ? error_set(err, status, "no memory for a document's data") : STATUS_OK;
}

static enum status begin_page(struct intake *intake, struct span payload, struct error *err)
{
    struct frame_page head;
    struct page page;
    enum status status = frame_get_page(payload, &head);

    if (status)
        return error_set(err, status, "a page's frame is damaged");
    if (intake->pages.count >= LIMIT_PAGES)
        return error_set(err, STATUS_LIMIT, "more than %d pages", LIMIT_PAGES);
    page = (struct page){.number = (int)head.number, .width = head.width, .height = head.height};
    page.label = copy_label(&intake->arena, head.label, LIMIT_META_BYTES);
    status = vec_reserve(&intake->pages, 1);
    if (status || !page.label)
        return error_set(err, STATUS_NO_MEMORY, "no memory for page %d", page.number);
    intake->pages.items[intake->pages.count++] = page;
    intake->lines.count = 0;
    return STATUS_OK;
}

static enum status add_line(struct intake *intake, struct span payload, struct error *err)
{
    struct frame_line line;
    struct page_line kept = {0};
    struct frame_word *words;
    enum status status = frame_get_line(payload, &line, &intake->words, &intake->words_cap);

    if (status)
        return error_set(err, status, "a line's frame is damaged");
    intake->text_bytes += line.text.len;
    if (intake->text_bytes > 2 * LIMIT_DOCUMENT_TEXT_BYTES)
        return error_set(err, STATUS_LIMIT, "more than %lld MiB of text", LIMIT_DOCUMENT_TEXT_BYTES >> 20);
    status = vec_reserve(&intake->lines, 1);
    words = arena_alloc_array(&intake->arena, line.word_count ? line.word_count : 1, sizeof *words);
    kept.text = span_of(arena_copy_cstr(&intake->arena, line.text), line.text.len);
    if (status || !words || !kept.text.ptr)
        return error_set(err, STATUS_LIMIT, "the document does not fit into memory");
    if (line.word_count)
        memcpy(words, line.words, line.word_count * sizeof *words);
    kept.kind = line.kind;
    kept.level = line.level;
    kept.flags = line.flags;
    kept.font_size = line.font_size;
    kept.words = words;
    kept.word_count = line.word_count;
    page_line_measure(&kept);
    intake->lines.items[intake->lines.count++] = kept;
    return STATUS_OK;
}

static enum status end_page(struct intake *intake, struct error *err)
{
    struct page *page = &intake->pages.items[intake->pages.count - 1];
    size_t bytes = intake->lines.count * sizeof *page->lines;

    page->lines = arena_alloc(&intake->arena, bytes);
    if (!page->lines)
        return error_set(err, STATUS_LIMIT, "the document does not fit into memory");
    if (bytes)
        memcpy(page->lines, intake->lines.items, bytes);
    page->line_count = intake->lines.count;
    intake->lines.count = 0;
    return STATUS_OK;
}

enum status intake_frame(struct intake *intake, const struct frame *frame, struct error *err)
{
    enum status status = frame_order_step(&intake->order, frame);

    if (status)
        return error_set(err, status, "the extractor's frames are out of order");
    switch (frame->type) {
    case FRAME_START:
    case FRAME_META:
    case FRAME_OUTLINE:
    case FRAME_PROBLEM: return take_json(intake, frame, err);
    case FRAME_PAGE_BEGIN: return begin_page(intake, frame->payload, err);
    case FRAME_LINE: return add_line(intake, frame->payload, err);
    case FRAME_PAGE_END: return end_page(intake, err);
    case FRAME_MEMBER_BEGIN: intake->archive = true; break;
    default: break;
    }
    return STATUS_OK;
}

enum status intake_end(struct intake *intake, const char *code, const char *message)
{
    enum status status = STATUS_OK;
    struct error err;

    if (intake->order.state == FRAME_ORDER_PAGE && intake->lines.count)
        status = end_page(intake, &err); /* the page that was being read, as far as it came */
    if (!status && code) {
        if (!intake->error_code) {
            intake->error_code = code;
            intake->error = arena_copy_cstr(&intake->arena, span_from_cstr(message));
            if (!intake->error)
                return STATUS_NO_MEMORY;
        }
        status = intake_problem(intake, 0, code, message);
    }
    if (!status && intake->unreported) {
        char text[64];

        (void)snprintf(text, sizeof text, "%zu more problems", intake->unreported);
        if (vec_reserve(&intake->problems, 1))
            return STATUS_NO_MEMORY;
        intake->problems.items[intake->problems.count++] = (struct store_problem){
            0, "more-problems", arena_copy_cstr(&intake->arena, span_from_cstr(text))};
    }
    return status;
}

/* --- The passes ------------------------------------------------------------------------------------------------ */

static void decide_status(const struct intake *intake, struct ingest_document *document)
{
    struct store_document *row = &document->row;
    bool something = intake->pages.count || intake->archive;

    row->error = "";
    if (intake->error_code && !something) {
        bool unknown = strcmp(intake->error_code, "unknown-type") == 0 || strcmp(intake->error_code, "empty") == 0;

        row->status = unknown ? DOCUMENT_SKIPPED : DOCUMENT_FAILED;
        row->error = intake->error;
        if (intake_encrypted(intake)) /* the sink tells by this that a password would help */
            row->error = *intake->encrypted_error ? intake->encrypted_error : intake->error_code;
    } else if (intake->error_code || intake->cut) {
        row->status = DOCUMENT_PARTIAL;
        row->error = intake->error ? intake->error : intake->encrypted_error;
        for (size_t i = 0; !*row->error && i < intake->problems.count; i++) {
            if (!is_note(intake->problems.items[i].code))
                row->error = intake->problems.items[i].message;
        }
    } else {
        row->status = DOCUMENT_OK;
    }
}

static enum status build_page(struct intake *intake, struct page *page, const struct heading_rules *rules,
                              const struct hyphenated *set, uint32_t *hidden, uint32_t *tags, struct error *err)
{
    struct store_page out = {.number = page->number, .label = page->label, .width = page->width,
                             .height = page->height};
    struct text_block *blocks;
    struct page_text text;
    struct buf map;
    int columns;
    enum status status;

    page_text_init(&text);
    buf_init(&map, SIZE_MAX / 2);
    status = columns_order(page, &intake->arena, &columns, err);
    if (!status)
        status = normalize_page(page, rules, set, &text, err);
    if (!status && text.runs.count)
        status = rectmap_pack(text.runs.items, text.runs.count, &map);
    if (!status && (vec_reserve(&intake->out_pages, 1) || vec_reserve(&intake->chunk_pages, 1)))
        status = STATUS_NO_MEMORY;
    if (status)
        goto out;
    out.text = span_of(arena_copy_cstr(&intake->arena, buf_span(&text.text)), text.text.len);
    out.aside = span_of(arena_copy_cstr(&intake->arena, buf_span(&text.aside)), text.aside.len);
    out.rects = span_of(arena_copy_cstr(&intake->arena, buf_span(&map)), map.len);
    blocks = arena_alloc_array(&intake->arena, text.blocks.count, sizeof *blocks);
    if (!out.text.ptr || !out.aside.ptr || !out.rects.ptr || !blocks) {
        status = STATUS_LIMIT;
        goto out;
    }
    if (text.blocks.count)
        memcpy(blocks, text.blocks.items, text.blocks.count * sizeof *blocks);
    intake->out_pages.items[intake->out_pages.count++] = out;
    intake->chunk_pages.items[intake->chunk_pages.count++] =
        (struct chunk_page){page->number, out.text, blocks, text.blocks.count};
    *hidden += text.hidden_count;
    *tags += text.tag_count;
out:
    if (status)
        error_set(err, status, "page %d does not fit into memory", page->number);
    page_text_finish(&text);
    buf_finish(&map);
    return status;
}

/* Numbers ("0001045810-23-000227") and what programs put there tell less than the first heading does. */
static bool is_title(const char *text)
{
    size_t letters = 0;

    for (const char *c = text; *c; c++)
        letters += isalpha((unsigned char)*c) || (unsigned char)*c >= 0x80;
    return letters >= 3 && strcasecmp(text, "untitled") != 0 && strncmp(text, "Microsoft Word - ", 17) != 0;
}

/* The document's own title, else the first heading of its first two pages. */
static const char *find_title(struct intake *intake)
{
    if (is_title(intake->title))
        return intake->title;
    for (size_t p = 0; p < intake->chunk_pages.count && p < 2; p++) {
        const struct chunk_page *page = &intake->chunk_pages.items[p];

        for (size_t b = 0; b < page->block_count; b++) {
            const struct text_block *block = &page->blocks[b];
            const char *title;

            if (block->kind != BLOCK_HEADING)
                continue;
            title = copy_label(&intake->arena, span_slice(page->text, block->start, block->end), LIMIT_HEADING_BYTES);
            if (title && is_title(title))
            return title;
        }
    }
    return intake->title;
}

enum status intake_build(struct intake *intake, struct ingest_document *document, struct error *err)
{
    /* More invisible characters than a stray one or two in every page. */
    enum { HIDDEN_NOTED = 20 };
    struct heading_rules rules = {0};
    struct hyphenated set = {0};
    uint32_t hidden = 0, tags = 0;
    enum status status = furniture_mark(intake->pages.items, intake->pages.count, err);

    *document = (struct ingest_document){0};
    if (!status)
        status = heading_rules_init(&rules, intake->pages.items, intake->pages.count, intake->outline.items,
                                    intake->outline.count, err);
    if (!status && intake->pages.count)
        status = hyphenated_collect(&set, intake->pages.items, intake->pages.count, err);
    for (size_t p = 0; p < intake->pages.count && !status; p++)
        status = build_page(intake, &intake->pages.items[p], &rules, &set, &hidden, &tags, err);
    if (!status)
        status = chunk_document(intake->chunk_pages.items, intake->chunk_pages.count, &intake->arena,
                                &intake->chunks, err);
    if (!status && (tags || hidden >= HIDDEN_NOTED)) {
        char text[96];

        (void)snprintf(text, sizeof text, "%u invisible characters were left out, %u of them tag characters", hidden,
                       tags);
        status = intake_problem(intake, 0, "hidden-text", text);
    }
    if (status)
        goto out;
    document->pages = intake->out_pages.items;
    document->page_count = intake->out_pages.count;
    document->chunks = intake->chunks.chunks.items;
    document->chunk_count = intake->chunks.chunks.count;
    document->problems = intake->problems.items;
    document->problem_count = intake->problems.count;
    document->row = (struct store_document){.media_type = intake->media_type,
                                            .title = find_title(intake),
                                            .author = intake->author,
                                            .language = intake->language,
                                            .created = intake->created,
                                            .modified = intake->modified,
                                            .extractor = intake->extractor,
                                            .page_count = (int64_t)intake->out_pages.count};
    decide_status(intake, document);
out:
    heading_rules_finish(&rules);
    hyphenated_finish(&set);
    return status;
}
