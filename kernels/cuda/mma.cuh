/* mma.cuh: the matrix instruction, wrapped once.
 *
 * mma.sync.m16n8k16, BF16 in, F32 sums: c[16, 8] += a[16, 16] b[8, 16]ᵀ over a warp. With g = lane / 4 and
 * q = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
 *   a[0] = row g,     columns 2q, 2q+1      a[1] = row g + 8, the same columns
 *   a[2] = row g,     columns 2q + 8, +9    a[3] = row g + 8, the same columns
 *   b[0] = row g of b, columns 2q, 2q+1     b[1] = columns 2q + 8, +9
 *   c[0], c[1] = row g, columns 2q, 2q+1    c[2], c[3] = row g + 8 */
#ifndef KERNELS_CUDA_MMA_CUH
#define KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/device.cuh"

#ifndef DSA_CUDA_EMULATED

static __device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

/* Every lane shows its fragments to the warp and takes the four sums it owns, in double. */
static inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    struct fragments {
        uint32_t a[4], b[2];
    } mine;
    const unsigned char *all;
    unsigned lane = threadIdx.x % WARP, g = lane / 4, q = lane % 4;

    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    all = emulated_exchange(&mine, sizeof mine);
    for (unsigned i = 0; i < 4; i++) {
        unsigned row_part = i / 2, column = 2 * q + i % 2;
        double sum = c[i];

        for (unsigned k = 0; k < 16; k++) {
            const struct fragments *left =
                (const struct fragments *)(all + (4 * g + k % 8 / 2) * EMULATED_EXCHANGE_BYTES);
            const struct fragments *right =
                (const struct fragments *)(all + (4 * column + k % 8 / 2) * EMULATED_EXCHANGE_BYTES);
            uint32_t x = left->a[row_part + 2 * (k / 8)] >> 16 * (k % 2), y = right->b[k / 8] >> 16 * (k % 2);

            sum += (double)__uint_as_float(x << 16) * (double)__uint_as_float(y << 16);
        }
        c[i] = (float)sum;
    }
}

#endif
#endif
