/* ingest/frame_writer.h: what a reader says, buffered into frames on the child's pipe.
 *
 * Keeps the promises of frames.h whatever a reader gives it: text is repaired to UTF-8 without control
 * characters (byte lengths of good text stay, so that word offsets do), long lines are split, text beyond a
 * page's or the document's cap is cut and reported, problems are counted. Errors of the pipe are final. */
#ifndef INGEST_FRAME_WRITER_H
#define INGEST_FRAME_WRITER_H

#include "ingest/frames.h"

struct frame_writer;

/* Text of a document as its format states it; NULL or "" for what is not known. Dates are ISO 8601. */
struct frame_meta {
    const char *title, *author, *created, *modified, *language;
    int page_count; /* 0: not known */
};

struct frame_outline_entry {
    char *title;
    int level; /* from 1 */
    int page;  /* physical, from 1; 0 unknown */
};

enum status frame_writer_create(int fd, struct frame_writer **out) MUST_CHECK;
void frame_writer_destroy(struct frame_writer *writer);

/* Every call answers STATUS_OK, STATUS_LIMIT (the document's text cap was reached and is reported: stop reading,
 * this is no failure), STATUS_IO (nobody reads the pipe any more) or STATUS_NO_MEMORY. */
enum status frame_writer_start(struct frame_writer *writer, const char *media_type) MUST_CHECK;
enum status frame_writer_meta(struct frame_writer *writer, const struct frame_meta *meta) MUST_CHECK;
enum status frame_writer_page_begin(struct frame_writer *writer, const struct frame_page *page) MUST_CHECK;
enum status frame_writer_line(struct frame_writer *writer, const struct frame_line *line) MUST_CHECK;
enum status frame_writer_page_end(struct frame_writer *writer) MUST_CHECK;
enum status frame_writer_outline(struct frame_writer *writer, const struct frame_outline_entry *entries,
                                 size_t count) MUST_CHECK;

/* A problem of a page, or of the whole document for page 0. Inside a page it is kept until the page ends. */
enum status frame_writer_problem(struct frame_writer *writer, const char *code, int page, const char *format, ...)
    MUST_CHECK PRINTF_LIKE(4, 5);
/* The document can't be read: a fatal problem. Fills *err; returns STATUS_BAD_INPUT. */
enum status frame_writer_fail(struct frame_writer *writer, struct error *err, const char *code, const char *format,
                              ...) PRINTF_LIKE(4, 5);
bool frame_writer_failed(const struct frame_writer *writer);

/* Members of an archive. `name` and `raw` are the repaired name and, where it differs, the bytes as they stood. */
struct frame_member {
    const char *name;
    struct span raw;       /* empty: the name is as it stood */
    long long size;        /* as stated, -1 unknown */
    long long mtime_ms;    /* 0 unknown */
};
enum status frame_writer_member_begin(struct frame_writer *writer, const struct frame_member *member) MUST_CHECK;
enum status frame_writer_member_data(struct frame_writer *writer, struct span bytes) MUST_CHECK;
enum status frame_writer_member_end(struct frame_writer *writer, bool complete) MUST_CHECK;
/* A member that is listed and not read (a link, an encrypted one): no data, and a problem with that code. */
enum status frame_writer_member_skipped(struct frame_writer *writer, const struct frame_member *member,
                                        const char *code) MUST_CHECK;

/* Call now and then in long work: says PROGRESS when nothing was sent for a second. */
enum status frame_writer_alive(struct frame_writer *writer) MUST_CHECK;

/* Closes what is open (a page, a member), reports what was counted, sends END and flushes. */
enum status frame_writer_end(struct frame_writer *writer) MUST_CHECK;

/* Appends `text` with every byte that is no UTF-8 made U+FFFD, and NUL and control characters but tab and
 * line feed made spaces. *repaired is set when that changed anything (may be NULL). */
enum status text_repair(struct buf *out, struct span text, bool *repaired) MUST_CHECK;

#endif
