/* isa/rows.c: ops on one row. A sum over a row runs in 16 lanes, lane i adding columns i, i + 16, …, and the
 * lanes are then added in the fixed order of vf_sum(); columns past the end count as zero. */
#include <math.h>

#include "kernels/cpu/isa/functions.h"

#define FOR_EACH_VECTOR(d, n, D) for (int64_t d = 0, n; n = (D) - d < LANES ? (D) - d : LANES, d < (D); d += LANES)

static vf load(const float *p, int64_t count)
{
    return count == LANES ? vf_load(p) : vf_load_part(p, (int)count);
}

static void store(float *p, int64_t count, vf value)
{
    if (count == LANES)
        vf_store(p, value);
    else
        vf_store_part(p, (int)count, value);
}

void ISA(rmsnorm)(float *x, const float *residual, const float *weight, float eps, float *y, int64_t D)
{
    vf sum = vf_zero(), factor;

    FOR_EACH_VECTOR (d, n, D) {
        vf value = load(x + d, n);

        if (residual) {
            value = vf_add(value, load(residual + d, n));
            store(x + d, n, value);
        }
        sum = vf_fma(value, value, sum);
    }
    factor = vf_set1(1.0f / sqrtf(vf_sum(sum) / (float)D + eps));
    FOR_EACH_VECTOR (d, n, D)
        store(y + d, n, vf_mul(vf_mul(load(x + d, n), factor), load(weight + d, n)));
}

void ISA(layernorm)(const float *x, const float *weight, const float *bias, float eps, float *y, int64_t D)
{
    vf sum = vf_zero(), squares = vf_zero(), mean, factor;

    FOR_EACH_VECTOR (d, n, D)
        sum = vf_add(sum, load(x + d, n));
    mean = vf_set1(vf_sum(sum) / (float)D);
    FOR_EACH_VECTOR (d, n, D) {
        float lanes[LANES] = {0};

        store(lanes, n, vf_sub(load(x + d, n), mean)); /* lanes past the end stay zero, not -mean */
        squares = vf_fma(vf_load(lanes), vf_load(lanes), squares);
    }
    factor = vf_set1(1.0f / sqrtf(vf_sum(squares) / (float)D + eps));
    FOR_EACH_VECTOR (d, n, D)
        store(y + d, n,
              vf_fma(vf_mul(vf_sub(load(x + d, n), mean), factor), load(weight + d, n), load(bias + d, n)));
}

void ISA(add)(float *y, const float *x, int64_t D)
{
    FOR_EACH_VECTOR (d, n, D)
        store(y + d, n, vf_add(load(y + d, n), load(x + d, n)));
}

void ISA(add_scaled)(float *y, const float *x, float factor, int64_t D)
{
    FOR_EACH_VECTOR (d, n, D)
        store(y + d, n, vf_fma(vf_set1(factor), load(x + d, n), load(y + d, n)));
}

void ISA(swiglu)(const float *gate, const float *up, float *y, int64_t J)
{
    FOR_EACH_VECTOR (j, n, J)
        store(y + j, n, vf_mul(vf_silu(load(gate + j, n)), load(up + j, n)));
}

void ISA(sigmoid)(const float *x, float *y, int64_t count)
{
    FOR_EACH_VECTOR (i, n, count) {
        vf e = vf_exp(vf_sub(vf_zero(), load(x + i, n)));

        store(y + i, n, vf_div(vf_set1(1), vf_add(vf_set1(1), e)));
    }
}

void ISA(softmax)(const float *x, float *y, int64_t count)
{
    float largest = x[0], total = 0;

    for (int64_t i = 1; i < count; i++)
        largest = x[i] > largest ? x[i] : largest;
    FOR_EACH_VECTOR (i, n, count)
        store(y + i, n, vf_exp(vf_sub(load(x + i, n), vf_set1(largest))));
    for (int64_t i = 0; i < count; i++)
        total += y[i];
    FOR_EACH_VECTOR (i, n, count)
        store(y + i, n, vf_div(load(y + i, n), vf_set1(total)));
}

static void round_row_bf16(float *x, int64_t count, vf factor)
{
    FOR_EACH_VECTOR (i, n, count) {
        uint16_t rounded[LANES];

        vf_narrow(rounded, vf_mul(load(x + i, n), factor));
        store(x + i, n, vf_widen(rounded));
    }
}

/* One butterfly inside a vector: lanes whose bit `distance` is clear get the sum, the others the difference. */
VEC_INLINE vf butterfly(vf x, int distance)
{
    float signs[LANES];

    for (int i = 0; i < LANES; i++)
        signs[i] = i & distance ? -1 : 1;
    return vf_fma(x, vf_load(signs), vf_swap(x, distance));
}

/* Butterflies over growing distances: after step `half`, blocks of 2 * half hold their own transform. */
void ISA(hadamard)(float *x, int64_t Di)
{
    round_row_bf16(x, Di, vf_set1(1));
    if (Di >= LANES)
        for (int64_t i = 0; i < Di; i += LANES)
            vf_store(x + i, butterfly(butterfly(butterfly(butterfly(vf_load(x + i), 1), 2), 4), 8));
    for (int64_t half = Di >= LANES ? LANES : 1; half < Di; half *= 2)
        for (int64_t block = 0; block < Di; block += 2 * half)
            for (int64_t i = block; i < block + half; i += half < LANES ? half : LANES) {
                int n = half < LANES ? (int)half : LANES;
                vf a = load(x + i, n), b = load(x + i + half, n);

                store(x + i, n, vf_add(a, b));
                store(x + i + half, n, vf_sub(a, b));
            }
    round_row_bf16(x, Di, vf_set1((float)(1 / sqrt((double)Di))));
}
