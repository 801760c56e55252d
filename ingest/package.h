/* ingest/package.h: documents that are a zip of XML parts (OOXML, OpenDocument, EPUB).
 *
 * The text parts are unpacked into memory at once, under caps of their own; pictures and fonts are left where
 * they are. Parts are named as in the zip, without a leading slash. */
#ifndef INGEST_PACKAGE_H
#define INGEST_PACKAGE_H

#include "ingest/readers.h"
#include "ingest/source.h"

struct package;

/* Fails through the writer ("damaged", "limit-ratio", "encrypted") like a reader does. */
enum status package_open(const struct reader_job *job, struct package **out, struct error *err) MUST_CHECK;
void package_close(struct package *package);

/* A part's bytes, borrowed until package_close(); empty when it is not there. */
struct span package_part(const struct package *package, const char *name);
/* The name of part `index`, NULL after the last: to look for parts by their place. */
const char *package_part_name(const struct package *package, size_t index);

/* The target of relation `id` (r:id) of `part`, as a part's name, in `target`; false when there is none. With `id`
 * NULL the first relation whose type ends in `type`. */
bool package_relation(const struct package *package, const char *part, const char *id, const char *type, char *target,
                      size_t size);
/* `href` as seen from `part`, percent escapes undone and "." and ".." resolved. False when it leads out. */
bool package_resolve(const char *part, const char *href, char *target, size_t size);

/* Sends title, author and dates from docProps/core.xml or meta.xml. */
enum status package_send_meta(const struct package *package, const char *part, struct frame_writer *out) MUST_CHECK;

/* The reader of a zip that is a document, by the names in its central directory; NULL for any other zip. */
const struct reader *package_reader(struct span zip);

#endif
