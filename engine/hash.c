/* hash.c: see hash.h. Words are read little-endian, so a hash is the same on every machine. */
#include "engine/hash.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

#define PRIME_1 0x9E3779B185EBCA87u
#define PRIME_2 0xC2B2AE3D27D4EB4Fu
#define PRIME_3 0x165667B19E3779F9u

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static uint64_t load(const unsigned char *p)
{
    uint64_t x;

    memcpy(&x, p, sizeof x);
    return le64toh(x);
}

static uint64_t finish(uint64_t x)
{
    x = (x ^ x >> 33) * PRIME_2;
    x = (x ^ x >> 29) * PRIME_3;
    return x ^ x >> 32;
}

static void block(struct hasher *h, const unsigned char *p)
{
    for (int i = 0; i < 4; i++)
        h->lane[i] = rotate(h->lane[i] + load(p + 8 * i) * PRIME_2, 31) * PRIME_1;
}

void hasher_init(struct hasher *h, uint64_t seed)
{
    *h = (struct hasher){0};
    for (int i = 0; i < 4; i++)
        h->lane[i] = finish(seed + (uint64_t)(i + 1) * PRIME_1);
}

void hasher_put(struct hasher *h, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;

    h->total += len;
    if (h->held_len) {
        size_t more = sizeof h->held - h->held_len;

        if (more > len)
            more = len;
        memcpy(h->held + h->held_len, p, more);
        h->held_len += more;
        p += more;
        len -= more;
        if (h->held_len < sizeof h->held)
            return;
        block(h, h->held);
        h->held_len = 0;
    }
    for (; len >= sizeof h->held; p += sizeof h->held, len -= sizeof h->held)
        block(h, p);
    if (len)
        memcpy(h->held, p, len);
    h->held_len = len;
}

struct hash256 hasher_finish(const struct hasher *hasher)
{
    struct hasher h = *hasher;
    struct hash256 out;
    uint64_t mix;

    memset(h.held + h.held_len, 0, sizeof h.held - h.held_len);
    block(&h, h.held);
    mix = h.total;
    for (int i = 0; i < 4; i++)
        mix = finish(mix + rotate(h.lane[i], 7 * i + 1) * PRIME_1);
    for (int i = 0; i < 4; i++)
        out.word[i] = finish(mix ^ finish(h.lane[i] + (uint64_t)i * PRIME_3));
    return out;
}

void hash_hex(const struct hash256 *hash, char hex[HASH_HEX_BYTES])
{
    for (int i = 0; i < 4; i++)
        snprintf(hex + 16 * i, 17, "%016llx", (unsigned long long)hash->word[i]);
}
