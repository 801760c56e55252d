/* sm90/barrier.cuh: mbarriers, named barriers, the proxy fence, and the register pool of Hopper, each wrapped once:
 * PTX on the device; in emulation a model that keeps the ISA's rules and ends the process where they are broken.
 *
 * An mbarrier is eight bytes of shared memory. A phase ends when all its arrivals have come and all its announced
 * bytes have landed; the barrier then counts the next phase. Phases are told apart by parity alone: a wait for
 * parity p returns once a phase of parity p is the last one complete, so on a fresh barrier parity 1 passes and parity
 * 0 blocks. A waiter must therefore never fall two phases behind.
 *
 *   one thread:  mbarrier_init(bar, arrivals); mbarrier_init_fence();   then a block barrier, before anyone uses it
 *   filling:     mbarrier_arrive_expect(bar, bytes); bulk_load(shared, global, bytes, bar);
 *   reading:     mbarrier_wait(bar, parity); … ; fence_proxy_async(); mbarrier_arrive(empty);
 *
 * The generic proxy is ordinary loads and stores (cp.async too); the async proxy is bulk copies and wgmma's operands in
 * shared memory. Between an access of the one and a later access of the other to the same bytes stands
 * fence_proxy_async(), on the path from the first to the second: in the writing thread before the barrier that
 * hands over, or in the reading thread behind it. Only the way back needs none: completion of a bulk copy seen through
 * its mbarrier, or of a wgmma by its wait. */
#ifndef KERNELS_CUDA_SM90_BARRIER_CUH
#define KERNELS_CUDA_SM90_BARRIER_CUH

#include "kernels/cuda/device.cuh"

/* How a block of Threads threads, alone on its SM, divides its registers: one warpgroup keeps Loader a thread, each of
 * the others takes Worker. The pool is what the block was launched with, and that is less than the SM's 65536 registers
 * wherever those do not divide evenly: 384 threads get 168 each, so 504 a lane of three warpgroups, not 512. Asking for
 * more waits for ever. */
template <int Threads, int Loader, int Worker> struct register_split {
    enum {
        LOADER = Loader,
        WORKER = Worker,
        GROUPS = Threads / 128,
        AT_LAUNCH = 65536 / Threads / 8 * 8 < 255 ? 65536 / Threads / 8 * 8 : 255
    };
    static_assert(Loader % 8 == 0 && Loader >= 24 && Worker % 8 == 0 && Worker <= 256, "setmaxnreg: by eights");
    static_assert(Loader <= AT_LAUNCH && Worker >= AT_LAUNCH, "setmaxnreg: lowers for the loader, raises for the rest");
    static_assert(Loader + (GROUPS - 1) * Worker <= GROUPS * AT_LAUNCH, "setmaxnreg: it would hang");
};

#ifndef DSA_CUDA_EMULATED

static __device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* Orders this thread's accesses of one proxy to shared memory, and those it knows of, with later ones of the other. */
static __device__ __forceinline__ void fence_proxy_async(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* A block-wide barrier of `threads` threads (whole warps) under number `id`, 1 to 15; 0 is __syncthreads. */
static __device__ __forceinline__ void named_barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Counts this thread's warp in without waiting; `threads` counts those who arrive and those who wait. */
static __device__ __forceinline__ void named_barrier_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if __CUDA_ARCH__ >= 900

static __device__ __forceinline__ void mbarrier_init(uint64_t *bar, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}

/* Makes initialised barriers visible to the async proxy. */
static __device__ __forceinline__ void mbarrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void mbarrier_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

/* Announces `bytes` that bulk copies will bring in this phase, and arrives. */
static __device__ __forceinline__ void mbarrier_arrive_expect(uint64_t *bar, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ bool mbarrier_try_wait(uint64_t *bar, unsigned parity)
{
    uint32_t done;

    asm volatile("{ .reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(bar)), "r"(parity)
                 : "memory");
    return done != 0;
}

static __device__ __forceinline__ void mbarrier_wait(uint64_t *bar, unsigned parity)
{
    while (!mbarrier_try_wait(bar, parity)) {
    }
}

/* Arrives once all cp.async that this thread began before have landed; counts as one of the arrivals given to
 * mbarrier_init(). */
static __device__ __forceinline__ void cp_async_arrive(uint64_t *bar)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(bar)) : "memory");
}

#else /* older architectures compile the kernels that use these, and never launch them */

static __device__ __forceinline__ void mbarrier_init(uint64_t *, unsigned)
{
}
static __device__ __forceinline__ void mbarrier_init_fence(void)
{
}
static __device__ __forceinline__ void mbarrier_arrive(uint64_t *)
{
}
static __device__ __forceinline__ void mbarrier_arrive_expect(uint64_t *, unsigned)
{
}
static __device__ __forceinline__ bool mbarrier_try_wait(uint64_t *, unsigned)
{
    return true;
}
static __device__ __forceinline__ void mbarrier_wait(uint64_t *, unsigned)
{
}
static __device__ __forceinline__ void cp_async_arrive(uint64_t *)
{
}

#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <int Count> static __device__ __forceinline__ void registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

template <int Count> static __device__ __forceinline__ void registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

/* The loading warpgroup gives registers back to the block's pool; the others take theirs, which waits until they are
 * there. All warps of the warpgroup call it. */
template <class Split> static __device__ __forceinline__ void registers_lower(void)
{
    registers_give<Split::LOADER>();
}

template <class Split> static __device__ __forceinline__ void registers_raise(void)
{
    registers_take<Split::WORKER>();
}

#else

template <class Split> static __device__ __forceinline__ void registers_lower(void)
{
}
template <class Split> static __device__ __forceinline__ void registers_raise(void)
{
}

#endif

#else /* emulated: emulated/async.cc */

static inline uint32_t shared_address(const void *pointer)
{
    return emulated_shared_address(pointer);
}

#define fence_proxy_async()                emulated_fence_proxy()
#define named_barrier_sync(id, threads)    emulated_named_barrier((id), (threads), true)
#define named_barrier_arrive(id, threads)  emulated_named_barrier((id), (threads), false)
#define mbarrier_init(bar, arrivals)       emulated_mbarrier_init((bar), (arrivals))
#define mbarrier_init_fence()              emulated_fence_proxy()
#define mbarrier_arrive(bar)               emulated_mbarrier_arrive((bar), 0)
#define mbarrier_arrive_expect(bar, bytes) emulated_mbarrier_arrive((bar), (bytes))
#define mbarrier_try_wait(bar, parity)     emulated_mbarrier_try_wait((bar), (parity))
#define mbarrier_wait(bar, parity)         emulated_mbarrier_wait((bar), (parity))
#define cp_async_arrive(bar)               emulated_copy_arrive(bar)

template <class Split> static inline void registers_lower(void)
{
    emulated_registers(Split::LOADER, false);
}

template <class Split> static inline void registers_raise(void)
{
    emulated_registers(Split::WORKER, true);
}

#endif
#endif
