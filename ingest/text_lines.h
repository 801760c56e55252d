/* ingest/text_lines.h: a document in any encoding as lines of UTF-8.
 *
 * The encoding is decided at the first bytes that are not ASCII: byte order mark, then whether they are UTF-8,
 * then UTF-16 without a mark, then uchardet's guess, then windows-1252. A guess is reported as the problem
 * "encoding". Lines end at LF, CR, CR LF or form feed; a line beyond LIMIT_LINE_BYTES comes in pieces, so that a
 * text without line ends of any size takes a buffer of that size and no more. */
#ifndef INGEST_TEXT_LINES_H
#define INGEST_TEXT_LINES_H

#include "ingest/frame_writer.h"
#include "ingest/source.h"

struct text_lines;

enum status text_lines_open(struct source *source, struct frame_writer *out, struct text_lines **lines) MUST_CHECK;
void text_lines_close(struct text_lines *lines);

/* The next line without its end, valid UTF-8, borrowed until the next call. STATUS_NOT_FOUND after the last. */
enum status text_lines_next(struct text_lines *lines, struct span *line, struct error *err) MUST_CHECK;

/* The same text in pieces of any length, line ends as they stand: for parsers with a grammar of their own. */
enum status text_lines_next_piece(struct text_lines *lines, struct span *piece, struct error *err) MUST_CHECK;
/* The encoding that the document itself states, used when its bytes are no UTF-8. Before the first read. */
void text_lines_expect(struct text_lines *lines, const char *encoding);

/* True when bytes look like text in some encoding: no NUL but in UTF-16, few control characters. */
bool text_is_likely(struct span head);

#endif
