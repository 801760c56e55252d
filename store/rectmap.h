/* store/rectmap.h: where on the page each byte of a page's text stands.
 *
 * A map is a packed list of runs (a word or less each): byte range of the page's canonical text, rectangle in
 * points from the page's top left. Coordinates are kept to 1/20 point, runs are delta-coded: about 7 bytes a
 * word. The blob is self-describing and versioned; a damaged one answers STATUS_CORRUPT, never a crash. */
#ifndef STORE_RECTMAP_H
#define STORE_RECTMAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/span.h"
#include "base/status.h"

struct rect {
    float x0, y0, x1, y1; /* points, origin top left, x0 <= x1, y0 <= y1 */
};

struct rectmap_run {
    uint32_t start, end; /* bytes of the page's text, start < end; runs ascend and do not overlap */
    struct rect rect;
};

/* Appends the packed form to `out`. STATUS_BAD_INPUT for runs that overlap or descend. */
enum status rectmap_pack(const struct rectmap_run *runs, size_t count, struct buf *out) MUST_CHECK;

/* The rectangles that cover bytes [start, end): runs on one line are merged, so a quotation over two lines
 * gives two. At most `cap` are written; *count is how many there are. A run that is only partly inside is cut
 * in proportion to its bytes. */
enum status rectmap_find(struct span map, uint32_t start, uint32_t end, struct rect *rects, size_t cap,
                         size_t *count) MUST_CHECK;

#endif
