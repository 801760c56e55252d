/* buf.c: the growing buffer of buf.h. Growth doubles, and never goes past the maximum. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"

enum { BUF_FIRST_BYTES = 64 };

void buf_init(struct buf *buf, size_t max)
{
    *buf = (struct buf){.max = max};
}

void buf_finish(struct buf *buf)
{
    free(buf->ptr);
    *buf = (struct buf){.max = buf->max};
}

void buf_clear(struct buf *buf)
{
    buf->len = 0;
    if (buf->ptr)
        buf->ptr[0] = '\0';
}

enum status buf_reserve(struct buf *buf, size_t more)
{
    size_t need, cap;
    char *ptr;

    if (!checked_add(buf->len, more, &need) || need > buf->max)
        return STATUS_LIMIT;
    if (need < buf->cap)
        return STATUS_OK;
    cap = buf->cap ? buf->cap : BUF_FIRST_BYTES;
    while (cap <= need) {
        if (!checked_mul(cap, 2, &cap))
            return STATUS_NO_MEMORY;
    }
    ptr = realloc(buf->ptr, cap);
    if (!ptr)
        return STATUS_NO_MEMORY;
    buf->ptr = ptr;
    buf->cap = cap;
    return STATUS_OK;
}

enum status buf_append(struct buf *buf, const void *bytes, size_t len)
{
    enum status status = buf_reserve(buf, len);

    if (status)
        return status;
    if (len)
        memcpy(buf->ptr + buf->len, bytes, len);
    buf->len += len;
    buf->ptr[buf->len] = '\0';
    return STATUS_OK;
}

enum status buf_append_span(struct buf *buf, struct span text)
{
    return buf_append(buf, text.ptr, text.len);
}

enum status buf_append_cstr(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

enum status buf_append_byte(struct buf *buf, char byte)
{
    return buf_append(buf, &byte, 1);
}

enum status buf_printf(struct buf *buf, const char *format, ...)
{
    va_list arguments;
    enum status status;
    int len;

    va_start(arguments, format);
    len = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (len < 0)
        return STATUS_BUG;
    status = buf_reserve(buf, (size_t)len);
    if (status)
        return status;
    va_start(arguments, format);
    (void)vsnprintf(buf->ptr + buf->len, (size_t)len + 1, format, arguments);
    va_end(arguments);
    buf->len += (size_t)len;
    return STATUS_OK;
}
