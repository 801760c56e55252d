/* retrieval/pack.h: what pack.c (which chunks) and blocks.c (what text) share. Internal to retrieval/. */
#ifndef RETRIEVAL_PACK_H
#define RETRIEVAL_PACK_H

#include "retrieval/retrieval.h"

/* A chunk that may be packed: a hit, its neighbour, or the rest of its section. */
struct candidate {
    int64_t document_id;
    int ordinal;
    const char *heading;
    const struct store_chunk_span *spans;
    size_t span_count;
    size_t text_bytes;
    struct span text;      /* borrowed from the arena of the packing */
    double value;          /* what it is worth to the question; 0: not worth a token */
    double score;          /* of the hit; 0 for others */
    bool selected;
};

/* Joins selected candidates, sorted by document and ordinal, into blocks and counts their tokens exactly. */
enum status blocks_build(struct store *store, const struct candidate *candidates, size_t count,
                         const struct pack_options *options, struct arena *arena, struct pack *pack,
                         struct error *err) MUST_CHECK;

#endif
