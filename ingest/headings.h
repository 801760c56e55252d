/* ingest/headings.h: which lines are headings, and of what level.
 *
 * A format's own word (LINE_HEADING) is taken. In PDFs a line is a heading when the document's outline names it,
 * else when it is set in larger type than the body, or bold, short and without a final stop. Levels follow the
 * outline's depth, then the sizes found in the document from the largest down. */
#ifndef INGEST_HEADINGS_H
#define INGEST_HEADINGS_H

#include "ingest/page.h"

enum { HEADING_LEVELS = 6 };

struct outline_entry {
    const char *title;
    int level; /* from 1 */
    int page;  /* physical; 0 unknown */
};

struct heading_rules {
    float body_size;             /* the size that most text is set in; 0 unknown */
    float sizes[HEADING_LEVELS]; /* larger sizes that occur, descending */
    int size_count;
    int first_size_level;        /* level of sizes[0]: below the outline's */
    struct outline_key *outline; /* sorted by page */
    size_t outline_count;
};

/* Looks through a whole document; furniture does not count. */
enum status heading_rules_init(struct heading_rules *rules, const struct page *pages, size_t page_count,
                               const struct outline_entry *outline, size_t outline_count, struct error *err)
    MUST_CHECK;
void heading_rules_finish(struct heading_rules *rules);

/* The level of the heading that starts at line `index`, 0 if it is none; *lines is how many lines it takes. */
int heading_level(const struct heading_rules *rules, const struct page *page, size_t index, size_t *lines);

#endif
