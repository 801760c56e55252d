/* emulated/cuda_bf16.h: the toolkit's BF16 names that this folder uses, on the host. */
#ifndef KERNELS_CUDA_EMULATED_CUDA_BF16_H
#define KERNELS_CUDA_EMULATED_CUDA_BF16_H

#include "kernels/cuda/emulated/cuda_runtime.h"

struct __nv_bfloat16 {
    uint16_t bits;
    operator float() const
    {
        return __uint_as_float((uint32_t)bits << 16);
    }
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 value)
{
    return (float)value;
}

static inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    uint32_t bits = __float_as_uint(value);

    if (isnan(value))
        return {(uint16_t)0x7FFF};
    return {(uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

static inline __nv_bfloat162 __float22bfloat162_rn(float2 pair)
{
    return {__float2bfloat16_rn(pair.x), __float2bfloat16_rn(pair.y)};
}

#endif
