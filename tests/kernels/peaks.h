/* peaks.h: what this machine can do at most, measured in the same run as what is compared with it. */
#ifndef TESTS_KERNELS_PEAKS_H
#define TESTS_KERNELS_PEAKS_H

struct peaks {
    double f32_gflops;  /* fused multiply-adds on registers, all threads              */
    double bf16_gflops; /* BF16 dot products where there are any; else as F32          */
    double read_gbytes; /* sequential read of memory far larger than the caches       */
};

/* `features` as --features has it: NULL, "portable", "avx2" or "avx512". */
struct peaks peaks_measure(int threads, const char *features);

#endif
