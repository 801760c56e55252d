/* emulated/cuda_runtime.h: enough of CUDA, on the host, to run this folder's kernels in tests.
 *
 * Found instead of the toolkit's header of the same name when dsa-backend-cuda-emulated.so is compiled. Each CUDA
 * thread is a fiber; the blocks of a grid run one after another; inside a block, fibers are resumed in an order
 * drawn anew at every barrier from a seed, so that code which leans on an order fails.
 *
 * The kernels are compiled with calls at each access of memory (the compiler's -fsanitize=thread with hooks of our
 * own, memory.cc). The hooks end the process with a message and the lines of source at
 *   - a race: two accesses to the same byte of shared or global memory, one of them a write, that no barrier orders;
 *     a shuffle, a ballot or a matrix instruction orders nothing, __syncwarp and __syncthreads do;
 *   - an access outside a cudaMalloc'ed buffer or the dynamic shared memory asked for, or not aligned to its size;
 *   - a read of shared memory that the block has not written.
 * A barrier that some threads of a block never reach, and a shuffle that some lanes of its mask never reach, are found
 * as hangs. The asynchronous instructions are in async.h.
 *
 * Not emulated: time, caches, clusters, tensor maps, the 14 bits inside Hopper's FP8 sums, order between blocks
 * other than by the end of a kernel. The hardware judges.
 *
 * DSA_EMULATED in the environment: "order=forward|reverse|random seed=N async=late|early|random sms=N", in any order;
 * and skip= and trace=, see async.h. sms is what plans and persistent kernels take the device to have (132). */
#ifndef KERNELS_CUDA_EMULATED_CUDA_RUNTIME_H
#define KERNELS_CUDA_EMULATED_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>

#include "kernels/cuda/emulated/async.h"

#define DSA_CUDA_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__  inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
/* One block at a time, so one copy is enough. The section lets the emulator poison all of it. */
#define __shared__ static __attribute__((section("cuda_shared"), used))

/* --- Launches and indices ----------------------------------------------------------------------------------- */

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

struct emulated_thread {
    dim3 index;
};
extern struct emulated_thread *emulated_current;
extern dim3 emulated_block, emulated_block_dim, emulated_grid_dim;
#define threadIdx (emulated_current->index)
#define blockIdx  emulated_block
#define blockDim  emulated_block_dim
#define gridDim   emulated_grid_dim

void emulated_launch(const char *name, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                     const std::function<void(void)> &kernel);
void *emulated_dynamic_shared(void);
void emulated_trap(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* device.cuh's after_previous(): a thread that touches global memory before it, or ends without it, is stopped. */
void emulated_after_previous(void);
void emulated_weights_before_previous(void);

/* --- Barriers and warps ---------------------------------------------------------------------------------------- */

void emulated_sync_block(EMULATED_SITE);
void emulated_sync_warp(unsigned mask, EMULATED_SITE);
/* The lanes of `mask` meet; each gives `bytes` and sees what all gave, `stride` apart. Borrowed until the lane's next
 * such call. Orders no memory. */
const unsigned char *emulated_exchange(unsigned mask, const void *mine, size_t bytes);
enum { EMULATED_EXCHANGE_BYTES = 8 };
/* All 32 lanes meet, and `op` runs once over what they bring. Orders no memory. */
void emulated_warp(void (*op)(void *const *lanes), void *mine);

#define __syncthreads() emulated_sync_block()
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EMULATED_SITE)
{
    emulated_sync_warp(mask, file, line);
}

template <typename Value> static inline Value emulated_from_lane(unsigned mask, Value value, unsigned lane)
{
    const unsigned char *all = emulated_exchange(mask, &value, sizeof value);
    Value other;

    if (!(mask >> lane & 1))
        emulated_trap("a shuffle reads lane %u, which is not in its mask %#x", lane, mask);
    memcpy(&other, all + lane * EMULATED_EXCHANGE_BYTES, sizeof other);
    return other;
}

template <typename Value> static inline Value __shfl_xor_sync(unsigned mask, Value value, int offset)
{
    return emulated_from_lane(mask, value, threadIdx.x % 32 ^ (unsigned)offset);
}

/* Lane `lane` of the `width` lanes, a power of two, among which the caller is. */
template <typename Value> static inline Value __shfl_sync(unsigned mask, Value value, int lane, int width = 32)
{
    unsigned within = (unsigned)width - 1;

    return emulated_from_lane(mask, value, (threadIdx.x % 32 & ~within) | ((unsigned)lane & within));
}

template <typename Value> static inline Value __shfl_up_sync(unsigned mask, Value value, unsigned delta)
{
    unsigned lane = threadIdx.x % 32;

    return emulated_from_lane(mask, value, lane < delta ? lane : lane - delta);
}

template <typename Value> static inline Value __shfl_down_sync(unsigned mask, Value value, unsigned delta)
{
    unsigned lane = threadIdx.x % 32;

    return emulated_from_lane(mask, value, lane + delta > 31 ? lane : lane + delta);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    const unsigned char *all = emulated_exchange(mask, &predicate, sizeof predicate);
    unsigned bits = 0;

    for (unsigned lane = 0; lane < 32; lane++) {
        int value = 0;

        if (mask >> lane & 1)
            memcpy(&value, all + lane * EMULATED_EXCHANGE_BYTES, sizeof value);
        bits |= (unsigned)(value != 0) << lane;
    }
    return bits;
}

static inline int __any_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) == mask;
}

template <typename Value> static inline Value emulated_reduce(unsigned mask, Value value, Value (*join)(Value, Value))
{
    const unsigned char *all = emulated_exchange(mask, &value, sizeof value);
    Value total = Value();
    bool first = true;

    for (unsigned lane = 0; lane < 32; lane++) {
        Value one;

        if (!(mask >> lane & 1))
            continue;
        memcpy(&one, all + lane * EMULATED_EXCHANGE_BYTES, sizeof one);
        total = first ? one : join(total, one);
        first = false;
    }
    return total;
}

template <typename Value> static inline Value __reduce_add_sync(unsigned mask, Value value)
{
    return emulated_reduce<Value>(mask, value, [](Value a, Value b) { return (Value)(a + b); });
}

template <typename Value> static inline Value __reduce_max_sync(unsigned mask, Value value)
{
    return emulated_reduce<Value>(mask, value, [](Value a, Value b) { return a > b ? a : b; });
}

template <typename Value> static inline Value __reduce_min_sync(unsigned mask, Value value)
{
    return emulated_reduce<Value>(mask, value, [](Value a, Value b) { return a < b ? a : b; });
}

/* --- Atomics and fences: indivisible since fibers give way at barriers alone ------------------------------------- */

void emulated_atomic(void *address, size_t bytes); /* tells the race detector */

#define EMULATED_ATOMIC(name, expression)                                                                      \
    template <typename Value>                                                                                  \
    __attribute__((noinline, no_sanitize("thread"))) Value name(Value *address, decltype(Value() + 0) operand) \
    {                                                                                                          \
        Value old = *address, value = (Value)operand;                                                          \
                                                                                                               \
        emulated_atomic(address, sizeof *address);                                                             \
        *address = (expression);                                                                               \
        return old;                                                                                            \
    }
EMULATED_ATOMIC(atomicAdd, (Value)(old + value))
EMULATED_ATOMIC(atomicSub, (Value)(old - value))
EMULATED_ATOMIC(atomicMax, old > value ? old : value)
EMULATED_ATOMIC(atomicMin, old < value ? old : value)
EMULATED_ATOMIC(atomicOr, (Value)(old | value))
EMULATED_ATOMIC(atomicAnd, (Value)(old &value))
EMULATED_ATOMIC(atomicExch, value)

template <typename Value>
__attribute__((noinline, no_sanitize("thread"))) Value atomicCAS(Value *address, Value expected, Value value)
{
    Value old = *address;

    emulated_atomic(address, sizeof *address);
    *address = old == expected ? value : old;
    return old;
}

static inline void __threadfence(void)
{
}

static inline void __threadfence_block(void)
{
}

/* --- Values ------------------------------------------------------------------------------------------------------- */

static inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}

static inline int __ffs(int bits)
{
    return __builtin_ffs(bits);
}

static inline int __clz(int bits)
{
    return bits ? __builtin_clz((unsigned)bits) : 32;
}

static inline uint32_t __float_as_uint(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, 4);
    return bits;
}

static inline float __uint_as_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, 4);
    return value;
}

static inline int __float_as_int(float value)
{
    return (int)__float_as_uint(value);
}

static inline float __int_as_float(int bits)
{
    return __uint_as_float((uint32_t)bits);
}

static inline float rsqrtf(float value)
{
    return 1.0f / sqrtf(value);
}

template <typename Value> static inline Value __ldg(const Value *address)
{
    return *address;
}

template <typename A, typename B> static inline auto min(A a, B b) -> decltype(a + b)
{
    return a < b ? a : b;
}

template <typename A, typename B> static inline auto max(A a, B b) -> decltype(a + b)
{
    return a > b ? a : b;
}

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return {x, y};
}

static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}

/* --- Runtime: streams.cc ------------------------------------------------------------------------------------------ */

/* Every stream is a queue. What is queued runs at some moment between its queuing and the call that waits for it, drawn
 * from a seed: a missing wait between two streams, or of the host, shows. Until a copy or a fill runs, its destination
 * holds NaN bytes; pageable sources are read at once, pinned ones when the copy runs. A captured stream's work goes
 * into a graph, with the addresses it was called with. */
void emulated_enqueue_launch(const char *name, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                             struct emulated_stream *stream, const std::function<void(void)> &kernel);

/* A kernel with its arguments as they are now: it runs later. */
template <typename Kernel, typename... Values>
static inline std::function<void(void)> emulated_bind(Kernel kernel, Values... values)
{
    return [=] { kernel(values...); };
}

typedef int cudaError_t;
typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;
typedef struct emulated_graph *cudaGraph_t;
typedef struct emulated_graph *cudaGraphExec_t;
enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum {
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaStreamNonBlocking,
    cudaFuncAttributeMaxDynamicSharedMemorySize,
    cudaEventDisableTiming
};
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t emulated_malloc(void **memory, size_t bytes);
cudaError_t emulated_free(void *memory);
cudaError_t emulated_malloc_waiting(void **memory, size_t bytes);
#define cudaMalloc(memory, bytes) emulated_malloc_waiting((void **)(memory), (bytes))
cudaError_t cudaFree(void *memory);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int byte, size_t bytes, cudaStream_t stream);
#define cudaFuncSetAttribute(kernel, attribute, value) ((void)(value), cudaSuccess)

#endif
