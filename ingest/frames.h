/* ingest/frames.h: what dsa-extract's child says to dsa-ingest, frame by frame over a pipe.
 *
 * A frame is a 12-byte little-endian header {u32 FRAME_MAGIC, u32 type, u32 payload bytes} and its payload,
 * at most LIMIT_FRAME_BYTES. The child parses hostile input with big libraries, so the parent trusts nothing
 * here: the decoder checks every size, order, number and that text is UTF-8, and answers STATUS_CORRUPT.
 *
 * Order:   START  (document | archive)  END
 *   document = { PAGE_BEGIN { LINE } PAGE_END | META | OUTLINE | PROBLEM }
 *   archive  = { MEMBER_BEGIN { MEMBER_DATA } MEMBER_END | META | PROBLEM }
 * META and OUTLINE come once at most (after the pages where only the end tells the title). PROGRESS may stand
 * anywhere. frame_order_step() checks all of this. A stream that stops without END is a crash; its pages so far
 * are kept as a partial document. A PROBLEM with "fatal": true says that the document could not be read at all
 * ("encrypted", "damaged", "empty", "unknown-type", …): its code and message become the document's error, and
 * END follows. Formats without pages send one page, number 1, width and height 0, words without
 * rectangles (word_count 0). */
#ifndef INGEST_FRAMES_H
#define INGEST_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/span.h"
#include "base/status.h"

#define FRAME_MAGIC 0x58415344u /* "DSAX" */

enum frame_type {
    FRAME_START = 1,   /* JSON {media_type, extractor}                                              */
    FRAME_META,        /* JSON {title, author, created, modified, language, page_count}             */
    FRAME_PAGE_BEGIN,  /* struct frame_page                                                         */
    FRAME_LINE,        /* struct frame_line                                                         */
    FRAME_PAGE_END,    /* empty                                                                     */
    FRAME_OUTLINE,     /* JSON [{title, level from 1, page}]                                        */
    FRAME_MEMBER_BEGIN,/* JSON {name (UTF-8, repaired), raw_name_hex?, size?, mtime_ms?}            */
    FRAME_MEMBER_DATA, /* bytes                                                                     */
    FRAME_MEMBER_END,  /* JSON {complete: bool, skipped?: code}: not complete when a cap or damage
                          cut the member; skipped: listed and not read ("link-skipped",
                          "special-skipped", "encrypted-member"), a PROBLEM says the same           */
    FRAME_PROBLEM,     /* JSON {code, message, page: 0 for the document, fatal?: true}              */
    FRAME_PROGRESS,    /* empty: still alive                                                        */
    FRAME_END,         /* empty                                                                     */
    FRAME_TYPE_END     /* one past the last type */
};

/* u32 number, f32 width, f32 height, u32 label bytes, the label. */
struct frame_page {
    uint32_t number;     /* physical, from 1, ascending */
    float width, height; /* points, of the page as shown (rotation applied) */
    struct span label;
};

enum line_kind {
    LINE_TEXT,      /* PDF: one line as it stands on the page; other formats: one paragraph */
    LINE_HEADING,   /* `level` 1..6: the format itself says so                              */
    LINE_LIST_ITEM,
    LINE_TABLE_ROW, /* cells joined by tabs                                                 */
    LINE_CODE       /* preformatted: never rejoined                                         */
};
enum line_flag {
    LINE_BOLD = 1,
    LINE_TINY = 2,   /* under 3 pt: kept, counted as a problem once a document ("tiny-text")  */
    LINE_FAINT = 4,  /* near-white: kept, counted ("faint-text")                              */
    LINE_ROTATED = 8
};

struct frame_word {
    uint32_t start, end;     /* bytes of the line's text */
    int32_t x0, y0, x1, y1;  /* 1/20 point from the page's top left */
};

/* u8 kind, level, flags, 0; f32 font size; u32 word count, u32 text bytes; per word u32 start, end and
 * i32 x0, y0, x1, y1; the text. */
struct frame_line {
    uint8_t kind, level, flags;
    float font_size;                /* points; 0 unknown */
    const struct frame_word *words; /* ascending, not overlapping; may be none */
    uint32_t word_count;
    struct span text;               /* UTF-8 without NUL, at most LIMIT_LINE_BYTES; no line feed inside
                                       except in LINE_CODE, no trailing one */
};

/* Encoding appends one whole frame to `out`. */
enum status frame_put(struct buf *out, enum frame_type type, struct span payload) MUST_CHECK;
enum status frame_put_page(struct buf *out, const struct frame_page *page) MUST_CHECK;
enum status frame_put_line(struct buf *out, const struct frame_line *line) MUST_CHECK;

/* Decoding. frame_next() takes one frame from the front of `bytes`: STATUS_AGAIN if more bytes are needed,
 * STATUS_CORRUPT if they can never be a frame; *used is how many bytes it took. The payload is borrowed. */
struct frame {
    enum frame_type type;
    struct span payload;
};
enum status frame_next(struct span bytes, struct frame *frame, size_t *used) MUST_CHECK;
enum status frame_get_page(struct span payload, struct frame_page *page) MUST_CHECK;
/* `words` are copied to *storage (grown, malloc'ed), because the payload need not be aligned. */
enum status frame_get_line(struct span payload, struct frame_line *line, struct frame_word **storage,
                           size_t *storage_cap) MUST_CHECK;

/* The order of a stream's frames, and that pages ascend. Zero is the start; call it on every frame.
 * STATUS_CORRUPT for a frame that may not stand there. */
struct frame_order {
    enum { FRAME_ORDER_START, FRAME_ORDER_TOP, FRAME_ORDER_PAGE, FRAME_ORDER_MEMBER, FRAME_ORDER_ENDED } state;
    bool has_meta, has_outline;
    uint32_t pages, members; /* begun so far: a stream has one kind only */
    uint32_t last_page;      /* number of the latest page */
};
enum status frame_order_step(struct frame_order *order, const struct frame *frame) MUST_CHECK;

#endif
