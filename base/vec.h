/* base/vec.h: a growing array of one type.
 *
 *   VEC(struct page) pages = {0};
 *   status = vec_reserve(&pages, 1);          // room for one more, or STATUS_NO_MEMORY with nothing changed
 *   pages.items[pages.count++] = page;
 *   vec_finish(&pages);
 *
 * A bound on `count` is the caller's: check it against limits.h before reserving. */
#ifndef BASE_VEC_H
#define BASE_VEC_H

#include <stdlib.h>

#include "base/checked.h"
#include "base/status.h"

#define VEC(type)          \
    struct {               \
        type *items;       \
        size_t count, cap; \
    }

#define vec_reserve(vec, more) \
    vec_reserve_bytes((void **)&(vec)->items, &(vec)->cap, (vec)->count, (more), sizeof *(vec)->items)

#define vec_finish(vec)        \
    do {                       \
        free((vec)->items);    \
        (vec)->items = NULL;   \
        (vec)->count = 0;      \
        (vec)->cap = 0;        \
    } while (0)

static inline MUST_CHECK enum status vec_reserve_bytes(void **items, size_t *cap, size_t count, size_t more,
                                                       size_t item_bytes)
{
    size_t need, room = *cap ? *cap : 8, bytes;
    void *grown;

    if (!checked_add(count, more, &need))
        return STATUS_NO_MEMORY;
    if (need <= *cap)
        return STATUS_OK;
    while (room < need) {
        if (!checked_mul(room, 2, &room))
            return STATUS_NO_MEMORY;
    }
    if (!checked_mul(room, item_bytes, &bytes))
        return STATUS_NO_MEMORY;
    grown = realloc(*items, bytes);
    if (!grown)
        return STATUS_NO_MEMORY;
    *items = grown;
    *cap = room;
    return STATUS_OK;
}

#endif
