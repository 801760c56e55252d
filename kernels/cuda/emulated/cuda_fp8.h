/* emulated/cuda_fp8.h: e4m3 conversions under the toolkit's names, by kernels/fp8.h. */
#ifndef KERNELS_CUDA_EMULATED_CUDA_FP8_H
#define KERNELS_CUDA_EMULATED_CUDA_FP8_H

#include "kernels/cuda/emulated/cuda_bf16.h"

extern "C" {
#include "kernels/fp8.h"
}

enum { __NV_E4M3, __NV_SATFINITE };
typedef float __half_raw; /* every e4m3 value is exact in half precision, and in float */
typedef float2 __half2_raw, __half2;

static inline float __nv_cvt_fp8_to_halfraw(uint8_t code, int kind)
{
    (void)kind;
    return f32_from_e4m3(code);
}

static inline float2 __nv_cvt_fp8x2_to_halfraw2(uint16_t pair, int kind)
{
    (void)kind;
    return {f32_from_e4m3((uint8_t)pair), f32_from_e4m3((uint8_t)(pair >> 8))};
}

static inline float __half2float(float value)
{
    return value;
}

static inline float2 __half22float2(float2 pair)
{
    return pair;
}

static inline uint8_t __nv_cvt_float_to_fp8(float value, int saturate, int kind)
{
    (void)saturate;
    (void)kind;
    return e4m3_from_f32(value);
}

static inline uint16_t __nv_cvt_float2_to_fp8x2(float2 pair, int saturate, int kind)
{
    return (uint16_t)(__nv_cvt_float_to_fp8(pair.x, saturate, kind) | __nv_cvt_float_to_fp8(pair.y, saturate, kind)
                                                                          << 8);
}

#endif
