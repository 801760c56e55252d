/* daemon/summarise.h: a document's summary as the answer of a job: quotations that cover it, kept in the store. */
#ifndef DAEMON_SUMMARISE_H
#define DAEMON_SUMMARISE_H

#include "daemon/packed.h"
#include "store/store.h"

/* Fills `packed` with one block for each quotation and the answer made of them. The summary is looked up in the store
 * by what it depends on (the document's bytes, its extractor, the rules' version), and put there when it is not.
 * *cached says which. STATUS_NOT_FOUND: no such document. */
enum status summarise_document(struct store *store, int64_t document_id, struct packed *packed, bool *cached,
                               struct error *err) MUST_CHECK;

#endif
