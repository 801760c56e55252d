/* kernels/fp8.h: the small number formats, one value at a time: BF16, FP8 e4m3 and the ue8m0 scale rule.
 *
 * These are the definitions. `ref` uses them directly; a fast backend must give the same bits for every input
 * (tests/kernels compares all codes and all midpoints). Only shifts, compares and exact powers of two here, so
 * the result depends on no rounding mode but "nearest even" of the one division in scale_ue8m0().
 *
 * e4m3 ("e4m3fn"): sign, 4 exponent bits with bias 7, 3 mantissa bits; subnormals of 2^-9; no infinities,
 * S.1111.111 is NaN, the largest finite value is 448. */
#ifndef KERNELS_FP8_H
#define KERNELS_FP8_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define E4M3_MAX 448.0f
#define FP8_AMAX_FLOOR 1e-4f /* an all-zero group gets a scale of 2^-22, never 0 */
enum { FP8_GROUP = 128 };       /* columns that share one scale */

static inline uint32_t f32_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float f32_from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float f32_from_bf16(uint16_t value)
{
    return f32_from_bits((uint32_t)value << 16);
}

/* Nearest even. NaN stays NaN (quiet); a subnormal of BF16 becomes zero of its sign, because the BF16 dot
 * product instruction reads it as zero and all backends must see one value. */
static inline uint16_t bf16_from_f32(float value)
{
    uint32_t bits = f32_bits(value), sign = bits & 0x80000000u, magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40);
    if (magnitude < 0x00800000u)
        return (uint16_t)(sign >> 16);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

static inline float f32_from_e4m3(uint8_t code)
{
    uint32_t magnitude = code & 0x7f;
    float value;

    if (magnitude == 0x7f)
        return f32_from_bits(0x7fc00000u | (uint32_t)(code & 0x80) << 24);
    if (magnitude >= 8)
        value = f32_from_bits((magnitude << 20) + ((127u - 7u) << 23));
    else
        value = (float)magnitude * 0x1p-9f;
    return code & 0x80 ? -value : value;
}

/* Nearest even, saturating at +-448; NaN stays NaN. */
static inline uint8_t e4m3_from_f32(float value)
{
    uint32_t bits = f32_bits(value), magnitude = bits & 0x7fffffffu;
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80);

    if (magnitude > 0x7f800000u)
        return sign | 0x7f;
    if (magnitude >= f32_bits(E4M3_MAX))
        return sign | 0x7e;
    if (magnitude < ((127u - 6u) << 23)) /* below 2^-6: adding 2^14 leaves units of 2^-9, rounded to even */
        return sign | (uint8_t)(f32_bits(f32_from_bits(magnitude) + 16384.0f) & 0xf);
    magnitude += 0x7ffffu + ((magnitude >> 20) & 1); /* keep 3 of 23 mantissa bits */
    return sign | (uint8_t)((magnitude >> 20) - ((127u - 7u) << 3));
}

/* 2^ceil(log2(max(amax, 1e-4) / 448)): the smallest power of two that brings amax to 448 or below. */
static inline float scale_ue8m0(float amax)
{
    uint32_t bits = f32_bits((amax > FP8_AMAX_FLOOR ? amax : FP8_AMAX_FLOOR) / E4M3_MAX);
    uint32_t exponent = (bits >> 23) + ((bits & 0x7fffffu) != 0);

    return f32_from_bits((exponent > 254 ? 254 : exponent) << 23);
}

/* Quantises `count` values (at most FP8_GROUP by the layouts here) with one scale; returns the scale. */
static inline float quantise_e4m3(const float *values, int count, uint8_t *codes)
{
    float amax = 0, scale, inverse;

    for (int i = 0; i < count; i++)
        amax = fabsf(values[i]) > amax ? fabsf(values[i]) : amax;
    scale = scale_ue8m0(amax);
    inverse = 1.0f / scale; /* both are powers of two: exact */
    for (int i = 0; i < count; i++)
        codes[i] = e4m3_from_f32(values[i] * inverse);
    return scale;
}

#ifdef __cplusplus
}
#endif
#endif
