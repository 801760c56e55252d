/* isa/topk.c: the k largest of a row, exactly, ties to the lowest position, output in order of position.
 *
 * 1. A pivot from 256 strided samples (1024 of a long row), three deviations on the safe side.
 * 2. One pass keeps values and positions strictly above the pivot and counts those equal to it. The store is
 *    unconditional: a branch on "any above?" is mispredicted often enough to double the time.
 * 3. above >= k: the threshold is the k-th of the few that were kept (selected by their bit patterns).
 *    above < k <= above + equal: the pivot itself is the threshold (ReLU makes such ties common).
 *    Otherwise the sample misled: the threshold is selected from the whole row.
 * 4. What exceeds the threshold, and the first of those that equal it, are written in order.
 *
 * NaN counts as -inf and -0 as +0 (vf_ordered). */
#include <math.h>

#include "kernels/cpu/isa/functions.h"

enum { SAMPLES = 1024, FEW_SAMPLES = 256, LONG_ROW = 32768, RADIX_BITS = 8 };

/* Unsigned order of the result is the order of the floats; no NaN, no -0. */
static uint32_t order_bits(float value)
{
    uint32_t bits = f32_bits(value);

    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float value_of_order(uint32_t order)
{
    return f32_from_bits(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

/* The rank-th largest (1 = largest) of keys[0..count), count > 0, which is overwritten. Each round spreads the range
 * of what is left over 256 bins and keeps one of them; the leading bits alone would be nearly the same for all. */
static uint32_t select_rank(uint32_t *keys, int32_t count, int32_t rank)
{
    uint32_t low = UINT32_MAX, high = 0;

    for (int32_t i = 0; i < count; i++) {
        low = keys[i] < low ? keys[i] : low;
        high = keys[i] > high ? keys[i] : high;
    }
    while (low < high) {
        int bits = 32 - __builtin_clz(high - low), shift = bits > RADIX_BITS ? bits - RADIX_BITS : 0;
        uint32_t histogram[1 << RADIX_BITS] = {0}, bin = (high - low) >> shift, base = low;
        int32_t kept = 0;

        for (int32_t i = 0; i < count; i++)
            histogram[(keys[i] - base) >> shift]++;
        while ((int32_t)histogram[bin] < rank)
            rank -= (int32_t)histogram[bin--];
        low = UINT32_MAX;
        high = 0;
        for (int32_t i = 0; i < count; i++) {
            uint32_t key = keys[i];

            keys[kept] = key;
            kept += (key - base) >> shift == bin;
        }
        count = kept;
        for (int32_t i = 0; i < count; i++) {
            low = keys[i] < low ? keys[i] : low;
            high = keys[i] > high ? keys[i] : high;
        }
    }
    return low;
}

static vf load_scores(const float *score, int32_t count, int32_t i)
{
    return vf_ordered(count - i >= LANES ? vf_load(score + i) : vf_load_part(score + i, count - i));
}

static unsigned valid_lanes(int32_t count, int32_t i)
{
    return count - i >= LANES ? 0xffff : (1u << (count - i)) - 1;
}

/* Writes the positions i + lane of the set bits of `mask`; returns how many. May write LANES entries. */
VEC_INLINE int32_t put_positions(int32_t *out, int32_t i, unsigned mask)
{
#ifdef ISA_AVX512
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

    lane = _mm512_add_epi32(lane, _mm512_set1_epi32(i));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32((__mmask16)mask, lane));
    return __builtin_popcount(mask);
#else
    int32_t count = 0;

    for (; mask; mask &= mask - 1)
        out[count++] = i + __builtin_ctz(mask);
    return count;
#endif
}

VEC_INLINE void put_values(float *out, vf values, unsigned mask)
{
#ifdef ISA_AVX512
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps((__mmask16)mask, values));
#else
    float lanes[LANES];
    int32_t count = 0;

    vf_store(lanes, values);
    for (; mask; mask &= mask - 1)
        out[count++] = lanes[__builtin_ctz(mask)];
#endif
}

/* The value that about k + 3 deviations of the row exceed, by its samples; -inf to take all. */
static float choose_pivot(const float *score, int32_t count, int32_t k)
{
    uint32_t keys[SAMPLES];
    int32_t samples = count < LONG_ROW ? FEW_SAMPLES : SAMPLES, step = count / samples;
    double share = (double)k / count;
    int32_t rank = (int32_t)(samples * share + 3 * sqrt(samples * share * (1 - share))) + 2;

    if (count < 4 * FEW_SAMPLES || rank >= samples)
        return -INFINITY;
    for (int32_t i = 0; i < samples; i++) {
        float value = score[i * step];

        keys[i] = order_bits(value != value ? -INFINITY : value + 0.0f);
    }
    return value_of_order(select_rank(keys, samples, rank));
}

/* The first `quota` set bits of mask. */
static unsigned first_bits(unsigned mask, int32_t quota)
{
    unsigned kept = 0;

    for (; quota > 0 && mask; quota--) {
        kept |= mask & -mask;
        mask &= mask - 1;
    }
    return kept;
}

static void emit_row(const float *score, int32_t count, float threshold, int32_t equal_quota, int32_t k,
                     int32_t *selected)
{
    vf limit = vf_set1(threshold);
    int32_t done = 0;

    for (int32_t i = 0; i < count && done < k; i += LANES) {
        vf value = load_scores(score, count, i);
        unsigned valid = valid_lanes(count, i);
        unsigned above = vf_mask_gt(value, limit) & valid, equal = 0;
        int32_t found[LANES], written;

        if (equal_quota) {
            equal = first_bits(vf_mask_eq(value, limit) & valid, equal_quota);
            equal_quota -= __builtin_popcount(equal);
        }
        written = put_positions(found, i, above | equal);
        memcpy(selected + done, found, sizeof *found * (size_t)written);
        done += written;
    }
}

void ISA(topk)(const float *score, int32_t count, int32_t k, int32_t *selected, void *scratch)
{
    /* scratch: values [count + LANES], positions [count + LANES], keys [count] */
    float *values = scratch, pivot = choose_pivot(score, count, k);
    int32_t *positions = (int32_t *)(values + count + LANES), above = 0, equal = 0, quota = k;
    uint32_t *keys = (uint32_t *)(positions + count + LANES);
    vf limit = vf_set1(pivot);
    float threshold;

    for (int32_t i = 0; i < count; i += LANES) {
        vf value = load_scores(score, count, i);
        unsigned valid = valid_lanes(count, i), mask = vf_mask_gt(value, limit) & valid;

        put_values(values + above, value, mask);
        above += put_positions(positions + above, i, mask);
        equal += __builtin_popcount(vf_mask_eq(value, limit) & valid);
    }
    if (above < k && above + equal >= k) {
        emit_row(score, count, pivot, k - above, k, selected);
        return;
    }
    if (above < k) { /* the sample misled */
        for (int32_t i = 0; i < count; i++)
            keys[i] = order_bits(score[i] != score[i] ? -INFINITY : score[i] + 0.0f);
        threshold = value_of_order(select_rank(keys, count, k));
        for (int32_t i = 0; i < count; i++)
            quota -= score[i] > threshold;
        emit_row(score, count, threshold, quota, k, selected);
        return;
    }
    for (int32_t i = 0; i < above; i++)
        keys[i] = order_bits(values[i]);
    threshold = value_of_order(select_rank(keys, above, k));
    for (int32_t i = 0; i < above; i++)
        quota -= values[i] > threshold;
    for (int32_t i = 0, done = 0; i < above && done < k; i++) {
        bool takes = values[i] > threshold || (values[i] == threshold && quota > 0);

        quota -= takes && values[i] == threshold;
        selected[done] = positions[i];
        done += takes;
    }
}
