/* isa/vec.h: sixteen floats at a time, on every instruction set.
 *
 * The kernels of this folder are written once, over the types below, and compiled once per instruction set
 * (kernels/meson.build: one static library each, with its own flags and -DISA=name). Every operation here gives
 * the same bits on all of them, so the backends agree bit for bit; kernels/README.md names the two exceptions.
 *
 *   vf   16 floats
 *   vb   32 BF16 values = 16 pairs (even element in the low half of each 32 bits)
 *
 * vf_dp(c, a, b) adds the two products of each pair to c, the odd element first, each with one rounding: that is
 * what AVX512-BF16's vdpbf16ps does, and two fused multiply-adds elsewhere. BF16 operands are never subnormal
 * (bf16_from_f32 and the weight packer see to it), since that instruction takes subnormals for zero.
 *
 * These are typedefs and not structs by name because what stands behind them differs per instruction set. */
#ifndef KERNELS_CPU_ISA_VEC_H
#define KERNELS_CPU_ISA_VEC_H

#include <stdint.h>
#include <string.h>

#include "kernels/fp8.h"

/* Register tiles need everything inlined. The portable set has no registers to speak of: there it would only cost
 * compilation, minutes of it under a sanitizer. */
#if defined(ISA_AVX512) || defined(ISA_AVX2)
#define VEC_INLINE static inline __attribute__((always_inline, unused))
#else
#define VEC_INLINE static inline __attribute__((unused))
#endif

enum { LANES = 16 };

#if defined(ISA_AVX512)
#include "kernels/cpu/isa/vec_avx512.h"
#elif defined(ISA_AVX2)
#include "kernels/cpu/isa/vec_avx2.h"
#else
#include "kernels/cpu/isa/vec_portable.h"
#endif

/* Nearest integer, ties to even, for |x| < 2^22: beyond 1.5 * 2^23 a float has no fraction bits. */
VEC_INLINE vf vf_round(vf x)
{
    vf magic = vf_set1(12582912.0f);

    return vf_sub(vf_add(x, magic), magic);
}

/* e^x to 1e-7 relative: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that n ln 2 is exact enough,
 * Taylor to the 7th power (next term 5e-9). exp(0) is exactly 1; NaN stays NaN; below -104 the result is 0. */
VEC_INLINE vf vf_exp(vf x)
{
    vf n, r, p;

    x = vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x));
    n = vf_round(vf_mul(x, vf_set1(1.44269504088896341f)));
    r = vf_fma(n, vf_set1(-0.693359375f), x);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    p = vf_set1(1.0f / 5040);
    p = vf_fma(p, r, vf_set1(1.0f / 720));
    p = vf_fma(p, r, vf_set1(1.0f / 120));
    p = vf_fma(p, r, vf_set1(1.0f / 24));
    p = vf_fma(p, r, vf_set1(1.0f / 6));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_scale2(p, n);
}

/* a / (1 + e^-a) */
VEC_INLINE vf vf_silu(vf a)
{
    return vf_div(a, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), a))));
}

/* The nearest value that e4m3 can hold, ties to even, saturating at 448. Adding and subtracting 1.5 * 2^(e+20),
 * where 2^e is the power of two at or below |x| (at least 2^-6), leaves units of 2^(e-3); 1.5, because without it
 * a negative x would fall into the binade below, which has finer units. */
VEC_INLINE vf vf_round_e4m3(vf x)
{
    vf limited = vf_min(vf_set1(E4M3_MAX), vf_max(vf_set1(-E4M3_MAX), x));
    vf power = vf_max(vf_and_bits(limited, 0x7f800000u), vf_set1(0x1p-6f));
    vf magic = vf_mul(power, vf_set1(0x1.8p20f));

    return vf_sub(vf_add(limited, magic), magic);
}

#endif
