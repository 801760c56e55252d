/* ingest/xml_walk.h: XML as events, by libxml2's SAX parser: no tree, no network, no entities but XML's five.
 *
 * Names come without their prefix: the formats read here never use one name for two things in one part. */
#ifndef INGEST_XML_WALK_H
#define INGEST_XML_WALK_H

#include "base/span.h"
#include "base/status.h"

struct xml_attributes; /* of the element that starts; borrowed during the event */

struct xml_events {
    void (*start)(void *context, const char *name, const struct xml_attributes *attributes);
    void (*end)(void *context, const char *name);
    void (*text)(void *context, struct span text); /* may be NULL */
    void *context;
};

/* Stops early and returns *failed (may be NULL) once that is set. A part that is no XML ends where the damage is:
 * STATUS_CORRUPT, after the events before it; of a part that is not the text itself that may be ignored. */
enum status xml_walk(struct span xml, const struct xml_events *events, const enum status *failed);

/* The attribute's value in `value`, cut to its size; false, and "" in `value`, when it is not there. */
bool xml_attribute(const struct xml_attributes *attributes, const char *name, char *value, size_t size);
/* The one of that name that has a prefix, where two share it: r:id in id="256" r:id="rId2". */
bool xml_attribute_prefixed(const struct xml_attributes *attributes, const char *name, char *value, size_t size);

#endif
