/* reader_epub.c: EPUB: the chapters of the spine in order, one page each, read as HTML. */
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "ingest/frame_writer.h"
#include "ingest/limits.h"
#include "ingest/package.h"
#include "ingest/xml_walk.h"

enum { ID_BYTES = 128, HREF_BYTES = 512, ITEMS_MAX = 20000 };

struct item {
    char id[ID_BYTES], href[HREF_BYTES];
};

struct reference {
    char id[ID_BYTES];
};

struct epub {
    char root[HREF_BYTES]; /* the package document's name */
    VEC(struct item) items;
    VEC(struct reference) spine;
};

static void container_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct epub *e = context;

    if (strcmp(name, "rootfile") == 0 && !e->root[0])
        (void)xml_attribute(attributes, "full-path", e->root, sizeof e->root);
}

static void root_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct epub *e = context;

    if (strcmp(name, "item") == 0 && e->items.count < ITEMS_MAX && vec_reserve(&e->items, 1) == STATUS_OK) {
        struct item *item = &e->items.items[e->items.count++];

        (void)xml_attribute(attributes, "id", item->id, sizeof item->id);
        (void)xml_attribute(attributes, "href", item->href, sizeof item->href);
    } else if (strcmp(name, "itemref") == 0 && e->spine.count < ITEMS_MAX && vec_reserve(&e->spine, 1) == STATUS_OK) {
        (void)xml_attribute(attributes, "idref", e->spine.items[e->spine.count++].id, ID_BYTES);
    }
}

static void nothing(void *context, const char *name)
{
}

static struct span find_chapter(const struct epub *e, const struct package *package, const char *id)
{
    char part[2 * HREF_BYTES];

    for (size_t i = 0; i < e->items.count; i++) {
        if (strcmp(e->items.items[i].id, id) == 0 &&
            package_resolve(e->root, e->items.items[i].href, part, sizeof part))
            return package_part(package, part);
    }
    return span_of(NULL, 0);
}

static enum status send_chapter(const struct epub *e, const struct package *package, int number,
                                struct frame_writer *out, struct error *err)
{
    struct frame_page page = {.number = (uint32_t)number};
    struct span html = find_chapter(e, package, e->spine.items[number - 1].id);
    struct source *source = NULL;
    enum status status;

    if (!html.len)
        return frame_writer_problem(out, "bad-page", number, "the chapter can't be found");
    status = source_open_memory(html, &source);
    if (!status)
        status = frame_writer_page_begin(out, &page);
    if (!status)
        status = html_send_text(source, out, err);
    if (!status)
        status = frame_writer_page_end(out);
    source_close(source);
    return status;
}

static enum status epub_read(const struct reader_job *job, struct error *err)
{
    struct epub *e = calloc(1, sizeof *e);
    struct xml_events container = {container_start, nothing, NULL, e}, root = {root_start, nothing, NULL, e};
    struct package *package = NULL;
    enum status status;

    if (!e)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a book");
    status = package_open(job, &package, err);
    if (status)
        goto out;
    (void)xml_walk(package_part(package, "META-INF/container.xml"), &container, NULL);
    (void)xml_walk(package_part(package, e->root), &root, NULL);
    if (!e->spine.count) {
        status = frame_writer_fail(job->out, err, "damaged", "an EPUB without chapters");
        goto out;
    }
    status = package_send_meta(package, e->root, job->out);
    for (size_t i = 0; i < e->spine.count && !status; i++)
        status = send_chapter(e, package, (int)i + 1, job->out, err);
out:
    package_close(package);
    vec_finish(&e->items);
    vec_finish(&e->spine);
    free(e);
    return status;
}

static int no_bid(struct span head, const char *name)
{
    return 0;
}

const struct reader reader_epub = {"epub", "application/epub+zip", no_bid, epub_read};
