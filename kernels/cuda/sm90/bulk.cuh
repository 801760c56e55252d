/* sm90/bulk.cuh: bulk copies between global and shared memory by Hopper's copy engine, one thread a copy.
 *
 * Addresses and sizes are multiples of 16 bytes. A load tells its mbarrier of the bytes that landed; the barrier's
 * phase must have been, or be later in the same phase, told to expect them. A store reads shared memory some time
 * before bulk_store_wait_read() returns in the thread that issued it; what was stored in shared memory by ordinary
 * stores is made visible to it by fence_proxy_async() first (barrier.cuh). A block must not end before its stores have
 * read. */
#ifndef KERNELS_CUDA_SM90_BULK_CUH
#define KERNELS_CUDA_SM90_BULK_CUH

#include "kernels/cuda/sm90/barrier.cuh"

#ifndef DSA_CUDA_EMULATED
#if __CUDA_ARCH__ >= 900

static __device__ __forceinline__ void bulk_load(void *shared, const void *global, unsigned bytes, uint64_t *bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(bar))
                 : "memory");
}

static __device__ __forceinline__ void bulk_store(void *global, const void *shared, unsigned bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(global)),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void bulk_store_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until at most the `Newest` newest groups still read shared memory. */
template <int Newest> static __device__ __forceinline__ void bulk_store_wait_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Newest) : "memory");
}

/* Until at most the `Newest` newest groups are not yet written. */
template <int Newest> static __device__ __forceinline__ void bulk_store_wait(void)
{
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Newest) : "memory");
}

#else /* older architectures compile the kernels that use these, and never launch them */

static __device__ __forceinline__ void bulk_load(void *, const void *, unsigned, uint64_t *)
{
}
static __device__ __forceinline__ void bulk_store(void *, const void *, unsigned)
{
}
static __device__ __forceinline__ void bulk_store_commit(void)
{
}
template <int Newest> static __device__ __forceinline__ void bulk_store_wait_read(void)
{
}
template <int Newest> static __device__ __forceinline__ void bulk_store_wait(void)
{
}

#endif
#else /* emulated: emulated/async.cc */

#define bulk_load(shared, global, bytes, bar) emulated_bulk_load((shared), (global), (bytes), (bar))
#define bulk_store(global, shared, bytes)     emulated_bulk_store((global), (shared), (bytes))
#define bulk_store_commit()                   emulated_bulk_commit()

template <int Newest> static inline void bulk_store_wait_read(EMULATED_SITE)
{
    emulated_bulk_wait(Newest, true, file, line);
}

template <int Newest> static inline void bulk_store_wait(EMULATED_SITE)
{
    emulated_bulk_wait(Newest, false, file, line);
}

#endif
#endif
