/* linear_few.cu: products of at most 64 rows (decode), or of experts that have as few, on Hopper.
 *
 *   FP8:   y[m, n] = sum_g (sum_{k in g} a8[m, k] w8[n, k]) sa[m, g] sw[n / 128, g],  g = 128 of K
 *   BF16:  y[m, n] = sum_k a[m, k] w[n, k], one F32 sum, per head also rounded to BF16
 *
 * Such a product is the reading of its weights, so these take the side of the products that fills: 64 rows of w are
 * M, the rows of x are N = 8, 16, 32 or 64.
 *   grid   (N / 64, tiles of rows, heads, or parts of K where N / 64 blocks are few: plans.h); 128 threads = one
 *          warpgroup; several blocks an SM
 *   smem   eight stages of w [64, 128 bytes] and x [Rows, 128 bytes], 128-byte swizzle, filled by cp.async seven ahead:
 *          57 KB of weights in flight a block, where 4.8 TB/s with 0.8 us of latency ask for 29 KB an SM
 * Several FP8 products of the same rows go in one launch, their blocks one behind the other.
 * Sums run over the groups in order, as in linear_wgmma.cu, where the chain of additions is the same but for parts of
 * K: each is a sum of its own, and a second launch adds them in order. */
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

enum { THREADS = 128, STAGES = 8, ROW_BYTES = 128, WEIGHT_ROWS = 64 };

template <int Rows> struct stage_map {
    uint8_t w[WEIGHT_ROWS * ROW_BYTES], x[Rows * ROW_BYTES];
};

/* Where this thread's chunk of its rows begins; NULL: zeros. It copies chunk tid % 8 of rows tid / 8 + 16 i: the
 * swizzle, by the row's last three bits, is the same for all. */
template <int Rows> struct sources {
    static const int apart = THREADS / 8, weights = WEIGHT_ROWS / apart, others = (Rows + apart - 1) / apart;
    const uint8_t *w[weights], *x[others];
};

template <int Rows>
static __device__ __forceinline__ void fetch_weights(struct stage_map<Rows> *stage, const struct sources<Rows> &from,
                                                     const uint8_t *any, int step, int bytes)
{
    using S = sources<Rows>;
    int chunk = threadIdx.x % 8, place = swizzled_128((int)threadIdx.x / 8, chunk), k = step * ROW_BYTES;
    bool inside = k + 16 * chunk < bytes;

#pragma unroll
    for (int i = 0; i < S::weights; i++)
        cp_async_16(stage->w + place + i * S::apart * ROW_BYTES, from.w[i] && inside ? from.w[i] + k : any,
                    from.w[i] && inside);
}

template <int Rows>
static __device__ __forceinline__ void fetch_rows(struct stage_map<Rows> *stage, const struct sources<Rows> &from,
                                                  const uint8_t *any, int step, int bytes)
{
    using S = sources<Rows>;
    int first = (int)threadIdx.x / 8, chunk = threadIdx.x % 8, place = swizzled_128(first, chunk);
    int k = step * ROW_BYTES;
    bool inside = k + 16 * chunk < bytes;

#pragma unroll
    for (int i = 0; i < S::others; i++)
        if (first + i * S::apart < Rows)
            cp_async_16(stage->x + place + i * S::apart * ROW_BYTES, from.x[i] && inside ? from.x[i] + k : any,
                        from.x[i] && inside);
}

template <bool Fp8, int Rows>
static __device__ __forceinline__ void point_at_weights(struct sources<Rows> *from, const struct product &p,
                                                        const uint8_t *w, int64_t n0)
{
#pragma unroll
    for (int i = 0; i < sources<Rows>::weights; i++) {
        int64_t n = n0 + threadIdx.x / 8 + i * sources<Rows>::apart;

        from->w[i] = n < p.N ? w + n * p.K * (Fp8 ? 1 : 2) + 16 * (threadIdx.x % 8) : NULL;
    }
}

/* 64 columns of y, from all of K or from part number `number`, `part_steps` long; its sums go to `parts` then. */
template <bool Fp8, int Rows>
static __device__ __forceinline__ void multiply(const struct product &p, unsigned column, unsigned number,
                                                int part_steps, float *parts, uint8_t *memory)
{
    const int item = Fp8 ? 1 : 2;
    __shared__ int32_t rows[Rows]; /* operand row of each row of the tile, -1: none */
    struct stage_map<Rows> *stages = (struct stage_map<Rows> *)(memory + (1024 - ((uintptr_t)memory & 1023)) % 1024);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = parts ? 0 : blockIdx.z;
    int64_t n0 = (int64_t)column * WEIGHT_ROWS, first = (int64_t)blockIdx.y * GROUP_TILE_ROWS;
    int all_bytes = (int)p.K * item, all_steps = (all_bytes + ROW_BYTES - 1) / ROW_BYTES;
    int begin = parts ? (int)number * part_steps : 0, steps = min(part_steps, all_steps - begin);
    int bytes = all_bytes - begin * ROW_BYTES; /* of K, from this part's first on */
    struct sources<Rows> from;
    const uint8_t *x = (Fp8 ? p.x.codes : (const uint8_t *)p.x.values) + head * p.x.head_stride * item;
    const uint8_t *w = (const uint8_t *)p.w + head * p.N * p.K * item;
    const float *w_scale = p.w_scale;
    const float *x_scale[Rows / 4];
    float sum[Rows / 2] = {}, part[Rows / 2];

    /* Weights are read while the kernel before runs, often the one that makes this one's rows. */
    if (!p.group.row_index) {
        w += begin * ROW_BYTES;
        point_at_weights<Fp8, Rows>(&from, p, w, n0);
        for (int s = 0; s < STAGES - 1 && s < steps; s++)
            fetch_weights<Rows>(&stages[s], from, w, s, bytes);
    }
    after_previous();
    if (p.group.row_index) {
        int expert = product_expert(p, blockIdx.y, head);

        if (expert < 0)
            return;
        w = (const uint8_t *)p.group.weights[expert];
        if (Fp8)
            w_scale = p.group.scales[expert];
    }
    if (p.group.row_index) {
        w += begin * ROW_BYTES;
        point_at_weights<Fp8, Rows>(&from, p, w, n0);
    }
    x += begin * ROW_BYTES;
    if (Fp8)
        w_scale += n0 / SCALE_GROUP * all_steps + begin;
    if (threadIdx.x < Rows)
        rows[threadIdx.x] = product_row(p, first + threadIdx.x);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Rows / 4; i++) {
        int32_t row = rows[8 * (i / 2) + 2 * (lane % 4) + i % 2];

        if (Fp8)
            x_scale[i] = product_scales(p, row, head) + begin;
    }
#pragma unroll
    for (int i = 0; i < sources<Rows>::others; i++) {
        int at = (int)threadIdx.x / 8 + i * sources<Rows>::apart;
        int64_t row = at < Rows ? rows[at] : -1;

        from.x[i] = row < 0 ? NULL : x + row * p.x.row_stride * item + 16 * (threadIdx.x % 8);
    }
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps && p.group.row_index)
            fetch_weights<Rows>(&stages[s], from, w, s, bytes);
        if (s < steps)
            fetch_rows<Rows>(&stages[s], from, w, s, bytes);
        cp_async_commit();
    }
    for (int g = 0; g < steps; g++) {
        struct stage_map<Rows> *stage = &stages[g % STAGES];
        float scale[Rows / 4];
        uint64_t a, b;

        if (Fp8)
#pragma unroll
            for (int i = 0; i < Rows / 4; i++)
                scale[i] = x_scale[i][g] * w_scale[g];
        cp_async_wait<STAGES - 2>();
        fence_proxy_async();
        __syncthreads(); /* stage g is there for all; stage g - 1 is no longer read */
        if (g + STAGES - 1 < steps) {
            fetch_weights<Rows>(&stages[(g + STAGES - 1) % STAGES], from, w, g + STAGES - 1, bytes);
            fetch_rows<Rows>(&stages[(g + STAGES - 1) % STAGES], from, w, g + STAGES - 1, bytes);
        }
        cp_async_commit();
        a = wgmma_descriptor(stage->w);
        b = wgmma_descriptor(stage->x);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < ROW_BYTES / 32; k++) {
            if (Fp8)
                wgmma_e4m3<Rows>(part, a + 2 * k, b + 2 * k, k > 0);
            else
                wgmma_bf16<Rows, false>(sum, a + 2 * k, b + 2 * k, true);
        }
        wgmma_commit();
        if (Fp8) {
            wgmma_wait<0>(part);
#pragma unroll
            for (int i = 0; i < Rows / 2; i++)
                sum[i] += part[i] * scale[i / 4 * 2 + i % 2];
        } else {
            wgmma_wait<0>(sum);
        }
    }
    cp_async_wait_all();
#pragma unroll
    for (int i = 0; i < Rows / 2; i++) {
        int row = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
        int64_t n = n0 + 16 * warp + lane / 4 + 8 * (i / 2 % 2);

        if (rows[row] >= 0 && n < p.N && parts) {
            parts[(number * p.T + row) * p.N + n] = sum[i];
        } else if (rows[row] >= 0 && n < p.N) {
            product_put<!Fp8>(p, (first + row) * p.y_row_stride + head * p.y_head_stride + n, sum[i]);
        }
    }
}

template <bool Fp8, int Rows>
static __global__ void __launch_bounds__(THREADS) few_kernel(struct product p, int part_steps, float *parts)
{
    weights_before_previous();
    DYNAMIC_SHARED(uint8_t, memory);

    multiply<Fp8, Rows>(p, blockIdx.x, blockIdx.z, part_steps, parts, memory);
}

/* Products of the same rows, one behind the other in a launch's blocks. */
struct few_list {
    struct product p; /* what they share */
    int count;
    struct few_member {
        const void *w;
        const float *w_scale;
        float *y, *parts; /* parts: NULL where K is not divided */
        int64_t N, y_row_stride;
        int part_steps, part_count;
        unsigned first_block, first_sum; /* of the launch's, and of the elements that the second launch adds */
        bool accumulate;
    } member[OPS_LINEARS_MOST];
};

template <int Rows> static __global__ void __launch_bounds__(THREADS) few_list_kernel(struct few_list list)
{
    weights_before_previous();
    DYNAMIC_SHARED(uint8_t, memory);
    struct product p = list.p;
    struct few_list::few_member m = list.member[0];
    unsigned block, columns;

#pragma unroll
    for (int i = 1; i < OPS_LINEARS_MOST; i++)
        if (i < list.count && blockIdx.x >= list.member[i].first_block)
            m = list.member[i];
    p.w = m.w;
    p.w_scale = m.w_scale;
    p.N = m.N;
    p.y = m.y;
    p.y_row_stride = m.y_row_stride;
    p.accumulate = m.accumulate;
    block = blockIdx.x - m.first_block;
    columns = (unsigned)((m.N + WEIGHT_ROWS - 1) / WEIGHT_ROWS);
    multiply<true, Rows>(p, block % columns, block / columns, m.part_steps, m.parts, memory);
}

enum { ADD_THREADS = 128 };

static __global__ void __launch_bounds__(ADD_THREADS) add_parts_kernel(struct product p, const float *parts, int count)
{
    after_previous();
    unsigned at = blockIdx.x * ADD_THREADS + threadIdx.x, all = (unsigned)(p.T * p.N), row = at / (unsigned)p.N;
    float sum = 0.0f, *out;

    if (at >= all)
        return;
#pragma unroll 8
    for (int i = 0; i < count; i++)
        sum += parts[(int64_t)i * all + at];
    out = p.y + row * p.y_row_stride + (at - row * (unsigned)p.N);
    *out = p.accumulate ? *out + sum : sum;
}

static __global__ void __launch_bounds__(ADD_THREADS) add_lists_kernel(struct few_list list, unsigned all)
{
    after_previous();
    unsigned at = blockIdx.x * ADD_THREADS + threadIdx.x, here, row;
    struct few_list::few_member m = list.member[0];
    float sum = 0.0f, *out;

    if (at >= all)
        return;
#pragma unroll
    for (int i = 1; i < OPS_LINEARS_MOST; i++)
        if (i < list.count && at >= list.member[i].first_sum)
            m = list.member[i];
    at -= m.first_sum;
    here = (unsigned)(list.p.T * m.N);
    row = at / (unsigned)m.N;
#pragma unroll 8
    for (int i = 0; i < m.part_count; i++)
        sum += m.parts[(int64_t)i * here + at];
    out = m.y + row * m.y_row_stride + (at - row * (unsigned)m.N);
    *out = m.accumulate ? *out + sum : sum;
}

template <int Rows> static enum status launch_list(struct ops *ops, const struct product *products, int count)
{
    const int smem = STAGES * (int)sizeof(struct stage_map<Rows>) + 1024;
    cudaStream_t stream = backend_of(ops)->stream;
    int steps = (int)ceil_div(products->K, ROW_BYTES);
    struct few_list list = {};
    unsigned blocks = 0, sums = 0;
    size_t floats = 0;
    void *parts = NULL;
    enum status status;

    list.p = *products;
    list.count = count;
    for (int i = 0; i < count; i++) {
        const struct product *p = &products[i];
        unsigned columns = ceil_div(p->N, WEIGHT_ROWS);
        int part_steps = few_steps_a_part(columns, steps), part_count = (int)ceil_div(steps, part_steps);

        list.member[i] = {p->w,       p->w_scale, p->y,   NULL, p->N,         p->y_row_stride,
                          part_steps, part_count, blocks, sums, p->accumulate};
        blocks += columns * (unsigned)part_count;
        if (part_count > 1) {
            sums += (unsigned)(p->T * p->N);
            floats += (size_t)(part_count * p->T * p->N);
        }
    }
    if (floats) {
        status = cuda_scratch(ops, SCRATCH_E, floats * sizeof(float), &parts);
        if (status)
            return status;
        floats = 0;
    }
    for (int i = 0; i < count; i++) {
        struct few_list::few_member *m = &list.member[i];

        if (m->part_count == 1)
            continue;
        m->parts = (float *)parts + floats;
        floats += (size_t)(m->part_count * products->T * m->N);
    }
    CUDA_TRY(ops, cudaFuncSetAttribute((few_list_kernel<Rows>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((few_list_kernel<Rows>), blocks, THREADS, smem, stream, list);
    CUDA_LAUNCHED(ops);
    if (sums) {
        LAUNCH((add_lists_kernel), ceil_div(sums, ADD_THREADS), ADD_THREADS, 0, stream, list, sums);
        CUDA_LAUNCHED(ops);
    }
    return STATUS_OK;
}

enum status cuda_products_few(struct ops *ops, const struct product *products, int count)
{
    int64_t rows = products->T;

    return rows <= 8    ? launch_list<8>(ops, products, count)
           : rows <= 16 ? launch_list<16>(ops, products, count)
           : rows <= 32 ? launch_list<32>(ops, products, count)
                        : launch_list<64>(ops, products, count);
}

template <bool Fp8, int Rows> static enum status launch(struct ops *ops, const struct product *p)
{
    const int smem = STAGES * (int)sizeof(struct stage_map<Rows>) + 1024;
    cudaStream_t stream = backend_of(ops)->stream;
    dim3 grid(ceil_div(p->N, WEIGHT_ROWS), p->group.row_index ? (unsigned)p->group.tile_count : 1,
              (unsigned)product_matrices(*p));
    int steps = (int)ceil_div(p->K * (Fp8 ? 1 : 2), ROW_BYTES), part_steps = steps, count;
    void *parts = NULL;
    enum status status;

    if (!p->group.row_index && p->heads == 1)
        part_steps = few_steps_a_part(grid.x, steps);
    count = (int)ceil_div(steps, part_steps);
    if (count > 1) {
        grid.z = (unsigned)count;
        status = cuda_scratch(ops, SCRATCH_E, (size_t)(count * p->T * p->N) * sizeof(float), &parts);
        if (status)
            return status;
    }
    CUDA_TRY(ops, cudaFuncSetAttribute((few_kernel<Fp8, Rows>), cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
    LAUNCH((few_kernel<Fp8, Rows>), grid, THREADS, smem, stream, *p, part_steps, (float *)parts);
    CUDA_LAUNCHED(ops);
    if (count > 1) {
        LAUNCH((add_parts_kernel), ceil_div(p->T * p->N, ADD_THREADS), ADD_THREADS, 0, stream, *p, (const float *)parts,
               count);
        CUDA_LAUNCHED(ops);
    }
    return STATUS_OK;
}

template <bool Fp8> static enum status launch_rows(struct ops *ops, const struct product *p, int64_t rows)
{
    return rows <= 8    ? launch<Fp8, 8>(ops, p)
           : rows <= 16 ? launch<Fp8, 16>(ops, p)
           : rows <= 32 ? launch<Fp8, 32>(ops, p)
                        : launch<Fp8, 64>(ops, p);
}

bool product_takes_few(const struct product *p)
{
    int64_t rows = p->group.row_index ? p->group.most_rows : p->T;

    return rows > 0 && rows <= 64;
}

enum status cuda_product_few(struct ops *ops, const struct product *p)
{
    int64_t rows = p->group.row_index ? p->group.most_rows : p->T;

    return p->x.codes ? launch_rows<true>(ops, p, rows) : launch_rows<false>(ops, p, rows);
}
