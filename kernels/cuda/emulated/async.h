/* emulated/async.h: the asynchronous half of the model, as the wrappers of sm90/ and mma.cuh call it.
 *
 * What is kept, and ends the process with a message where it is broken:
 *   - results arrive as late as the rules allow (or early, or at random: DSA_EMULATED): destinations hold NaN until
 *     then, and touching them in the meantime is an error, by whatever thread;
 *   - memory that a product or a store may still read is not written;
 *   - between an access of the generic proxy and a later one of the async proxy stands a proxy fence, on a path of
 *     barriers from the first to the second;
 *   - mbarriers: used after init and a barrier, no more arrivals than announced, bytes balanced when the block ends, no
 *     waiter two phases behind; named barriers: one count for an id;
 *   - wgmma: fenced registers, converged warps, the same operands in every lane, waited for before the end. */
#ifndef KERNELS_CUDA_EMULATED_ASYNC_H
#define KERNELS_CUDA_EMULATED_ASYNC_H

#include <stddef.h>
#include <stdint.h>

/* The place of the call, for DSA_EMULATED's "skip=FILE:LINE", which leaves out the barrier, wait, fence or arrival
 * there, and "trace=FILE", which lists the places met. */
#define EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* The 32-bit address of a byte of shared memory; its low ten bits are those of the pointer. */
uint32_t emulated_shared_address(const void *pointer);

/* cp.async: 16 bytes, `bytes` (0 or 16) of them from global memory, the rest zeros. */
void emulated_copy_begin(void *shared, const void *global, int bytes);
void emulated_copy_commit(EMULATED_SITE);
void emulated_copy_wait(int newest, EMULATED_SITE); /* lets that many of the newest groups go on; -1: nothing goes on */
void emulated_copy_arrive(uint64_t *bar, EMULATED_SITE); /* arrives on bar once this thread's copies have landed */

void emulated_fence_proxy(EMULATED_SITE);
void emulated_named_barrier(int id, int threads, bool wait, EMULATED_SITE);
void emulated_registers(int count, bool raise);

void emulated_mbarrier_init(uint64_t *bar, unsigned arrivals, EMULATED_SITE);
void emulated_mbarrier_arrive(uint64_t *bar, unsigned expected_bytes, EMULATED_SITE);
bool emulated_mbarrier_try_wait(uint64_t *bar, unsigned parity, EMULATED_SITE);
void emulated_mbarrier_wait(uint64_t *bar, unsigned parity, EMULATED_SITE);

void emulated_bulk_load(void *shared, const void *global, unsigned bytes, uint64_t *bar);
void emulated_bulk_store(void *global, const void *shared, unsigned bytes);
void emulated_bulk_commit(EMULATED_SITE);
void emulated_bulk_wait(int newest, bool read_only, EMULATED_SITE);

/* One lane's share of a warpgroup's product: d[64, n] (+)= a[64, k] b[n, k]ᵀ, k = 32 / element bytes. */
struct emulated_product {
    float *d;          /* n / 2 sums                                       */
    const uint32_t *a; /* four registers, or NULL: the descriptor tells    */
    uint64_t a_descriptor, b_descriptor;
    int n, element_bytes; /* 1: e4m3, 2: BF16                              */
    bool add, transposed; /* transposed: b lies N-major                    */
};
void emulated_wgmma(const struct emulated_product &product);
void emulated_wgmma_fence(EMULATED_SITE);
void emulated_wgmma_commit(EMULATED_SITE);
void emulated_wgmma_wait(int newest, EMULATED_SITE);
void emulated_check_operand(const void *tile, int swizzle); /* on 1024 bytes where swizzled by 128, … */

#endif
