/* locate.c: rectangles from the store, citations checked against it. */
#include "daemon/locate.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "daemon/request.h"

enum {
    MAX_RECTS = 96,              /* of one message: keeps its header under WIRE_MAX_HEADER_BYTES */
    MAX_BODY_BYTES = 32 * 1024,
    CITATION_ARENA_BYTES = 8 << 20
};

const char *locate_file_name(const char *path, const char *member)
{
    const char *name = member && *member ? member : path ? path : "", *slash = strrchr(name, '/');

    return slash && slash[1] ? slash + 1 : name;
}

static void add_rects(json_t *list, int page, const struct rect *rects, size_t count)
{
    for (size_t i = 0; i < count && json_array_size(list) < MAX_RECTS; i++)
        (void)json_array_append_new(list, json_pack("[i, f, f, f, f]", page, (double)rects[i].x0, (double)rects[i].y0,
                                                    (double)rects[i].x1, (double)rects[i].y1));
}

/* A title from a hostile document may be long; a header may not. */
static void set_text(json_t *json, const char *name, const char *text)
{
    enum { MOST = 1024 };
    struct span shown = span_from_cstr(text ? text : "");

    if (shown.len > MOST)
        shown.len = utf8_complete_prefix(span_slice(shown, 0, MOST));
    if (utf8_valid(shown))
        (void)json_object_set_new(json, name, json_stringn(shown.ptr ? shown.ptr : "", shown.len));
    else
        (void)json_object_set_new(json, name, json_string("\xEF\xBF\xBD"));
}

static struct span cut_body(struct span text, json_t *header)
{
    if (text.len <= MAX_BODY_BYTES)
        return text;
    (void)json_object_set_new(header, "cut", json_true());
    return span_slice(text, 0, utf8_complete_prefix(span_slice(text, 0, MAX_BODY_BYTES)));
}

enum status locate_evidence(struct store *store, const struct retrieval_passage *passage, size_t count,
                            struct arena *arena, struct packed_evidence *evidence, struct error *err)
{
    json_t *header = json_pack("{s:i, s:I, s:f, s:I, s:i, s:i}", "rank", passage->rank, "count", (json_int_t)count,
                               "score", passage->score, "document", (json_int_t)passage->document_id, "page",
                               passage->page, "also_in", passage->also_in);
    json_t *rects = json_array();
    enum status s = STATUS_OK;
    struct span body;
    char *text;

    set_text(header, "title", passage->title);
    set_text(header, "path", passage->path);
    set_text(header, "member", passage->member);
    set_text(header, "heading", passage->heading);
    set_text(header, "label", passage->label);
    for (size_t i = 0; i < passage->span_count && !s; i++) {
        const struct store_chunk_span *part = &passage->spans[i];
        struct rect found[MAX_RECTS];
        struct store_page page = {0};
        size_t found_count = 0;

        s = store_page_get(store, passage->document_id, part->page, &page, err);
        if (!s && page.rects.len)
            s = rectmap_find(page.rects, part->start, part->end, found, MAX_RECTS, &found_count);
        if (!s)
            add_rects(rects, part->page, found, found_count < MAX_RECTS ? found_count : MAX_RECTS);
        if (s == STATUS_NOT_FOUND || s == STATUS_CORRUPT)
            s = STATUS_OK; /* replaced meanwhile, or a damaged map: the passage is still worth reading */
    }
    (void)json_object_set_new(header, "rects", rects);
    body = cut_body(passage->text, header);
    text = json_dumps(header, REQUEST_JSON);
    json_decref(header);
    if (!s) {
        evidence->header.ptr = text ? arena_copy_cstr(arena, span_from_cstr(text)) : NULL;
        evidence->header.len = text ? strlen(text) : 0;
        evidence->body = span_of(arena_copy_cstr(arena, body), body.len);
        if (!evidence->header.ptr || !evidence->body.ptr)
            s = error_set(err, STATUS_NO_MEMORY, "no memory for evidence");
    }
    free(text);
    return s;
}

/* Does each stretch of the quotation stand on its page, byte for byte, as the store has it now? */
static bool verify(struct store *store, const struct pack_block *block, size_t start, size_t end)
{
    bool any = false;

    for (size_t i = 0; i < block->segment_count; i++) {
        const struct pack_segment *segment = &block->segments[i];
        size_t from = start > segment->block_start ? start : segment->block_start;
        size_t to = end < segment->block_end ? end : segment->block_end;
        struct store_page page = {0};
        size_t at;

        if (from >= to)
            continue;
        at = segment->page_start + (from - segment->block_start);
        if (store_page_get(store, block->document_id, segment->page, &page, NULL) || at + (to - from) > page.text.len ||
            !span_equal(span_slice(page.text, at, at + (to - from)), span_slice(block->text, from, to)))
            return false;
        any = true;
    }
    return any;
}

static int first_page(const struct pack_block *block, size_t start)
{
    for (size_t i = 0; i < block->segment_count; i++)
        if (start < block->segments[i].block_end)
            return block->segments[i].page;
    return block->first_page;
}

void locate_quote(struct store *store, struct message *message)
{
    const struct pack_block *block = &message->packed->pack.blocks[message->block];
    struct span quoted = span_slice(block->text, message->start, message->end);
    int page = first_page(block, message->start);
    json_t *header =
        json_pack("{s:i, s:I, s:i}", "block", block->id, "document", (json_int_t)block->document_id, "page", page);
    json_t *rects = json_array(), *places_json = json_array();
    struct pack_place *places = NULL;
    size_t place_count = 0;
    struct arena arena;
    bool verified = store && verify(store, block, message->start, message->end);

    arena_init(&arena, CITATION_ARENA_BYTES);
    set_text(header, "title", block->title);
    set_text(header, "path", block->path);
    set_text(header, "member", block->member);
    set_text(header, "heading", block->heading);
    if (verified && pack_locate(store, block, message->start, message->end, &arena, &places, &place_count, NULL))
        place_count = 0; /* geometry is a help, not the citation */
    for (size_t i = 0; i < place_count; i++) {
        (void)json_array_append_new(places_json, json_pack("[i, I, I]", places[i].page, (json_int_t)places[i].start,
                                                           (json_int_t)places[i].end));
        add_rects(rects, places[i].page, places[i].rects, places[i].rect_count);
    }
    if (verified) {
        struct store_page stored = {0};

        if (store_page_get(store, block->document_id, page, &stored, NULL) == STATUS_OK)
            set_text(header, "label", stored.label);
    }
    (void)json_object_set_new(header, "places", places_json);
    (void)json_object_set_new(header, "rects", rects);
    (void)json_object_set_new(header, "verified", json_boolean(verified));
    quoted = cut_body(quoted, header);
    if (!message_set_body(message, quoted))
        message->body_len = 0;
    message_set_header(message, json_dumps(header, REQUEST_JSON));
    json_decref(header);
    arena_finish(&arena);
}
