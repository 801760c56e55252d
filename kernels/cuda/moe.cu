/* moe.cu: the router, and the experts as grouped products.
 *
 * Router: one warp a token; p and p' of all experts in shared memory, or in registers where there are at most 256 in
 * groups of 32 or in one, then k rounds of an arg-max over lanes, ties to the lowest expert.
 * Experts: every (token, j) pair gets a slot in its expert's run of slots, runs padded to tiles of 64 or 128 rows, all
 * on the device (no count ever travels to the host). Then gate and up as one grouped product, down as another, and one
 * sum a token, in ascending expert order. Slots of an expert are in ascending (token, j) order. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/rows.cuh"

enum { MAX_EXPERTS = 1024, MAX_CHOSEN = 32, MAX_GROUPS = 64 };

/* --- Router ------------------------------------------------------------------------------------------------- */

struct router_view {
    const float *logits, *bias;
    int64_t logits_stride;
    int E, k, groups, kept_groups;
    bool softmax, normalise;
    float scaling;
    int32_t *experts;
    float *weights;
    int64_t experts_stride, weights_stride;
};

/* The best of `values` over [0, count), ties to the lowest index; all lanes get it. */
static __device__ __forceinline__ int warp_argmax(const float *values, int count, float *best)
{
    int lane = threadIdx.x % WARP, at = INT32_MAX;
    float value = -INFINITY;

    for (int i = lane; i < count; i += WARP) {
        if (values[i] > value || at == INT32_MAX) {
            value = values[i];
            at = i;
        }
    }
    for (int offset = WARP / 2; offset; offset /= 2) {
        float other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
        int other_at = __shfl_xor_sync(0xFFFFFFFFu, at, offset);

        if (other_at != INT32_MAX && (at == INT32_MAX || other > value || (other == value && other_at < at))) {
            value = other;
            at = other_at;
        }
    }
    *best = value;
    return at;
}

static __global__ void __launch_bounds__(WARP) router_kernel(struct router_view v)
{
    after_previous();
    __shared__ float probability[MAX_EXPERTS], score[MAX_EXPERTS], group_score[MAX_GROUPS];
    __shared__ bool kept[MAX_GROUPS];
    int lane = threadIdx.x, per_group = v.E / v.groups;
    const float *logits = v.logits + blockIdx.x * v.logits_stride;
    int32_t *experts = v.experts + blockIdx.x * v.experts_stride;
    float *weights = v.weights + blockIdx.x * v.weights_stride;
    float best, total = 0.0f, factor;

    if (v.softmax) {
        float high = -INFINITY, sum = 0.0f;

        for (int e = lane; e < v.E; e += WARP)
            high = fmaxf(high, logits[e]);
        high = warp_max(high);
        for (int e = lane; e < v.E; e += WARP)
            sum += expf(logits[e] - high);
        sum = warp_sum(sum);
        for (int e = lane; e < v.E; e += WARP)
            probability[e] = expf(logits[e] - high) / sum;
    } else {
        for (int e = lane; e < v.E; e += WARP)
            probability[e] = 1.0f / (1.0f + expf(-logits[e]));
    }
    for (int e = lane; e < v.E; e += WARP)
        score[e] = probability[e] + (v.bias ? v.bias[e] : 0.0f);
    __syncwarp();
    if (v.groups > 1) {
        for (int g = lane; g < v.groups; g += WARP) {
            float first = -INFINITY, second = -INFINITY;

            for (int e = g * per_group; e < (g + 1) * per_group; e++) {
                if (score[e] > first) {
                    second = first;
                    first = score[e];
                } else if (score[e] > second) {
                    second = score[e];
                }
            }
            group_score[g] = v.softmax || per_group == 1 ? first : first + second;
            kept[g] = false;
        }
        __syncwarp();
        for (int i = 0; i < v.kept_groups; i++) {
            int g = warp_argmax(group_score, v.groups, &best);

            __syncwarp();
            if (lane == 0) {
                kept[g] = true;
                group_score[g] = -INFINITY;
            }
            __syncwarp();
        }
        for (int e = lane; e < v.E; e += WARP)
            score[e] = kept[e / per_group] ? score[e] : -INFINITY;
        __syncwarp();
    }
    for (int j = 0; j < v.k; j++) {
        int e = warp_argmax(score, v.E, &best);

        __syncwarp();
        total += probability[e];
        if (lane == 0) {
            experts[j] = e;
            weights[j] = probability[e];
            score[e] = -INFINITY;
        }
        __syncwarp();
    }
    factor = (v.normalise ? 1.0f / (total + 1e-20f) : 1.0f) * v.scaling;
    for (int j = lane; j < v.k; j += WARP)
        weights[j] *= factor;
}

/* Floats as integers in the same order, both zeros alike, and none of them 0 (that is: taken, or no expert). */
static __device__ __forceinline__ uint32_t ordered(float value)
{
    uint32_t bits = __float_as_uint(value + 0.0f);

    return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}

static __device__ __forceinline__ float of_ordered(uint32_t key)
{
    return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xFFFFFFFFu));
}

enum { ROUTER_VALUES = 8 };

/* Expert 32 i + lane is value i of a lane, so a group of 32 is one value of all lanes. */
static __global__ void __launch_bounds__(WARP) router_warp_kernel(struct router_view v)
{
    after_previous();
    int lane = threadIdx.x;
    const float *logits = v.logits + blockIdx.x * v.logits_stride;
    float probability[ROUTER_VALUES], total = 0.0f, factor, mine = 0.0f;
    uint32_t key[ROUTER_VALUES];
    int32_t my_expert = 0;

#pragma unroll
    for (int i = 0; i < ROUTER_VALUES; i++)
        probability[i] = i * WARP + lane < v.E ? logits[i * WARP + lane] : -INFINITY;
    if (v.softmax) {
        float high = -INFINITY, sum = 0.0f;

#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++)
            high = fmaxf(high, probability[i]);
        high = warp_max(high);
#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++) {
            probability[i] = expf(probability[i] - high);
            sum += probability[i];
        }
        sum = warp_sum(sum);
#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++)
            probability[i] /= sum;
    } else {
#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++)
            probability[i] = 1.0f / (1.0f + expf(-probability[i]));
    }
#pragma unroll
    for (int i = 0; i < ROUTER_VALUES; i++) {
        int e = i * WARP + lane;

        key[i] = e < v.E ? ordered(probability[i] + (v.bias ? v.bias[e] : 0.0f)) : 0;
    }
    if (v.groups > 1) {
        uint32_t group[ROUTER_VALUES], kept = 0;

#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++) {
            uint32_t first = __reduce_max_sync(0xFFFFFFFFu, key[i]);
            uint32_t second = __reduce_max_sync(0xFFFFFFFFu, key[i] == first ? 0 : key[i]);

            if (__popc(__ballot_sync(0xFFFFFFFFu, key[i] == first)) > 1)
                second = first;
            group[i] = i >= v.groups ? 0 : v.softmax ? first : ordered(of_ordered(first) + of_ordered(second));
        }
        for (int round = 0; round < v.kept_groups; round++) {
            uint32_t best = 0;
            int at = 0;

#pragma unroll
            for (int i = 0; i < ROUTER_VALUES; i++) {
                if (!(kept >> i & 1) && group[i] > best) {
                    best = group[i];
                    at = i;
                }
            }
            kept |= 1u << at;
        }
#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++)
            if (!(kept >> i & 1) && key[i])
                key[i] = ordered(-INFINITY);
    }
    for (int j = 0; j < v.k; j++) {
        uint32_t best = 0, all;
        int at = 0;
        int32_t e;
        float p = probability[0];

#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++) {
            if (key[i] > best) {
                best = key[i];
                at = i;
                p = probability[i];
            }
        }
        all = __reduce_max_sync(0xFFFFFFFFu, best);
        e = __reduce_min_sync(0xFFFFFFFFu, best == all ? at * WARP + lane : INT32_MAX);
        p = __shfl_sync(0xFFFFFFFFu, p, e % WARP);
        total += p;
#pragma unroll
        for (int i = 0; i < ROUTER_VALUES; i++)
            if (i * WARP + lane == e)
                key[i] = 0;
        if (lane == j) {
            mine = p;
            my_expert = e;
        }
    }
    factor = (v.normalise ? 1.0f / (total + 1e-20f) : 1.0f) * v.scaling;
    if (lane < v.k) {
        v.experts[blockIdx.x * v.experts_stride + lane] = my_expert;
        v.weights[blockIdx.x * v.weights_stride + lane] = mine * factor;
    }
}

enum status cuda_router(struct ops *ops, const struct ops_router_args *args)
{
    struct router_view v = {};
    int64_t T = args->logits->dims[0];

    v.logits = (const float *)args->logits->data;
    v.logits_stride = args->logits->strides[0];
    v.bias = args->bias ? (const float *)args->bias->data : NULL;
    v.E = (int)args->logits->dims[1];
    v.k = (int)args->experts->dims[1];
    v.groups = args->groups;
    v.kept_groups = args->kept_groups;
    v.softmax = args->scoring == ROUTER_SOFTMAX;
    v.normalise = args->normalise;
    v.scaling = args->scaling;
    v.experts = (int32_t *)args->experts->data;
    v.experts_stride = args->experts->strides[0];
    v.weights = (float *)args->weights->data;
    v.weights_stride = args->weights->strides[0];
    if (v.E > MAX_EXPERTS || v.groups > MAX_GROUPS)
        return STATUS_UNSUPPORTED;
    if (T == 0)
        return STATUS_OK;
    if (v.E <= ROUTER_VALUES * WARP && v.k <= WARP && (v.groups <= 1 || v.E == v.groups * WARP))
        LAUNCH((router_warp_kernel), (unsigned)T, WARP, 0, backend_of(ops)->stream, v);
    else
        LAUNCH((router_kernel), (unsigned)T, WARP, 0, backend_of(ops)->stream, v);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

/* --- Slots ------------------------------------------------------------------------------------------------------ */

enum { PLAN_THREADS = 1024, PLAN_WARPS = PLAN_THREADS / WARP };

/* One block: counts[e], then the first slot of each expert, runs padded to whole tiles. Unused tiles get -1. Up to
 * PLAN_THREADS pairs get their slots here as well (`slot_of`), in ascending order; of more, slots_kernel gives them. */
static __global__ void __launch_bounds__(PLAN_THREADS)
    plan_kernel(const int32_t *experts, int64_t experts_stride, int64_t T, int k, int E, int32_t *first_slot,
                int32_t *tile_expert, int tiles, int tile_rows, int32_t *row_index, int32_t *slot_of)
{
    after_previous();
    __shared__ int32_t count[MAX_EXPERTS], first[MAX_EXPERTS], chosen[PLAN_THREADS], warp_tiles[PLAN_WARPS];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, e = threadIdx.x, mine = 0, before, all = 0;
    int pairs = (int)(T * k);

    static_assert((int)MAX_EXPERTS <= (int)PLAN_THREADS, "a thread an expert");
    for (int i = threadIdx.x; i < E; i += PLAN_THREADS)
        count[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < pairs; i += PLAN_THREADS) {
        int32_t expert = experts[i / k * experts_stride + i % k];

        if (i < PLAN_THREADS)
            chosen[i] = expert;
        atomicAdd(&count[expert], 1);
    }
    if (slot_of)
        for (int i = threadIdx.x; i < tiles * tile_rows; i += PLAN_THREADS)
            row_index[i] = -1;
    __syncthreads();
    if (e < E)
        mine = (count[e] + tile_rows - 1) / tile_rows;
    before = mine;
    for (int offset = 1; offset < WARP; offset *= 2) {
        int other = __shfl_up_sync(0xFFFFFFFFu, before, offset);

        if (lane >= offset)
            before += other;
    }
    if (lane == WARP - 1)
        warp_tiles[warp] = before;
    before -= mine;
    __syncthreads();
    for (int w = 0; w < PLAN_WARPS; w++) {
        if (w < warp)
            before += warp_tiles[w];
        all += warp_tiles[w];
    }
    if (e < E) {
        first[e] = before * tile_rows;
        first_slot[e] = first[e];
        for (int i = 0; i < mine; i++)
            tile_expert[before + i] = e;
    }
    for (int i = all + (int)threadIdx.x; i < tiles; i += PLAN_THREADS)
        tile_expert[i] = -1;
    __syncthreads();
    if (slot_of && (int)threadIdx.x < pairs) {
        int32_t expert = chosen[threadIdx.x];
        int slot = first[expert];

        for (int i = 0; i < (int)threadIdx.x; i++)
            slot += chosen[i] == expert;
        row_index[slot] = (int32_t)threadIdx.x;
        slot_of[threadIdx.x] = slot;
    }
}

/* One block an expert: its pairs in ascending order to its slots. row_index was filled with -1 before. The pairs'
 * experts are read again by each block, out of L2. */
static __global__ void slots_kernel(const int32_t *experts, int64_t experts_stride, int64_t T, int k,
                                    const int32_t *first_slot, int32_t *row_index, int32_t *slot_of)
{
    after_previous();
    __shared__ int32_t warp_count[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int32_t next = first_slot[blockIdx.x];

    for (int64_t base = 0; base < T * k; base += blockDim.x) {
        int64_t i = base + threadIdx.x;
        bool mine = i < T * k && experts[i / k * experts_stride + i % k] == (int)blockIdx.x;
        uint32_t mask = __ballot_sync(0xFFFFFFFFu, mine);
        int32_t slot = next;

        if (lane == 0)
            warp_count[warp] = __popc(mask);
        __syncthreads();
        for (int w = 0; w < warps; w++) {
            if (w < warp)
                slot += warp_count[w];
            next += warp_count[w];
        }
        if (mine) {
            slot += __popc(mask & ((1u << lane) - 1));
            row_index[slot] = (int32_t)i;
            slot_of[i] = slot;
        }
        __syncthreads();
    }
}

/* gate = silu(gate) up in the slots in use, zeros in the others. */
static __global__ void slot_swiglu_kernel(float *gate, const float *up, const int32_t *row_index, int J)
{
    after_previous();
    int64_t slot = blockIdx.x;
    bool used = row_index[slot] >= 0;

    for (int j = threadIdx.x; j < J; j += blockDim.x)
        gate[slot * J + j] = used ? silu_times(gate[slot * J + j], up[slot * J + j]) : 0.0f;
}

enum { INNER_THREADS = 256, INNER_GROUPS = INNER_THREADS / GROUP_LANES }; /* a block */

/* The inner activations of the slots in use straight to e4m3: silu(gate) up, one scale a group of 128. Rounds as swiglu
 * and then operand_kernel do; J is a multiple of 4. */
static __global__ void __launch_bounds__(INNER_THREADS)
    inner_codes_kernel(const float *gate, const float *up, const int32_t *row_index, unsigned all, int J,
                       unsigned groups, uint8_t *codes, float *scale)
{
    after_previous();
    unsigned at = blockIdx.x * INNER_GROUPS + threadIdx.x / GROUP_LANES, slot = at / groups, g = at - slot * groups;
    int lane = threadIdx.x % GROUP_LANES;
    bool used = at < all && row_index[slot] >= 0;
    int columns = used ? J - (int)(g * SCALE_GROUP) : 0;
    int64_t first = (int64_t)slot * J + g * SCALE_GROUP;
    float4 value[LANE_FOURS];
    float s, inverse;

#pragma unroll
    for (int i = 0; i < LANE_FOURS; i++) {
        value[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (lane_column(lane, i) < columns) {
            float4 a = *(const float4 *)(gate + first + lane_column(lane, i));
            float4 b = *(const float4 *)(up + first + lane_column(lane, i));

            value[i] =
                make_float4(silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z), silu_times(a.w, b.w));
        }
    }
    s = group_scale(value);
    inverse = 1.0f / s;
    if (used && lane == 0)
        scale[at] = s;
#pragma unroll
    for (int i = 0; i < LANE_FOURS; i++)
        if (lane_column(lane, i) < columns)
            *(uint32_t *)(codes + first + lane_column(lane, i)) = four_codes(value[i], inverse);
}

/* How a call goes about its experts' slots. */
struct slots_plan {
    int tile_rows;
    int64_t tiles, slots;
    bool coded; /* the last product takes e4m3 codes */
    bool fused; /* they come out of the product with gate and up, which then lie nowhere */
    size_t inner_bytes;
};

static struct slots_plan plan_slots(const struct cuda_backend *backend, const struct ops_moe_args *args)
{
    const struct cuda_weight *gate = cuda_weight_of(args->gate[0]), *down = cuda_weight_of(args->down[0]);
    int64_t T = args->x->dims[0], pairs = T * args->experts->dims[1], J = gate->N, groups = ceil_div(J, SCALE_GROUP);
    struct slots_plan plan = {};

    plan.coded = down->dtype == DTYPE_F8E4M3 && product_takes_wgmma(backend, down->dtype, down->numerics, J);
    plan.fused = plan.coded && gate->dtype == DTYPE_F8E4M3 && T > GROUP_TILE_ROWS && /* fewer: linear_few.cu */
                 product_takes_wgmma(backend, gate->dtype, gate->numerics, gate->K) &&
                 experts_are_tall(pairs, args->expert_count);
    plan.tile_rows = plan.fused ? 2 * GROUP_TILE_ROWS : (int)GROUP_TILE_ROWS;
    plan.tiles = expert_tiles_bound(pairs, args->expert_count, plan.tile_rows);
    plan.slots = plan.tiles * plan.tile_rows;
    plan.coded = plan.coded && plan.slots * groups <= INT32_MAX;
    plan.inner_bytes = (size_t)plan.slots * (plan.fused ? J + groups * sizeof(float) : 2 * J * sizeof(float));
    return plan;
}

/* silu(gate) up of all slots as the left side of the last product, whose rows are the slots themselves. */
static enum status inner_operand(struct ops *ops, const struct ops_moe_args *args, const struct slots_plan *plan,
                                 const struct operand *x, const struct grouping *group, void *inner,
                                 struct operand *operand)
{
    const struct cuda_weight *weight = cuda_weight_of(args->gate[0]);
    int64_t T = args->x->dims[0], J = weight->N, slots = plan->slots;
    int groups = (int)ceil_div(J, SCALE_GROUP);
    float *gate = (float *)inner, *up = gate + slots * J;
    cudaStream_t stream = backend_of(ops)->stream;
    void *codes = inner, *scale = (uint8_t *)inner + slots * J;
    enum status status = STATUS_OK;

    if (plan->fused) {
        status = cuda_product_inner(ops, x, weight, T, group, (uint8_t *)codes, (float *)scale);
    } else {
        /* One launch: the tables lie one behind the other, and so do gate and up. */
        status = cuda_product(ops, x, weight, T, group, gate, J, up - gate, false);
        if (!status && !plan->coded) {
            LAUNCH((slot_swiglu_kernel), (unsigned)slots, 256, 0, stream, gate, up, group->row_index, (int)J);
            CUDA_LAUNCHED(ops);
            return cuda_operand(ops, cuda_weight_of(args->down[0]), gate, J, 0, 1, slots, (int)J, SCRATCH_A, SCRATCH_B,
                                operand);
        }
        if (!status)
            status = cuda_scratch(ops, SCRATCH_A, (size_t)(slots * J), &codes);
        if (!status)
            status = cuda_scratch(ops, SCRATCH_B, (size_t)(slots * groups) * sizeof(float), &scale);
        if (status)
            return status;
        LAUNCH((inner_codes_kernel), ceil_div(slots * groups, INNER_GROUPS), INNER_THREADS, 0, stream, gate, up,
               group->row_index, (unsigned)(slots * groups), (int)J, (unsigned)groups, (uint8_t *)codes,
               (float *)scale);
        CUDA_LAUNCHED(ops);
    }
    *operand = {};
    operand->codes = (const uint8_t *)codes;
    operand->scale = (const float *)scale;
    operand->row_stride = J;
    operand->scale_row_stride = groups;
    return status;
}

enum { COMBINE_THREADS = 256 };

/* y[t] += sum over its experts in ascending order. A block a token and 1024 columns; the order of the experts is found
 * once. Fours: rows of y start on four elements. */
template <bool Fours>
static __global__ void __launch_bounds__(COMBINE_THREADS)
    combine_kernel(const float *out, const int32_t *experts, int64_t experts_stride, const float *weights,
                   int64_t weights_stride, const int32_t *slot_of, int k, int D, float *y, int64_t y_stride)
{
    after_previous();
    __shared__ int32_t chosen[MAX_CHOSEN];
    __shared__ const float *row[MAX_CHOSEN];
    __shared__ float weight[MAX_CHOSEN];
    int64_t t = blockIdx.x;
    int j = threadIdx.x, width = COMBINE_THREADS * (Fours ? 4 : 1), rank = 0;
    int d = (int)blockIdx.y * width + (int)threadIdx.x * (Fours ? 4 : 1);

    if (j < k)
        chosen[j] = experts[t * experts_stride + j];
    __syncthreads();
    if (j < k) {
        for (int i = 0; i < k; i++)
            rank += chosen[i] < chosen[j] || (chosen[i] == chosen[j] && i < j);
        row[rank] = out + (int64_t)slot_of[t * k + j] * D;
        weight[rank] = weights[t * weights_stride + j];
    }
    __syncthreads();
    if (d >= D)
        return;
    if (Fours) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f), *place = (float4 *)(y + t * y_stride + d), old = *place;

#pragma unroll 8
        for (int i = 0; i < k; i++) {
            float4 value = *(const float4 *)(row[i] + d);

            sum.x = fmaf(weight[i], value.x, sum.x);
            sum.y = fmaf(weight[i], value.y, sum.y);
            sum.z = fmaf(weight[i], value.z, sum.z);
            sum.w = fmaf(weight[i], value.w, sum.w);
        }
        *place = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
    } else {
        float sum = 0.0f;

        for (int i = 0; i < k; i++)
            sum = fmaf(weight[i], row[i][d], sum);
        y[t * y_stride + d] += sum;
    }
}

/* D / 1024 blocks a token in y: at most 65,535. */
static enum status combine(struct ops *ops, const struct ops_moe_args *args, const float *out, const int32_t *slot_of)
{
    int64_t T = args->x->dims[0], D = args->x->dims[1], stride = args->y->strides[0];
    const int32_t *experts = (const int32_t *)args->experts->data;
    const float *weights = (const float *)args->weights->data;
    float *y = (float *)args->y->data;
    int k = (int)args->experts->dims[1];
    bool fours = D % 4 == 0 && stride % 4 == 0 && (uintptr_t)y % 16 == 0;
    dim3 grid((unsigned)T, ceil_div(D, COMBINE_THREADS * (fours ? 4 : 1)));

    if (fours)
        LAUNCH((combine_kernel<true>), grid, COMBINE_THREADS, 0, backend_of(ops)->stream, out, experts,
               args->experts->strides[0], weights, args->weights->strides[0], slot_of, k, (int)D, y, stride);
    else
        LAUNCH((combine_kernel<false>), grid, COMBINE_THREADS, 0, backend_of(ops)->stream, out, experts,
               args->experts->strides[0], weights, args->weights->strides[0], slot_of, k, (int)D, y, stride);
    CUDA_LAUNCHED(ops);
    return STATUS_OK;
}

enum status cuda_moe(struct ops *ops, const struct ops_moe_args *args)
{
    int64_t T = args->x->dims[0], D = args->x->dims[1];
    int E = args->expert_count, k = (int)args->experts->dims[1];
    const int32_t *experts = (const int32_t *)args->experts->data;
    cudaStream_t stream = backend_of(ops)->stream;
    struct slots_plan plan;
    struct grouping group = {};
    struct operand rows, inner;
    const void *tables[6] = {};
    int32_t *first_slot, *tile_expert, *row_index, *slot_of;
    float *out;
    void *memory;
    bool few;
    enum status status;

    if (T == 0)
        return STATUS_OK;
    if (E < 1 || E > MAX_EXPERTS || k > MAX_CHOSEN || T * k > INT32_MAX)
        return STATUS_UNSUPPORTED;
    plan = plan_slots(backend_of(ops), args);
    status = cuda_scratch(ops, SCRATCH_C, ((size_t)E + plan.tiles + plan.slots + T * k) * sizeof(int32_t), &memory);
    if (status)
        return status;
    first_slot = (int32_t *)memory;
    tile_expert = first_slot + E;
    row_index = tile_expert + plan.tiles;
    slot_of = row_index + plan.slots;
    status = cuda_scratch(ops, SCRATCH_D, (size_t)(plan.slots * D) * sizeof(float) + plan.inner_bytes, &memory);
    if (status)
        return status;
    out = (float *)memory;
    status = cuda_expert_tables(ops, args, tables);
    if (status)
        return status;

    few = T * k <= PLAN_THREADS;
    LAUNCH((plan_kernel), 1, PLAN_THREADS, 0, stream, experts, args->experts->strides[0], T, k, E, first_slot,
           tile_expert, (int)plan.tiles, plan.tile_rows, row_index, few ? slot_of : (int32_t *)NULL);
    CUDA_LAUNCHED(ops);
    if (!few) {
        cuda_following.after_kernel = false;
        CUDA_TRY(ops, cudaMemsetAsync(row_index, 0xFF, (size_t)plan.slots * sizeof(int32_t), stream));
        LAUNCH((slots_kernel), (unsigned)E, 1024, 0, stream, experts, args->experts->strides[0], T, k, first_slot,
               row_index, slot_of);
        CUDA_LAUNCHED(ops);
    }

    group.tile_expert = tile_expert;
    group.row_index = row_index;
    group.tile_count = (int)plan.tiles;
    group.tile_rows = plan.tile_rows;
    group.most_rows = T; /* a row's experts are distinct */
    group.row_divisor = k;
    group.weights = (const void *const *)tables[0];
    group.scales = (const float *const *)tables[3];
    group.matrices = 2;
    group.experts = E;
    status = cuda_operand(ops, cuda_weight_of(args->gate[0]), (const float *)args->x->data, args->x->strides[0], 0, 1,
                          T, (int)D, SCRATCH_A, SCRATCH_B, &rows);
    if (!status)
        status = inner_operand(ops, args, &plan, &rows, &group, out + plan.slots * D, &inner);
    if (!status) {
        group.row_divisor = 0;
        group.matrices = 1;
        group.weights = (const void *const *)tables[2];
        group.scales = (const float *const *)tables[5];
        status = cuda_product(ops, &inner, cuda_weight_of(args->down[0]), plan.slots, &group, out, D, 0, false);
    }
    return status ? status : combine(ops, args, out, slot_of);
}
