/* mail_decode.c: base64, quoted-printable, encoded words, parameters. */
#include "ingest/mail_decode.h"

#include <errno.h>
#include <iconv.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

enum status mail_decode_base64(struct span text, struct buf *out)
{
    uint32_t bits = 0;
    int count = 0;
    enum status status = buf_reserve(out, text.len / 4 * 3 + 3);

    for (size_t i = 0; i < text.len && !status; i++) {
        int value = base64_value(text.ptr[i]);

        if (value < 0)
            continue;
        bits = bits << 6 | (uint32_t)value;
        count += 6;
        if (count >= 8) {
            count -= 8;
            status = buf_append_byte(out, (char)(bits >> count));
        }
    }
    return status;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

enum status mail_decode_quoted(struct span text, bool header, struct buf *out)
{
    enum status status = buf_reserve(out, text.len);

    for (size_t i = 0; i < text.len && !status; i++) {
        char c = text.ptr[i];

        if (c == '=' && i + 2 < text.len && hex_value(text.ptr[i + 1]) >= 0 && hex_value(text.ptr[i + 2]) >= 0) {
            status = buf_append_byte(out, (char)(hex_value(text.ptr[i + 1]) << 4 | hex_value(text.ptr[i + 2])));
            i += 2;
        } else if (c == '=' && i + 1 < text.len && (text.ptr[i + 1] == '\n' || text.ptr[i + 1] == '\r')) {
            i += text.ptr[i + 1] == '\r' && i + 2 < text.len && text.ptr[i + 2] == '\n' ? 2 : 1; /* a soft line end */
        } else {
            status = buf_append_byte(out, header && c == '_' ? ' ' : c);
        }
    }
    return status;
}

/* --- Headers ------------------------------------------------------------------------------------------------------ */

static enum status to_utf8(struct span bytes, const char *charset, struct buf *out)
{
    iconv_t converter = strcasecmp(charset, "utf-8") == 0 ? (iconv_t)-1 : iconv_open("UTF-8", charset);
    char *in = (char *)(uintptr_t)bytes.ptr, text[1024];
    size_t in_left = bytes.len;
    enum status status = STATUS_OK;

    if (converter == (iconv_t)-1)
        return buf_append_span(out, bytes);
    while (in_left && !status) {
        char *to = text;
        size_t room = sizeof text;

        if (iconv(converter, &in, &in_left, &to, &room) == (size_t)-1 && errno != E2BIG)
            in_left = 0; /* what follows can't be trusted to stand at a character */
        status = buf_append(out, text, (size_t)(to - text));
    }
    (void)iconv_close(converter);
    return status;
}

/* "=?charset?B?text?=" at the start of `text`: its length, 0 when there is none. */
static size_t take_word(struct span text, struct buf *out, enum status *status)
{
    struct span rest = span_slice(text, 2, text.len < 512 ? text.len : 512), body;
    const char *first = rest.len ? memchr(rest.ptr, '?', rest.len) : NULL, *end;
    char charset[64], kind, *star;
    struct buf bytes;

    if (!first || (size_t)(first - rest.ptr) + 3 >= rest.len || first[2] != '?' ||
        (size_t)(first - rest.ptr) >= sizeof charset)
        return 0;
    kind = (char)(first[1] | 32);
    body = span_slice(rest, (size_t)(first - rest.ptr) + 3, rest.len);
    end = memmem(body.ptr, body.len, "?=", 2);
    if (!end || (kind != 'b' && kind != 'q'))
        return 0;
    (void)snprintf(charset, sizeof charset, "%.*s", (int)(first - rest.ptr), rest.ptr);
    star = strchr(charset, '*'); /* a language may follow */
    if (star)
        *star = '\0';
    body.len = (size_t)(end - body.ptr);
    buf_init(&bytes, 1024);
    *status = kind == 'b' ? mail_decode_base64(body, &bytes) : mail_decode_quoted(body, true, &bytes);
    if (!*status)
        *status = to_utf8(buf_span(&bytes), charset, out);
    buf_finish(&bytes);
    return (size_t)(end + 2 - text.ptr);
}

enum status mail_decode_header(struct span value, struct buf *out)
{
    bool after_word = false;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < value.len && !status;) {
        char c = value.ptr[i];
        size_t spaces = 0, word = 0;

        while (i + spaces < value.len && strchr(" \t\r\n", value.ptr[i + spaces]))
            spaces++;
        if (i + spaces + 1 < value.len && value.ptr[i + spaces] == '=' && value.ptr[i + spaces + 1] == '?') {
            size_t before = out->len;

            if (spaces && !after_word) /* space between two encoded words is none */
                status = buf_append_byte(out, ' ');
            if (!status)
                word = take_word(span_slice(value, i + spaces, value.len), out, &status);
            if (!status && !word)
                out->len = before;
        }
        if (word) {
            i += spaces + word;
            after_word = true;
        } else if (spaces) {
            status = buf_append_byte(out, ' ');
            i += spaces;
        } else {
            status = buf_append_byte(out, c);
            after_word = false;
            i++;
        }
    }
    return status;
}

bool mail_parameter(struct span value, const char *name, char *text, size_t size)
{
    size_t len = strlen(name), used = 0;

    text[0] = '\0';
    for (size_t i = 0; i + len + 1 < value.len; i++) {
        bool quoted;

        if ((i > 0 && !strchr("; \t\r\n", value.ptr[i - 1])) || strncasecmp(value.ptr + i, name, len) != 0 ||
            value.ptr[i + len] != '=')
            continue;
        i += len + 1;
        quoted = i < value.len && value.ptr[i] == '"';
        for (i += quoted; i < value.len && used + 1 < size; i++) {
            if (quoted ? value.ptr[i] == '"' : strchr("; \t\r\n", value.ptr[i]) != NULL)
                break;
            text[used++] = value.ptr[i];
        }
        text[used] = '\0';
        return true;
    }
    return false;
}
