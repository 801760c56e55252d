/* linear.cu: matrix products y = x wᵀ, 2-D, per head and grouped by expert.
 *
 * FP8 weights:  x is quantised to e4m3 (one ue8m0 scale per row and 128 of K). On Hopper linear_wgmma.cu takes
 *               the product. Elsewhere, e4m3 values being exact in BF16, it runs on BF16 tensor cores with F32
 *               sums, and every 128 of K the partial sum is scaled by sa * sw and added: the V3.2 rule.
 * BF16 weights: x is rounded to BF16, one sum over all of K. Per head x may come as BF16, and y may leave so;
 *               linear_heads.cu rounds and multiplies at once.
 * F32 weights and NUMERICS_PLAIN: F32 multiply-adds on (dequantised) weights. linear_f32.cu takes F32 weights whose
 *               rows start on 16 bytes.
 *
 * product_mma:   grid (N / 128, row tiles of 64, heads), 256 threads = 2 x 4 warps of 32 x 32 outputs.
 *   smem: A 64 x 72 and B 128 x 72 BF16 (8 columns of padding: rows 4 banks apart), 27,648 B.
 * product_plain: grid (N / 64, row tiles of 64, heads), 256 threads of 4 x 4 outputs.
 * A row's sum runs over k in one fixed order whatever the number of rows: results do not depend on the batch. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/quantise.cuh"

enum { TILE_M = GROUP_TILE_ROWS, TILE_N = 128, TILE_K = 64, PAD_K = TILE_K + 8, MMA_THREADS = 256 };

/* --- Tensor-core form ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ __nv_bfloat162 e4m3_pair_to_bf16(uint16_t pair)
{
    return __float22bfloat162_rn(e4m3_pair_to_float(pair));
}

/* Rows of B = w[n0 + row, k0 …], as BF16; zero beyond N and K. */
template <bool Fp8>
static __device__ __forceinline__ void load_weights(__nv_bfloat16 (*tile)[PAD_K], const void *w, int64_t N, int64_t K,
                                                    int64_t n0, int64_t k0)
{
    int bytes = Fp8 ? 1 : 2;
    bool vector = K % 16 == 0; /* rows start on 16 bytes */

    for (int at = threadIdx.x; at < TILE_N * TILE_K / 8; at += MMA_THREADS) {
        int row = at / (TILE_K / 8), column = at % (TILE_K / 8) * 8;
        int64_t n = n0 + row, k = k0 + column;
        const uint8_t *source = (const uint8_t *)w + (n * K + k) * bytes;
        __nv_bfloat16 *out = &tile[row][column];

        if (n < N && k + 8 <= K && vector) {
            if (Fp8) {
                uint2 raw = *(const uint2 *)source;
                __nv_bfloat162 *pairs = (__nv_bfloat162 *)out;

                pairs[0] = e4m3_pair_to_bf16((uint16_t)raw.x);
                pairs[1] = e4m3_pair_to_bf16((uint16_t)(raw.x >> 16));
                pairs[2] = e4m3_pair_to_bf16((uint16_t)raw.y);
                pairs[3] = e4m3_pair_to_bf16((uint16_t)(raw.y >> 16));
            } else {
                *(uint4 *)out = *(const uint4 *)source;
            }
        } else {
            for (int i = 0; i < 8; i++) {
                bool inside = n < N && k + i < K;

                if (Fp8)
                    out[i] = __float2bfloat16_rn(inside ? e4m3_to_float(source[i]) : 0.0f);
                else
                    out[i] = inside ? ((const __nv_bfloat16 *)source)[i] : __float2bfloat16_rn(0.0f);
            }
        }
    }
}

static __device__ __forceinline__ void load_rows(__nv_bfloat16 (*tile)[PAD_K], const __nv_bfloat16 *values,
                                                 int64_t row_stride, const int32_t *rows, int64_t K, int64_t k0)
{
    bool vector = K % 8 == 0 && row_stride % 8 == 0;

    for (int at = threadIdx.x; at < TILE_M * TILE_K / 8; at += MMA_THREADS) {
        int row = at / (TILE_K / 8), column = at % (TILE_K / 8) * 8;
        int64_t k = k0 + column;
        const __nv_bfloat16 *source = values + rows[row] * row_stride + k;
        __nv_bfloat16 *out = &tile[row][column];

        if (rows[row] >= 0 && k + 8 <= K && vector) {
            *(uint4 *)out = *(const uint4 *)source;
        } else {
            for (int i = 0; i < 8; i++)
                out[i] = rows[row] >= 0 && k + i < K ? source[i] : __float2bfloat16_rn(0.0f);
        }
    }
}

template <bool Fp8> static __global__ void __launch_bounds__(MMA_THREADS) product_mma(struct product p)
{
    after_previous();
    __shared__ __align__(16) __nv_bfloat16 A[TILE_M][PAD_K], B[TILE_N][PAD_K];
    __shared__ int32_t rows[TILE_M]; /* operand row of each tile row, -1: none */
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int warp_m = warp / 4 * 32, warp_n = warp % 4 * 32;
    int head = blockIdx.z;
    int64_t n0 = (int64_t)blockIdx.x * TILE_N, tile_row = (int64_t)blockIdx.y * TILE_M;
    int64_t groups = (p.K + SCALE_GROUP - 1) / SCALE_GROUP;
    const void *w = p.w;
    const float *w_scale = p.w_scale;
    float sum[2][4][4] = {}, part[2][4][4] = {};

    if (p.group.row_index) {
        int expert = product_expert(p, blockIdx.y, head);

        if (expert < 0)
            return;
        w = p.group.weights[expert];
        w_scale = p.group.scales ? p.group.scales[expert] : NULL;
    } else {
        w = (const uint8_t *)w + head * p.N * p.K * (Fp8 ? 1 : 2);
    }
    if (threadIdx.x < TILE_M)
        rows[threadIdx.x] = product_row(p, tile_row + threadIdx.x);
    __syncthreads();

    for (int64_t k0 = 0; k0 < p.K; k0 += TILE_K) {
        load_rows(A, p.x.values + head * p.x.head_stride, p.x.row_stride, rows, p.K, k0);
        load_weights<Fp8>(B, w, p.N, p.K, n0, k0);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE_K; k += 16) {
            uint32_t a[2][4], b[4][2];

#pragma unroll
            for (int i = 0; i < 2; i++) {
                int row = warp_m + 16 * i + lane / 4, column = k + 2 * (lane % 4);

                a[i][0] = *(const uint32_t *)&A[row][column];
                a[i][1] = *(const uint32_t *)&A[row + 8][column];
                a[i][2] = *(const uint32_t *)&A[row][column + 8];
                a[i][3] = *(const uint32_t *)&A[row + 8][column + 8];
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int row = warp_n + 8 * j + lane / 4, column = k + 2 * (lane % 4);

                b[j][0] = *(const uint32_t *)&B[row][column];
                b[j][1] = *(const uint32_t *)&B[row][column + 8];
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mma_16x8x16(part[i][j], a[i], b[j]);
        }
        __syncthreads();
        if (Fp8 && ((k0 + TILE_K) % SCALE_GROUP == 0 || k0 + TILE_K >= p.K)) {
            int64_t group = k0 / SCALE_GROUP;
            /* TILE_N = 128 = one row of weight scales: n0 is a multiple of 128. */
            float sw = w_scale[n0 / SCALE_GROUP * groups + group];

#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int32_t row = rows[warp_m + 16 * i + 8 * half + lane / 4];
                    float sa =
                        row < 0 ? 0.0f : product_scales(p, row, head)[group];

#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        sum[i][j][2 * half] += part[i][j][2 * half] * (sa * sw);
                        sum[i][j][2 * half + 1] += part[i][j][2 * half + 1] * (sa * sw);
                        part[i][j][2 * half] = part[i][j][2 * half + 1] = 0.0f;
                    }
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int row = warp_m + 16 * i + lane / 4 + 8 * (c / 2);
                int64_t n = n0 + warp_n + 8 * j + 2 * (lane % 4) + c % 2;
                float value = Fp8 ? sum[i][j][c] : part[i][j][c];

                if (rows[row] >= 0 && n < p.N)
                    product_put<!Fp8>(p, (tile_row + row) * p.y_row_stride + head * p.y_head_stride + n, value);
            }
}

/* --- Plain form -------------------------------------------------------------------------------------------------- */

enum { PLAIN_N = 64, PLAIN_K = 16, PLAIN_THREADS = 256 };

static __device__ __forceinline__ float weight_value(enum dtype dtype, const void *w, const float *scale, int64_t n,
                                                     int64_t k, int64_t K)
{
    switch (dtype) {
    case DTYPE_F32: return ((const float *)w)[n * K + k];
    case DTYPE_BF16: return __bfloat162float(((const __nv_bfloat16 *)w)[n * K + k]);
    default:
        return e4m3_to_float(((const uint8_t *)w)[n * K + k]) *
               scale[n / SCALE_GROUP * ((K + SCALE_GROUP - 1) / SCALE_GROUP) + k / SCALE_GROUP];
    }
}

static __global__ void __launch_bounds__(PLAIN_THREADS) product_plain(struct product p, enum dtype dtype)
{
    after_previous();
    __shared__ float A[PLAIN_K][TILE_M + 4], B[PLAIN_K][PLAIN_N + 4];
    __shared__ int32_t rows[TILE_M];
    int head = blockIdx.z, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int64_t n0 = (int64_t)blockIdx.x * PLAIN_N, tile_row = (int64_t)blockIdx.y * TILE_M;
    const void *w = p.w;
    const float *w_scale = p.w_scale;
    float sum[4][4] = {};

    if (p.group.row_index) {
        int expert = product_expert(p, blockIdx.y, head);

        if (expert < 0)
            return;
        w = p.group.weights[expert];
        w_scale = p.group.scales ? p.group.scales[expert] : NULL;
    } else {
        int64_t bytes = dtype == DTYPE_F32 ? 4 : dtype == DTYPE_BF16 ? 2 : 1;

        w = (const uint8_t *)w + head * p.N * p.K * bytes;
    }
    if (threadIdx.x < TILE_M)
        rows[threadIdx.x] = product_row(p, tile_row + threadIdx.x);
    __syncthreads();

    for (int64_t k0 = 0; k0 < p.K; k0 += PLAIN_K) {
        for (int at = threadIdx.x; at < TILE_M * PLAIN_K; at += PLAIN_THREADS) {
            int row = at / PLAIN_K, k = at % PLAIN_K;

            A[k][row] = rows[row] >= 0 && k0 + k < p.K
                            ? p.x.plain[rows[row] * p.x.row_stride + head * p.x.head_stride + k0 + k]
                            : 0.0f;
            B[k][row] = n0 + row < p.N && k0 + k < p.K ? weight_value(dtype, w, w_scale, n0 + row, k0 + k, p.K) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < PLAIN_K; k++) {
            float a[4], b[4];

#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i] = A[k][4 * ty + i];
                b[i] = B[k][4 * tx + i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int row = 4 * ty + i;
            int64_t n = n0 + 4 * tx + j;

            if (rows[row] >= 0 && n < p.N) {
                float *out = p.y + (tile_row + row) * p.y_row_stride + head * p.y_head_stride + n;

                *out = p.accumulate ? *out + sum[i][j] : sum[i][j];
            }
        }
}

/* --- Launch ---------------------------------------------------------------------------------------------------------
 */

static bool is_plain(const struct cuda_weight *weight)
{
    return weight->numerics == NUMERICS_PLAIN || weight->dtype == DTYPE_F32;
}

static struct product product_of(const struct operand *operand, const struct cuda_weight *weight, int64_t T, float *y,
                                 int64_t y_row_stride, int64_t y_head_stride, bool accumulate)
{
    struct product p = {};

    p.x = *operand;
    p.w = weight->data;
    p.w_scale = weight->scale;
    p.N = weight->N;
    p.K = weight->K;
    p.T = T;
    p.heads = (int)weight->heads;
    p.y = y;
    p.y_row_stride = y_row_stride;
    p.y_head_stride = y_head_stride;
    p.accumulate = accumulate;
    return p;
}

static enum status multiply(struct ops *ops, const struct product &p, const struct cuda_weight *weight)
{
    const struct operand *operand = &p.x;
    unsigned row_tiles = p.group.row_index ? (unsigned)p.group.tile_count : ceil_div(p.T, TILE_M);
    cudaStream_t stream = backend_of(ops)->stream;

    if (row_tiles == 0 || weight->N == 0)
        return STATUS_OK;
    /* grid y holds 65,535 blocks: 4M rows at once; the engine's chunks are far smaller. */
    if (row_tiles > 65535 || weight->heads > 65535)
        return STATUS_UNSUPPORTED;
    if (operand->codes ||
        (operand->values && product_takes_wgmma(backend_of(ops), weight->dtype, weight->numerics, weight->K)))
        return product_takes_few(&p) ? cuda_product_few(ops, &p) : cuda_product_wgmma(ops, &p);
    if (operand->plain && product_takes_f32(&p, weight->dtype))
        return cuda_product_f32(ops, &p);
    if (is_plain(weight)) {
        dim3 grid(ceil_div(weight->N, PLAIN_N), row_tiles, (unsigned)product_matrices(p));

        LAUNCH((product_plain), grid, PLAIN_THREADS, 0, stream, p, weight->dtype);
    } else {
        dim3 grid(ceil_div(weight->N, TILE_N), row_tiles, (unsigned)product_matrices(p));

        if (weight->dtype == DTYPE_F8E4M3)
            LAUNCH((product_mma<true>), grid, MMA_THREADS, 0, stream, p);
        else
            LAUNCH((product_mma<false>), grid, MMA_THREADS, 0, stream, p);
    }
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_product(struct ops *ops, const struct operand *operand, const struct cuda_weight *weight, int64_t T,
                         const struct grouping *grouping, float *y, int64_t y_row_stride, int64_t y_head_stride,
                         bool accumulate)
{
    struct product p = product_of(operand, weight, T, y, y_row_stride, y_head_stride, accumulate);

    if (grouping) {
        p.group = *grouping;
        p.x.head_stride = 0;
    }
    return multiply(ops, p, weight);
}

enum status cuda_product_inner(struct ops *ops, const struct operand *operand, const struct cuda_weight *gate,
                               int64_t T, const struct grouping *grouping, uint8_t *codes, float *scale)
{
    struct product p = product_of(operand, gate, T, NULL, 0, 0, false);

    p.group = *grouping;
    p.x.head_stride = 0;
    p.y_codes = codes;
    p.y_scale = scale;
    return cuda_product_wgmma(ops, &p);
}

/* --- The left side ------------------------------------------------------------------------------------------------ */

enum operand_form { OPERAND_BF16, OPERAND_BF16_OF_E4M3, OPERAND_E4M3 };

enum { OPERAND_THREADS = 256, OPERAND_GROUPS = OPERAND_THREADS / GROUP_LANES }; /* a block */

/* BF16 of x, BF16 of its e4m3 rounding, or the e4m3 codes; the scale goes to `scale`. Rows of both sides start on four
 * elements; `all` is rows times groups. Eight lanes a group of 128. */
template <enum operand_form Form>
static __global__ void __launch_bounds__(OPERAND_THREADS)
    operand_fours_kernel(const float *x, int64_t row_stride, int64_t head_stride, unsigned heads, unsigned all, int K,
                         unsigned groups, void *out, float *scale)
{
    after_previous();
    unsigned at = blockIdx.x * OPERAND_GROUPS + threadIdx.x / GROUP_LANES, r = at / groups, g = at - r * groups;
    unsigned t = heads == 1 ? r : r / heads, head = r - t * heads;
    int lane = threadIdx.x % GROUP_LANES, columns = at < all ? K - (int)(g * SCALE_GROUP) : 0;
    const float *source = x + t * row_stride + head * head_stride + g * SCALE_GROUP;
    int64_t first = (int64_t)r * K + g * SCALE_GROUP;
    float4 value[LANE_FOURS];
    float s = 1.0f, inverse;

#pragma unroll
    for (int i = 0; i < LANE_FOURS; i++)
        value[i] = lane_column(lane, i) < columns ? *(const float4 *)(source + lane_column(lane, i))
                                                  : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (Form != OPERAND_BF16) {
        s = group_scale(value);
        if (lane == 0 && at < all)
            scale[at] = s;
    }
    inverse = 1.0f / s;
#pragma unroll
    for (int i = 0; i < LANE_FOURS; i++) {
        int64_t place = first + lane_column(lane, i);

        if (lane_column(lane, i) >= columns)
            continue;
        if (Form == OPERAND_BF16) {
            *(uint2 *)((__nv_bfloat16 *)out + place) = four_bf16(value[i]);
        } else {
            uint32_t codes = four_codes(value[i], inverse);

            if (Form == OPERAND_E4M3) {
                *(uint32_t *)((uint8_t *)out + place) = codes;
            } else {
                float2 low = e4m3_pair_to_float((uint16_t)codes), high = e4m3_pair_to_float((uint16_t)(codes >> 16));

                *(uint2 *)((__nv_bfloat16 *)out + place) = four_bf16(make_float4(low.x, low.y, high.x, high.y));
            }
        }
    }
}

/* The same for rows of any alignment. One warp a group. */
template <enum operand_form Form>
static __global__ void operand_kernel(const float *x, int64_t row_stride, int64_t head_stride, int heads, int64_t R,
                                      int K, int groups, void *out, float *scale)
{
    after_previous();
    int64_t at = (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, r = at / groups;
    int g = (int)(at % groups), start = g * SCALE_GROUP, lane = threadIdx.x % WARP,
        count = min((int)SCALE_GROUP, K - start);
    const float *source;
    float amax = 0.0f, s = 1.0f;

    if (r >= R)
        return;
    source = x + r / heads * row_stride + r % heads * head_stride + start;
    if (Form != OPERAND_BF16) {
        for (int i = lane; i < count; i += WARP)
            amax = fmaxf(amax, fabsf(source[i]));
        s = ue8m0_scale(warp_max(amax));
        if (lane == 0)
            scale[r * groups + g] = s;
    }
    for (int i = lane; i < count; i += WARP) {
        if (Form == OPERAND_E4M3) {
            ((uint8_t *)out)[r * K + start + i] = float_to_e4m3(source[i] / s);
        } else {
            float value = Form == OPERAND_BF16 ? source[i] : e4m3_to_float(float_to_e4m3(source[i] / s));

            ((__nv_bfloat16 *)out)[r * K + start + i] = __float2bfloat16_rn(value);
        }
    }
}

static enum status make_operand(struct ops *ops, enum operand_form form, const float *x, int64_t row_stride,
                                int64_t head_stride, int heads, int64_t T, int K, enum scratch_slot values,
                                enum scratch_slot scales, struct operand *operand)
{
    int groups = (int)ceil_div(K, SCALE_GROUP);
    int64_t R = T * heads;
    unsigned blocks = ceil_div(R * groups, 4);
    cudaStream_t stream = backend_of(ops)->stream;
    void *out = NULL, *scale = NULL;
    enum status status = cuda_scratch(ops, values, (size_t)R * K * (form == OPERAND_E4M3 ? 1 : 2), &out);

    if (!status && form != OPERAND_BF16)
        status = cuda_scratch(ops, scales, (size_t)R * groups * sizeof(float), &scale);
    if (status)
        return status;
    if (R > 0 && K % 4 == 0 && row_stride % 4 == 0 && head_stride % 4 == 0 && (uintptr_t)x % 16 == 0 &&
        R * groups <= INT32_MAX) {
        unsigned all = (unsigned)(R * groups);

        blocks = ceil_div(all, OPERAND_GROUPS);
        if (form == OPERAND_E4M3)
            LAUNCH((operand_fours_kernel<OPERAND_E4M3>), blocks, OPERAND_THREADS, 0, stream, x, row_stride, head_stride,
                   (unsigned)heads, all, K, (unsigned)groups, out, (float *)scale);
        else if (form == OPERAND_BF16_OF_E4M3)
            LAUNCH((operand_fours_kernel<OPERAND_BF16_OF_E4M3>), blocks, OPERAND_THREADS, 0, stream, x, row_stride,
                   head_stride, (unsigned)heads, all, K, (unsigned)groups, out, (float *)scale);
        else
            LAUNCH((operand_fours_kernel<OPERAND_BF16>), blocks, OPERAND_THREADS, 0, stream, x, row_stride, head_stride,
                   (unsigned)heads, all, K, (unsigned)groups, out, (float *)scale);
        CUDA_LAUNCHED(ops);
    } else if (R > 0) {
        if (form == OPERAND_E4M3)
            LAUNCH((operand_kernel<OPERAND_E4M3>), blocks, 4 * WARP, 0, stream, x, row_stride, head_stride, heads, R, K,
                   groups, out, (float *)scale);
        else if (form == OPERAND_BF16_OF_E4M3)
            LAUNCH((operand_kernel<OPERAND_BF16_OF_E4M3>), blocks, 4 * WARP, 0, stream, x, row_stride, head_stride,
                   heads, R, K, groups, out, (float *)scale);
        else
            LAUNCH((operand_kernel<OPERAND_BF16>), blocks, 4 * WARP, 0, stream, x, row_stride, head_stride, heads, R, K,
                   groups, out, (float *)scale);
        CUDA_LAUNCHED(ops);
    }
    *operand = {};
    if (form == OPERAND_E4M3)
        operand->codes = (const uint8_t *)out;
    else
        operand->values = (const __nv_bfloat16 *)out;
    operand->scale = (const float *)scale;
    operand->row_stride = (int64_t)heads * K;
    operand->head_stride = K;
    operand->scale_row_stride = groups;
    return STATUS_OK;
}

/* x as it came. */
static struct operand plain_operand(const float *x, int64_t row_stride, int64_t head_stride)
{
    struct operand operand = {};

    operand.plain = x;
    operand.row_stride = row_stride;
    operand.head_stride = head_stride;
    return operand;
}

enum status cuda_operand(struct ops *ops, const struct cuda_weight *like, const float *x, int64_t row_stride,
                         int64_t head_stride, int heads, int64_t T, int K, enum scratch_slot values,
                         enum scratch_slot scales, struct operand *operand)
{
    enum operand_form form = OPERAND_BF16;

    if (is_plain(like)) {
        *operand = plain_operand(x, row_stride, head_stride);
        return STATUS_OK;
    }
    if (like->dtype == DTYPE_F8E4M3)
        form =
            product_takes_wgmma(backend_of(ops), like->dtype, like->numerics, K) ? OPERAND_E4M3 : OPERAND_BF16_OF_E4M3;
    return make_operand(ops, form, x, row_stride, head_stride, heads, T, K, values, scales, operand);
}

enum status cuda_queries(struct ops *ops, const float *q, int64_t row_stride, int64_t head_stride, int heads, int64_t T,
                         int Di, bool codes, enum scratch_slot values, enum scratch_slot scales,
                         struct operand *operand)
{
    return make_operand(ops, codes ? OPERAND_E4M3 : OPERAND_BF16_OF_E4M3, q, row_stride, head_stride, heads, T, Di,
                        values, scales, operand);
}

/* With x as it came, in F32 or BF16. */
static enum status product_of_args(const struct ops_linear_args *args, struct product *product)
{
    const struct tensor *x = args->x, *y = args->y;
    bool per_head = x->dim_count == 3;
    int64_t head_stride = per_head ? x->strides[1] : 0;
    struct operand operand = plain_operand((const float *)x->data, x->strides[0], head_stride);

    if (x->dtype == DTYPE_BF16 && (x->strides[0] % 8 || head_stride % 8 || (uintptr_t)x->data % 16))
        return STATUS_UNSUPPORTED;
    *product = product_of(&operand, cuda_weight_of(args->w), x->dims[0], (float *)y->data, y->strides[0],
                          per_head ? y->strides[1] : 0, args->accumulate);
    if (x->dtype == DTYPE_BF16) {
        product->x.plain = NULL;
        product->x.values = (const __nv_bfloat16 *)x->data;
    }
    if (y->dtype == DTYPE_BF16) {
        product->y = NULL;
        product->y_bf16 = (__nv_bfloat16 *)y->data;
    }
    return STATUS_OK;
}

enum status cuda_linear(struct ops *ops, const struct ops_linear_args *args)
{
    const struct tensor *x = args->x;
    const struct cuda_weight *w = cuda_weight_of(args->w);
    struct product p;
    enum status status = product_of_args(args, &p);

    if (status)
        return status;
    if (product_takes_heads(backend_of(ops), w, &p))
        return cuda_product_heads(ops, &p);
    if (!p.x.values) {
        status = cuda_operand(ops, w, (const float *)x->data, p.x.row_stride, p.x.head_stride, (int)w->heads, p.T,
                              (int)w->K, SCRATCH_A, SCRATCH_B, &p.x);
        if (status)
            return status;
    }
    return multiply(ops, p, w);
}

/* Whether all products want the same form of their x, which is made of it. */
static bool are_alike(const struct ops_linear_args *args, int count)
{
    const struct cuda_weight *like = cuda_weight_of(args->w);
    bool alike = !is_plain(like);

    for (int i = 1; i < count; i++) {
        const struct cuda_weight *w = cuda_weight_of(args[i].w);

        alike = alike && w->dtype == like->dtype && w->numerics == like->numerics;
    }
    return alike;
}

/* Products of one x, in the form that all of them want. */
static enum status multiply_all(struct ops *ops, const struct operand *operand, const struct ops_linear_args *args,
                                int count)
{
    struct product products[OPS_LINEARS_MOST];
    bool few = operand->codes != NULL;
    enum status status = STATUS_OK;

    for (int i = 0; i < count; i++) {
        const struct tensor *y = args[i].y;

        products[i] = product_of(operand, cuda_weight_of(args[i].w), y->dims[0], (float *)y->data, y->strides[0], 0,
                                 args[i].accumulate);
        few = few && products[i].N > 0 && product_takes_few(&products[i]);
    }
    if (few)
        return cuda_products_few(ops, products, count);
    for (int i = 0; i < count && !status; i++)
        status = multiply(ops, products[i], cuda_weight_of(args[i].w));
    return status;
}

enum status cuda_linears(struct ops *ops, const struct ops_linear_args *args, int count)
{
    const struct tensor *x = args->x;
    const struct cuda_weight *like = cuda_weight_of(args->w);
    struct operand operand;
    enum status status = STATUS_OK;

    if (!are_alike(args, count)) {
        for (int i = 0; i < count && !status; i++)
            status = cuda_linear(ops, &args[i]);
        return status;
    }
    status = cuda_operand(ops, like, (const float *)x->data, x->strides[0], 0, 1, x->dims[0], (int)like->K, SCRATCH_A,
                          SCRATCH_B, &operand);
    return status ? status : multiply_all(ops, &operand, args, count);
}

/* --- Codes and scales from where x is made ------------------------------------------------------------------------ */

static bool takes_codes(struct ops *ops, const struct cuda_weight *w)
{
    return w->dtype == DTYPE_F8E4M3 && product_takes_wgmma(backend_of(ops), w->dtype, w->numerics, w->K);
}

/* An operand of T rows that the kernel before will have written: where to. */
static enum status take_codes(struct ops *ops, int64_t T, int64_t K, uint8_t **codes, float **scale,
                              struct operand *operand)
{
    int64_t groups = ceil_div(K, SCALE_GROUP);
    void *code_memory = NULL, *scale_memory = NULL;
    enum status status = cuda_scratch(ops, SCRATCH_A, (size_t)(T * K), &code_memory);

    if (!status)
        status = cuda_scratch(ops, SCRATCH_B, (size_t)(T * groups) * sizeof(float), &scale_memory);
    if (status)
        return status;
    *codes = (uint8_t *)code_memory;
    *scale = (float *)scale_memory;
    *operand = {};
    operand->codes = *codes;
    operand->scale = *scale;
    operand->row_stride = K;
    operand->scale_row_stride = groups;
    return STATUS_OK;
}

/* A head's 128 columns are one group of the second product's K. */
enum status cuda_linear_pair(struct ops *ops, const struct ops_linear_args *first, const struct ops_linear_args *second)
{
    const struct cuda_weight *w = cuda_weight_of(second->w);
    struct operand operand;
    struct product p;
    enum status status = product_of_args(first, &p);

    if (status)
        return status;
    if (!p.x.values || !product_takes_heads(backend_of(ops), cuda_weight_of(first->w), &p) || !takes_codes(ops, w)) {
        status = cuda_linear(ops, first);
        return status ? status : cuda_linear(ops, second);
    }
    status = take_codes(ops, p.T, w->K, &p.y_codes, &p.y_scale, &operand);
    if (!status)
        status = cuda_product_heads(ops, &p);
    return status ? status : multiply_all(ops, &operand, second, 1);
}

enum status cuda_norm_linears(struct ops *ops, const struct ops_rmsnorm_args *norm,
                              const struct ops_linear_args *products, int count)
{
    const struct cuda_weight *like = cuda_weight_of(products->w);
    struct operand operand;
    uint8_t *codes;
    float *scale;
    enum status status;

    if (!are_alike(products, count) || !takes_codes(ops, like) || !cuda_norm_takes_codes(norm)) {
        status = cuda_rmsnorm(ops, norm);
        return status ? status : cuda_linears(ops, products, count);
    }
    status = take_codes(ops, norm->x->dims[0], like->K, &codes, &scale, &operand);
    if (!status)
        status = cuda_norm_codes(ops, norm, codes, scale);
    return status ? status : multiply_all(ops, &operand, products, count);
}
