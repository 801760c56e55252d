/* base/arena.h: memory that lives and dies together (one document, one request).
 *
 * Allocations are 16-byte aligned, never moved, and freed all at once. Zero is a valid arena whose maximum
 * is 0; call arena_init(). A refused allocation returns NULL, both beyond the maximum and when the system has
 * no memory; callers answer STATUS_NO_MEMORY. One owner, no threads. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/span.h"

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first */
    size_t used;                /* bytes handed out, rounding included */
    size_t max;                 /* the most that `used` may become */
};

void arena_init(struct arena *arena, size_t max);
void arena_finish(struct arena *arena); /* frees everything; the arena is empty with the same maximum */

void *arena_alloc(struct arena *arena, size_t bytes);                 /* zeroed */
void *arena_alloc_array(struct arena *arena, size_t count, size_t item_bytes); /* zeroed, overflow-checked */
char *arena_copy_cstr(struct arena *arena, struct span text);         /* NUL-terminated copy */

#endif
