/* text_lines.c: encodings and line ends.
 *
 * Bytes come from the source in pieces, are converted to UTF-8 in `utf8`, and lines are cut from its front. */
#include "ingest/text_lines.h"

#include <errno.h>
#include <iconv.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <uchardet.h>

#include "base/utf8.h"
#include "ingest/limits.h"
#include "ingest/readers.h"

enum { LEAD_BYTES = 1 << 18, OUT_BYTES = 1 << 16 };

enum encoding { UNDECIDED, UTF8, CONVERTED };

struct text_lines {
    struct source *source;
    struct frame_writer *out;
    enum encoding encoding;
    char expected[48];      /* what the document says it is; "" nothing */
    iconv_t converter;      /* (iconv_t)-1 unless CONVERTED */
    struct buf lead;        /* bytes read while the encoding was not decided */
    struct buf rest;        /* the last bytes of a piece, which end inside a character */
    struct buf utf8;        /* text not yet given out */
    size_t taken;           /* bytes of utf8 given out */
    bool ended;             /* the source has no more */
    bool after_cr;          /* the last line ended in CR at the end of `utf8`: a LF belongs to it */
    size_t bad;             /* places that were no text in the encoding */
};

/* --- What the bytes are -------------------------------------------------------------------------------------- */

static bool has_mark(struct span head, const char *mark, size_t len)
{
    return head.len >= len && memcmp(head.ptr, mark, len) == 0;
}

/* UTF-16 of mostly Latin text has a zero in nearly every second byte. */
static const char *utf16_kind(struct span head)
{
    size_t zero[2] = {0, 0}, pairs = head.len / 2;

    for (size_t i = 0; i + 1 < head.len; i += 2) {
        zero[0] += head.ptr[i] == 0;
        zero[1] += head.ptr[i + 1] == 0;
    }
    if (pairs < 4)
        return NULL;
    if (zero[1] * 10 > pairs * 6 && zero[0] * 20 < pairs)
        return "UTF-16LE";
    if (zero[0] * 10 > pairs * 6 && zero[1] * 20 < pairs)
        return "UTF-16BE";
    return NULL;
}

static const char *marked_encoding(struct span head, size_t *mark_len)
{
    static const struct {
        const char *name, *bytes;
        size_t len;
    } marks[] = {
        {"UTF-8", "\xEF\xBB\xBF", 3},        {"UTF-32LE", "\xFF\xFE\0\0", 4}, {"UTF-32BE", "\0\0\xFE\xFF", 4},
        {"UTF-16LE", "\xFF\xFE", 2},         {"UTF-16BE", "\xFE\xFF", 2},     {"GB18030", "\x84\x31\x95\x33", 4},
    };

    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        if (has_mark(head, marks[i].bytes, marks[i].len)) {
            *mark_len = marks[i].len;
            return marks[i].name;
        }
    }
    return NULL;
}

bool text_is_likely(struct span head)
{
    size_t control = 0, mark_len;

    if (head.len == 0)
        return false;
    if (marked_encoding(head, &mark_len) || utf16_kind(head))
        return true;
    for (size_t i = 0; i < head.len; i++) {
        unsigned char c = (unsigned char)head.ptr[i];

        if (c == 0)
            return false;
        control += (c < 0x20 && !strchr("\t\n\r\f\v\b\x1B", c)) || c == 0x7F;
    }
    return control * 50 <= head.len + 100; /* one in fifty, and a slip or two in a short text */
}

static bool is_plain_ascii(struct span bytes)
{
    for (size_t i = 0; i < bytes.len; i++) {
        unsigned char c = (unsigned char)bytes.ptr[i];

        if (c >= 0x80 || c == 0 || c == 0x1B) /* ESC: the 7-bit encodings of East Asia */
            return false;
    }
    return true;
}

/* Valid UTF-8 but for a character that the end cuts. */
static bool is_utf8_so_far(struct span bytes)
{
    size_t len = utf8_complete_prefix(bytes);

    return bytes.len - len < UTF8_MAX_BYTES && utf8_valid(span_of(bytes.ptr, len));
}

static enum status use(struct text_lines *lines, const char *name)
{
    if (strcmp(name, "UTF-8") == 0) {
        lines->encoding = UTF8;
        return STATUS_OK;
    }
    lines->converter = iconv_open("UTF-8", name);
    if (lines->converter == (iconv_t)-1)
        return STATUS_UNSUPPORTED;
    lines->encoding = CONVERTED;
    return STATUS_OK;
}

static enum status guess(struct text_lines *lines, struct span bytes)
{
    uchardet_t detector = uchardet_new();
    const char *name = "";
    char chosen[64];
    enum status status;

    if (!detector)
        return STATUS_NO_MEMORY;
    if (uchardet_handle_data(detector, bytes.ptr, bytes.len) == 0) {
        uchardet_data_end(detector);
        name = uchardet_get_charset(detector);
    }
    /* What is not UTF-8 by the check above is not UTF-8, whatever the guess. */
    if (!*name || strcmp(name, "UTF-8") == 0 || strcmp(name, "ASCII") == 0)
        name = "WINDOWS-1252";
    (void)snprintf(chosen, sizeof chosen, "%s", name);
    uchardet_delete(detector);
    status = use(lines, chosen);
    if (status) {
        (void)snprintf(chosen, sizeof chosen, "WINDOWS-1252");
        status = use(lines, chosen);
    }
    return status ? status : frame_writer_problem(lines->out, "encoding", 0, "read as %s, a guess", chosen);
}

/* Decides from the first bytes that tell anything; *skip is the length of a byte order mark. */
static enum status decide(struct text_lines *lines, struct span bytes, size_t *skip)
{
    const char *name = marked_encoding(bytes, skip);

    if (name && use(lines, name) == STATUS_OK)
        return STATUS_OK;
    *skip = 0;
    name = utf16_kind(bytes);
    if (name && use(lines, name) == STATUS_OK)
        return frame_writer_problem(lines->out, "encoding", 0, "read as %s, a guess", name);
    if (is_utf8_so_far(bytes) && !(bytes.len && memmem(bytes.ptr, bytes.len, "\x1B$", 2))) /* ISO-2022 */
        return use(lines, "UTF-8");
    if (lines->expected[0] && strcasecmp(lines->expected, "UTF-8") != 0 && use(lines, lines->expected) == STATUS_OK)
        return STATUS_OK;
    return guess(lines, bytes);
}

/* --- Converting ---------------------------------------------------------------------------------------------- */

static enum status append_replacement(struct text_lines *lines)
{
    lines->bad++;
    return buf_append(&lines->utf8, "\xEF\xBF\xBD", 3);
}

static enum status convert(struct text_lines *lines, struct span bytes)
{
    char *in = (char *)(uintptr_t)bytes.ptr;
    size_t in_left = bytes.len;
    enum status status = STATUS_OK;

    while (in_left && !status) {
        char out[OUT_BYTES], *out_at = out;
        size_t out_left = sizeof out;
        size_t rc = iconv(lines->converter, &in, &in_left, &out_at, &out_left);
        int reason = errno;

        status = buf_append(&lines->utf8, out, (size_t)(out_at - out));
        if (status || rc != (size_t)-1 || reason == E2BIG)
            continue;
        if (reason == EINVAL && !lines->ended)
            return buf_append(&lines->rest, in, in_left);
        status = append_replacement(lines);
        in++;
        in_left--;
    }
    return status;
}

static enum status repair_utf8(struct text_lines *lines, struct span bytes)
{
    size_t keep = lines->ended ? bytes.len : utf8_complete_prefix(bytes);
    size_t from = 0;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < keep && !status;) {
        uint32_t code;
        size_t len = (unsigned char)bytes.ptr[i] < 0x80 ? 1 : utf8_decode(bytes.ptr + i, keep - i, &code);

        if (len == 0) {
            status = buf_append(&lines->utf8, bytes.ptr + from, i - from);
            if (!status)
                status = append_replacement(lines);
            from = i + 1;
        }
        i += len ? len : 1;
    }
    if (!status)
        status = buf_append(&lines->utf8, bytes.ptr + from, keep - from);
    if (!status)
        status = buf_append(&lines->rest, bytes.ptr + keep, bytes.len - keep);
    return status;
}

/* Puts the bytes that were left inside a character before the piece, in `lead`, if there are any. */
static enum status join_rest(struct text_lines *lines, struct span *bytes)
{
    enum status status;

    if (!lines->rest.len)
        return STATUS_OK;
    buf_clear(&lines->lead);
    status = buf_append_span(&lines->lead, buf_span(&lines->rest));
    if (!status)
        status = buf_append_span(&lines->lead, *bytes);
    buf_clear(&lines->rest);
    *bytes = buf_span(&lines->lead);
    return status;
}

/* One piece more of text in `utf8`, or `ended`. */
static enum status fill(struct text_lines *lines, struct error *err)
{
    struct span piece;
    size_t skip = 0;
    enum status status = source_read(lines->source, &piece, err);

    if (status)
        return status;
    lines->ended = piece.len == 0;
    if (lines->encoding == UNDECIDED) {
        if (is_plain_ascii(piece) && !lines->lead.len && !lines->ended)
            return buf_append_span(&lines->utf8, piece);
        /* From the first piece that is not ASCII on, as much as it takes for a good guess. */
        status = buf_append_span(&lines->lead, piece);
        if (status || (lines->lead.len < LEAD_BYTES && !lines->ended))
            return status;
        piece = buf_span(&lines->lead);
        status = decide(lines, piece, &skip);
        if (status)
            return error_set(err, status, "choosing the encoding");
        piece = span_slice(piece, skip, piece.len);
        return lines->encoding == UTF8 ? repair_utf8(lines, piece) : convert(lines, piece);
    }
    status = join_rest(lines, &piece);
    if (status)
        return status;
    return lines->encoding == UTF8 ? repair_utf8(lines, piece) : convert(lines, piece);
}

/* --- Lines --------------------------------------------------------------------------------------------------- */

enum status text_lines_open(struct source *source, struct frame_writer *out, struct text_lines **opened)
{
    struct text_lines *lines = calloc(1, sizeof *lines);

    if (!lines)
        return STATUS_NO_MEMORY;
    lines->source = source;
    lines->out = out;
    lines->converter = (iconv_t)-1;
    buf_init(&lines->lead, 4 * (size_t)LEAD_BYTES);
    buf_init(&lines->rest, 64 + LEAD_BYTES);
    /* A line, and what one piece can become: three bytes of UTF-8 for each of its own. */
    buf_init(&lines->utf8, LIMIT_LINE_BYTES + 16 * (size_t)LEAD_BYTES);
    *opened = lines;
    return STATUS_OK;
}

void text_lines_close(struct text_lines *lines)
{
    if (!lines)
        return;
    if (lines->converter != (iconv_t)-1)
        (void)iconv_close(lines->converter);
    buf_finish(&lines->lead);
    buf_finish(&lines->rest);
    buf_finish(&lines->utf8);
    free(lines);
}

static size_t find_line_end(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '\n' || text.ptr[i] == '\r' || text.ptr[i] == '\f')
            return i;
    }
    return text.len;
}

/* Forgets the text that was given out, so that the buffer holds one line and one piece at most. */
static void drop_taken(struct text_lines *lines)
{
    size_t left = lines->utf8.len - lines->taken;

    if (left)
        memmove(lines->utf8.ptr, lines->utf8.ptr + lines->taken, left);
    lines->utf8.len = left;
    lines->taken = 0;
}

static enum status report_bad(struct text_lines *lines)
{
    enum status status = STATUS_OK;

    if (lines->bad)
        status =
            frame_writer_problem(lines->out, "bad-encoding", 0, "%zu places are no text in its encoding", lines->bad);
    lines->bad = 0;
    return status ? status : STATUS_NOT_FOUND;
}

enum status text_lines_next(struct text_lines *lines, struct span *line, struct error *err)
{
    size_t searched = 0;

    for (;;) {
        struct span text = span_of(lines->utf8.ptr + lines->taken, lines->utf8.len - lines->taken);
        size_t end;
        enum status status;

        if (lines->after_cr && text.len) {
            lines->after_cr = false;
            if (text.ptr[0] == '\n') {
                lines->taken++;
                continue;
            }
        }
        end = searched + find_line_end(span_slice(text, searched, text.len));
        if (end < text.len && end <= LIMIT_LINE_BYTES) {
            lines->after_cr = text.ptr[end] == '\r';
            lines->taken += end + 1;
            *line = span_slice(text, 0, end);
            return STATUS_OK;
        }
        if (text.len > LIMIT_LINE_BYTES) {
            *line = span_slice(text, 0, LIMIT_LINE_BYTES);
            line->len = utf8_complete_prefix(*line);
            lines->taken += line->len;
            return STATUS_OK;
        }
        if (lines->ended && text.len == 0)
            return report_bad(lines);
        if (lines->ended) {
            lines->taken += text.len;
            *line = text;
            return STATUS_OK;
        }
        searched = text.len;
        drop_taken(lines);
        status = fill(lines, err);
        if (status)
            return status;
    }
}

enum status text_lines_next_piece(struct text_lines *lines, struct span *piece, struct error *err)
{
    while (lines->taken == lines->utf8.len) {
        enum status status;

        if (lines->ended)
            return report_bad(lines);
        drop_taken(lines);
        status = fill(lines, err);
        if (status)
            return status;
    }
    *piece = span_of(lines->utf8.ptr + lines->taken, lines->utf8.len - lines->taken);
    lines->taken = lines->utf8.len;
    return STATUS_OK;
}

void text_lines_expect(struct text_lines *lines, const char *encoding)
{
    (void)snprintf(lines->expected, sizeof lines->expected, "%s", encoding);
}

void reader_text_warm_up(void)
{
    static const char *const common[] = {
        "UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE", "ISO-8859-1", "ISO-8859-2", "ISO-8859-5", "ISO-8859-7",
        "ISO-8859-9", "ISO-8859-15", "WINDOWS-1250", "WINDOWS-1251", "WINDOWS-1252", "WINDOWS-1253", "KOI8-R",
        "SHIFT_JIS", "EUC-JP", "ISO-2022-JP", "EUC-KR", "GB18030", "GBK", "BIG5", "IBM866", "MACINTOSH",
    };

    /* Never closed: a module stays loaded as long as a converter of it is open. */
    static iconv_t kept[sizeof common / sizeof *common] __attribute__((used));

    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        kept[i] = iconv_open("UTF-8", common[i]);
}
