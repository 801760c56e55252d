/* tests/store/documents.h: small documents for the tests of store/ and retrieval/. */
#ifndef TESTS_STORE_DOCUMENTS_H
#define TESTS_STORE_DOCUMENTS_H

#include <stdlib.h>
#include <string.h>

#include "store/store.h"
#include "tests/harness/check.h"

static inline struct store *open_new_store(const char *dir)
{
    struct store *store = NULL;
    struct error err = {0};

    CHECK_OK(store_open(dir, STORE_INGEST, true, &store, &err), &err);
    return store;
}

/* A document whose pages are `texts`, one chunk a page. */
static inline enum status put_document(struct store *store, const struct store_document *document,
                                       const char *const *texts, int count, int64_t *id, struct error *err)
{
    struct store_writer *writer = NULL;
    enum status status = store_document_begin(store, document, &writer, err);

    for (int i = 0; i < count && !status; i++) {
        struct store_page page = {.number = i + 1, .label = "", .text = span_from_cstr(texts[i])};

        status = store_put_page(writer, &page, err);
    }
    for (int i = 0; i < count && !status; i++) {
        struct store_chunk_span span = {i + 1, 0, (uint32_t)strlen(texts[i])};
        struct store_chunk chunk = {.ordinal = i, .spans = &span, .span_count = 1, .heading = "",
                                    .text = span_from_cstr(texts[i]), .token_estimate = (int)strlen(texts[i]) / 4,
                                    .hash = (uint64_t)i + 1, .simhash = (uint64_t)i * 0x9e3779b97f4a7c15u};

        status = store_put_chunk(writer, &chunk, err);
    }
    if (status) {
        store_document_rollback(writer);
        return status;
    }
    return store_document_commit(writer, id, err);
}

static inline struct store_document named_document(const char *path, const char *title)
{
    return (struct store_document){.collection = "default", .path = path, .member = "", .media_type = "text/plain",
                                   .sha256 = path, .title = title, .status = DOCUMENT_OK, .size_bytes = 100};
}

static inline int64_t put_text(struct store *store, const char *path, const char *title, const char *text)
{
    struct store_document document = named_document(path, title);
    struct error err = {0};
    int64_t id = 0;

    CHECK_OK(put_document(store, &document, &text, 1, &id, &err), &err);
    return id;
}

/* The chunks that `match` finds, by FTS5's own syntax. */
static inline size_t count_hits(struct store *store, const char *match)
{
    struct store_search search = {.match = match, .k1 = 1.2, .b = 0.75, .title_weight = 1, .heading_weight = 1,
                                  .body_weight = 1, .limit = 1000};
    struct store_hit *hits = NULL;
    struct error err = {0};
    size_t count = 0;

    CHECK_OK(store_search(store, &search, &hits, &count, &err), &err);
    free(hits);
    return count;
}

#endif
