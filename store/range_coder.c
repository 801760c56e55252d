/* range_coder.c: coding decisions, and numbers as decisions. */
#include "store/range_coder.h"

#include <assert.h>

enum { PROBABILITY_BITS = 12, ADAPT_SHIFT = 4, TAIL_BYTES = 4 };
#define RANGE_LOW ((uint32_t)1 << 24) /* below it another byte moves */

void number_model_init(struct number_model *model)
{
    for (int i = 0; i <= RANGE_NUMBER_BITS; i++) {
        model->length[i] = 1 << (PROBABILITY_BITS - 1);
        for (int h = 0; h < 1 << RANGE_MODELLED_BITS; h++)
            model->high[i][h] = 1 << (PROBABILITY_BITS - 1);
    }
}

static void adapt(uint16_t *zero_probability, bool bit)
{
    if (bit)
        *zero_probability = (uint16_t)(*zero_probability - (*zero_probability >> ADAPT_SHIFT));
    else
        *zero_probability =
            (uint16_t)(*zero_probability + (((1 << PROBABILITY_BITS) - *zero_probability) >> ADAPT_SHIFT));
}

/* --- Encoding -------------------------------------------------------------------------------------------- */

void range_encode_begin(struct range_encoder *encoder, struct buf *out)
{
    *encoder = (struct range_encoder){.out = out, .range = UINT32_MAX, .cache_count = 1};
}

static void put_byte(struct range_encoder *encoder, uint8_t byte)
{
    if (!encoder->status)
        encoder->status = buf_append_byte(encoder->out, (char)byte);
}

/* Moves the top byte of `low` out. A run of 0xff waits, for a carry may still turn it over. */
static void shift_low(struct range_encoder *encoder)
{
    if ((uint32_t)encoder->low < 0xff000000u || encoder->low >> 32) {
        uint8_t carry = (uint8_t)(encoder->low >> 32), byte = encoder->cache;

        do {
            put_byte(encoder, (uint8_t)(byte + carry));
            byte = 0xff;
        } while (--encoder->cache_count);
        encoder->cache = (uint8_t)(encoder->low >> 24);
    }
    encoder->cache_count++;
    encoder->low = (uint32_t)encoder->low << 8;
}

static void encode_bit(struct range_encoder *encoder, uint16_t *zero_probability, bool bit)
{
    uint32_t bound = (encoder->range >> PROBABILITY_BITS) * *zero_probability;

    if (bit) {
        encoder->low += bound;
        encoder->range -= bound;
    } else {
        encoder->range = bound;
    }
    adapt(zero_probability, bit);
    while (encoder->range < RANGE_LOW) {
        encoder->range <<= 8;
        shift_low(encoder);
    }
}

static void encode_even(struct range_encoder *encoder, bool bit)
{
    encoder->range >>= 1;
    if (bit)
        encoder->low += encoder->range;
    while (encoder->range < RANGE_LOW) {
        encoder->range <<= 8;
        shift_low(encoder);
    }
}

void range_encode_number(struct range_encoder *encoder, struct number_model *model, uint64_t value)
{
    int length = value ? 64 - __builtin_clzll(value) : 0;
    unsigned prefix = 1;

    assert(length <= RANGE_NUMBER_BITS);
    for (int i = 0; i < RANGE_NUMBER_BITS; i++) {
        encode_bit(encoder, &model->length[i], i < length);
        if (i >= length)
            break;
    }
    for (int bit = length - 2; bit >= 0; bit--) {
        bool set = value >> bit & 1;

        if (length - 2 - bit < RANGE_MODELLED_BITS) {
            encode_bit(encoder, &model->high[length][prefix], set);
            prefix = prefix << 1 | set;
        } else {
            encode_even(encoder, set);
        }
    }
}

enum status range_encode_end(struct range_encoder *encoder)
{
    for (int i = 0; i < TAIL_BYTES + 1; i++)
        shift_low(encoder);
    return encoder->status;
}

/* --- Decoding -------------------------------------------------------------------------------------------- */

static uint32_t next_byte(struct range_decoder *decoder)
{
    if (decoder->at < decoder->end)
        return *decoder->at++;
    decoder->beyond++;
    return 0;
}

void range_decode_begin(struct range_decoder *decoder, struct span bytes)
{
    *decoder = (struct range_decoder){.at = (const unsigned char *)bytes.ptr, .range = UINT32_MAX};
    decoder->end = bytes.len ? decoder->at + bytes.len : decoder->at;
    for (int i = 0; i < TAIL_BYTES + 1; i++)
        decoder->code = decoder->code << 8 | next_byte(decoder);
}

static void refill(struct range_decoder *decoder)
{
    while (decoder->range < RANGE_LOW) {
        decoder->range <<= 8;
        decoder->code = decoder->code << 8 | next_byte(decoder);
    }
}

static bool decode_bit(struct range_decoder *decoder, uint16_t *zero_probability)
{
    uint32_t bound = (decoder->range >> PROBABILITY_BITS) * *zero_probability;
    bool bit = decoder->code >= bound;

    if (bit) {
        decoder->code -= bound;
        decoder->range -= bound;
    } else {
        decoder->range = bound;
    }
    adapt(zero_probability, bit);
    refill(decoder);
    return bit;
}

static bool decode_even(struct range_decoder *decoder)
{
    bool bit;

    decoder->range >>= 1;
    bit = decoder->code >= decoder->range;
    if (bit)
        decoder->code -= decoder->range;
    refill(decoder);
    return bit;
}

uint64_t range_decode_number(struct range_decoder *decoder, struct number_model *model)
{
    int length = 0;
    unsigned prefix = 1;
    uint64_t value;

    while (length < RANGE_NUMBER_BITS && decode_bit(decoder, &model->length[length]))
        length++;
    value = length > 0;
    for (int bit = length - 2; bit >= 0; bit--) {
        bool set;

        if (length - 2 - bit < RANGE_MODELLED_BITS) {
            set = decode_bit(decoder, &model->high[length][prefix]);
            prefix = prefix << 1 | set;
        } else {
            set = decode_even(decoder);
        }
        value = value << 1 | set;
    }
    return value;
}

bool range_decode_overran(const struct range_decoder *decoder)
{
    return decoder->beyond > TAIL_BYTES;
}
