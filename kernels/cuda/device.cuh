/* device.cuh: what every kernel of this folder shares: the backend's state, launch checks, conversions,
 * reductions in a fixed order.
 *
 * Host functions return `enum status`; a CUDA error is written with its call and line into the backend's
 * last_error and never ends the process. */
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "base/status.h"
#include "kernels/ops.h"
#include "kernels/ops_impl.h"
}

/* A launch, and a block's dynamic shared memory, in a form that the emulator (emulated/) can take as well. The
 * kernel's name stands in parentheses, since template arguments may hold commas. */
#ifdef DSA_CUDA_EMULATED
#define START(kernel, grid, block, smem, stream, ...) \
    emulated_enqueue_launch(#kernel, grid, block, smem, stream, \
                            emulated_bind([](auto... values) { kernel(values...); }, __VA_ARGS__))
#define DYNAMIC_SHARED(type, name) type *name = (type *)emulated_dynamic_shared()
#else
#define START(kernel, grid, block, smem, stream, ...) cuda_start(kernel, grid, block, smem, stream, __VA_ARGS__)
#define DYNAMIC_SHARED(type, name)                    extern __shared__ type name[]
#endif
/* Nothing starts in a rehearsal: what an op allocates, it has then allocated. */
#define LAUNCH(kernel, grid, block, smem, stream, ...)                  \
    do {                                                                \
        if (!cuda_rehearsing)                                           \
            START(kernel, grid, block, smem, stream, __VA_ARGS__);      \
    } while (0)
extern __thread bool cuda_rehearsing;

/* How this thread's next launch follows what stands before it in the stream: see after_previous(). */
struct cuda_following {
    bool early;        /* kernels may start before their predecessor has ended: while ops are recorded */
    bool after_kernel; /* what stands before it is a kernel: a copy or a fill cannot be overlapped */
};
extern __thread struct cuda_following cuda_following;

#ifndef DSA_CUDA_EMULATED
/* An error is left for cuda_launched(). */
template <typename... Parameters, typename... Values>
static void cuda_start(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                       Values... values)
{
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t config = {};

    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = cuda_following.early && cuda_following.after_kernel;
    cuda_following.after_kernel = true;
    (void)cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...);
}
#endif

/* The first statement of every kernel. In a recording a kernel's blocks may start while the kernel before it runs
 * (programmatic dependent launch, compute capability 9.0): before this call they may touch parameters and shared
 * memory alone. It waits until the kernel before has ended and its writes are seen; as that one began so too, all
 * kernels before it have ended as well. The kernel behind is let in at once: its blocks start when all of this one's
 * have, in what room they leave, so they cannot keep one of these waiting. */
static __device__ __forceinline__ void after_previous(void)
{
#ifdef DSA_CUDA_EMULATED
    emulated_after_previous();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The first statement of a kernel that calls after_previous() later: until then it reads, of global memory, weights
 * alone, which no kernel writes. */
static __device__ __forceinline__ void weights_before_previous(void)
{
#ifdef DSA_CUDA_EMULATED
    emulated_weights_before_previous();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Grow-only scratch on the device. Slots live until the backend closes; one op may use several. */
enum scratch_slot { SCRATCH_A, SCRATCH_B, SCRATCH_C, SCRATCH_D, SCRATCH_E, SCRATCH_F, SCRATCH_G, SCRATCH_COUNT };

struct cuda_backend {
    int device, sm_count;
    bool wgmma;            /* compute capability 9.0, and not held back by ops_options.cpu_features */
    bool mma;              /* likewise, the forms on mma.sync where a generic one exists beside them */
    size_t smem_per_block; /* the most a block may ask for */
    cudaStream_t stream;
    void *scratch[SCRATCH_COUNT];
    size_t scratch_bytes[SCRATCH_COUNT];
    unsigned scratch_moves; /* how often a slot grew: a recording holds the old addresses */
    bool recording;
    bool overlaps;    /* kernels of a recording start before their predecessor ends; compute capability 9.0 */
    cudaError_t lost; /* the error after which every call fails, else cudaSuccess */
    size_t used, limit; /* bytes taken, and the most to take (0: all) */
    struct allocation *allocations;
    struct expert_tables *tables; /* moe.cu's device tables of pointers, one a layer */
    struct weight_store *weights; /* groups, their slots, the staging buffers (weights.cu) */
};

struct cuda_weight {
    struct ops_weight base; /* first; ops.c fills it once the weight is made */
    enum dtype dtype;
    int64_t heads, N, K; /* heads 1 for a 2-D weight */
    enum numerics numerics;
    void *data;   /* device copy, row-major; of a group: there once that is loaded */
    float *scale; /* device, [ceil(N/128), ceil(K/128)], or NULL */
    bool in_group; /* data and scale lie in the group's block */
};

static inline const struct cuda_weight *cuda_weight_of(const struct ops_weight *weight)
{
    return (const struct cuda_weight *)weight;
}

static inline struct cuda_backend *backend_of(struct ops *ops)
{
    return (struct cuda_backend *)ops->state;
}

enum status cuda_fail(struct ops *ops, cudaError_t error, const char *call, const char *file, int line);
/* What a call brought: its own error, or that of a device lost before. */
cudaError_t cuda_outcome(struct ops *ops, cudaError_t error);
cudaError_t cuda_launched(struct ops *ops); /* of the launch just made */
/* A scratch slot of at least `bytes`; growing it waits for the stream, and is not possible while recording. */
enum status cuda_scratch(struct ops *ops, enum scratch_slot slot, size_t bytes, void **memory);

#define CUDA_TRY(ops, call)                                                  \
    do {                                                                     \
        cudaError_t cuda_error_ = cuda_outcome((ops), (call));               \
        if (cuda_error_ != cudaSuccess)                                      \
            return cuda_fail((ops), cuda_error_, #call, __FILE__, __LINE__); \
    } while (0)

/* After a launch. With -DDSA_CUDA_DEBUG every kernel is waited for, so that the failing one is named. */
#ifdef DSA_CUDA_DEBUG
#define CUDA_LAUNCHED(ops)                                             \
    do {                                                               \
        CUDA_TRY(ops, cuda_launched(ops));                             \
        CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream)); \
    } while (0)
#else
#define CUDA_LAUNCHED(ops) CUDA_TRY(ops, cuda_launched(ops))
#endif

enum { WARP = 32, SCALE_GROUP = 128 };
#define E4M3_LARGEST 448.0f

static inline unsigned ceil_div(int64_t a, int64_t b)
{
    return (unsigned)((a + b - 1) / b);
}

/* --- Conversions: bit for bit those of kernels/fp8.h -------------------------------------------------- */

static __device__ __forceinline__ float e4m3_to_float(uint8_t code)
{
    __half_raw half = __nv_cvt_fp8_to_halfraw(code, __NV_E4M3);

    return __half2float(half);
}

static __device__ __forceinline__ uint8_t float_to_e4m3(float value)
{
    return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
}

/* 2^ceil(log2(max(amax, 1e-4) / 448)): the ue8m0 scale as F32, exact on the bits. */
static __device__ __forceinline__ float ue8m0_scale(float amax)
{
    uint32_t bits = __float_as_uint(fmaxf(amax, 1e-4f) / E4M3_LARGEST);

    if (bits & 0x007FFFFFu)
        bits += 0x00800000u;
    return __uint_as_float(bits & 0x7F800000u);
}

/* kernels/fp8.h's bf16_from_f32 in integers: nearest even, subnormals of BF16 become zero. For stores of single
 * bytes: bytes taken from the result of the conversion instruction came out wrong on an H200 (CUDA 13.0). */
static __device__ __forceinline__ uint32_t bf16_bits(float value)
{
    uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7FFFFFFFu;

    if (magnitude > 0x7F800000u)
        return bits >> 16 | 0x40;
    if (magnitude < 0x00800000u)
        return bits >> 31 << 15;
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}

/* Bytes of a (0 to 3) and b (4 to 7), picked by the four nibbles of `select`, the lowest first. */
static __device__ __forceinline__ uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t select)
{
#ifdef DSA_CUDA_EMULATED
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t picked = 0;

    for (int i = 0; i < 4; i++)
        picked |= (uint32_t)(bytes >> 8 * (select >> 4 * i & 7) & 0xFF) << 8 * i;
    return picked;
#else
    return __byte_perm(a, b, select);
#endif
}

/* Two e4m3 codes, exact in BF16. */
static __device__ __forceinline__ float2 e4m3_pair_to_float(uint16_t pair)
{
    __half2_raw half = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);

    return __half22float2(*(const __half2 *)&half);
}

/* Two values as BF16, nearest even, the first in the lower half. */
static __device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    float2 both = {low, high};
    __nv_bfloat162 pair = __float22bfloat162_rn(both);
    uint32_t bits;

    memcpy(&bits, &pair, 4);
    return bits;
}

static __device__ __forceinline__ float bf16_round(float value)
{
    return __bfloat162float(__float2bfloat16_rn(value));
}

/* --- Reductions: always the same tree ----------------------------------------------------------------- */

static __device__ __forceinline__ float warp_sum(float value)
{
    for (int offset = WARP / 2; offset; offset /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    return value;
}

static __device__ __forceinline__ float warp_max(float value)
{
    for (int offset = WARP / 2; offset; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
    return value;
}

/* Sum over a block of up to 1024 threads; every thread gets it. `partial` is shared memory for 32 floats. */
static __device__ __forceinline__ float block_sum(float value, float *partial)
{
    int warps = (blockDim.x + WARP - 1) / WARP;

    value = warp_sum(value);
    if (threadIdx.x % WARP == 0)
        partial[threadIdx.x / WARP] = value;
    __syncthreads();
    value = (int)(threadIdx.x % WARP) < warps ? partial[threadIdx.x % WARP] : 0.0f;
    value = warp_sum(value);
    __syncthreads();
    return value;
}

#endif
