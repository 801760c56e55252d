/* ingest/normalize.h: the canonical text of a page, which every quotation, span and citation refers to.
 *
 * Lines that belong together become a paragraph on one line; words broken at a line's end are rejoined and keep
 * both rectangles; ligatures are spelled out; white space, control and invisible characters are cleaned away.
 * Paragraphs and headings are separated by an empty line, list items, table rows and lines of code by a line
 * feed, cells by a tab. No character is invented, and what is left out is only what README.md lists. */
#ifndef INGEST_NORMALIZE_H
#define INGEST_NORMALIZE_H

#include "base/buf.h"
#include "base/vec.h"
#include "ingest/headings.h"
#include "ingest/page.h"
#include "store/rectmap.h"

enum block_kind { BLOCK_PARAGRAPH, BLOCK_HEADING, BLOCK_LIST_ITEM, BLOCK_TABLE_ROW, BLOCK_CODE };

struct text_block {
    enum block_kind kind;
    int level;           /* of a heading */
    uint32_t start, end; /* bytes of the page's text, ascending, separators left out */
};

struct page_text {
    struct buf text;
    struct buf aside;            /* running headers and footers, a line each */
    VEC(struct rectmap_run) runs;
    VEC(struct text_block) blocks;
    uint32_t hidden_count;       /* invisible characters left out (zero width, bidi controls, tags) */
    uint32_t tag_count;          /* of these, tag characters: U+E0000..E007F, never there by accident */
};

void page_text_init(struct page_text *text);
void page_text_finish(struct page_text *text);

/* Words that the document itself writes with a hyphen inside a line: broken there, they keep it. */
struct hyphenated {
    uint64_t *hashes; /* open addressing, 0 is empty */
    size_t cap, count;
};
enum status hyphenated_collect(struct hyphenated *set, const struct page *pages, size_t page_count,
                               struct error *err) MUST_CHECK;
void hyphenated_finish(struct hyphenated *set);

/* Makes the page's text from lines in reading order. `out` is empty. */
enum status normalize_page(const struct page *page, const struct heading_rules *rules, const struct hyphenated *set,
                           struct page_text *out, struct error *err) MUST_CHECK;

#endif
