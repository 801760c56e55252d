/* corpus.c: a set's passages in a real store, by the interface that ingest uses. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/eval.h"

static const struct eval_set *sorting; /* qsort has no context; one thread */

static int by_title(const void *left, const void *right)
{
    size_t a = *(const size_t *)left, b = *(const size_t *)right;
    int order = strcmp(sorting->passages[a].title, sorting->passages[b].title);

    return order ? order : a < b ? -1 : a > b;
}

static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;

    while (*text)
        hash = (hash ^ (unsigned char)*text++) * 0x100000001b3u;
    return hash ? hash : 1;
}

static enum status put_passages(struct eval_corpus *corpus, const struct eval_set *set, const size_t *order,
                                size_t first, size_t end, struct error *err)
{
    char path[64];
    struct store_document document = {.collection = "default", .path = path, .member = "", .media_type = "text/plain",
                                      .title = set->passages[order[first]].title, .status = DOCUMENT_OK};
    struct store_writer *writer = NULL;
    int64_t id;
    enum status status;

    (void)snprintf(path, sizeof path, "passages-%zu", first);
    status = store_document_begin(corpus->store, &document, &writer, err);
    for (size_t i = first; i < end && !status; i++) {
        struct store_page page = {.number = (int)(i - first) + 1, .text = span_from_cstr(set->passages[order[i]].text)};

        status = store_put_page(writer, &page, err);
    }
    for (size_t i = first; i < end && !status; i++) {
        struct span text = span_from_cstr(set->passages[order[i]].text);
        struct store_chunk_span span = {(int)(i - first) + 1, 0, (uint32_t)text.len};
        struct store_chunk chunk = {.ordinal = (int)(i - first), .spans = &span, .span_count = 1, .heading = "",
                                    .text = text, .token_estimate = (int)(text.len / 4), .hash = hash_text(text.ptr)};

        status = store_put_chunk(writer, &chunk, err);
        corpus->passages[++corpus->chunk_count] = order[i];
    }
    if (status) {
        store_document_rollback(writer);
        return status;
    }
    return store_document_commit(writer, &id, err);
}

enum status eval_corpus_build(const struct eval_set *set, struct eval_corpus *corpus, struct error *err)
{
    const char *temp = "/tmp";
    size_t *order = calloc(set->passage_count + 1, sizeof *order);
    enum status status = STATUS_OK;

    *corpus = (struct eval_corpus){0};
    corpus->passages = calloc(set->passage_count + 2, sizeof *corpus->passages);
    (void)snprintf(corpus->dir, sizeof corpus->dir, "%s/dsa-eval-XXXXXX", temp);
    if (!order || !corpus->passages)
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
    else if (!mkdtemp(corpus->dir))
        status = error_set(err, STATUS_IO, "'%s' cannot be created", corpus->dir);
    if (!status)
        status = store_open(corpus->dir, STORE_INGEST, true, &corpus->store, err);
    if (!status)
        status = store_group_commits(corpus->store, 1000, err);
    for (size_t i = 0; i < set->passage_count && order; i++)
        order[i] = i;
    sorting = set;
    if (order && set->passage_count)
        qsort(order, set->passage_count, sizeof *order, by_title);
    for (size_t first = 0, end; first < set->passage_count && !status; first = end) {
        for (end = first + 1; end < set->passage_count && strcmp(set->passages[order[first]].title,
                                                                  set->passages[order[end]].title) == 0; end++)
            ;
        status = put_passages(corpus, set, order, first, end, err);
    }
    if (!status)
        status = store_optimize(corpus->store, err);
    free(order);
    return status;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

void eval_corpus_finish(struct eval_corpus *corpus)
{
    store_close(corpus->store);
    free(corpus->passages);
    if (corpus->dir[0])
        (void)nftw(corpus->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    *corpus = (struct eval_corpus){0};
}
