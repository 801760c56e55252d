/* reader_docx.c: word/document.xml of OOXML: paragraphs, headings by style, lists, tables, notes.
 *
 * A style is a heading when its name is "heading N", it has an outline level, or it is based on one that is.
 * Deleted text (tracked changes) is left out and counted: in a contract it matters that it was there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/vec.h"
#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/package.h"
#include "ingest/xml_walk.h"

enum { STYLE_ID_BYTES = 64, STYLES_MAX = 4096 };

struct style {
    char id[STYLE_ID_BYTES], based_on[STYLE_ID_BYTES];
    int level; /* 1..6, 0 no heading */
};

struct docx {
    struct block block;
    enum status status;
    VEC(struct style) styles;
    int level;              /* of the current paragraph */
    bool in_text, list_item;
    int table_depth, cells; /* cells begun in the outermost table's row */
    int skipping;           /* elements open whose text is not text */
    size_t deleted;         /* characters */
    bool in_deleted;
    const char *note;       /* "[note] " in footnotes.xml; NULL in the body */
};

/* --- Styles ------------------------------------------------------------------------------------------------------ */

static void style_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct docx *d = context;
    struct style *style = d->styles.count ? &d->styles.items[d->styles.count - 1] : NULL;
    char value[STYLE_ID_BYTES];

    if (strcmp(name, "style") == 0 && d->styles.count < STYLES_MAX && vec_reserve(&d->styles, 1) == STATUS_OK) {
        style = &d->styles.items[d->styles.count++];
        *style = (struct style){.level = 0};
        (void)xml_attribute(attributes, "styleId", style->id, sizeof style->id);
    } else if (style && strcmp(name, "name") == 0 && xml_attribute(attributes, "val", value, sizeof value)) {
        if (strncasecmp(value, "heading ", 8) == 0 && value[8] >= '1' && value[8] <= '9')
            style->level = value[8] <= '6' ? value[8] - '0' : 6;
        else if (strcasecmp(value, "title") == 0)
            style->level = 1;
    } else if (style && strcmp(name, "basedOn") == 0) {
        (void)xml_attribute(attributes, "val", style->based_on, sizeof style->based_on);
    } else if (style && !style->level && strcmp(name, "outlineLvl") == 0 &&
               xml_attribute(attributes, "val", value, sizeof value) && value[0] >= '0' && value[0] <= '5') {
        style->level = value[0] - '0' + 1;
    }
}

static void nothing(void *context, const char *name)
{
}

static int level_of_style(const struct docx *d, const char *id)
{
    for (int hops = 0; hops < 8 && *id; hops++) {
        const struct style *found = NULL;

        for (size_t i = 0; i < d->styles.count && !found; i++) {
            if (strcmp(d->styles.items[i].id, id) == 0)
                found = &d->styles.items[i];
        }
        if (!found || found->level)
            return found ? found->level : 0;
        id = found->based_on;
    }
    return 0;
}

/* --- The body ---------------------------------------------------------------------------------------------------- */

static void keep(struct docx *d, enum status status)
{
    if (!d->status)
        d->status = status;
}

/* Elements whose text is not the document's: the fallback of what was read already, codes of fields. */
static bool is_skipped(const char *name)
{
    return strcmp(name, "Fallback") == 0 || strcmp(name, "instrText") == 0 || strcmp(name, "del") == 0 ||
           strcmp(name, "moveFrom") == 0;
}

static void begin_paragraph(struct docx *d)
{
    d->level = 0;
    d->list_item = false;
    if (d->table_depth) {
        block_space(&d->block);
        return;
    }
    keep(d, block_begin(&d->block, LINE_TEXT, 0, NULL));
}

/* What the paragraph's properties made of it is known before its first text. */
static void apply_properties(struct docx *d)
{
    if (d->table_depth || !block_is_empty(&d->block))
        return;
    if (d->level)
        keep(d, block_begin(&d->block, LINE_HEADING, d->level, NULL));
    else if (d->list_item)
        keep(d, block_begin(&d->block, LINE_LIST_ITEM, 0, "- "));
    else if (d->note)
        keep(d, block_begin(&d->block, LINE_TEXT, 0, d->note));
}

static void body_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct docx *d = context;
    char value[STYLE_ID_BYTES];

    if (is_skipped(name)) {
        d->skipping++;
        d->in_deleted = name[0] == 'd';
    }
    if (d->skipping) {
        d->in_text = strcmp(name, "delText") == 0;
        return;
    }
    if (strcmp(name, "p") == 0) {
        begin_paragraph(d);
    } else if (strcmp(name, "pStyle") == 0) {
        (void)xml_attribute(attributes, "val", value, sizeof value);
        d->level = level_of_style(d, value);
    } else if (strcmp(name, "outlineLvl") == 0) {
        if (!d->level && xml_attribute(attributes, "val", value, sizeof value) && value[0] >= '0' && value[0] <= '5')
            d->level = value[0] - '0' + 1;
    } else if (strcmp(name, "numPr") == 0) {
        d->list_item = true;
    } else if (strcmp(name, "t") == 0) {
        apply_properties(d);
        d->in_text = true;
    } else if (strcmp(name, "tab") == 0 || strcmp(name, "br") == 0 || strcmp(name, "cr") == 0) {
        block_space(&d->block);
    } else if (strcmp(name, "noBreakHyphen") == 0) {
        keep(d, block_add(&d->block, span_of("-", 1)));
    } else if (strcmp(name, "tbl") == 0) {
        if (d->table_depth++ == 0)
            keep(d, block_end(&d->block));
    } else if (strcmp(name, "tr") == 0 && d->table_depth == 1) {
        d->cells = 0;
        keep(d, block_begin(&d->block, LINE_TABLE_ROW, 0, NULL));
    } else if (strcmp(name, "tc") == 0 && d->table_depth == 1 && d->cells++) {
        keep(d, block_tab(&d->block));
    }
}

static void body_end(void *context, const char *name)
{
    struct docx *d = context;

    if (is_skipped(name))
        d->skipping -= d->skipping > 0;
    d->in_text = false;
    if (d->skipping)
        return;
    if (strcmp(name, "p") == 0) {
        if (d->table_depth)
            block_space(&d->block);
        else
            keep(d, block_end(&d->block));
    } else if (strcmp(name, "tr") == 0 && d->table_depth == 1) {
        keep(d, block_end(&d->block));
    } else if (strcmp(name, "tbl") == 0) {
        d->table_depth -= d->table_depth > 0;
    }
}

static void body_text(void *context, struct span text)
{
    struct docx *d = context;

    if (!d->in_text)
        return;
    if (d->skipping) {
        d->deleted += d->in_deleted ? text.len : 0;
        return;
    }
    keep(d, block_add(&d->block, text));
    keep(d, frame_writer_alive(d->block.out));
}

/* --- Reading ----------------------------------------------------------------------------------------------------- */

static enum status walk_part(struct docx *d, const struct package *package, const char *part, const char *note)
{
    struct xml_events events = {body_start, body_end, body_text, d};
    struct span xml = package_part(package, part);
    enum status status;

    if (!xml.len)
        return STATUS_OK;
    d->note = note;
    d->skipping = d->table_depth = 0;
    status = xml_walk(xml, &events, &d->status);
    if (status == STATUS_CORRUPT)
        status = frame_writer_problem(d->block.out, "damaged-part", 1, "'%s' is damaged XML", part);
    return status ? status : block_end(&d->block);
}

static enum status docx_read(const struct reader_job *job, struct error *err)
{
    struct frame_page page = {.number = 1};
    struct docx *d = calloc(1, sizeof *d);
    struct xml_events style_events = {style_start, nothing, NULL, d};
    struct package *package = NULL;
    enum status status;

    if (!d)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a document");
    block_init(&d->block, job->out);
    status = package_open(job, &package, err);
    if (status)
        goto out;
    (void)xml_walk(package_part(package, "word/styles.xml"), &style_events, NULL);
    status = package_send_meta(package, "docProps/core.xml", job->out);
    if (!status)
        status = frame_writer_page_begin(job->out, &page);
    if (!status)
        status = walk_part(d, package, "word/document.xml", NULL);
    if (!status)
        status = walk_part(d, package, "word/footnotes.xml", "Note: ");
    if (!status)
        status = walk_part(d, package, "word/endnotes.xml", "Note: ");
    if (!status)
        status = walk_part(d, package, "word/comments.xml", "Comment: ");
    if (!status)
        status = frame_writer_page_end(job->out);
    if (!status && d->deleted)
        status = frame_writer_problem(job->out, "deleted-text", 0,
                                      "%zu bytes of deleted text (tracked changes) left out", d->deleted);
out:
    package_close(package);
    block_finish(&d->block);
    vec_finish(&d->styles);
    free(d);
    return status;
}

/* Chosen by the parts of the zip: package_reader(). */
static int no_bid(struct span head, const char *name)
{
    return 0;
}

const struct reader reader_docx = {
    "docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", no_bid, docx_read,
};
