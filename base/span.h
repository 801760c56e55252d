/* base/span.h: borrowed bytes, pointer and length. A span owns nothing and need not end in NUL. */
#ifndef BASE_SPAN_H
#define BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct span {
    const char *ptr; /* may be NULL when len is 0 */
    size_t len;
};

static inline struct span span_of(const char *ptr, size_t len)
{
    return (struct span){ptr, len};
}

static inline struct span span_from_cstr(const char *text)
{
    return (struct span){text, text ? strlen(text) : 0};
}

static inline bool span_equal(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline bool span_equal_cstr(struct span a, const char *text)
{
    return span_equal(a, span_from_cstr(text));
}

/* The bytes [start, end) of a span; both are clamped to its length. */
static inline struct span span_slice(struct span a, size_t start, size_t end)
{
    if (end > a.len)
        end = a.len;
    if (start > end)
        start = end;
    return (struct span){a.ptr ? a.ptr + start : NULL, end - start};
}

#endif
