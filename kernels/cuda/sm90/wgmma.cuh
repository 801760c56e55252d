/* sm90/wgmma.cuh: Hopper's warpgroup matrix product, each instruction wrapped once.
 *
 * wgmma.m64n128k32, e4m3 in, F32 sums: d[64, 128] (+)= a[64, 32] b[128, 32]ᵀ, both operands in shared memory,
 * K-major, rows of 128 bytes under the 128-byte swizzle (byte-address bits 4-6 ^= bits 7-9), 1024-byte aligned.
 * Thread t of the warpgroup holds d[i]: row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) +
 * i % 2 (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions", register fragment of D).
 *
 * Protocol: wgmma_fence() before the first product that touches registers written by the thread; products;
 * wgmma_commit(); wgmma_wait_all() before the sums are read or the operands' memory is written again. Shared
 * memory written by ordinary stores or cp.async is made visible by fence_proxy_async() in each writing thread,
 * before the barrier that hands it over. */
#ifndef KERNELS_CUDA_SM90_WGMMA_CUH
#define KERNELS_CUDA_SM90_WGMMA_CUH

#include "kernels/cuda/device.cuh"

/* The place of 16-byte chunk `chunk` of row `row` in a swizzled tile of 128-byte rows. */
static __device__ __forceinline__ int swizzled_128(int row, int chunk)
{
    return row * 128 + ((chunk ^ (row & 7)) << 4);
}

#ifndef DSA_CUDA_EMULATED

/* Bits 0-13 address / 16, 16-29 leading offset (unused here), 32-45 stride between groups of 8 rows / 16, 62-63 = 1:
 * 128-byte swizzle. Advancing 32 columns of e4m3 adds 2. */
static __device__ __forceinline__ uint64_t wgmma_descriptor(const void *tile)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(tile);

    return (uint64_t)((address & 0x3FFFF) >> 4) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

static __device__ __forceinline__ void fence_proxy_async(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static __device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* The sums change behind the compiler's back until here. */
static __device__ __forceinline__ void wgmma_wait_all(float (&d)[64])
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < 64; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

static __device__ __forceinline__ void wgmma_m64n128k32(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1; }"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
                   "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
                   "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
                   "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
                   "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
                   "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "l"(a), "l"(b), "r"((int)add));
}

#else /* older architectures compile the kernels that use these, and never launch them */

static __device__ __forceinline__ void wgmma_fence(void) {}
static __device__ __forceinline__ void wgmma_commit(void) {}
static __device__ __forceinline__ void wgmma_wait_all(float (&)[64]) {}
static __device__ __forceinline__ void wgmma_m64n128k32(float (&)[64], uint64_t, uint64_t, bool) {}

#endif

#else /* emulated: a descriptor is an address; sums hold NaN from issue to wait; operands are read at the wait */

static inline uint64_t wgmma_descriptor(const void *tile)
{
    if ((uintptr_t)tile % 1024)
        emulated_trap("a wgmma operand is not aligned to 1024 bytes");
    return (uint64_t)(uintptr_t)tile >> 4;
}

#define fence_proxy_async() ((void)0)
#define wgmma_fence() ((void)0)
#define wgmma_commit() ((void)0)

static inline void wgmma_wait_all(float (&d)[64])
{
    (void)d;
    emulated_wgmma_wait();
}

static inline void wgmma_m64n128k32(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    emulated_wgmma_begin(d, a, b, add);
}

#endif
#endif
