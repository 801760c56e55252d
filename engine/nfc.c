/* nfc.c: see nfc.h. Text is cut before every plain character (one that begins a combining sequence and never composes
 * with what stands before it); a stretch of one plain character and nothing else is copied, any other is decomposed,
 * put into canonical order and composed again (Unicode Standard Annex 15). */
#include "engine/nfc.h"

#include <stdlib.h>

#include "base/utf8.h"
#include "base/vec.h"
#include "engine/nfc_tables.h"

enum {
    FIRST_NOT_PLAIN = 0x300, /* every character below is in form C by itself and composes with nothing before it */
    L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7, S_BASE = 0xAC00,
    L_COUNT = 19, V_COUNT = 21, T_COUNT = 28, S_COUNT = L_COUNT * V_COUNT * T_COUNT,
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const uint32_t *find(const uint32_t (*table)[3], size_t count, uint32_t code)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (table[middle][0] == code)
            return table[middle];
        if (table[middle][0] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static unsigned combining_class(uint32_t code)
{
    size_t low = 0, high = COUNT(NFC_CLASSES);

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (NFC_CLASSES[middle][1] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < COUNT(NFC_CLASSES) && NFC_CLASSES[low][0] <= code ? NFC_CLASSES[low][2] : 0;
}

/* What two characters compose to; 0: nothing. */
static uint32_t compose(uint32_t first, uint32_t second)
{
    size_t low = 0, high = COUNT(NFC_COMPOSED);

    if (first - L_BASE < L_COUNT && second - V_BASE < V_COUNT)
        return S_BASE + ((first - L_BASE) * V_COUNT + (second - V_BASE)) * T_COUNT;
    if (first - S_BASE < S_COUNT && (first - S_BASE) % T_COUNT == 0 && second > T_BASE && second < T_BASE + T_COUNT)
        return first + (second - T_BASE);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint32_t *row = NFC_COMPOSED[middle];

        if (row[0] == first && row[1] == second)
            return row[2];
        if (row[0] < first || (row[0] == first && row[1] < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* Of a character of class 0. */
static bool composes_backwards(uint32_t code)
{
    if ((code >= V_BASE && code < V_BASE + V_COUNT) || (code > T_BASE && code < T_BASE + T_COUNT))
        return true;
    for (size_t i = 0; i < COUNT(NFC_SECONDS); i++) {
        if (NFC_SECONDS[i] == code)
            return true;
    }
    return false;
}

static bool is_plain(uint32_t code)
{
    const uint32_t *parts;

    if (code < FIRST_NOT_PLAIN || (code >= 0x3400 && code <= 0x9FFF) || (code >= S_BASE && code < S_BASE + S_COUNT) ||
        (code >= 0x400 && code <= 0x482) || (code >= 0x2010 && code <= 0x2027))
        return true;
    if (combining_class(code))
        return false;
    parts = find(NFC_DECOMPOSED, COUNT(NFC_DECOMPOSED), code);
    if (parts && (!parts[2] || compose(parts[1], parts[2]) != code))
        return false;
    return !composes_backwards(code);
}

bool nfc_quick(struct span text)
{
    size_t at = 0;

    while (at < text.len) {
        uint32_t code = 0;
        size_t len = 1;

        if ((unsigned char)text.ptr[at] >= 0xCC) { /* U+0300 and above */
            len = utf8_decode(text.ptr + at, text.len - at, &code);
            if (!is_plain(code))
                return false;
        }
        at += len;
    }
    return true;
}

/* --- One stretch -------------------------------------------------------------------------------------- */

struct stretch {
    VEC(uint32_t) codes;
    VEC(uint32_t) sorted; /* scratch */
};

static enum status push(struct stretch *stretch, uint32_t code)
{
    enum status status = vec_reserve(&stretch->codes, 1);

    if (!status)
        stretch->codes.items[stretch->codes.count++] = code;
    return status;
}

static enum status decompose(struct stretch *stretch, uint32_t code)
{
    const uint32_t *parts;
    enum status status;

    if (code - S_BASE < S_COUNT) {
        uint32_t s = code - S_BASE;

        if ((status = push(stretch, L_BASE + s / (V_COUNT * T_COUNT))) ||
            (status = push(stretch, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT)))
            return status;
        return s % T_COUNT ? push(stretch, T_BASE + s % T_COUNT) : STATUS_OK;
    }
    parts = find(NFC_DECOMPOSED, COUNT(NFC_DECOMPOSED), code);
    if (!parts)
        return push(stretch, code);
    status = decompose(stretch, parts[1]); /* at most four deep */
    return !status && parts[2] ? push(stretch, parts[2]) : status;
}

/* Stable sort of each run of combining characters by class: one counting sort, so that a hostile run is linear. */
static enum status put_in_order(struct stretch *stretch)
{
    uint32_t *codes = stretch->codes.items;
    size_t count = stretch->codes.count, start = 0;
    enum status status = vec_reserve(&stretch->sorted, count);

    if (status)
        return status;
    while (start < count) {
        size_t end = start, at[257] = {0};

        while (end < count && combining_class(codes[end])) {
            at[combining_class(codes[end]) + 1]++;
            end++;
        }
        if (end - start > 1) {
            for (int i = 1; i < 257; i++)
                at[i] += at[i - 1];
            for (size_t i = start; i < end; i++)
                stretch->sorted.items[at[combining_class(codes[i])]++] = codes[i];
            memcpy(codes + start, stretch->sorted.items, (end - start) * sizeof *codes);
        }
        start = end + 1;
    }
    return STATUS_OK;
}

static void compose_all(struct stretch *stretch)
{
    uint32_t *codes = stretch->codes.items;
    size_t kept = 0, starter = SIZE_MAX;
    unsigned last_class = 0; /* of the last kept character after the starter; 256: none may pass */

    for (size_t i = 0; i < stretch->codes.count; i++) {
        unsigned class = combining_class(codes[i]);
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        uint32_t made = starter != SIZE_MAX && (adjacent || (class > last_class && last_class != 0))
                            ? compose(codes[starter], codes[i]) : 0;

        if (made) {
            codes[starter] = made;
            continue;
        }
        if (class == 0)
            starter = kept;
        last_class = class;
        codes[kept++] = codes[i];
    }
    stretch->codes.count = kept;
}

static enum status flush(struct stretch *stretch, struct buf *out)
{
    enum status status = put_in_order(stretch);

    if (status)
        return status;
    compose_all(stretch);
    for (size_t i = 0; i < stretch->codes.count && !status; i++) {
        char bytes[UTF8_MAX_BYTES];

        status = buf_append(out, bytes, utf8_encode(stretch->codes.items[i], bytes));
    }
    stretch->codes.count = 0;
    return status;
}

enum status nfc_append(struct span text, struct buf *out)
{
    struct stretch stretch = {0};
    enum status status = STATUS_OK;
    uint32_t code = 0, next = 0;
    size_t at = 0, copied = 0, next_len = text.len ? utf8_decode(text.ptr, text.len, &next) : 0;
    bool plain, next_plain = is_plain(next);

    while (at < text.len && !status) {
        size_t len = next_len;

        code = next;
        plain = next_plain;
        next_len = utf8_decode(text.ptr + at + len, text.len - at - len, &next);
        next_plain = next_len == 0 || is_plain(next);
        if (stretch.codes.count || !next_plain || !plain) {
            if (stretch.codes.count == 0) /* what stood before is as it should be */
                status = buf_append(out, text.ptr + copied, at - copied);
            status = status ? status : decompose(&stretch, code);
            if (!status && next_plain)
                status = flush(&stretch, out);
            copied = at + len;
        }
        at += len;
    }
    if (!status)
        status = buf_append(out, text.ptr + copied, text.len - copied);
    vec_finish(&stretch.codes);
    vec_finish(&stretch.sorted);
    return status;
}
