/* utf8.c: see utf8.h; the ranges are those of RFC 3629, section 4. */
#include "base/utf8.h"

/* How many bytes a character with this first byte has; 0 when none can start so. */
static size_t length_from_first(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xC2)
        return 0;
    if (first < 0xE0)
        return 2;
    if (first < 0xF0)
        return 3;
    return first < 0xF5 ? 4 : 0;
}

/* The second byte carries what the first one cannot: no overlong form, no surrogate, not above U+10FFFF. */
static bool second_byte_allowed(unsigned char first, unsigned char second)
{
    unsigned char low = 0x80, high = 0xBF;

    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    return second >= low && second <= high;
}

size_t utf8_decode(const char *ptr, size_t len, uint32_t *code)
{
    const unsigned char *bytes = (const unsigned char *)ptr;
    size_t need = len ? length_from_first(bytes[0]) : 0;
    uint32_t value;

    if (need == 0 || need > len)
        return 0;
    if (need == 1) {
        *code = bytes[0];
        return 1;
    }
    if (!second_byte_allowed(bytes[0], bytes[1]))
        return 0;
    value = bytes[0] & (0x7Fu >> need);
    for (size_t i = 1; i < need; i++) {
        if ((bytes[i] & 0xC0) != 0x80)
            return 0;
        value = value << 6 | (bytes[i] & 0x3Fu);
    }
    *code = value;
    return need;
}

size_t utf8_encode(uint32_t code, char out[UTF8_MAX_BYTES])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        if (code >= 0xD800 && code < 0xE000)
            return 0;
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    if (code > 0x10FFFF)
        return 0;
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

bool utf8_valid(struct span text)
{
    uint32_t code;

    for (size_t at = 0; at < text.len;) {
        size_t len = utf8_decode(text.ptr + at, text.len - at, &code);

        if (len == 0)
            return false;
        at += len;
    }
    return true;
}

size_t utf8_complete_prefix(struct span text)
{
    size_t back = text.len < UTF8_MAX_BYTES - 1 ? text.len : UTF8_MAX_BYTES - 1;

    for (size_t i = 1; i <= back; i++) {
        const unsigned char *at = (const unsigned char *)text.ptr + text.len - i;

        if ((*at & 0xC0) == 0x80)
            continue;
        if (length_from_first(*at) > i && (i == 1 || second_byte_allowed(at[0], at[1])))
            return text.len - i;
        break;
    }
    return text.len;
}
