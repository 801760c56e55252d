/* test_emulation.c: the emulator of kernels/cuda/emulated finds planted faults, and none in the sound kernels.
 *
 * Each fault runs in a child of its own under several schedules; the child must end badly (the emulator's trap)
 * or with a wrong result, under every one of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/fp8.h"
#include "tests/harness/check.h"
#include "tests/kernels/emulation.h"

enum { STEPS = 5, ROWS = 5 };

static const char *const schedules[] = {"order=forward async=late", "order=reverse async=early", "order=random seed=1",
                                        "order=random seed=2", "order=random seed=3 async=late"};

/* A tile of 128-byte rows, chunks of 16 bytes exchanged as the 128-byte swizzle has it. */
static uint8_t *swizzled(uint8_t *tile, int row, int k)
{
    return &tile[row * 128 + ((k / 16 ^ (row & 7)) << 4) + k % 16];
}

/* True if the sums came out right. */
static bool run_tile(int fault)
{
    uint8_t *a = emulation_alloc(STEPS * 64 * 128), *b = emulation_alloc(STEPS * 128 * 128);
    float *out = emulation_alloc(64 * 128 * sizeof *out);
    bool right = true;

    if (!a || !b || !out)
        return false;
    for (int i = 0; i < STEPS * 64 * 128; i++)
        a[i] = e4m3_from_f32((float)((int)(check_random() % 17) - 8));
    for (int i = 0; i < STEPS * 128 * 128; i++)
        b[i] = e4m3_from_f32((float)((int)(check_random() % 17) - 8));
    emulation_tile(fault, a, b, STEPS, out);
    for (int m = 0; m < 64; m++)
        for (int n = 0; n < 128; n++) {
            float sum = 0;

            for (int s = 0; s < STEPS; s++)
                for (int k = 0; k < 128; k++)
                    sum += f32_from_e4m3(*swizzled(a + s * 64 * 128, m, k)) *
                           f32_from_e4m3(*swizzled(b + s * 128 * 128, n, k));
            right &= out[m * 128 + n] == sum;
        }
    return right;
}

static bool run_plain(int fault)
{
    float *in = emulation_alloc(ROWS * 256 * sizeof *in), *out = emulation_alloc(2 * sizeof *out), sum = 0;

    if (!in || !out)
        return false;
    for (int i = 0; i < ROWS * 256; i++) {
        in[i] = (float)(check_random() % 100);
        sum += in[i];
    }
    emulation_plain(fault, in, ROWS, out);
    return out[0] == sum && out[1] == sum;
}

static void expect(bool (*run)(int fault), int fault)
{
    if (!emulation_watches() && fault &&
        !(run == run_plain && (fault == PLAIN_GLOBAL_BOUNDS || fault == PLAIN_SHARED_BOUNDS)))
        SKIP("AddressSanitizer takes the place of the emulator's own watching");
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        int status = 0;
        pid_t child;

        (void)fflush(NULL);
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            (void)setenv("DSA_EMULATED", schedules[i], 1);
            if (fault && !getenv("EMULATION_VERBOSE") && !freopen("/dev/null", "w", stderr))
                _exit(2);
            _exit(run(fault) ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child);
        if (fault && WIFEXITED(status) && WEXITSTATUS(status) == 0)
            FAIL("the fault went unseen under '%s'", schedules[i]);
        if (!fault && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
            FAIL("the sound kernel fails under '%s'", schedules[i]);
    }
}

#define TILE(name, fault)          \
    TEST(tile_##name)              \
    {                              \
        expect(run_tile, (fault)); \
    }
#define PLAIN(name, fault)          \
    TEST(plain_##name)              \
    {                               \
        expect(run_plain, (fault)); \
    }

TILE(sound, TILE_SOUND)
TILE(without_init, TILE_NO_INIT)
TILE(without_init_fence, TILE_NO_INIT_FENCE)
TILE(without_sync_after_init, TILE_NO_INIT_SYNC)
TILE(without_wait_for_copies, TILE_NO_FULL_WAIT)
TILE(without_wait_for_free_stage, TILE_NO_EMPTY_WAIT)
TILE(without_expected_bytes, TILE_NO_EXPECT)
TILE(wrong_expected_bytes, TILE_WRONG_BYTES)
TILE(wrong_parity, TILE_WRONG_PARITY)
TILE(too_few_arrivals, TILE_FEW_ARRIVALS)
TILE(too_many_arrivals, TILE_MANY_ARRIVALS)
TILE(without_wgmma_fence, TILE_NO_WGMMA_FENCE)
TILE(without_wgmma_commit, TILE_NO_COMMIT)
TILE(without_wgmma_wait, TILE_NO_WGMMA_WAIT)
TILE(without_arrive_on_free_stage, TILE_NO_EMPTY_ARRIVE)
TILE(without_sync_before_reuse, TILE_NO_REUSE_SYNC)
TILE(without_proxy_fence, TILE_NO_PROXY_FENCE)
TILE(without_sync_before_store, TILE_NO_STORE_SYNC)
TILE(without_store_commit, TILE_NO_STORE_COMMIT)
TILE(without_store_wait, TILE_NO_STORE_WAIT)
PLAIN(sound, PLAIN_SOUND)
PLAIN(without_copy_wait, PLAIN_NO_COPY_WAIT)
PLAIN(without_sync_after_copy, PLAIN_NO_COPY_SYNC)
PLAIN(without_syncwarp, PLAIN_NO_WARP_SYNC)
PLAIN(without_syncthreads, PLAIN_NO_BLOCK_SYNC)
PLAIN(syncthreads_of_one_warp, PLAIN_LONELY_SYNC)
PLAIN(shuffle_of_half_a_warp, PLAIN_LONELY_SHUFFLE)
PLAIN(global_read_out_of_bounds, PLAIN_GLOBAL_BOUNDS)
PLAIN(shared_read_out_of_bounds, PLAIN_SHARED_BOUNDS)
PLAIN(unaligned_vector, PLAIN_UNALIGNED)
PLAIN(read_of_unwritten_shared_memory, PLAIN_NOT_WRITTEN)
PLAIN(race_between_blocks, PLAIN_BLOCK_RACE)
PLAIN(global_read_before_after_previous, PLAIN_NO_AFTER_PREVIOUS)
