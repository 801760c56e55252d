/* reader_odf.c: content.xml of OpenDocument: text documents are one page, a spreadsheet's tables and a
 * presentation's slides are a page each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/package.h"
#include "ingest/xml_walk.h"

enum { REPEAT_MAX = 64 };

struct odf {
    struct block block;
    enum status status;
    bool in_page, sheets;    /* sheets: each table is a page */
    int number;              /* of pages begun */
    int depth;               /* of p and h: text outside of both is layout */
    int table_depth, list_depth, skipping;
    int empty_cells;         /* waiting for a cell that is not empty */
    int cell_repeats;
    bool item_begun;
};

static void keep(struct odf *o, enum status status)
{
    if (!o->status)
        o->status = status;
}

static void end_page(struct odf *o)
{
    if (!o->in_page)
        return;
    keep(o, block_end(&o->block));
    if (!o->status)
        keep(o, frame_writer_page_end(o->block.out));
    o->in_page = false;
}

static void begin_page(struct odf *o, const char *label)
{
    struct frame_page page = {.number = (uint32_t)++o->number, .label = span_from_cstr(label)};

    end_page(o);
    if (!o->status)
        keep(o, frame_writer_page_begin(o->block.out, &page));
    o->in_page = true;
}

static int number_attribute(const struct xml_attributes *attributes, const char *name, int otherwise)
{
    char value[16];

    return xml_attribute(attributes, name, value, sizeof value) && atoi(value) > 0 ? atoi(value) : otherwise;
}

static bool is_skipped(const char *name)
{
    return strcmp(name, "tracked-changes") == 0 || strcmp(name, "forms") == 0 || strcmp(name, "automatic-styles") == 0;
}

static void begin_paragraph(struct odf *o, enum line_kind kind, int level)
{
    if (!o->in_page)
        begin_page(o, "");
    if (o->depth++ > 0) /* a note or a frame inside a paragraph: part of it */
        block_space(&o->block);
    else if (o->table_depth)
        block_space(&o->block);
    else if (o->list_depth && !o->item_begun)
        keep(o, block_begin(&o->block, LINE_LIST_ITEM, 0, "- "));
    else
        keep(o, block_begin(&o->block, kind, level, NULL));
    o->item_begun = true;
}

static void begin_cell(struct odf *o, const struct xml_attributes *attributes)
{
    o->cell_repeats = number_attribute(attributes, "number-columns-repeated", 1);
}

static void begin_table(struct odf *o, const struct xml_attributes *attributes)
{
    char name[128];

    if (o->sheets && o->table_depth == 0) {
        (void)xml_attribute(attributes, "name", name, sizeof name);
        begin_page(o, name);
        keep(o, block_begin(&o->block, LINE_HEADING, 1, NULL));
        keep(o, block_add(&o->block, span_from_cstr(name)));
    }
    keep(o, block_end(&o->block));
    o->table_depth++;
}

static void content_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct odf *o = context;
    char text[128];

    o->skipping += is_skipped(name);
    if (o->skipping || o->status)
        return;
    if (strcmp(name, "p") == 0) {
        begin_paragraph(o, LINE_TEXT, 0);
    } else if (strcmp(name, "h") == 0) {
        int level = number_attribute(attributes, "outline-level", 1);

        begin_paragraph(o, LINE_HEADING, level > 6 ? 6 : level);
    } else if (strcmp(name, "tab") == 0 || strcmp(name, "s") == 0 || strcmp(name, "line-break") == 0) {
        block_space(&o->block);
    } else if (strcmp(name, "list") == 0) {
        o->list_depth++;
    } else if (strcmp(name, "list-item") == 0) {
        o->item_begun = false;
    } else if (strcmp(name, "spreadsheet") == 0) {
        o->sheets = true;
    } else if (strcmp(name, "page") == 0) {
        (void)xml_attribute(attributes, "name", text, sizeof text);
        begin_page(o, text);
    } else if (strcmp(name, "table") == 0) {
        begin_table(o, attributes);
    } else if (strcmp(name, "table-row") == 0 && o->table_depth == 1) {
        keep(o, block_begin(&o->block, LINE_TABLE_ROW, 0, NULL));
        o->empty_cells = 0;
    } else if ((strcmp(name, "table-cell") == 0 || strcmp(name, "covered-table-cell") == 0) && o->table_depth == 1) {
        begin_cell(o, attributes);
    }
}

static void content_end(void *context, const char *name)
{
    struct odf *o = context;

    if (is_skipped(name))
        o->skipping -= o->skipping > 0;
    if (o->skipping || o->status)
        return;
    if (strcmp(name, "p") == 0 || strcmp(name, "h") == 0) {
        o->depth -= o->depth > 0;
        if (o->depth == 0 && !o->table_depth)
            keep(o, block_end(&o->block));
    } else if (strcmp(name, "list") == 0) {
        o->list_depth -= o->list_depth > 0;
    } else if (strcmp(name, "table") == 0) {
        o->table_depth -= o->table_depth > 0;
    } else if (strcmp(name, "table-row") == 0 && o->table_depth == 1) {
        keep(o, block_end(&o->block));
    } else if ((strcmp(name, "table-cell") == 0 || strcmp(name, "covered-table-cell") == 0) && o->table_depth == 1) {
        /* Its tabs wait for the next cell with text: sheets end in thousands of empty ones. */
        o->empty_cells += o->cell_repeats;
    }
}

static void content_text(void *context, struct span text)
{
    struct odf *o = context;

    if (o->skipping || o->status || !o->depth)
        return;
    for (int i = 0; o->table_depth && i < o->empty_cells && i < REPEAT_MAX; i++)
        keep(o, block_tab(&o->block));
    if (o->table_depth)
        o->empty_cells = 0;
    keep(o, block_add(&o->block, text));
    keep(o, frame_writer_alive(o->block.out));
}

static enum status odf_read(const struct reader_job *job, struct error *err)
{
    struct odf *o = calloc(1, sizeof *o);
    struct xml_events events = {content_start, content_end, content_text, o};
    struct package *package = NULL;
    enum status status;

    if (!o)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a document");
    block_init(&o->block, job->out);
    status = package_open(job, &package, err);
    if (!status)
        status = package_send_meta(package, "meta.xml", job->out);
    if (!status)
        status = xml_walk(package_part(package, "content.xml"), &events, &o->status);
    if (status == STATUS_CORRUPT)
        status = frame_writer_problem(job->out, "damaged-part", 0, "content.xml is damaged XML");
    if (!status) {
        end_page(o);
        status = o->status;
    }
    if (!status && o->number == 0)
        status = frame_writer_fail(job->out, err, "empty", "a document without text");
    package_close(package);
    block_finish(&o->block);
    free(o);
    return status;
}

static int no_bid(struct span head, const char *name)
{
    return 0;
}

const struct reader reader_odf = {"odf", "application/vnd.oasis.opendocument", no_bid, odf_read};
