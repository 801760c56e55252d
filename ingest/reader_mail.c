/* reader_mail.c: a mail message (RFC 5322, MIME), or a mailbox of them, one page a message.
 *
 * A message is its subject as a heading, who wrote to whom and when, and its text. Of alternatives the plain one
 * is read, HTML where it is the only one. Attachments are named in a problem and not read. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/mail_decode.h"
#include "ingest/readers.h"
#include "ingest/source.h"
#include "ingest/text_lines.h"

enum { DEPTH_MAX = 8, PARTS_MAX = 1000, BODY_BYTES_MAX = 64 << 20, BOUNDARY_BYTES = 128 };

struct mail {
    struct frame_writer *out;
    struct error *err;
    int number, parts; /* of the message; parts of it so far */
};

/* --- Headers ------------------------------------------------------------------------------------------------------ */

/* The end of the headers: the first empty line; the body begins after it. */
static size_t body_start(struct span entity)
{
    for (size_t i = 0; i < entity.len; i++) {
        if (entity.ptr[i] != '\n')
            continue;
        if (i + 1 < entity.len && entity.ptr[i + 1] == '\n')
            return i + 2;
        if (i + 2 < entity.len && entity.ptr[i + 1] == '\r' && entity.ptr[i + 2] == '\n')
            return i + 3;
    }
    return entity.len;
}

/* The value of the header, with its folded lines; empty when it is not there. */
static struct span find_header(struct span headers, const char *name)
{
    size_t len = strlen(name), at = 0;

    while (at < headers.len) {
        const char *line_end = memchr(headers.ptr + at, '\n', headers.len - at);
        size_t end = line_end ? (size_t)(line_end - headers.ptr) : headers.len;

        if (end - at > len && headers.ptr[at + len] == ':' && strncasecmp(headers.ptr + at, name, len) == 0) {
            while (end + 1 < headers.len && (headers.ptr[end + 1] == ' ' || headers.ptr[end + 1] == '\t')) {
                line_end = memchr(headers.ptr + end + 1, '\n', headers.len - end - 1);
                end = line_end ? (size_t)(line_end - headers.ptr) : headers.len;
            }
            at += len + 1;
            while (at < end && strchr(" \t\r\n", headers.ptr[at]))
                at++;
            while (end > at && strchr(" \t\r\n", headers.ptr[end - 1]))
                end--;
            return span_slice(headers, at, end);
        }
        at = end + 1;
    }
    return span_of(NULL, 0);
}

static bool type_is(struct span type, const char *wanted)
{
    size_t len = strlen(wanted);

    return type.len >= len && strncasecmp(type.ptr, wanted, len) == 0;
}

/* --- Bodies ------------------------------------------------------------------------------------------------------- */

static enum status decode_body(struct span headers, struct span body, struct buf *out)
{
    struct span encoding = find_header(headers, "Content-Transfer-Encoding");

    if (type_is(encoding, "base64"))
        return mail_decode_base64(body, out);
    if (type_is(encoding, "quoted-printable"))
        return mail_decode_quoted(body, false, out);
    return buf_append_span(out, body);
}

static enum status send_body(struct mail *m, struct span headers, struct span body, struct span type)
{
    struct source *source = NULL;
    struct buf bytes;
    char charset[64];
    enum status status;

    buf_init(&bytes, BODY_BYTES_MAX);
    status = decode_body(headers, body, &bytes);
    if (status == STATUS_LIMIT) {
        buf_finish(&bytes);
        return frame_writer_problem(m->out, "limit-member", m->number, "a part of more than %d bytes was left out",
                                    BODY_BYTES_MAX);
    }
    if (!status)
        status = source_open_memory(buf_span(&bytes), &source);
    (void)mail_parameter(type, "charset", charset, sizeof charset);
    if (!status && bytes.len)
        status = type_is(type, "text/html") ? html_send_text(source, m->out, m->err)
                                            : text_send_prose(source, charset, m->out, m->err);
    source_close(source);
    buf_finish(&bytes);
    return status;
}

static enum status skip_attachment(struct mail *m, struct span headers, struct span type)
{
    const char *semicolon = type.len ? memchr(type.ptr, ';', type.len) : NULL;
    size_t kind_len = semicolon ? (size_t)(semicolon - type.ptr) : type.len;
    char name[256];

    if (!mail_parameter(find_header(headers, "Content-Disposition"), "filename", name, sizeof name))
        (void)mail_parameter(type, "name", name, sizeof name);
    return frame_writer_problem(m->out, "attachment-skipped", m->number, "'%s' (%.*s) was not read", name,
                                (int)kind_len, type.len ? type.ptr : "");
}

/* The next part between boundaries; *at moves on. False after the last. */
static bool next_part(struct span body, const char *boundary, size_t *at, struct span *part)
{
    char mark[BOUNDARY_BYTES + 4];
    size_t len = (size_t)snprintf(mark, sizeof mark, "--%s", boundary);
    const char *begin = *at < body.len ? memmem(body.ptr + *at, body.len - *at, mark, len) : NULL, *end, *line;

    if (!begin || (size_t)(begin - body.ptr) + len + 2 > body.len || memcmp(begin + len, "--", 2) == 0)
        return false;
    line = memchr(begin, '\n', body.len - (size_t)(begin - body.ptr));
    if (!line)
        return false;
    *at = (size_t)(line - body.ptr) + 1;
    end = memmem(body.ptr + *at, body.len - *at, mark, len);
    *part = span_slice(body, *at, end ? (size_t)(end - body.ptr) : body.len);
    *at = end ? (size_t)(end - body.ptr) : body.len;
    return true;
}

/* The part of multipart/alternative to read: plain text, else the last one that is text or more parts. */
static struct span choose_alternative(struct span body, const char *boundary)
{
    struct span part, chosen = span_of(NULL, 0);
    size_t at = 0;

    while (next_part(body, boundary, &at, &part)) {
        struct span type = find_header(span_slice(part, 0, body_start(part)), "Content-Type");

        if (type.len == 0 || type_is(type, "text/plain"))
            return part;
        if (type_is(type, "text/html") || type_is(type, "multipart/"))
            chosen = part;
    }
    return chosen;
}

/* A part or a whole message without its own heading. The recursion ends at DEPTH_MAX. */
static enum status send_entity(struct mail *m, struct span entity, int depth)
{
    size_t start = body_start(entity), at = 0;
    struct span headers = span_slice(entity, 0, start), body = span_slice(entity, start, entity.len), part;
    struct span type = find_header(headers, "Content-Type");
    bool attached = type_is(find_header(headers, "Content-Disposition"), "attachment");
    char boundary[BOUNDARY_BYTES];
    enum status status = STATUS_OK;

    if (depth > DEPTH_MAX || ++m->parts > PARTS_MAX)
        return frame_writer_problem(m->out, "limit-depth", m->number, "parts inside parts were left out");
    if (type_is(type, "multipart/") && mail_parameter(type, "boundary", boundary, sizeof boundary) && boundary[0]) {
        if (type_is(type, "multipart/alternative"))
            return send_entity(m, choose_alternative(body, boundary), depth + 1);
        while (!status && next_part(body, boundary, &at, &part))
            status = send_entity(m, part, depth + 1);
        return status;
    }
    if (type_is(type, "message/rfc822"))
        return send_entity(m, body, depth + 1);
    if (!attached && (type.len == 0 || type_is(type, "text/plain") || type_is(type, "text/html")))
        return send_body(m, headers, body, type);
    return skip_attachment(m, headers, type);
}

/* --- Messages ----------------------------------------------------------------------------------------------------- */

static enum status send_header(struct block *block, struct span headers, const char *name, bool heading)
{
    struct span value = find_header(headers, name);
    char prefix[16];
    struct buf text;
    enum status status;

    if (!value.len)
        return STATUS_OK;
    buf_init(&text, 64 << 10);
    status = mail_decode_header(span_slice(value, 0, 16 << 10), &text);
    (void)snprintf(prefix, sizeof prefix, "%s: ", name);
    if (!status)
        status = heading ? block_begin(block, LINE_HEADING, 1, NULL) : block_begin(block, LINE_TEXT, 0, prefix);
    if (!status)
        status = block_add(block, buf_span(&text));
    buf_finish(&text);
    return status ? status : block_end(block);
}

static enum status send_message(struct mail *m, struct span message)
{
    static const char *const names[] = {"From", "To", "Cc", "Date"};
    struct frame_page page = {.number = (uint32_t)++m->number};
    struct span headers = span_slice(message, 0, body_start(message));
    struct block block;
    enum status status = frame_writer_page_begin(m->out, &page);

    m->parts = 0;
    block_init(&block, m->out);
    if (!status)
        status = send_header(&block, headers, "Subject", true);
    for (size_t i = 0; i < sizeof names / sizeof *names && !status; i++)
        status = send_header(&block, headers, names[i], false);
    block_finish(&block);
    if (!status)
        status = send_entity(m, message, 0);
    return status ? status : frame_writer_page_end(m->out);
}

static enum status send_meta(struct mail *m, struct span headers)
{
    struct buf subject, from;
    struct frame_meta meta = {0};
    struct tm date = {0};
    char created[40] = "", text[64];
    struct span value = find_header(headers, "Date");
    const char *rest;
    enum status status;

    buf_init(&subject, 64 << 10);
    buf_init(&from, 64 << 10);
    status = mail_decode_header(span_slice(find_header(headers, "Subject"), 0, 16 << 10), &subject);
    if (!status)
        status = mail_decode_header(span_slice(find_header(headers, "From"), 0, 16 << 10), &from);
    (void)snprintf(text, sizeof text, "%.*s", (int)value.len, value.len ? value.ptr : "");
    rest = strptime(text, "%a, %d %b %Y %H:%M:%S %z", &date);
    if (!rest)
        rest = strptime(text, "%d %b %Y %H:%M:%S %z", &date);
    if (rest) {
        long east = date.tm_gmtoff; /* timegm() forgets it */
        time_t at = timegm(&date) - east;

        (void)gmtime_r(&at, &date);
        (void)strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &date);
    }
    meta = (struct frame_meta){.title = buf_cstr(&subject), .author = buf_cstr(&from), .created = created};
    if (!status)
        status = frame_writer_meta(m->out, &meta);
    buf_finish(&subject);
    buf_finish(&from);
    return status;
}

/* A mailbox parts its messages by lines that begin with "From ", after an empty line. */
static size_t message_end(struct span box, size_t from)
{
    while (from < box.len) {
        const char *at = memmem(box.ptr + from, box.len - from, "\nFrom ", 6);
        size_t end;

        if (!at)
            break;
        end = (size_t)(at - box.ptr);
        if (end > 0 && (box.ptr[end - 1] == '\n' || (end > 1 && box.ptr[end - 1] == '\r' && box.ptr[end - 2] == '\n')))
            return end + 1;
        from = end + 1;
    }
    return box.len;
}

static enum status mail_read(const struct reader_job *job, struct error *err)
{
    struct mail m = {.out = job->out, .err = err};
    struct span bytes;
    enum status status = source_map(job->source, &bytes, err);

    if (status)
        return status;
    if (!type_is(bytes, "From ")) {
        status = send_meta(&m, span_slice(bytes, 0, body_start(bytes)));
        return status ? status : send_message(&m, bytes);
    }
    for (size_t at = 0; at < bytes.len && !status && m.number < LIMIT_PAGES;) {
        size_t end = message_end(bytes, at);
        const char *line = memchr(bytes.ptr + at, '\n', end - at); /* the "From " line is no header */

        if (line)
            status = send_message(&m, span_slice(bytes, (size_t)(line - bytes.ptr) + 1, end));
        at = end;
    }
    if (!status && m.number == LIMIT_PAGES)
        status = frame_writer_problem(job->out, "limit-pages", 0, "the first %d messages were read", LIMIT_PAGES);
    return status;
}

static int mail_bid(struct span head, const char *name)
{
    const char *dot = name ? strrchr(name, '.') : NULL;
    struct span headers = span_slice(head, 0, body_start(head));
    bool dated = find_header(headers, "Date").len > 0, from = find_header(headers, "From").len > 0;

    if (!text_is_likely(head) || !from || !(dated || find_header(headers, "Subject").len))
        return 0;
    if (dot && (strcasecmp(dot, ".eml") == 0 || strcasecmp(dot, ".mbox") == 0))
        return 55;
    /* Without the name: what only mail has. */
    return find_header(headers, "Message-ID").len || find_header(headers, "MIME-Version").len ||
                   find_header(headers, "Received").len
               ? 52
               : 0;
}

const struct reader reader_mail = {"mail", "message/rfc822", mail_bid, mail_read};
