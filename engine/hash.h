/* engine/hash.h: a fast 256-bit content hash, to name weights and token pages.
 *
 * Four independent lanes of 64-bit multiply-rotate rounds (the construction of XXH64) over 32-byte blocks, then
 * mixed. Not cryptographic: whoever relies on equality of pages compares their tokens too. */
#ifndef ENGINE_HASH_H
#define ENGINE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash256 {
    uint64_t word[4];
};

struct hasher {
    uint64_t lane[4], total;
    unsigned char held[32];
    size_t held_len;
};

enum { HASH_HEX_BYTES = 65 };

void hasher_init(struct hasher *hasher, uint64_t seed);
void hasher_put(struct hasher *hasher, const void *bytes, size_t len);
struct hash256 hasher_finish(const struct hasher *hasher);
void hash_hex(const struct hash256 *hash, char hex[HASH_HEX_BYTES]); /* 64 digits and a NUL */

#endif
