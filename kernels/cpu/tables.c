/* tables.c: the 256 e4m3 codes as BF16, whole and by byte. Every finite e4m3 value is a BF16 value. */
#include "kernels/cpu/cpu.h"

#include <pthread.h>

#include "kernels/fp8.h"

uint16_t e4m3_to_bf16[256];
uint8_t e4m3_low_bytes[128], e4m3_high_bytes[128];

static void fill(void)
{
    for (int code = 0; code < 256; code++)
        e4m3_to_bf16[code] = (uint16_t)(f32_bits(f32_from_e4m3((uint8_t)code)) >> 16);
    for (int code = 0; code < 128; code++) {
        e4m3_low_bytes[code] = (uint8_t)e4m3_to_bf16[code];
        e4m3_high_bytes[code] = (uint8_t)(e4m3_to_bf16[code] >> 8);
    }
}

void cpu_tables_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, fill);
}
