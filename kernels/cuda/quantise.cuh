/* quantise.cuh: groups of 128 columns to e4m3, eight lanes a group: lane j of the eight holds columns 4 j + 32 i to
 * 4 j + 32 i + 3 as value[i], so that eight lanes read 128 bytes at a time and a warp has four groups in flight. */
#ifndef KERNELS_CUDA_QUANTISE_CUH
#define KERNELS_CUDA_QUANTISE_CUH

#include "kernels/cuda/device.cuh"

enum { GROUP_LANES = 8, LANE_FOURS = SCALE_GROUP / (4 * GROUP_LANES), GROUPS_A_WARP = WARP / GROUP_LANES };

static __device__ __forceinline__ int lane_column(int lane, int i)
{
    return 4 * lane + 4 * GROUP_LANES * i;
}

/* The scale of the eight lanes' group. All lanes of the warp call it. */
static __device__ __forceinline__ float group_scale(const float4 (&value)[LANE_FOURS])
{
    float amax = 0.0f;

#pragma unroll
    for (int i = 0; i < LANE_FOURS; i++)
        amax = fmaxf(amax,
                     fmaxf(fmaxf(fabsf(value[i].x), fabsf(value[i].y)), fmaxf(fabsf(value[i].z), fabsf(value[i].w))));
#pragma unroll
    for (int offset = GROUP_LANES / 2; offset; offset /= 2)
        amax = fmaxf(amax, __shfl_xor_sync(0xFFFFFFFFu, amax, offset));
    return ue8m0_scale(amax);
}

/* Codes of value / scale: the scale is a power of two, so multiplying by `inverse` is dividing. */
static __device__ __forceinline__ uint32_t four_codes(float4 value, float inverse)
{
    float2 low = {value.x * inverse, value.y * inverse}, high = {value.z * inverse, value.w * inverse};

    return (uint32_t)__nv_cvt_float2_to_fp8x2(low, __NV_SATFINITE, __NV_E4M3) |
           (uint32_t)__nv_cvt_float2_to_fp8x2(high, __NV_SATFINITE, __NV_E4M3) << 16;
}

static __device__ __forceinline__ uint2 four_bf16(float4 value)
{
    return make_uint2(bf16_pair(value.x, value.y), bf16_pair(value.z, value.w));
}

#endif
