/* quote_vocab.c: the text tokens of a vocabulary as a trie over their bytes.
 *
 * Built once for a tokenizer: the tokens are sorted by their bytes, and nodes are made breadth first, so that the
 * children of a node lie together. Special tokens are left out: no text can reach them. */
#include "engine/quote_impl.h"

#include <stdlib.h>

#include "base/vec.h"

struct entry {
    struct span bytes;
    int32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct entry *left = a, *right = b;
    size_t least = left->bytes.len < right->bytes.len ? left->bytes.len : right->bytes.len;
    int order = memcmp(left->bytes.ptr, right->bytes.ptr, least);

    if (order)
        return order;
    if (left->bytes.len != right->bytes.len)
        return left->bytes.len < right->bytes.len ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

/* A node still to be filled: the sorted entries [first, last) that share its bytes. */
struct pending {
    size_t first, last;
    size_t depth;
};

static enum status build(struct quote_vocab *vocab, const struct entry *entries, size_t count)
{
    VEC(struct quote_node) nodes = {0};
    VEC(struct pending) pending = {0}; /* pending.items[i] belongs to nodes.items[i] */
    enum status status;

    if ((status = vec_reserve(&nodes, 1)) || (status = vec_reserve(&pending, 1)))
        goto out;
    nodes.items[nodes.count++] = (struct quote_node){.token = -1};
    pending.items[pending.count++] = (struct pending){0, count, 0};
    for (size_t i = 0; i < nodes.count; i++) {
        struct pending here = pending.items[i];
        size_t at = here.first;

        for (; at < here.last && entries[at].bytes.len == here.depth; at++) {
            if (nodes.items[i].token < 0)
                nodes.items[i].token = entries[at].id;
        }
        nodes.items[i].first_child = (uint32_t)nodes.count;
        while (at < here.last) {
            uint8_t byte = (uint8_t)entries[at].bytes.ptr[here.depth];
            size_t end = at + 1;

            while (end < here.last && (uint8_t)entries[end].bytes.ptr[here.depth] == byte)
                end++;
            if ((status = vec_reserve(&nodes, 1)) || (status = vec_reserve(&pending, 1)))
                goto out;
            nodes.items[nodes.count++] = (struct quote_node){.token = -1, .byte = byte};
            pending.items[pending.count++] = (struct pending){at, end, here.depth + 1};
            nodes.items[i].child_count++;
            at = end;
        }
    }
    vocab->nodes = nodes.items;
    vocab->node_count = nodes.count;
    nodes.items = NULL;
    for (uint32_t i = 0; i < vocab->nodes[0].child_count; i++) {
        uint32_t child = vocab->nodes[0].first_child + i;

        vocab->root_child[vocab->nodes[child].byte] = child;
    }

out:
    vec_finish(&nodes);
    vec_finish(&pending);
    return status;
}

enum status quote_vocab_create(const struct tokenizer *tokenizer, struct quote_vocab **vocab, struct error *err)
{
    struct quote_vocab *made = calloc(1, sizeof *made);
    int32_t vocab_size = tokenizer_vocab_size(tokenizer);
    struct entry *entries = calloc((size_t)vocab_size, sizeof *entries);
    enum status status = made && entries ? STATUS_OK : STATUS_NO_MEMORY;
    size_t count = 0;

    if (status)
        goto out;
    made->tokenizer = tokenizer;
    made->vocab_size = vocab_size;
    made->mask_words = ((size_t)vocab_size + 63) / 64;
    made->open = tokenizer_special_id(tokenizer, "<|open|>");
    made->close = tokenizer_special_id(tokenizer, "<|close|>");
    made->none = tokenizer_special_id(tokenizer, "<|none|>");
    if (made->open < 0 || made->close < 0)
        made->open = made->close = made->none = -1;
    for (int32_t id = 0; id < vocab_size; id++) {
        struct span bytes = tokenizer_bytes(tokenizer, id);

        if (bytes.len && bytes.len <= QUOTE_MAX_TOKEN_BYTES && !tokenizer_is_special(tokenizer, id))
            entries[count++] = (struct entry){bytes, id};
    }
    qsort(entries, count, sizeof *entries, by_bytes);
    status = build(made, entries, count);
    for (int byte = 0; byte < 256 && !status; byte++) {
        if (!made->root_child[byte] || made->nodes[made->root_child[byte]].token < 0)
            status = error_set(err, STATUS_UNSUPPORTED, "quote mode: no token for the byte 0x%02X", (unsigned)byte);
    }

out:
    free(entries);
    if (status) {
        if (status == STATUS_NO_MEMORY)
            (void)error_set(err, status, "quote mode: no memory for the vocabulary");
        quote_vocab_destroy(made);
        return status;
    }
    *vocab = made;
    return STATUS_OK;
}

void quote_vocab_destroy(struct quote_vocab *vocab)
{
    if (!vocab)
        return;
    free(vocab->nodes);
    free(vocab);
}

uint32_t quote_vocab_child(const struct quote_vocab *vocab, uint32_t node, uint8_t byte)
{
    uint32_t low, high;

    if (node == 0)
        return vocab->root_child[byte];
    low = vocab->nodes[node].first_child;
    high = low + vocab->nodes[node].child_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (vocab->nodes[middle].byte == byte)
            return middle;
        if (vocab->nodes[middle].byte < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}
