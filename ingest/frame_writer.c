/* frame_writer.c: frames on a pipe, with the caps of limits.h that concern text. */
#include "ingest/frame_writer.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "base/vec.h"
#include "ingest/limits.h"

enum {
    FLUSH_BYTES = 1 << 16,
    LINE_WORDS_MAX = 65536, /* 1.5 MiB of a frame's 8 */
    MEMBER_PIECE_BYTES = 1 << 20,
    OUTLINE_MAX = 10000,
    PROBLEM_BYTES = 400
};

struct frame_writer {
    int fd;
    struct buf bytes;         /* frames not yet written */
    struct buf late;          /* problems that wait for the end of the page or member */
    struct buf scratch;       /* a repaired line */
    VEC(struct frame_word) words;
    int64_t last_flush_ns;
    bool in_page, in_member, failed, has_meta;
    uint32_t page;
    size_t page_text, page_text_max, document_text, cut_lines;
    bool text_limit;          /* the document's cap was reached */
    size_t problems, unreported_problems;
    size_t tiny, faint, repaired; /* characters in flagged lines; lines with bytes that are no text */
};

enum status frame_writer_create(int fd, struct frame_writer **out)
{
    struct frame_writer *writer = calloc(1, sizeof *writer);

    if (!writer)
        return STATUS_NO_MEMORY;
    writer->fd = fd;
    /* Twice the flush size and one frame: a buffer that is flushed early never comes near its maximum. */
    buf_init(&writer->bytes, 2 * FLUSH_BYTES + (size_t)LIMIT_FRAME_BYTES + 64);
    buf_init(&writer->late, LIMIT_PROBLEMS * 1024);
    buf_init(&writer->scratch, 4 * (size_t)LIMIT_LINE_BYTES);
    writer->last_flush_ns = clock_monotonic_ns();
    *out = writer;
    return STATUS_OK;
}

void frame_writer_destroy(struct frame_writer *writer)
{
    if (!writer)
        return;
    buf_finish(&writer->bytes);
    buf_finish(&writer->late);
    buf_finish(&writer->scratch);
    vec_finish(&writer->words);
    free(writer);
}

static enum status flush(struct frame_writer *writer)
{
    size_t done = 0;

    while (done < writer->bytes.len) {
        ssize_t n = write(writer->fd, writer->bytes.ptr + done, writer->bytes.len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return STATUS_IO;
        done += (size_t)n;
    }
    buf_clear(&writer->bytes);
    writer->last_flush_ns = clock_monotonic_ns();
    return STATUS_OK;
}

static enum status flush_if_full(struct frame_writer *writer)
{
    return writer->bytes.len >= FLUSH_BYTES ? flush(writer) : STATUS_OK;
}

enum status frame_writer_alive(struct frame_writer *writer)
{
    enum status status = STATUS_OK;

    if (clock_monotonic_ns() - writer->last_flush_ns < 1000000000)
        return STATUS_OK;
    if (writer->bytes.len == 0)
        status = frame_put(&writer->bytes, FRAME_PROGRESS, span_of(NULL, 0));
    return status ? status : flush(writer);
}

enum status text_repair(struct buf *out, struct span text, bool *repaired)
{
    bool changed = false;
    size_t from = 0;
    enum status status = buf_reserve(out, text.len);

    for (size_t i = 0; i < text.len && !status;) {
        unsigned char c = (unsigned char)text.ptr[i];
        uint32_t code;
        size_t len = 1;

        if (c >= 0x20 && c < 0x7F) {
            i++;
            continue;
        }
        if (c >= 0x80)
            len = utf8_decode(text.ptr + i, text.len - i, &code);
        else
            code = c;
        if (len && (code >= 0xA0 || code == '\t' || code == '\n')) {
            i += len;
            continue;
        }
        /* Control characters (C0, DEL, C1) become spaces of the same length, so that offsets stay; rubbish becomes
         * U+FFFD. */
        changed |= len != 1 || !(code == '\r' || code == '\f' || code == '\v');
        status = buf_append(out, text.ptr + from, i - from);
        if (!status)
            status = len == 0 ? buf_append(out, "\xEF\xBF\xBD", 3) : len == 1 ? buf_append(out, " ", 1)
                                                                            : buf_append(out, "\xC2\xA0", 2);
        i += len ? len : 1;
        from = i;
    }
    if (!status)
        status = buf_append(out, text.ptr + from, text.len - from);
    if (repaired)
        *repaired = changed;
    return status;
}

/* --- JSON frames -------------------------------------------------------------------------------------------- */

/* A JSON string of `text`, repaired, at most `max` bytes; NULL when there is no memory. */
static json_t *json_text(struct span text, size_t max)
{
    struct buf clean;
    json_t *value = NULL;

    buf_init(&clean, 4 * max + 16);
    if (text_repair(&clean, span_slice(text, 0, max + UTF8_MAX_BYTES), NULL) == STATUS_OK) {
        size_t len = clean.len <= max ? clean.len : utf8_complete_prefix(span_of(clean.ptr, max));

        value = json_stringn(buf_cstr(&clean), len);
    }
    buf_finish(&clean);
    return value;
}

static void set_text(json_t *object, const char *key, const char *text)
{
    if (text && *text)
        (void)json_object_set_new(object, key, json_text(span_from_cstr(text), LIMIT_META_BYTES));
}

/* Takes `value`. */
static enum status put_json(struct buf *out, enum frame_type type, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    enum status status = text ? frame_put(out, type, span_from_cstr(text)) : STATUS_NO_MEMORY;

    free(text);
    json_decref(value);
    return status;
}

enum status frame_writer_start(struct frame_writer *writer, const char *media_type)
{
    enum status status =
        put_json(&writer->bytes, FRAME_START,
                 json_pack("{s:s, s:s}", "media_type", media_type, "extractor", "dsa-extract " DSA_VERSION));

    /* Flushed at once: the first sign of life. */
    return status ? status : flush(writer);
}

enum status frame_writer_meta(struct frame_writer *writer, const struct frame_meta *meta)
{
    json_t *object;

    if (writer->has_meta || writer->in_page || writer->in_member)
        return STATUS_BUG;
    writer->has_meta = true;
    object = json_object();
    if (!object)
        return STATUS_NO_MEMORY;
    set_text(object, "title", meta->title);
    set_text(object, "author", meta->author);
    set_text(object, "created", meta->created);
    set_text(object, "modified", meta->modified);
    set_text(object, "language", meta->language);
    if (meta->page_count > 0)
        (void)json_object_set_new(object, "page_count", json_integer(meta->page_count));
    return put_json(&writer->bytes, FRAME_META, object);
}

enum status frame_writer_outline(struct frame_writer *writer, const struct frame_outline_entry *entries, size_t count)
{
    json_t *array = json_array();
    size_t kept = count < OUTLINE_MAX ? count : OUTLINE_MAX;
    enum status status;

    for (size_t i = 0; i < kept && array; i++) {
        json_t *title = json_text(span_from_cstr(entries[i].title), LIMIT_HEADING_BYTES);

        (void)json_array_append_new(array, json_pack("{s:o, s:i, s:i}", "title", title, "level", entries[i].level,
                                                     "page", entries[i].page));
    }
    status = put_json(&writer->bytes, FRAME_OUTLINE, array);
    if (!status && kept < count)
        status =
            frame_writer_problem(writer, "limit-outline", 0, "the first %zu of %zu entries were kept", kept, count);
    return status;
}

/* --- Problems ----------------------------------------------------------------------------------------------- */

static enum status put_problem(struct frame_writer *writer, const char *code, int page, bool fatal, const char *message)
{
    struct buf *out = writer->in_page || writer->in_member ? &writer->late : &writer->bytes;
    json_t *object;

    if (writer->problems >= LIMIT_PROBLEMS && !fatal) {
        writer->unreported_problems++;
        return STATUS_OK;
    }
    writer->problems++;
    object = json_pack("{s:s, s:o, s:i}", "code", code, "message", json_text(span_from_cstr(message), PROBLEM_BYTES),
                       "page", page);
    if (object && fatal)
        (void)json_object_set_new(object, "fatal", json_true());
    return put_json(out, FRAME_PROBLEM, object);
}

enum status frame_writer_problem(struct frame_writer *writer, const char *code, int page, const char *format, ...)
{
    char message[PROBLEM_BYTES + 1];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return put_problem(writer, code, page, false, message);
}

enum status frame_writer_fail(struct frame_writer *writer, struct error *err, const char *code, const char *format, ...)
{
    char message[PROBLEM_BYTES + 1];
    va_list arguments;
    enum status status;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    status = put_problem(writer, code, 0, true, message);
    if (status)
        return error_set(err, status, "reporting '%s'", code);
    writer->failed = true;
    return error_set(err, STATUS_BAD_INPUT, "%s", message);
}

bool frame_writer_failed(const struct frame_writer *writer)
{
    return writer->failed;
}

/* Moves the problems that waited for the end of a page or member behind it. */
static enum status put_late_problems(struct frame_writer *writer)
{
    enum status status = buf_append_span(&writer->bytes, buf_span(&writer->late));

    buf_clear(&writer->late);
    return status ? status : flush_if_full(writer);
}

/* --- Pages -------------------------------------------------------------------------------------------------- */

enum status frame_writer_page_begin(struct frame_writer *writer, const struct frame_page *page)
{
    struct frame_page clean = *page;
    enum status status;

    if (writer->in_page)
        return STATUS_BUG;
    buf_clear(&writer->scratch);
    status = text_repair(&writer->scratch, span_slice(page->label, 0, LIMIT_HEADING_BYTES), NULL);
    if (status)
        return status;
    for (size_t i = 0; i < writer->scratch.len; i++) {
        if (writer->scratch.ptr[i] == '\n')
            writer->scratch.ptr[i] = ' ';
    }
    clean.label = buf_span(&writer->scratch);
    status = frame_put_page(&writer->bytes, &clean);
    if (status)
        return status;
    writer->in_page = true;
    writer->page = page->number;
    writer->page_text = 0;
    /* A format without pages sends one, of no size: only the document's cap holds there. */
    writer->page_text_max = page->width > 0 ? LIMIT_PAGE_TEXT_BYTES : SIZE_MAX / 2;
    writer->cut_lines = 0;
    return STATUS_OK;
}

/* Where to cut a line that is too long: before `max`, after a space if one stands in the last eighth. */
static size_t cut_point(struct span text, size_t max)
{
    size_t at;

    if (text.len <= max)
        return text.len;
    at = max;
    while (at > 0 && ((unsigned char)text.ptr[at] & 0xC0) == 0x80)
        at--;
    for (size_t i = at; i > max - max / 8; i--) {
        if (text.ptr[i - 1] == ' ' || text.ptr[i - 1] == '\n')
            return i;
    }
    return at;
}

static struct span trim_end(struct span text, enum line_kind kind)
{
    while (text.len && (text.ptr[text.len - 1] == '\n' || (kind != LINE_CODE && text.ptr[text.len - 1] == ' ')))
        text.len--;
    return text;
}

/* One piece [from, from + len) of a clean line, with the words that begin in it, moved and cut to it. */
static enum status put_piece(struct frame_writer *writer, const struct frame_line *line, size_t from, size_t len,
                             uint32_t *word)
{
    struct frame_line piece = *line;
    enum status status;

    piece.text = trim_end(span_slice(line->text, from, from + len), (enum line_kind)line->kind);
    writer->words.count = 0;
    while (*word < line->word_count && line->words[*word].start < from + len) {
        struct frame_word moved = line->words[(*word)++];

        moved.start -= (uint32_t)from;
        moved.end -= (uint32_t)from;
        if (moved.end > piece.text.len)
            moved.end = (uint32_t)piece.text.len;
        if (moved.start >= moved.end)
            continue;
        status = vec_reserve(&writer->words, 1);
        if (status)
            return status;
        writer->words.items[writer->words.count++] = moved;
    }
    piece.words = writer->words.items;
    piece.word_count = (uint32_t)writer->words.count;
    status = frame_put_line(&writer->bytes, &piece);
    return status ? status : flush_if_full(writer);
}

enum status frame_writer_line(struct frame_writer *writer, const struct frame_line *line)
{
    struct frame_line clean = *line;
    uint32_t word = 0;
    bool repaired;
    enum status status;

    if (!writer->in_page)
        return STATUS_BUG;
    if (writer->text_limit)
        return STATUS_LIMIT;
    if (writer->page_text + line->text.len > writer->page_text_max) {
        writer->cut_lines++;
        return STATUS_OK;
    }
    if (writer->document_text + line->text.len > LIMIT_DOCUMENT_TEXT_BYTES) {
        writer->text_limit = true;
        status = put_problem(writer, "limit-text", (int)writer->page, false, "text beyond 64 MiB was left out");
        return status ? status : STATUS_LIMIT;
    }
    buf_clear(&writer->scratch);
    writer->scratch.max = 4 * line->text.len + 16;
    status = text_repair(&writer->scratch, line->text, &repaired);
    if (status)
        return status;
    writer->repaired += repaired;
    clean.text = trim_end(buf_span(&writer->scratch), (enum line_kind)line->kind);
    if (clean.text.len != line->text.len && writer->scratch.len != line->text.len)
        clean.word_count = 0; /* rubbish grew to U+FFFD: the offsets no longer stand */
    if (clean.kind != LINE_CODE) {
        for (size_t i = 0; i < clean.text.len; i++) {
            if (clean.text.ptr[i] == '\n')
                writer->scratch.ptr[i] = ' ';
        }
    }
    if (clean.kind != LINE_HEADING)
        clean.level = 0;
    writer->page_text += clean.text.len;
    writer->document_text += clean.text.len;
    writer->tiny += clean.flags & LINE_TINY ? clean.text.len : 0;
    writer->faint += clean.flags & LINE_FAINT ? clean.text.len : 0;
    for (size_t from = 0; from < clean.text.len && !status;) {
        size_t max = LIMIT_LINE_BYTES, len;

        if (clean.word_count - word > LINE_WORDS_MAX)
            max = clean.words[word + LINE_WORDS_MAX].start - from;
        len = cut_point(span_slice(clean.text, from, clean.text.len), max);
        status = put_piece(writer, &clean, from, len, &word);
        from += len;
    }
    return status;
}

enum status frame_writer_page_end(struct frame_writer *writer)
{
    enum status status;

    if (!writer->in_page)
        return STATUS_BUG;
    status = frame_put(&writer->bytes, FRAME_PAGE_END, span_of(NULL, 0));
    writer->in_page = false;
    if (!status && writer->late.len)
        status = put_late_problems(writer);
    if (!status && writer->cut_lines)
        status = frame_writer_problem(writer, "limit-page-text", (int)writer->page,
                                      "%zu lines beyond %lld bytes were left out", writer->cut_lines,
                                      LIMIT_PAGE_TEXT_BYTES);
    /* The next page may be the one that ends this process: what is read is handed over first. */
    return status ? status : flush(writer);
}

/* --- Members ------------------------------------------------------------------------------------------------ */

static json_t *hex_text(struct span bytes)
{
    static const char digits[] = "0123456789abcdef";
    size_t len = bytes.len < LIMIT_MEMBER_NAME_BYTES ? bytes.len : LIMIT_MEMBER_NAME_BYTES;
    char *text = malloc(2 * len + 1);
    json_t *value;

    if (!text)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        text[2 * i] = digits[(unsigned char)bytes.ptr[i] >> 4];
        text[2 * i + 1] = digits[(unsigned char)bytes.ptr[i] & 15];
    }
    value = json_stringn(text, 2 * len);
    free(text);
    return value;
}

enum status frame_writer_member_begin(struct frame_writer *writer, const struct frame_member *member)
{
    json_t *object = json_object();
    enum status status;

    if (!object)
        return STATUS_NO_MEMORY;
    (void)json_object_set_new(object, "name", json_text(span_from_cstr(member->name), LIMIT_MEMBER_NAME_BYTES));
    if (member->raw.len)
        (void)json_object_set_new(object, "raw_name_hex", hex_text(member->raw));
    if (member->size >= 0)
        (void)json_object_set_new(object, "size", json_integer(member->size));
    if (member->mtime_ms)
        (void)json_object_set_new(object, "mtime_ms", json_integer(member->mtime_ms));
    status = put_json(&writer->bytes, FRAME_MEMBER_BEGIN, object);
    writer->in_member = status == STATUS_OK;
    return status;
}

enum status frame_writer_member_data(struct frame_writer *writer, struct span bytes)
{
    enum status status = STATUS_OK;

    for (size_t from = 0; from < bytes.len && !status; from += MEMBER_PIECE_BYTES) {
        status = frame_put(&writer->bytes, FRAME_MEMBER_DATA, span_slice(bytes, from, from + MEMBER_PIECE_BYTES));
        if (!status)
            status = flush_if_full(writer);
    }
    return status;
}

enum status frame_writer_member_end(struct frame_writer *writer, bool complete)
{
    enum status status = put_json(&writer->bytes, FRAME_MEMBER_END, json_pack("{s:b}", "complete", complete));

    writer->in_member = false;
    if (!status && writer->late.len)
        status = put_late_problems(writer);
    return status ? status : flush_if_full(writer);
}

enum status frame_writer_member_skipped(struct frame_writer *writer, const struct frame_member *member,
                                        const char *code)
{
    enum status status = frame_writer_member_begin(writer, member);

    if (!status)
        status = put_json(&writer->bytes, FRAME_MEMBER_END, json_pack("{s:b, s:s}", "complete", 0, "skipped", code));
    writer->in_member = false;
    if (!status)
        status = frame_writer_problem(writer, code, 0, "'%s' was not read", member->name);
    return status ? status : flush_if_full(writer);
}

/* --- The end ------------------------------------------------------------------------------------------------ */

static enum status report_counts(struct frame_writer *writer)
{
    enum status status = STATUS_OK;

    if (writer->tiny)
        status = frame_writer_problem(writer, "tiny-text", 0, "%zu bytes of text under 3 points", writer->tiny);
    if (!status && writer->faint)
        status = frame_writer_problem(writer, "faint-text", 0, "%zu bytes of nearly white text", writer->faint);
    if (!status && writer->repaired)
        status = frame_writer_problem(writer, "repaired-text", 0,
                                      "%zu lines held control characters or bytes that are no text", writer->repaired);
    if (!status && writer->unreported_problems) {
        size_t more = writer->unreported_problems;

        writer->problems = 0;
        status = frame_writer_problem(writer, "more-problems", 0, "%zu more problems", more);
    }
    return status;
}

enum status frame_writer_end(struct frame_writer *writer)
{
    enum status status = STATUS_OK;

    if (writer->in_page)
        status = frame_writer_page_end(writer);
    if (!status && writer->in_member)
        status = frame_writer_member_end(writer, false);
    if (!status)
        status = report_counts(writer);
    if (!status)
        status = frame_put(&writer->bytes, FRAME_END, span_of(NULL, 0));
    return status ? status : flush(writer);
}
