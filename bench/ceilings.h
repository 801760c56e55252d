/* bench/ceilings.h: what this machine can do at most, measured in the same run as what it does.
 *
 * Rates are work by the processor time of the threads that did it, times the number of threads: what the processors
 * give when nobody else uses them, also when somebody does. */
#ifndef BENCH_CEILINGS_H
#define BENCH_CEILINGS_H

struct ceilings {
    double fma_gflops;       /* F32 multiply-adds, widest vectors, all threads                             */
    double bf16_gflops;      /* the same with BF16 pair products (vdpbf16ps); 0 where there are none       */
    double read_gb_s;        /* sequential reads of memory far larger than the caches                      */
};

/* Takes about a second. */
struct ceilings ceilings_measure(int threads);

#endif
