/* bpe.c: byte-pair encoding of one word.
 *
 * The rule: among all neighbouring pairs that have a merge, the one of lowest rank goes first, the leftmost among
 * equals, until none is left. Three ways to the same result:
 *   - a word that is one token by that rule (found out once, when the tokenizer is loaded) is looked up whole; in
 *     English text that is nine words in ten;
 *   - a short word keeps the rank of every pair in an array and takes the minimum, n² steps on at most
 *     SHORT_WORD bytes, all of them in registers or the first cache level;
 *   - a long word keeps its candidates in a heap and its symbols in a linked list: n log n, so that a megabyte without
 *     a space costs no more a byte than a book does. */
#include "engine/bpe.h"

#include <limits.h>
#include <stdlib.h>

#include "base/checked.h"

enum { SHORT_WORD = 48, NO_MERGE = INT_MAX };

/* --- Tables ------------------------------------------------------------------------------------------- */

static uint32_t hash_bytes(struct span bytes)
{
    uint64_t h = bytes.len * 0x9E3779B97F4A7C15u;
    const char *at = bytes.ptr;
    size_t left = bytes.len;

    for (; left >= 8; at += 8, left -= 8) {
        uint64_t word;

        memcpy(&word, at, 8);
        h = (h ^ word) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
    }
    if (left) {
        uint64_t word = 0;

        memcpy(&word, at, left);
        h = (h ^ word) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
    }
    return (uint32_t)(h * 0xC4CEB9FE1A85EC53u >> 32);
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    return (uint32_t)((((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u) >> 32);
}

/* The least power of two that is at least twice `count`: tables stay at most half full. */
static uint32_t table_slots(size_t count)
{
    uint32_t slots = 16;

    while (slots < 2 * count)
        slots *= 2;
    return slots;
}

enum status bpe_init(struct bpe *bpe, int32_t vocab_size, size_t blob_bytes, size_t merge_count)
{
    uint32_t word_slots, pair_slots;

    *bpe = (struct bpe){0};
    if (vocab_size < 1 || vocab_size > BPE_MAX_VOCAB || blob_bytes > BPE_MAX_BLOB_BYTES || merge_count > BPE_MAX_VOCAB)
        return STATUS_LIMIT;
    word_slots = table_slots((size_t)vocab_size);
    pair_slots = table_slots(merge_count);
    bpe->vocab_size = vocab_size;
    bpe->blob_cap = blob_bytes;
    bpe->word_mask = word_slots - 1;
    bpe->pair_mask = pair_slots - 1;
    bpe->blob = malloc(blob_bytes + 1);
    bpe->tokens = calloc((size_t)vocab_size, sizeof *bpe->tokens);
    bpe->flags = calloc((size_t)vocab_size, sizeof *bpe->flags);
    bpe->words = malloc(word_slots * sizeof *bpe->words);
    bpe->pairs = malloc(pair_slots * sizeof *bpe->pairs);
    if (!bpe->blob || !bpe->tokens || !bpe->flags || !bpe->words || !bpe->pairs) {
        bpe_finish(bpe);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < word_slots; i++)
        bpe->words[i].id = -1;
    for (uint32_t i = 0; i < pair_slots; i++)
        bpe->pairs[i].left = -1;
    return STATUS_OK;
}

void bpe_finish(struct bpe *bpe)
{
    free(bpe->blob);
    free(bpe->tokens);
    free(bpe->flags);
    free(bpe->words);
    free(bpe->pairs);
    *bpe = (struct bpe){0};
}

void bpe_put_token(struct bpe *bpe, int32_t id, struct span bytes, unsigned flags)
{
    size_t room = bpe->blob_cap - bpe->blob_len;
    uint32_t hash, slot;

    if (id < 0 || id >= bpe->vocab_size || bytes.len > room)
        return; /* the loader has counted both; a token left out is seen as unused */
    if (bytes.len)
        memcpy(bpe->blob + bpe->blob_len, bytes.ptr, bytes.len);
    bpe->tokens[id] = (struct bpe_token){(uint32_t)bpe->blob_len, (uint32_t)bytes.len};
    bpe->flags[id] = (uint8_t)(BPE_USED | bpe->flags[id] | flags);
    bpe->blob_len += bytes.len;
    if (!(flags & BPE_WORD))
        return;
    hash = hash_bytes(bytes);
    for (slot = hash & bpe->word_mask; bpe->words[slot].id >= 0; slot = (slot + 1) & bpe->word_mask)
        ;
    bpe->words[slot] = (struct bpe_word){hash, id};
}

int32_t bpe_find(const struct bpe *bpe, struct span bytes)
{
    uint32_t hash = hash_bytes(bytes);

    for (uint32_t slot = hash & bpe->word_mask; bpe->words[slot].id >= 0; slot = (slot + 1) & bpe->word_mask) {
        if (bpe->words[slot].hash == hash && span_equal(bpe_bytes(bpe, bpe->words[slot].id), bytes))
            return bpe->words[slot].id;
    }
    return -1;
}

void bpe_put_merge(struct bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t merged)
{
    uint32_t slot = hash_pair(left, right) & bpe->pair_mask;

    while (bpe->pairs[slot].left >= 0 && (bpe->pairs[slot].left != left || bpe->pairs[slot].right != right))
        slot = (slot + 1) & bpe->pair_mask;
    bpe->pairs[slot] = (struct bpe_pair){left, right, rank, merged};
}

static const struct bpe_pair *find_pair(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint32_t slot = hash_pair(left, right) & bpe->pair_mask;

    for (; bpe->pairs[slot].left >= 0; slot = (slot + 1) & bpe->pair_mask) {
        if (bpe->pairs[slot].left == left && bpe->pairs[slot].right == right)
            return &bpe->pairs[slot];
    }
    return NULL;
}

/* --- Output ------------------------------------------------------------------------------------------- */

static enum status sink_grow(struct bpe_sink *sink)
{
    size_t cap = sink->cap ? sink->cap : 64, bytes;
    int32_t *ids;

    if (!checked_mul(cap, 2, &cap) || !checked_mul(cap, sizeof *ids, &bytes))
        return STATUS_NO_MEMORY;
    ids = realloc(sink->ids, bytes);
    if (!ids)
        return STATUS_NO_MEMORY;
    sink->ids = ids;
    sink->cap = cap;
    return STATUS_OK;
}

enum status bpe_emit(struct bpe_sink *sink, int32_t id)
{
    enum status status;

    if (sink->count >= sink->max)
        return STATUS_LIMIT;
    if (sink->keep) {
        if (sink->count == sink->cap && (status = sink_grow(sink)))
            return status;
        sink->ids[sink->count] = id;
    }
    sink->count++;
    return STATUS_OK;
}

/* --- Short words -------------------------------------------------------------------------------------- */

struct short_word {
    int32_t ids[SHORT_WORD];
    int32_t rank[SHORT_WORD], merged[SHORT_WORD]; /* of the pair (i, i + 1) */
    int count;
};

static void rank_pair(const struct bpe *bpe, struct short_word *word, int i)
{
    const struct bpe_pair *pair = i >= 0 && i + 1 < word->count
                                      ? find_pair(bpe, word->ids[i], word->ids[i + 1]) : NULL;

    if (i < 0)
        return;
    word->rank[i] = pair ? pair->rank : NO_MERGE;
    word->merged[i] = pair ? pair->merged : -1;
}

static void merge_short(const struct bpe *bpe, struct span bytes, struct short_word *word)
{
    word->count = (int)bytes.len;
    for (int i = 0; i < word->count; i++)
        word->ids[i] = bpe->byte_id[(unsigned char)bytes.ptr[i]];
    for (int i = 0; i < word->count; i++)
        rank_pair(bpe, word, i);
    for (;;) {
        int best = 0;

        for (int i = 1; i < word->count; i++) {
            if (word->rank[i] < word->rank[best])
                best = i;
        }
        if (word->rank[best] == NO_MERGE)
            return;
        word->ids[best] = word->merged[best];
        word->count--;
        for (int i = best + 1; i < word->count; i++) {
            word->ids[i] = word->ids[i + 1];
            word->rank[i] = word->rank[i + 1];
            word->merged[i] = word->merged[i + 1];
        }
        rank_pair(bpe, word, best - 1);
        rank_pair(bpe, word, best);
    }
}

/* --- Long words --------------------------------------------------------------------------------------- */

struct bpe_symbol {
    int32_t id; /* -1: merged into the one before */
    uint32_t previous, next; /* UINT32_MAX: none */
};

struct bpe_candidate {
    int32_t rank, merged;
    uint32_t at; /* the left symbol */
};

void bpe_scratch_finish(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

static bool before(struct bpe_candidate a, struct bpe_candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(struct bpe_candidate *heap, size_t *count, struct bpe_candidate item)
{
    size_t at = (*count)++;

    while (at > 0 && before(item, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static struct bpe_candidate heap_pop(struct bpe_candidate *heap, size_t *count)
{
    struct bpe_candidate top = heap[0], last = heap[--*count];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < *count) {
        if (child + 1 < *count && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* A word of n bytes has n - 1 pairs at first, and every merge makes at most two more. */
static enum status scratch_reserve(struct bpe_scratch *scratch, size_t bytes)
{
    void *symbols, *heap;
    size_t heap_items;

    if (bytes <= scratch->symbol_cap)
        return STATUS_OK;
    if (bytes >= UINT32_MAX || !checked_mul(bytes, 3, &heap_items))
        return STATUS_LIMIT;
    symbols = realloc(scratch->symbols, bytes * sizeof *scratch->symbols);
    if (!symbols)
        return STATUS_NO_MEMORY;
    scratch->symbols = symbols;
    heap = realloc(scratch->heap, heap_items * sizeof *scratch->heap);
    if (!heap)
        return STATUS_NO_MEMORY;
    scratch->heap = heap;
    scratch->heap_cap = heap_items;
    scratch->symbol_cap = bytes;
    return STATUS_OK;
}

static void push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, size_t *count, uint32_t at)
{
    const struct bpe_symbol *symbols = scratch->symbols;
    const struct bpe_pair *pair;

    if (at == UINT32_MAX || symbols[at].next == UINT32_MAX)
        return;
    pair = find_pair(bpe, symbols[at].id, symbols[symbols[at].next].id);
    if (pair)
        heap_push(scratch->heap, count, (struct bpe_candidate){pair->rank, pair->merged, at});
}

static void merge_long(const struct bpe *bpe, struct span bytes, struct bpe_scratch *scratch)
{
    struct bpe_symbol *symbols = scratch->symbols;
    uint32_t count = (uint32_t)bytes.len;
    size_t heap_count = 0;

    for (uint32_t i = 0; i < count; i++) {
        symbols[i].id = bpe->byte_id[(unsigned char)bytes.ptr[i]];
        symbols[i].previous = i - 1; /* UINT32_MAX for the first */
        symbols[i].next = i + 1 < count ? i + 1 : UINT32_MAX;
    }
    for (uint32_t i = 0; i < count; i++)
        push_pair(bpe, scratch, &heap_count, i);
    while (heap_count) {
        struct bpe_candidate top = heap_pop(scratch->heap, &heap_count);
        struct bpe_symbol *left = &symbols[top.at], *right;
        const struct bpe_pair *pair;

        if (left->id < 0 || left->next == UINT32_MAX)
            continue;
        right = &symbols[left->next];
        pair = find_pair(bpe, left->id, right->id);
        if (!pair || pair->merged != top.merged)
            continue; /* one of the two has changed since */
        left->id = top.merged;
        left->next = right->next;
        if (right->next != UINT32_MAX)
            symbols[right->next].previous = top.at;
        right->id = -1;
        push_pair(bpe, scratch, &heap_count, left->previous);
        push_pair(bpe, scratch, &heap_count, top.at);
    }
}

/* --- One word ----------------------------------------------------------------------------------------- */

enum status bpe_encode(const struct bpe *bpe, struct span word, struct bpe_scratch *scratch, struct bpe_sink *sink)
{
    enum status status;
    int32_t id;

    if (word.len == 0)
        return STATUS_OK;
    id = word.len == 1 ? bpe->byte_id[(unsigned char)word.ptr[0]]
                       : word.len <= BPE_MAX_TOKEN_BYTES ? bpe_find(bpe, word) : -1;
    if (id >= 0 && (bpe->flags[id] & BPE_WHOLE || (bpe->ignore_merges && !(bpe->flags[id] & BPE_ADDED))))
        return bpe_emit(sink, id);
    if (word.len <= SHORT_WORD) {
        struct short_word pieces;

        merge_short(bpe, word, &pieces);
        for (int i = 0; i < pieces.count; i++) {
            if ((status = bpe_emit(sink, pieces.ids[i])))
                return status;
        }
        return STATUS_OK;
    }
    if ((status = scratch_reserve(scratch, word.len)))
        return status;
    merge_long(bpe, word, scratch);
    for (uint32_t i = 0; i != UINT32_MAX; i = scratch->symbols[i].next) {
        if ((status = bpe_emit(sink, scratch->symbols[i].id)))
            return status;
    }
    return STATUS_OK;
}

enum status bpe_seal(struct bpe *bpe, struct error *err)
{
    struct bpe_scratch scratch = {0};
    enum status status = STATUS_OK;

    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;

        bpe->byte_id[byte] = bpe_find(bpe, span_of(&c, 1));
        if (bpe->byte_id[byte] < 0)
            return error_set(err, STATUS_UNSUPPORTED, "model.vocab: no token for the byte 0x%02X", (unsigned)byte);
    }
    for (int32_t id = 0; id < bpe->vocab_size && !status; id++) {
        int32_t only = -1;
        struct bpe_sink sink = {.ids = &only, .cap = 1, .max = 1, .keep = true};

        if (!(bpe->flags[id] & BPE_WORD) || bpe_find(bpe, bpe_bytes(bpe, id)) != id)
            continue;
        status = bpe_encode(bpe, bpe_bytes(bpe, id), &scratch, &sink); /* LIMIT: more than one token */
        if (status == STATUS_LIMIT)
            status = STATUS_OK;
        else if (!status && only == id)
            bpe->flags[id] |= BPE_WHOLE;
    }
    bpe_scratch_finish(&scratch);
    return status ? error_set(err, status, "model.vocab: no memory") : STATUS_OK;
}
