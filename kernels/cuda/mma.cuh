/* mma.cuh: matrix instructions, matrix loads and asynchronous copies, each wrapped once: PTX on the device, a
 * model of the ISA manual's words in emulation.
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

/* Words of four neighbouring lanes change places: w[i] of lane q becomes what w[q] of lane i was. So of a row that four
 * lanes hold in pairs of columns (c above, of four n8 tiles, as BF16) each gets 16 neighbouring bytes. */
static __device__ __forceinline__ void transpose_quad(uint32_t (&w)[4])
{
    bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;

#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, odd ? w[i] : w[i + 1], 1);

        w[i] = odd ? got : w[i];
        w[i + 1] = odd ? w[i + 1] : got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, upper ? w[i] : w[i + 2], 2);

        w[i] = upper ? got : w[i];
        w[i + 2] = upper ? w[i + 2] : got;
    }
}

#ifndef DSA_CUDA_EMULATED

static __device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l % 8 of matrix
 * l / 8; r[i] is the lane's pair of matrix i: row l / 4, columns 2 (l % 4) and the next; transposed: column l / 4,
 * rows 2 (l % 4) and the next. */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* 16 bytes from global to shared memory, past the registers; `valid` false writes zeros. The bytes are there
 * for this thread after cp_async_wait_all(), for others after a barrier behind it. */
static __device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool valid)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}

/* Asks for the line of L2 that `global` lies in. */
static __device__ __forceinline__ void prefetch_into_l2(const void *global)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

/* Copies begun since the last commit form a group; wait<n> lets the n newest groups go on. */
static __device__ __forceinline__ void cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int Newest> static __device__ __forceinline__ void cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(Newest) : "memory");
}

static __device__ __forceinline__ void cp_async_wait_all(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

#else /* emulated: the 32 lanes meet, and the whole warp's result is made at once */

struct emulated_ldmatrix {
    uint16_t row[8]; /* read by the lane that gave its address */
    uint32_t r[4];
};

template <bool Transposed> static inline void emulated_ldmatrix_warp(void *const *lanes)
{
    for (unsigned lane = 0; lane < WARP; lane++)
        for (unsigned i = 0; i < 4; i++) {
            uint32_t pair = 0;

            for (unsigned j = 0; j < 2; j++) {
                unsigned other = 2 * (lane % 4) + j, row = Transposed ? other : lane / 4,
                         column = Transposed ? lane / 4 : other;

                pair |= (uint32_t)((struct emulated_ldmatrix *)lanes[8 * i + row])->row[column] << 16 * j;
            }
            ((struct emulated_ldmatrix *)lanes[lane])->r[i] = pair;
        }
}

template <bool Transposed> static inline void emulated_ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    struct emulated_ldmatrix mine;
    uint4 value = *(const uint4 *)row; /* 16 bytes on 16 */

    memcpy(mine.row, &value, sizeof mine.row);
    emulated_warp(emulated_ldmatrix_warp<Transposed>, &mine);
    memcpy(r, mine.r, sizeof mine.r);
}

#define ldmatrix_x4(r, row)                emulated_ldmatrix_x4<false>((r), (row))
#define ldmatrix_x4_trans(r, row)          emulated_ldmatrix_x4<true>((r), (row))

/* Delivered as late as the rules allow: NaN bytes until the issuing thread waits. */
#define cp_async_16(shared, global, valid) emulated_copy_begin((shared), (global), (valid) ? 16 : 0)
#define prefetch_into_l2(global)           ((void)(global))
#define cp_async_commit()                  emulated_copy_commit()
#define cp_async_wait_all()                emulated_copy_wait(-1)

template <int Newest> static inline void cp_async_wait(EMULATED_SITE)
{
    emulated_copy_wait(Newest, file, line);
}

struct emulated_mma {
    float c[4];
    uint32_t a[4], b[2];
};

/* Sums in double, rounded once. */
static inline void emulated_mma_warp(void *const *lanes)
{
    double a[16][16], b[16][8]; /* b by k first */

    for (unsigned lane = 0; lane < WARP; lane++) {
        const struct emulated_mma *mine = (const struct emulated_mma *)lanes[lane];
        unsigned g = lane / 4, q = lane % 4;

        for (unsigned i = 0; i < 8; i++) {
            uint32_t word = mine->a[i / 2] >> 16 * (i % 2);

            a[g + 8 * (i / 2 % 2)][2 * q + i % 2 + 8 * (i / 4)] = (double)__uint_as_float(word << 16);
        }
        for (unsigned i = 0; i < 4; i++)
            b[2 * q + i % 2 + 8 * (i / 2)][g] = (double)__uint_as_float(mine->b[i / 2] >> 16 * (i % 2) << 16);
    }
    for (unsigned row = 0; row < 16; row++) {
        double sum[8];

        for (unsigned column = 0; column < 8; column++)
            sum[column] =
                (double)((struct emulated_mma *)lanes[4 * (row % 8) + column / 2])->c[2 * (row / 8) + column % 2];
        for (unsigned k = 0; k < 16; k++)
            for (unsigned column = 0; column < 8; column++)
                sum[column] += a[row][k] * b[k][column];
        for (unsigned column = 0; column < 8; column++)
            ((struct emulated_mma *)lanes[4 * (row % 8) + column / 2])->c[2 * (row / 8) + column % 2] =
                (float)sum[column];
    }
}

static inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    struct emulated_mma mine;

    memcpy(mine.c, c, sizeof mine.c);
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    emulated_warp(emulated_mma_warp, &mine);
    memcpy(c, mine.c, sizeof mine.c);
}

#endif
#endif
