/* base/utf8.h: strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum { UTF8_MAX_BYTES = 4, UTF8_REPLACEMENT = 0xFFFD };

/* Decodes the character at the start of `len` bytes. Returns its length, 1..4, and sets *code;
 * 0 when the bytes are not valid UTF-8, end too early, or len is 0. */
size_t utf8_decode(const char *ptr, size_t len, uint32_t *code);

/* Writes at most UTF8_MAX_BYTES; returns how many, 0 for a code that is no Unicode scalar value. */
size_t utf8_encode(uint32_t code, char out[UTF8_MAX_BYTES]);

bool utf8_valid(struct span text);

/* The length of the longest prefix that ends between characters: what may be shown of a stream that was cut
 * anywhere. Bytes that can never become valid are counted as characters of their own, so a stream of rubbish
 * still moves on; at most 3 trailing bytes are held back. */
size_t utf8_complete_prefix(struct span text);

#endif
