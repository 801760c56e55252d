/* member_name.c: repairs names of archive members. */
#include "ingest/member_name.h"

#include "base/utf8.h"
#include "ingest/frame_writer.h"
#include "ingest/limits.h"

static bool is_separator(char c)
{
    return c == '/' || c == '\\';
}

static bool has_drive(struct span name)
{
    return name.len >= 2 && name.ptr[1] == ':' && ((name.ptr[0] | 32) >= 'a' && (name.ptr[0] | 32) <= 'z');
}

/* Joins the parts of `name` but ".", ".." and empty ones. Backslashes separate only where no slash stands:
 * Windows wrote such archives. */
static enum status join_parts(struct span name, struct buf *label, struct member_name *found)
{
    bool slashes = name.len && memchr(name.ptr, '/', name.len);
    size_t at = 0;
    enum status status = STATUS_OK;

    if (has_drive(name)) {
        found->unsafe = true;
        at = 2;
    }
    if (at < name.len && is_separator(name.ptr[at]))
        found->unsafe = true;
    while (at < name.len && !status) {
        size_t end = at;
        struct span part;

        while (end < name.len && (slashes ? name.ptr[end] != '/' : !is_separator(name.ptr[end])))
            end++;
        part = span_slice(name, at, end);
        at = end + 1;
        if (span_equal_cstr(part, ".."))
            found->unsafe = true;
        if (part.len == 0 || span_equal_cstr(part, ".") || span_equal_cstr(part, ".."))
            continue;
        if (label->len)
            status = buf_append_byte(label, '/');
        if (!status)
            status = buf_append_span(label, part);
    }
    return status;
}

enum status member_name_clean(struct span raw, struct buf *label, struct member_name *found)
{
    struct buf text;
    enum status status;

    *found = (struct member_name){.cut = raw.len > LIMIT_MEMBER_NAME_BYTES};
    raw = span_slice(raw, 0, LIMIT_MEMBER_NAME_BYTES);
    if (found->cut)
        raw.len = utf8_complete_prefix(raw);
    buf_clear(label);
    buf_init(&text, 4 * LIMIT_MEMBER_NAME_BYTES);
    status = text_repair(&text, raw, &found->not_utf8);
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '\n' || text.ptr[i] == '\t') {
            text.ptr[i] = ' ';
            found->not_utf8 = true;
        }
    }
    if (!status)
        status = join_parts(buf_span(&text), label, found);
    if (!status && label->len == 0)
        status = buf_append_cstr(label, "unnamed");
    buf_finish(&text);
    return status;
}
