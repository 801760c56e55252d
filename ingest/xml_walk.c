/* xml_walk.c: libxml2's SAX2 events, reduced to what the readers ask for. */
#include "ingest/xml_walk.h"

#include <libxml/parser.h>
#include <stdio.h>
#include <string.h>

enum { PIECE_BYTES = 1 << 16 };

struct xml_attributes {
    const xmlChar **values; /* localname, prefix, URI, value, end: five each */
    int count;
};

struct walk {
    const struct xml_events *events;
};

static void on_start(void *context, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri, int namespace_count,
                     const xmlChar **namespaces, int attribute_count, int defaulted, const xmlChar **attributes)
{
    const struct walk *walk = context;
    struct xml_attributes list = {attributes, attribute_count};

    walk->events->start(walk->events->context, (const char *)name, &list);
}

static void on_end(void *context, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri)
{
    const struct walk *walk = context;

    walk->events->end(walk->events->context, (const char *)name);
}

static void on_text(void *context, const xmlChar *text, int len)
{
    const struct walk *walk = context;

    if (walk->events->text)
        walk->events->text(walk->events->context, span_of((const char *)text, (size_t)len));
}

static bool copy_value(const xmlChar **a, char *value, size_t size)
{
    (void)snprintf(value, size, "%.*s", (int)(a[4] - a[3]), (const char *)a[3]);
    return true;
}

bool xml_attribute(const struct xml_attributes *attributes, const char *name, char *value, size_t size)
{
    value[0] = '\0';
    for (int i = 0; i < attributes->count; i++) {
        const xmlChar **a = attributes->values + 5 * i;

        if (strcmp((const char *)a[0], name) == 0)
            return copy_value(a, value, size);
    }
    return false;
}

bool xml_attribute_prefixed(const struct xml_attributes *attributes, const char *name, char *value, size_t size)
{
    value[0] = '\0';
    for (int i = 0; i < attributes->count; i++) {
        const xmlChar **a = attributes->values + 5 * i;

        if (a[1] && strcmp((const char *)a[0], name) == 0)
            return copy_value(a, value, size);
    }
    return false;
}

enum status xml_walk(struct span xml, const struct xml_events *events, const enum status *failed)
{
    struct walk walk = {events};
    xmlSAXHandler handler = {
        .initialized = XML_SAX2_MAGIC,
        .startElementNs = on_start,
        .endElementNs = on_end,
        .characters = on_text,
        .ignorableWhitespace = on_text,
        .cdataBlock = on_text,
    };
    xmlParserCtxtPtr parser = xmlCreatePushParserCtxt(&handler, &walk, NULL, 0, NULL);
    enum status status = STATUS_OK;
    int damage = 0;

    if (!parser)
        return STATUS_NO_MEMORY;
    (void)xmlCtxtUseOptions(parser, XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    for (size_t from = 0; from < xml.len && !status && !damage; from += PIECE_BYTES) {
        struct span piece = span_slice(xml, from, from + PIECE_BYTES);

        damage = xmlParseChunk(parser, piece.ptr, (int)piece.len, from + PIECE_BYTES >= xml.len);
        status = failed ? *failed : STATUS_OK;
    }
    xmlFreeParserCtxt(parser);
    if (status)
        return status;
    return damage ? STATUS_CORRUPT : STATUS_OK;
}
