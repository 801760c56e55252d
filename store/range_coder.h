/* store/range_coder.h: an adaptive binary range coder, for rectmap.c. Internal to store/.
 *
 * Each binary decision has a probability of its own (12 bits, halfway at the start) that follows what was seen.
 * Numbers are coded as their bit length in unary, one decision a step, then the bits below the leading one, the
 * highest two of them with probabilities, the rest even. A number that is mostly 0 costs a small part of a bit.
 * Reference: G. N. N. Martin, "Range encoding", 1979; the carry handling is that of LZMA's coder. */
#ifndef STORE_RANGE_CODER_H
#define STORE_RANGE_CODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/span.h"

enum { RANGE_NUMBER_BITS = 56, RANGE_MODELLED_BITS = 2 };

struct number_model { /* of one kind of number; set up by number_model_init() */
    uint16_t length[RANGE_NUMBER_BITS + 1];
    uint16_t high[RANGE_NUMBER_BITS + 1][1 << RANGE_MODELLED_BITS];
};
void number_model_init(struct number_model *model);

struct range_encoder {
    struct buf *out;
    uint64_t low;
    uint32_t range;
    uint8_t cache;
    uint64_t cache_count;
    enum status status; /* of the first append that failed */
};
void range_encode_begin(struct range_encoder *encoder, struct buf *out);
void range_encode_number(struct range_encoder *encoder, struct number_model *model, uint64_t value);
enum status range_encode_end(struct range_encoder *encoder) MUST_CHECK;

struct range_decoder {
    const unsigned char *at, *end;
    uint32_t range, code;
    size_t beyond; /* bytes asked for after the end: some are normal, many are damage */
};
void range_decode_begin(struct range_decoder *decoder, struct span bytes);
/* Any bytes decode to some number, below 1 << RANGE_NUMBER_BITS. */
uint64_t range_decode_number(struct range_decoder *decoder, struct number_model *model);
/* More was read than can have been written. */
bool range_decode_overran(const struct range_decoder *decoder);

#endif
