/* emulation.h: kernels with planted faults, between emulation.cu and test_emulation.c. */
#ifndef TESTS_KERNELS_EMULATION_H
#define TESTS_KERNELS_EMULATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tile_fault {
    TILE_SOUND,
    TILE_NO_INIT,
    TILE_NO_INIT_FENCE,
    TILE_NO_INIT_SYNC,
    TILE_NO_FULL_WAIT,
    TILE_NO_EMPTY_WAIT,
    TILE_NO_EXPECT,
    TILE_WRONG_BYTES,
    TILE_WRONG_PARITY,
    TILE_FEW_ARRIVALS,
    TILE_MANY_ARRIVALS,
    TILE_NO_WGMMA_FENCE,
    TILE_NO_COMMIT,
    TILE_NO_WGMMA_WAIT,
    TILE_NO_EMPTY_ARRIVE,
    TILE_NO_REUSE_SYNC,
    TILE_NO_PROXY_FENCE,
    TILE_NO_STORE_SYNC,
    TILE_NO_STORE_COMMIT,
    TILE_NO_STORE_WAIT,
    TILE_FAULTS
};

enum plain_fault {
    PLAIN_SOUND,
    PLAIN_NO_COPY_WAIT,
    PLAIN_NO_COPY_SYNC,
    PLAIN_NO_WARP_SYNC,
    PLAIN_NO_BLOCK_SYNC,
    PLAIN_LONELY_SYNC,
    PLAIN_LONELY_SHUFFLE,
    PLAIN_GLOBAL_BOUNDS,
    PLAIN_SHARED_BOUNDS,
    PLAIN_UNALIGNED,
    PLAIN_NOT_WRITTEN,
    PLAIN_BLOCK_RACE,
    PLAIN_NO_AFTER_PREVIOUS,
    PLAIN_FAULTS
};

#ifdef __cplusplus
extern "C" {
#endif
void emulation_tile(int fault, const uint8_t *a, const uint8_t *b, int steps, float *out);
void emulation_plain(int fault, const float *in, int rows, float *out);
void *emulation_alloc(size_t bytes); /* as cudaMalloc; never freed */
bool emulation_watches(void);        /* false under AddressSanitizer, which sees bounds alone */
#ifdef __cplusplus
}
#endif
#endif
