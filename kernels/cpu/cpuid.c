/* cpuid.c: which instruction set to use. */
#include "kernels/cpu/cpu.h"

/* What the processor (and the operating system, which must save the wide registers) can do. */
static unsigned present_features(void)
{
    unsigned features = CPU_PORTABLE;

#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        features |= CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        features |= CPU_AVX512;
    if (__builtin_cpu_supports("avx512bf16"))
        features |= CPU_AVX512_BF16;
    if (__builtin_cpu_supports("avx512vbmi"))
        features |= CPU_AVX512_VBMI;
#endif
    return features;
}

const struct cpu_isa *cpu_choose_isa(unsigned wanted, struct error *err)
{
    /* AVX-512 without BF16 and VBMI brings no more than AVX2 to these kernels: it is not a set of its own. */
    const unsigned avx512 = CPU_AVX512 | CPU_AVX512_BF16 | CPU_AVX512_VBMI;
    unsigned present = present_features(), usable = wanted ? present & wanted : present;

#if defined(__x86_64__)
    if ((usable & avx512) == avx512)
        return &cpu_isa_avx512;
    if (usable & CPU_AVX2)
        return &cpu_isa_avx2;
#else
    (void)avx512;
#endif
    if (usable & CPU_PORTABLE)
        return &cpu_isa_portable;
    (void)error_set(err, STATUS_UNSUPPORTED, "this processor has none of the instruction sets asked for (%#x)", wanted);
    return NULL;
}
