/* ingest/chunk.h: passages of 200 to 300 tokens for the index, each made of whole sentences of one section.
 *
 * A section is what stands between two headings. It is cut into passages of about equal size; the last sentence
 * of a page and the first of the next may share one. A sentence that is too long by itself is cut at a clause,
 * else at a blank. Tokens are estimated as bytes / 4: ingest must not know the model. */
#ifndef INGEST_CHUNK_H
#define INGEST_CHUNK_H

#include "base/arena.h"
#include "base/vec.h"
#include "ingest/normalize.h"
#include "store/store.h"

enum {
    CHUNK_MIN_BYTES = 800,  /* 200 tokens: a passage is closed from here on */
    CHUNK_MAX_BYTES = 1200, /* 300 tokens: never more */
    CHUNK_HEADING_BYTES = 512
};

struct chunk_page {
    int number;
    struct span text;
    const struct text_block *blocks;
    size_t block_count;
};

struct chunk_list {
    VEC(struct store_chunk) chunks; /* texts, headings and spans are the arena's */
};

enum status chunk_document(const struct chunk_page *pages, size_t page_count, struct arena *arena,
                           struct chunk_list *out, struct error *err) MUST_CHECK;
void chunk_list_finish(struct chunk_list *list);

/* Of the text in lower case with white space folded: equal for texts that differ in layout only. */
uint64_t chunk_hash(struct span text);
/* Charikar's simhash over 5-word shingles: texts that share most of them differ in few bits. */
uint64_t chunk_simhash(struct span text);

#endif
