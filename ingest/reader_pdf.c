/* reader_pdf.c: PDF by poppler-glib: text, rectangles of words, fonts, labels, outline, metadata.
 *
 * poppler gives a page three times: as text (lines end in LF), as one rectangle a character of that text, and as
 * runs of fonts over the rectangles' indices. Right-to-left text holds bidi controls (U+202A..U+202E) that have
 * no rectangle; they are skipped when the two are aligned. Where the counts still differ, the page's words have
 * no rectangles and the page has the problem "no-geometry".
 *
 * This file is part of dsa-extract, which links poppler and is GPL-3.0. */
#include <math.h>
#include <poppler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "base/vec.h"
#include "ingest/frame_writer.h"
#include "ingest/limits.h"
#include "ingest/readers.h"
#include "ingest/source.h"

enum {
    OUTLINE_DEPTH_MAX = 32,
    OUTLINE_ENTRIES_MAX = 20000,
    TINY_POINTS = 3,
    FAINT_CHANNEL = 61680 /* of 65535: nearly white in all three */
};

/* What is kept from page to page, so that memory is asked for once. */
struct pdf_pages {
    struct frame_writer *out;
    VEC(struct frame_word) words;
    int empty_pages, first_empty, bad_pages;
};

/* --- Opening ------------------------------------------------------------------------------------------------ */

static int pdf_bid(struct span head, const char *name)
{
    /* The header may stand anywhere in the first kilobyte. */
    struct span first = span_slice(head, 0, 1024);

    (void)name;
    if (first.len >= 5 && memcmp(first.ptr, "%PDF-", 5) == 0)
        return 100;
    /* A tar or a stored zip with a PDF at its front has it there too: below every archive. */
    return first.len && memmem(first.ptr, first.len, "%PDF-", 5) ? 20 : 0;
}

static enum status fail_open(const struct reader_job *job, const GError *error, struct error *err)
{
    if (error && error->domain == POPPLER_ERROR && error->code == POPPLER_ERROR_ENCRYPTED)
        return frame_writer_fail(job->out, err, "encrypted", "%s",
                                 job->password ? "encrypted, and the password does not open it" : "encrypted");
    return frame_writer_fail(job->out, err, "damaged", "not a readable PDF: %s", error ? error->message : "unknown");
}

/* --- Lines -------------------------------------------------------------------------------------------------- */

static bool is_bidi_control(uint32_t code)
{
    return code >= 0x202A && code <= 0x202E;
}

static size_t count_rectangles_wanted(const char *text)
{
    size_t count = 0;

    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        count += (*p & 0xC0) != 0x80;
    /* U+202A..U+202E are E2 80 AA .. E2 80 AE. */
    for (const char *p = text; (p = strstr(p, "\xE2\x80")) != NULL; p += 2)
        count -= (unsigned char)p[2] >= 0xAA && (unsigned char)p[2] <= 0xAE;
    return count;
}

static int32_t to_twentieths(double points)
{
    const double most = 20.0 * LIMIT_PAGE_POINTS;

    if (!(points >= -LIMIT_PAGE_POINTS)) /* NaN too */
        return (int32_t)-most;
    return points > LIMIT_PAGE_POINTS ? (int32_t)most : (int32_t)lrint(points * 20);
}

struct extent {
    double x0, y0, x1, y1;
};

static void extent_add(struct extent *e, const PopplerRectangle *r)
{
    e->x0 = fmin(e->x0, fmin(r->x1, r->x2));
    e->y0 = fmin(e->y0, fmin(r->y1, r->y2));
    e->x1 = fmax(e->x1, fmax(r->x1, r->x2));
    e->y1 = fmax(e->y1, fmax(r->y1, r->y2));
}

/* No overlap in height, and beside the word or behind it: a cell of another row, not a vertical word. */
static bool off_row(const struct extent *e, const PopplerRectangle *r)
{
    double top = fmin(r->y1, r->y2), bottom = fmax(r->y1, r->y2), left = fmin(r->x1, r->x2), right = fmax(r->x1, r->x2);

    return (top >= e->y1 || bottom <= e->y0) && (left >= e->x1 || right <= e->x0);
}

static const struct extent extent_none = {INFINITY, INFINITY, -INFINITY, -INFINITY};

static struct frame_word make_word(size_t start, size_t end, const struct extent *e)
{
    return (struct frame_word){(uint32_t)start, (uint32_t)end, to_twentieths(e->x0), to_twentieths(e->y0),
                               to_twentieths(e->x1), to_twentieths(e->y1)};
}

/* A font run and how far the page's characters have gone into it. */
struct font_cursor {
    GList *run;
    size_t length; /* characters of the current line in it, counted by line_style() */
};

static bool is_bold(const char *font_name)
{
    static const char *const marks[] = {"Bold", "bold", "Black", "Heavy", "Semibold", "Demi", "CMBX", "BX1"};

    for (size_t i = 0; font_name && i < sizeof marks / sizeof *marks; i++) {
        if (strstr(font_name, marks[i]))
            return true;
    }
    return false;
}

static bool is_faint(const PopplerColor *color)
{
    return color->red >= FAINT_CHANNEL && color->green >= FAINT_CHANNEL && color->blue >= FAINT_CHANNEL;
}

/* Size and flags of the characters [from, to): the size that most have, flags that at least half have. */
static void line_style(struct font_cursor *cursor, size_t from, size_t to, struct frame_line *line)
{
    size_t bold = 0, tiny = 0, faint = 0, most = 0, same = 0;
    double size = 0, same_size = -1;

    while (cursor->run && (size_t)((PopplerTextAttributes *)cursor->run->data)->end_index < from)
        cursor->run = cursor->run->next;
    for (GList *at = cursor->run; at; at = at->next) {
        const PopplerTextAttributes *run = at->data;
        size_t start = (size_t)run->start_index > from ? (size_t)run->start_index : from;
        size_t end = (size_t)run->end_index + 1 < to ? (size_t)run->end_index + 1 : to;

        if (start >= to)
            break;
        if (end <= start)
            continue;
        bold += is_bold(run->font_name) ? end - start : 0;
        tiny += run->font_size < TINY_POINTS ? end - start : 0;
        faint += is_faint(&run->color) ? end - start : 0;
        same = run->font_size == same_size ? same + end - start : end - start;
        same_size = run->font_size;
        if (same > most) {
            most = same;
            size = same_size;
        }
    }
    if (isfinite(size) && size > 0)
        line->font_size = (float)size;
    line->flags |= 2 * bold > to - from ? LINE_BOLD : 0;
    line->flags |= 2 * tiny > to - from ? LINE_TINY : 0;
    line->flags |= 2 * faint > to - from ? LINE_FAINT : 0;
}

/* True when the line runs down or up the page: its characters move more in y than in x. */
static bool is_rotated(const PopplerRectangle *rects, size_t from, size_t to)
{
    const PopplerRectangle *a, *b;

    if (to - from < 3)
        return false;
    a = &rects[from];
    b = &rects[to - 1];
    return fabs(b->y1 - a->y1) > 2 * fabs(b->x1 - a->x1);
}

/* One line of the page: `rects` NULL when they do not fit the text. *index counts rectangles. */
static enum status send_line(struct pdf_pages *pages, struct span text, const PopplerRectangle *rects, size_t *index,
                             struct font_cursor *fonts)
{
    struct frame_line line = {.text = text};
    struct extent word = extent_none;
    size_t from = *index, word_start = 0;
    bool in_word = false;

    pages->words.count = 0;
    for (size_t i = 0; i < text.len && rects;) {
        uint32_t code;
        size_t len = utf8_decode(text.ptr + i, text.len - i, &code);

        if (len == 0)
            len = 1, code = UTF8_REPLACEMENT;
        if (code <= ' ' || code == 0xA0) {
            if (in_word)
                pages->words.items[pages->words.count++] = make_word(word_start, i, &word);
            in_word = false;
            ++*index;
        } else if (!is_bidi_control(code)) {
            /* Poppler joins what touches: a character off the word's row begins a word of its own. */
            if (in_word && off_row(&word, &rects[*index])) {
                pages->words.items[pages->words.count++] = make_word(word_start, i, &word);
                in_word = false;
            }
            if (!in_word) {
                enum status status = vec_reserve(&pages->words, 2);

                if (status)
                    return status;
                word = extent_none;
                word_start = i;
                in_word = true;
            }
            extent_add(&word, &rects[(*index)++]);
        }
        i += len;
    }
    if (in_word)
        pages->words.items[pages->words.count++] = make_word(word_start, text.len, &word);
    if (rects) {
        line.words = pages->words.items;
        line.word_count = (uint32_t)pages->words.count;
        line_style(fonts, from, *index, &line);
        line.flags |= is_rotated(rects, from, *index) ? LINE_ROTATED : 0;
        ++*index; /* the line feed's own */
    }
    return text.len ? frame_writer_line(pages->out, &line) : STATUS_OK;
}

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\n\r\f\v")] == '\0';
}

static enum status send_text(struct pdf_pages *pages, PopplerPage *page, int number)
{
    char *text = poppler_page_get_text(page);
    PopplerRectangle *rects = NULL;
    guint rect_count = 0;
    struct font_cursor fonts = {0};
    GList *runs = NULL;
    size_t index = 0;
    enum status status = STATUS_OK;

    if (!text || is_blank(text)) {
        pages->first_empty = pages->empty_pages++ ? pages->first_empty : number;
        goto out;
    }
    if (strlen(text) > 2 * (size_t)LIMIT_PAGE_TEXT_BYTES) {
        text[2 * (size_t)LIMIT_PAGE_TEXT_BYTES] = '\0'; /* what is beyond could not be kept anyhow; no geometry then */
    } else if (poppler_page_get_text_layout(page, &rects, &rect_count)) {
        if (rect_count != count_rectangles_wanted(text)) {
            g_free(rects);
            rects = NULL;
        } else {
            fonts.run = runs = poppler_page_get_text_attributes(page);
        }
    }
    if (!rects)
        status = frame_writer_problem(pages->out, "no-geometry", number, "text without rectangles");
    for (const char *at = text; *at && !status;) {
        size_t len = strcspn(at, "\n");

        status = send_line(pages, span_of(at, len), rects, &index, &fonts);
        at += len + (at[len] == '\n');
    }
out:
    poppler_page_free_text_attributes(runs);
    g_free(rects);
    g_free(text);
    return status;
}

/* --- Pages -------------------------------------------------------------------------------------------------- */

static float page_side(double points, bool *clamped)
{
    if (points >= 0 && points <= LIMIT_PAGE_POINTS)
        return (float)points;
    *clamped = true;
    return points > LIMIT_PAGE_POINTS ? (float)LIMIT_PAGE_POINTS : 0;
}

static enum status send_page(struct pdf_pages *pages, PopplerDocument *document, int number)
{
    PopplerPage *page = poppler_document_get_page(document, number - 1);
    struct frame_page begin = {.number = (uint32_t)number};
    char *label = NULL;
    double width = 0, height = 0;
    bool clamped = false;
    enum status status;

    if (!page) {
        pages->bad_pages++;
        return frame_writer_problem(pages->out, "bad-page", number, "the page can't be read");
    }
    poppler_page_get_size(page, &width, &height);
    begin.width = page_side(width, &clamped);
    begin.height = page_side(height, &clamped);
    label = poppler_page_get_label(page);
    begin.label = span_from_cstr(label);
    status = frame_writer_page_begin(pages->out, &begin);
    if (!status && clamped)
        status = frame_writer_problem(pages->out, "page-size", number, "the page claims %.6g by %.6g points", width,
                                      height);
    if (!status)
        status = send_text(pages, page, number);
    if (!status || status == STATUS_LIMIT) {
        enum status ended = frame_writer_page_end(pages->out);

        status = ended ? ended : status;
    }
    g_free(label);
    g_object_unref(page);
    return status;
}

static enum status send_pages(struct pdf_pages *pages, PopplerDocument *document, int page_count)
{
    enum status status = STATUS_OK;
    int last = page_count < LIMIT_PAGES ? page_count : LIMIT_PAGES;

    for (int number = 1; number <= last && !status; number++)
        status = send_page(pages, document, number);
    if (status)
        return status;
    if (last < page_count)
        status =
            frame_writer_problem(pages->out, "limit-pages", 0, "the first %d of %d pages were read", last, page_count);
    if (!status && pages->empty_pages)
        status = frame_writer_problem(pages->out, "no-text", pages->first_empty,
                                      "%d of %d pages have no text (pictures?)", pages->empty_pages, page_count);
    return status;
}

/* --- Outline and metadata ----------------------------------------------------------------------------------- */

struct outline_list {
    struct frame_outline_entry *items;
    size_t count, cap;
};

static int action_page(PopplerDocument *document, const PopplerAction *action)
{
    PopplerDest *dest, *found = NULL;
    int page = 0;

    if (!action || action->type != POPPLER_ACTION_GOTO_DEST)
        return 0;
    dest = action->goto_dest.dest;
    if (dest && dest->type == POPPLER_DEST_NAMED && dest->named_dest)
        dest = found = poppler_document_find_dest(document, dest->named_dest);
    if (dest)
        page = dest->page_num;
    if (found)
        poppler_dest_free(found);
    return page > 0 ? page : 0;
}

static enum status collect_outline(PopplerDocument *document, PopplerIndexIter *iter, int level,
                                   struct outline_list *list)
{
    enum status status = STATUS_OK;

    do {
        PopplerAction *action = poppler_index_iter_get_action(iter);
        PopplerIndexIter *child = NULL;

        if (action && action->any.title && *action->any.title && vec_reserve(list, 1) == STATUS_OK) {
            char *title = strdup(action->any.title);

            if (title)
                list->items[list->count++] = (struct frame_outline_entry){title, level, action_page(document, action)};
        }
        if (action)
            poppler_action_free(action);
        if (level < OUTLINE_DEPTH_MAX)
            child = poppler_index_iter_get_child(iter);
        if (child) {
            status = collect_outline(document, child, level + 1, list);
            poppler_index_iter_free(child);
        }
        if (list->count >= OUTLINE_ENTRIES_MAX)
            return STATUS_LIMIT;
    } while (!status && poppler_index_iter_next(iter));
    return status;
}

static enum status send_outline(struct frame_writer *out, PopplerDocument *document)
{
    PopplerIndexIter *iter = poppler_index_iter_new(document);
    struct outline_list list = {0};
    enum status status;

    if (!iter)
        return STATUS_OK;
    (void)collect_outline(document, iter, 1, &list); /* the writer reports what is beyond its own cap */
    poppler_index_iter_free(iter);
    status = list.count ? frame_writer_outline(out, list.items, list.count) : STATUS_OK;
    for (size_t i = 0; i < list.count; i++)
        free(list.items[i].title);
    vec_finish(&list);
    return status;
}

/* Files inside a PDF are not read; each is named. */
static enum status report_attachments(struct frame_writer *out, PopplerDocument *document)
{
    GList *list = poppler_document_get_attachments(document);
    enum status status = STATUS_OK;

    for (GList *at = list; at && !status; at = at->next) {
        const PopplerAttachment *attachment = at->data;

        status = frame_writer_problem(out, "attachment-skipped", 0, "'%s' was not read",
                                      attachment->name ? attachment->name : "");
    }
    g_list_free_full(list, g_object_unref);
    return status;
}

static char *iso_date(GDateTime *date)
{
    char *text = date ? g_date_time_format_iso8601(date) : NULL;

    if (date)
        g_date_time_unref(date);
    return text;
}

static enum status send_meta(struct frame_writer *out, PopplerDocument *document, int page_count)
{
    char *title = poppler_document_get_title(document), *author = poppler_document_get_author(document);
    char *created = iso_date(poppler_document_get_creation_date_time(document));
    char *modified = iso_date(poppler_document_get_modification_date_time(document));
    struct frame_meta meta = {title, author, created, modified, NULL, page_count};
    enum status status = frame_writer_meta(out, &meta);

    g_free(title);
    g_free(author);
    g_free(created);
    g_free(modified);
    return status;
}

static enum status pdf_read(const struct reader_job *job, struct error *err)
{
    struct pdf_pages pages = {.out = job->out};
    PopplerDocument *document = NULL;
    GBytes *bytes = NULL;
    GError *error = NULL;
    struct span content;
    int page_count;
    enum status status = source_map(job->source, &content, err);

    if (status)
        return status;
    bytes = g_bytes_new_static(content.ptr, content.len);
    document = poppler_document_new_from_bytes(bytes, job->password, &error);
    if (!document) {
        status = fail_open(job, error, err);
        goto out;
    }
    page_count = poppler_document_get_n_pages(document);
    if (page_count <= 0) {
        status = frame_writer_fail(job->out, err, "empty", "a PDF without pages");
        goto out;
    }
    status = send_meta(job->out, document, page_count);
    if (!status)
        status = send_outline(job->out, document);
    if (!status)
        status = report_attachments(job->out, document);
    if (!status)
        status = send_pages(&pages, document, page_count);
    if (!status && pages.bad_pages == page_count)
        status = frame_writer_fail(job->out, err, "damaged", "none of %d pages can be read", page_count);
out:
    vec_finish(&pages.words);
    if (document)
        g_object_unref(document);
    g_clear_error(&error);
    if (bytes)
        g_bytes_unref(bytes);
    return status;
}

void reader_pdf_warm_up(void)
{
    static const char objects[] =
        "1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj\n"
        "4 0 obj<</Length 28>>stream\nBT /F 9 Tf 9 9 Td (a b)Tj ET \nendstream endobj\n"
        "5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n";
    static char pdf[1024];
    static PopplerDocument *kept; /* poppler forgets its tables with its last document: this one stays open */
    int len = snprintf(pdf, sizeof pdf, "%%PDF-1.4\n"), table;
    struct frame_writer *nowhere = NULL;
    struct pdf_pages pages = {0};
    GBytes *bytes;

    table = len + (int)sizeof objects - 1;
    len += snprintf(pdf + len, sizeof pdf - (size_t)len, "%sxref\n0 6\n0000000000 65535 f \n", objects);
    for (int i = 1; i <= 5; i++) {
        char begin[16];

        (void)snprintf(begin, sizeof begin, "%d 0 obj", i);
        len += snprintf(pdf + len, sizeof pdf - (size_t)len, "%010d 00000 n \n", (int)(strstr(pdf, begin) - pdf));
    }
    len +=
        snprintf(pdf + len, sizeof pdf - (size_t)len, "trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n", table);
    bytes = g_bytes_new_static(pdf, (gsize)len);
    kept = poppler_document_new_from_bytes(bytes, NULL, NULL);
    g_bytes_unref(bytes);
    if (kept && frame_writer_create(-1, &nowhere) == STATUS_OK) {
        pages.out = nowhere;
        (void)send_page(&pages, kept, 1);
        (void)send_meta(nowhere, kept, 1);
    }
    vec_finish(&pages.words);
    frame_writer_destroy(nowhere);
}

const struct reader reader_pdf = {"pdf", "application/pdf", pdf_bid, pdf_read};
