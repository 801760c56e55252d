/* daemon/locate.h: where words stand: evidence and citations with page, label and rectangles, as wire headers. */
#ifndef DAEMON_LOCATE_H
#define DAEMON_LOCATE_H

#include "daemon/packed.h"
#include "daemon/queue.h"
#include "store/store.h"

/* One passage as the header and body of an EVIDENCE message (without "seq"), in `arena`. */
enum status locate_evidence(struct store *store, const struct retrieval_passage *passage, size_t count,
                            struct arena *arena, struct packed_evidence *evidence, struct error *err) MUST_CHECK;

/* A MESSAGE_LOCATE gets the header and body of its CITATION. The quoted bytes are compared with the page's text as it
 * is stored now: "verified" says whether they are there. Without a store, or where the document has gone meanwhile,
 * a citation still names document and pages, and is not verified. */
void locate_quote(struct store *store, struct message *message);

/* What to call a document without a title: the last part of its member's or its own path. */
const char *locate_file_name(const char *path, const char *member);

#endif
