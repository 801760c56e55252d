/* ingest/block.h: paragraphs of formats without pages, put together from pieces of inline text.
 *
 * A block is one line of frames.h: a paragraph, a heading, an item, a table row, code. White space collapses to
 * one space, except in code. Empty blocks are not sent. Zero is not valid: block_init(). */
#ifndef INGEST_BLOCK_H
#define INGEST_BLOCK_H

#include "ingest/frame_writer.h"

struct block {
    struct frame_writer *out;
    struct buf text;
    enum line_kind kind;
    int level;           /* of a heading */
    bool space;          /* white space was met and not yet written */
    size_t prefix_len;   /* a block with no more than its prefix is empty */
};

void block_init(struct block *block, struct frame_writer *out);
void block_finish(struct block *block);

/* Sends what is there and starts a new block. `prefix` ("- ", "3. ") may be NULL. */
enum status block_begin(struct block *block, enum line_kind kind, int level, const char *prefix) MUST_CHECK;
/* Sends what is there; the next text starts a paragraph. */
enum status block_end(struct block *block) MUST_CHECK;

/* Adds inline text. Text beyond LIMIT_LINE_BYTES sends the block and goes on in another of its kind. */
enum status block_add(struct block *block, struct span text) MUST_CHECK;
/* A border between table cells. */
enum status block_tab(struct block *block) MUST_CHECK;
/* White space that collapses with its neighbours. */
void block_space(struct block *block);

bool block_is_empty(const struct block *block);

#endif
