/* reader_pptx.c: slides of OOXML in the order of the presentation, one page a slide, with the speaker's notes. */
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/package.h"
#include "ingest/xml_walk.h"

enum { ID_BYTES = 64 };

struct slide_id {
    char id[ID_BYTES];
};

struct pptx {
    struct block block;
    enum status status;
    VEC(struct slide_id) slides;
    bool in_text, title, skipped_shape; /* a shape that only repeats number, date or footer */
    int table_depth, cells, skipping;
    const char *prefix; /* of each paragraph: NULL, or "Note: " */
};

static void keep(struct pptx *p, enum status status)
{
    if (!p->status)
        p->status = status;
}

static void list_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct pptx *p = context;
    char id[ID_BYTES];

    if (strcmp(name, "sldId") != 0 || p->slides.count >= LIMIT_PAGES || vec_reserve(&p->slides, 1))
        return;
    if (xml_attribute_prefixed(attributes, "id", id, sizeof id))
        memcpy(p->slides.items[p->slides.count++].id, id, sizeof id);
}

static void nothing(void *context, const char *name)
{
}

static void slide_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct pptx *p = context;
    char type[32];

    if (strcmp(name, "Fallback") == 0)
        p->skipping++;
    if (p->skipping)
        return;
    if (strcmp(name, "ph") == 0) {
        (void)xml_attribute(attributes, "type", type, sizeof type);
        p->title = strcmp(type, "title") == 0 || strcmp(type, "ctrTitle") == 0;
        p->skipped_shape = strcmp(type, "sldNum") == 0 || strcmp(type, "dt") == 0 || strcmp(type, "ftr") == 0;
    } else if (strcmp(name, "p") == 0 && !p->table_depth) {
        keep(p, p->title ? block_begin(&p->block, LINE_HEADING, 1, NULL)
                         : block_begin(&p->block, LINE_TEXT, 0, p->prefix));
    } else if (strcmp(name, "p") == 0 || strcmp(name, "br") == 0 || strcmp(name, "tab") == 0) {
        block_space(&p->block);
    } else if (strcmp(name, "t") == 0) {
        p->in_text = !p->skipped_shape;
    } else if (strcmp(name, "tbl") == 0) {
        p->table_depth++;
    } else if (strcmp(name, "tr") == 0) {
        p->cells = 0;
        keep(p, block_begin(&p->block, LINE_TABLE_ROW, 0, NULL));
    } else if (strcmp(name, "tc") == 0 && p->cells++) {
        keep(p, block_tab(&p->block));
    }
}

static void slide_end(void *context, const char *name)
{
    struct pptx *p = context;

    p->in_text = false;
    if (strcmp(name, "Fallback") == 0)
        p->skipping -= p->skipping > 0;
    else if (strcmp(name, "sp") == 0)
        p->title = p->skipped_shape = false;
    else if (strcmp(name, "tbl") == 0)
        p->table_depth -= p->table_depth > 0;
    else if (strcmp(name, "tr") == 0 || (strcmp(name, "p") == 0 && !p->table_depth))
        keep(p, block_end(&p->block));
}

static void slide_text(void *context, struct span text)
{
    struct pptx *p = context;

    if (p->in_text && !p->skipping)
        keep(p, block_add(&p->block, text));
}

static enum status walk_part(struct pptx *p, const struct package *package, const char *part, const char *prefix,
                             int number)
{
    struct xml_events events = {slide_start, slide_end, slide_text, p};
    enum status status;

    p->prefix = prefix;
    p->table_depth = p->skipping = 0;
    p->title = p->skipped_shape = false;
    status = xml_walk(package_part(package, part), &events, &p->status);
    if (status == STATUS_CORRUPT)
        status = frame_writer_problem(p->block.out, "damaged-part", number, "'%s' is damaged XML", part);
    return status ? status : block_end(&p->block);
}

static enum status send_slide(struct pptx *p, const struct package *package, const char *id, int number)
{
    struct frame_page page = {.number = (uint32_t)number};
    char part[512] = "", notes[512];
    enum status status = frame_writer_page_begin(p->block.out, &page);

    if (!status && !package_relation(package, "ppt/presentation.xml", id, NULL, part, sizeof part))
        status = frame_writer_problem(p->block.out, "bad-page", number, "the slide can't be found");
    if (!status && part[0])
        status = walk_part(p, package, part, NULL, number);
    if (!status && part[0] && package_relation(package, part, NULL, "/notesSlide", notes, sizeof notes))
        status = walk_part(p, package, notes, "Note: ", number);
    return status ? status : frame_writer_page_end(p->block.out);
}

static enum status pptx_read(const struct reader_job *job, struct error *err)
{
    struct pptx *p = calloc(1, sizeof *p);
    struct xml_events events = {list_start, nothing, NULL, p};
    struct package *package = NULL;
    enum status status;

    if (!p)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a presentation");
    block_init(&p->block, job->out);
    status = package_open(job, &package, err);
    if (!status)
        status = package_send_meta(package, "docProps/core.xml", job->out);
    if (!status)
        (void)xml_walk(package_part(package, "ppt/presentation.xml"), &events, NULL);
    for (size_t i = 0; i < p->slides.count && !status; i++)
        status = send_slide(p, package, p->slides.items[i].id, (int)i + 1);
    if (!status && p->slides.count == 0)
        status = frame_writer_fail(job->out, err, "empty", "a presentation without slides");
    package_close(package);
    block_finish(&p->block);
    vec_finish(&p->slides);
    free(p);
    return status;
}

static int no_bid(struct span head, const char *name)
{
    return 0;
}

const struct reader reader_pptx = {
    "pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation", no_bid, pptx_read,
};
