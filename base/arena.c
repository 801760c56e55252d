/* arena.c: blocks of at least ARENA_BLOCK_BYTES, filled from the front. */
#include "base/arena.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/checked.h"

enum { ARENA_BLOCK_BYTES = 64 * 1024, ARENA_ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t used, cap; /* of the bytes that follow this header */
} __attribute__((aligned(ARENA_ALIGN)));

void arena_init(struct arena *arena, size_t max)
{
    *arena = (struct arena){.max = max};
}

void arena_finish(struct arena *arena)
{
    struct arena_block *block = arena->blocks;

    while (block) {
        struct arena_block *next = block->next;

        free(block);
        block = next;
    }
    arena->blocks = NULL;
    arena->used = 0;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    struct arena_block *block = arena->blocks;
    size_t rounded, total;
    void *result;

    if (!checked_add(bytes ? bytes : 1, ARENA_ALIGN - 1, &rounded))
        return NULL;
    rounded &= ~(size_t)(ARENA_ALIGN - 1);
    if (!checked_add(arena->used, rounded, &total) || total > arena->max)
        return NULL;
    if (!block || block->cap - block->used < rounded) {
        size_t cap = rounded > ARENA_BLOCK_BYTES ? rounded : ARENA_BLOCK_BYTES;

        if (!checked_add(cap, sizeof *block, &total))
            return NULL;
        block = calloc(1, total);
        if (!block)
            return NULL;
        block->cap = cap;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    result = (char *)(block + 1) + block->used;
    block->used += rounded;
    arena->used += rounded;
    return result;
}

void *arena_alloc_array(struct arena *arena, size_t count, size_t item_bytes)
{
    size_t bytes;

    return checked_mul(count, item_bytes, &bytes) ? arena_alloc(arena, bytes) : NULL;
}

char *arena_copy_cstr(struct arena *arena, struct span text)
{
    size_t bytes;
    char *copy = checked_add(text.len, 1, &bytes) ? arena_alloc(arena, bytes) : NULL;

    if (copy && text.len)
        memcpy(copy, text.ptr, text.len);
    return copy;
}
