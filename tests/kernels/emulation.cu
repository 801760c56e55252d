/* emulation.cu: kernels with one fault planted in each, for the emulator to find. Fault 0 is none.
 *
 * tile_kernel is one FP8 tile of Hopper, in small: a producer thread brings steps of A [64, 128] and B [128, 128] by
 * bulk copies into two stages, a warpgroup multiplies them, and the sums leave by a bulk store. */
#include "tests/kernels/emulation.h"

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sm90/bulk.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum { A_BYTES = 64 * 128, B_BYTES = 128 * 128, STAGE_BYTES = A_BYTES + B_BYTES, STAGES = 2, THREADS = 256 };

/* Executes the statement but in the kernel that lacks it. */
#define UNLESS(fault, statement) \
    do {                         \
        if (Fault != (fault))    \
            statement;           \
    } while (0)

template <int Fault> static __global__ void tile_kernel(const uint8_t *a, const uint8_t *b, int steps, float *out)
{
    after_previous();
    DYNAMIC_SHARED(uint8_t, memory);
    uint8_t *shared = memory + (1024 - ((uintptr_t)memory & 1023)) % 1024;
    uint64_t *full = (uint64_t *)(shared + STAGES * STAGE_BYTES), *empty = full + STAGES;
    float sum[64] = {}, *staged = (float *)shared;
    int thread = threadIdx.x;

    if (thread == 0) {
        for (int s = 0; s < STAGES; s++) {
            UNLESS(TILE_NO_INIT, mbarrier_init(&full[s], Fault == TILE_FEW_ARRIVALS ? 2 : 1));
            mbarrier_init(&empty[s], Fault == TILE_MANY_ARRIVALS ? 127 : 128);
        }
        UNLESS(TILE_NO_INIT_FENCE, mbarrier_init_fence());
    }
    UNLESS(TILE_NO_INIT_SYNC, __syncthreads());
    if (thread >= 128) {
        for (int s = 0; thread == 128 && s < steps; s++) {
            uint8_t *stage = shared + s % STAGES * STAGE_BYTES;

            UNLESS(TILE_NO_EMPTY_WAIT, mbarrier_wait(&empty[s % STAGES], (s / STAGES & 1) ^ 1));
            if (Fault == TILE_NO_EXPECT)
                mbarrier_arrive(&full[s % STAGES]);
            else
                mbarrier_arrive_expect(&full[s % STAGES], Fault == TILE_WRONG_BYTES ? A_BYTES : STAGE_BYTES);
            bulk_load(stage, a + s * A_BYTES, A_BYTES, &full[s % STAGES]);
            bulk_load(stage + A_BYTES, b + s * B_BYTES, B_BYTES, &full[s % STAGES]);
        }
        return;
    }
    for (int s = 0; s < steps; s++) {
        const uint8_t *stage = shared + s % STAGES * STAGE_BYTES;

        UNLESS(TILE_NO_FULL_WAIT,
               mbarrier_wait(&full[s % STAGES], Fault == TILE_WRONG_PARITY ? (s / STAGES & 1) ^ 1 : s / STAGES & 1));
        UNLESS(TILE_NO_WGMMA_FENCE, wgmma_fence());
        for (int k = 0; k < 4; k++)
            wgmma_e4m3<128>(sum, wgmma_descriptor(stage) + 2 * k, wgmma_descriptor(stage + A_BYTES) + 2 * k, true);
        UNLESS(TILE_NO_COMMIT, wgmma_commit());
        UNLESS(TILE_NO_WGMMA_WAIT, wgmma_wait<0>(sum));
        UNLESS(TILE_NO_EMPTY_ARRIVE, mbarrier_arrive(&empty[s % STAGES]));
    }
    UNLESS(TILE_NO_REUSE_SYNC,
           named_barrier_sync(1, 128)); /* all products have read what `staged` takes the place of */
    for (int i = 0; i < 64; i++)
        staged[(16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2)) * 128 + 8 * (i / 4) + 2 * (thread % 4) +
               i % 2] = sum[i];
    UNLESS(TILE_NO_PROXY_FENCE, fence_proxy_async());
    UNLESS(TILE_NO_STORE_SYNC, named_barrier_sync(1, 128));
    if (thread == 0) {
        bulk_store(out, staged, 64 * 128 * 4);
        UNLESS(TILE_NO_STORE_COMMIT, bulk_store_commit());
        UNLESS(TILE_NO_STORE_WAIT, bulk_store_wait_read<0>());
    }
}

/* The sum of rows of 256 values, by ways that need every one of their barriers: row r by warp r, all by warp 0. */
template <int Fault> static __global__ void plain_kernel(const float *in, int rows, float *out)
{
    UNLESS(PLAIN_NO_AFTER_PREVIOUS, after_previous());
    __shared__ float total[8], pair[8][2];
    DYNAMIC_SHARED(float, copied);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float value = 0.0f;

    for (int i = lane; i < 64; i += 32)
        cp_async_16(copied + warp * 256 + 4 * i, in + (Fault == PLAIN_GLOBAL_BOUNDS ? warp + 1 : warp) * 256 + 4 * i,
                    warp < rows);
    cp_async_commit();
    UNLESS(PLAIN_NO_COPY_WAIT, cp_async_wait<0>());
    UNLESS(PLAIN_NO_COPY_SYNC, __syncwarp());
    for (int i = lane; i < 256; i += 32)
        value += copied[warp * 256 + (i + 4) % 256 + (Fault == PLAIN_SHARED_BOUNDS ? 2048 : 0)];
    if (Fault == PLAIN_UNALIGNED)
        value += (*(const float2 *)(copied + warp * 256 + 1)).x;
    for (int offset = 8; offset; offset /= 2)
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    if (lane % 16 == 0)
        pair[warp][lane / 16] = value;
    UNLESS(PLAIN_NO_WARP_SYNC, __syncwarp());
    if (lane == 1)
        total[warp] = pair[warp][0] + pair[warp][1];
    if (Fault == PLAIN_LONELY_SYNC && warp == 3)
        __syncthreads();
    UNLESS(PLAIN_NO_BLOCK_SYNC, __syncthreads());
    if (Fault == PLAIN_LONELY_SHUFFLE) {
        if (lane < 16)
            value += __shfl_xor_sync(0xFFFFFFFFu, value, 1);
        __syncwarp();
    }
    if (threadIdx.x == 0) {
        float sum = 0.0f;

        for (int w = 0; w < 8; w++)
            sum += total[w];
        if (Fault == PLAIN_NOT_WRITTEN)
            sum += copied[8 * 256];
        out[Fault == PLAIN_BLOCK_RACE ? 0 : blockIdx.x] = sum;
    }
}

static cudaStream_t stream(void)
{
    static cudaStream_t made;

    if (!made)
        (void)cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
    return made;
}

template <int Fault> static void launch_tile(const uint8_t *a, const uint8_t *b, int steps, float *out)
{
    START((tile_kernel<Fault>), 1, THREADS, STAGES * STAGE_BYTES + 1024 + 64, stream(), a, b, steps, out);
}

template <int Fault> static void launch_plain(const float *in, int rows, float *out)
{
    /* Sixteen bytes more than are used: those nobody writes. */
    START((plain_kernel<Fault>), 2, THREADS, 8 * 256 * 4 + 16, stream(), in, rows, out);
}

template <int Fault> struct tables {
    static void fill(void (**tile)(const uint8_t *, const uint8_t *, int, float *),
                     void (**plain)(const float *, int, float *))
    {
        if (Fault < TILE_FAULTS)
            tile[Fault] = launch_tile<Fault>;
        if (Fault < PLAIN_FAULTS)
            plain[Fault] = launch_plain<Fault>;
        tables<Fault - 1>::fill(tile, plain);
    }
};
template <> struct tables<-1> {
    static void fill(void (**)(const uint8_t *, const uint8_t *, int, float *), void (**)(const float *, int, float *))
    {
    }
};

extern "C" void emulation_tile(int fault, const uint8_t *a, const uint8_t *b, int steps, float *out)
{
    void (*tile[64])(const uint8_t *, const uint8_t *, int, float *), (*plain[64])(const float *, int, float *);

    tables<31>::fill(tile, plain);
    tile[fault](a, b, steps, out);
    (void)cudaStreamSynchronize(stream());
}

extern "C" void emulation_plain(int fault, const float *in, int rows, float *out)
{
    void (*tile[64])(const uint8_t *, const uint8_t *, int, float *), (*plain[64])(const float *, int, float *);

    tables<31>::fill(tile, plain);
    plain[fault](in, rows, out);
    (void)cudaStreamSynchronize(stream());
}

extern "C" void *emulation_alloc(size_t bytes)
{
    void *memory = NULL;

    return cudaMalloc(&memory, bytes) == cudaSuccess ? memory : NULL;
}

extern "C" bool emulation_watches(void)
{
#ifdef __SANITIZE_ADDRESS__
    return false;
#else
    return true;
#endif
}
