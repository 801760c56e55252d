/* moe.c: the router, and experts with their rows batched.
 *
 * Rows are sorted by expert (a counting sort), so that an expert's panels are read once for all its rows. Both
 * inner products and SwiGLU are one task per (expert, panel); the rounding that the last product wants follows;
 * the last product is one task per panel of the output, which adds the experts in ascending order: a row's sum
 * does not depend on which other rows an expert has. Tokens go through in rounds of ROUND_TOKENS, which bounds
 * the scratch and changes no bits. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/rows.h"

enum { ROUND_TOKENS = 1024 };

/* --- Router ------------------------------------------------------------------------------------------ */

/* The largest allowed score; ties go to the lowest index. */
static int best_allowed(const float *score, const bool *allowed, int count)
{
    int best = -1;

    for (int e = 0; e < count; e++)
        if (allowed[e] && (best < 0 || score[e] > score[best]))
            best = e;
    return best;
}

static void keep_best_groups(const struct ops_router_args *args, const float *score, bool *allowed, int E)
{
    int size = E / args->groups;
    float group[OPS_MAX_EXPERTS];
    bool open[OPS_MAX_EXPERTS];

    for (int g = 0; g < args->groups; g++) {
        float first = -INFINITY, second = -INFINITY;

        for (int e = g * size; e < (g + 1) * size; e++) {
            float value = score[e];

            if (value > first) {
                second = first;
                first = value;
            } else if (value > second) {
                second = value;
            }
        }
        group[g] = args->scoring == ROUTER_SOFTMAX ? first : first + second;
        open[g] = true;
    }
    memset(allowed, 0, sizeof *allowed * (size_t)E);
    for (int n = 0; n < args->kept_groups; n++) {
        int g = best_allowed(group, open, args->groups);

        open[g] = false;
        for (int e = 0; e < size; e++)
            allowed[g * size + e] = true;
    }
}

static void route_row(const struct ops_router_args *args, const struct cpu_isa *isa, int64_t t)
{
    int E = (int)args->logits->dims[1];
    int64_t k = args->experts->dims[1];
    int32_t *experts = row_i32(args->experts, t);
    float *weights = row_f32(args->weights, t), total = 0, factor;
    float p[OPS_MAX_EXPERTS], score[OPS_MAX_EXPERTS];
    bool allowed[OPS_MAX_EXPERTS];

    if (args->scoring == ROUTER_SIGMOID)
        isa->sigmoid(row_f32(args->logits, t), p, E);
    else
        isa->softmax(row_f32(args->logits, t), p, E);
    for (int e = 0; e < E; e++) {
        score[e] = args->bias ? p[e] + row_f32(args->bias, 0)[e] : p[e];
        allowed[e] = true;
    }
    if (args->groups > 1)
        keep_best_groups(args, score, allowed, E);
    for (int64_t j = 0; j < k; j++) {
        experts[j] = best_allowed(score, allowed, E);
        allowed[experts[j]] = false;
        weights[j] = p[experts[j]];
        total += weights[j];
    }
    factor = args->normalise ? args->scaling / (total + 1e-20f) : args->scaling;
    for (int64_t j = 0; j < k; j++)
        weights[j] *= factor;
}

struct routing {
    const struct ops_router_args *args;
    const struct cpu_isa *isa;
};

enum { ROUTER_ROWS = 16 };

static void route_rows(void *context, int64_t i, int thread)
{
    const struct routing *c = context;

    for (int64_t t = i * ROUTER_ROWS; t < (i + 1) * ROUTER_ROWS && t < c->args->logits->dims[0]; t++)
        route_row(c->args, c->isa, t);
}

enum status cpu_router(struct ops *ops, const struct ops_router_args *args)
{
    struct routing c = {args, cpu_of(ops)->isa};

    pool_run(cpu_of(ops)->pool, (args->logits->dims[0] + ROUTER_ROWS - 1) / ROUTER_ROWS, route_rows, &c);
    return STATUS_OK;
}

/* --- Experts ----------------------------------------------------------------------------------------- */

struct mixture {
    struct cpu *cpu;
    const struct ops_moe_args *args;
    int64_t first, D, J, inner_panels, outer_panels;
    int active_count;
    /* Places are (token, chosen expert) pairs of this round, sorted by expert, then token. */
    int32_t *active;     /* [active_count] experts with rows        */
    int32_t *starts;     /* [expert_count + 1] places of an expert  */
    int32_t *tokens;     /* [place] row of the round's x            */
    float *weights;      /* [place]                                 */
    struct activations x, hidden;
    float *inner;        /* [place][J] silu(gate) * up              */
};

static void inner_block(void *context, int64_t i, int thread)
{
    struct mixture *m = context;
    int32_t e = m->active[i / m->inner_panels];
    int64_t panel = i % m->inner_panels, column = panel * PANEL_COLUMNS;
    int64_t columns = m->J - column < PANEL_COLUMNS ? m->J - column : PANEL_COLUMNS;
    char *own = cpu_own(m->cpu, thread);
    float *gate = (float *)(own + GEMM_BUFFER_BYTES), *up = gate + GEMM_ROWS * PANEL_COLUMNS;

    for (int32_t place = m->starts[e]; place < m->starts[e + 1]; place += GEMM_ROWS) {
        int count = m->starts[e + 1] - place < GEMM_ROWS ? m->starts[e + 1] - place : GEMM_ROWS;

        cpu_gemm_block(m->cpu, (const struct cpu_weight *)m->args->gate[e], 0, panel, &m->x, m->tokens + place, 0,
                       count, own, gate);
        cpu_gemm_block(m->cpu, (const struct cpu_weight *)m->args->up[e], 0, panel, &m->x, m->tokens + place, 0,
                       count, own, up);
        for (int r = 0; r < count; r++)
            m->cpu->isa->swiglu(gate + r * PANEL_COLUMNS, up + r * PANEL_COLUMNS,
                                m->inner + (place + r) * m->J + column, columns);
    }
}

static void outer_block(void *context, int64_t panel, int thread)
{
    struct mixture *m = context;
    int64_t column = panel * PANEL_COLUMNS;
    int64_t columns = m->D - column < PANEL_COLUMNS ? m->D - column : PANEL_COLUMNS;
    char *own = cpu_own(m->cpu, thread);
    float *out = (float *)(own + GEMM_BUFFER_BYTES);

    for (int i = 0; i < m->active_count; i++) {
        int32_t e = m->active[i];

        for (int32_t place = m->starts[e]; place < m->starts[e + 1]; place += GEMM_ROWS) {
            int count = m->starts[e + 1] - place < GEMM_ROWS ? m->starts[e + 1] - place : GEMM_ROWS;

            cpu_gemm_block(m->cpu, (const struct cpu_weight *)m->args->down[e], 0, panel, &m->hidden, NULL, place,
                           count, own, out);
            for (int r = 0; r < count; r++)
                m->cpu->isa->add_scaled(row_f32(m->args->y, m->first + m->tokens[place + r]) + column,
                                        out + r * PANEL_COLUMNS, m->weights[place + r], columns);
        }
    }
}

/* Sorts the round's choices by expert, keeping the order of tokens. */
static void group_rows(struct mixture *m, int64_t T)
{
    const struct ops_moe_args *args = m->args;
    int64_t k = args->experts->dims[1];
    int E = args->expert_count;

    memset(m->starts, 0, sizeof *m->starts * ((size_t)E + 1));
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < k; j++)
            m->starts[row_i32(args->experts, m->first + t)[j] + 1]++;
    m->active_count = 0;
    for (int e = 0; e < E; e++) {
        if (m->starts[e + 1])
            m->active[m->active_count++] = e;
        m->starts[e + 1] += m->starts[e];
    }
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < k; j++) {
            int32_t place = m->starts[row_i32(args->experts, m->first + t)[j]]++;

            m->tokens[place] = (int32_t)t;
            m->weights[place] = row_f32(args->weights, m->first + t)[j];
        }
    for (int e = E; e > 0; e--) /* the starts have moved to the ends: shift back */
        m->starts[e] = m->starts[e - 1];
    m->starts[0] = 0;
}

static enum status mixture_init(struct ops *ops, struct mixture *m, int64_t round)
{
    size_t places = (size_t)(round * m->args->experts->dims[1]), E = (size_t)m->args->expert_count;
    void *lists, *inner;
    enum status s = cpu_scratch(ops, SCRATCH_LISTS, 4 * (2 * E + 1 + 2 * places), &lists);

    if (!s)
        s = cpu_scratch(ops, SCRATCH_HIDDEN, 4 * places * (size_t)m->J, &inner);
    if (!s)
        s = cpu_own_scratch(ops, GEMM_OWN_BYTES + GEMM_ROWS * PANEL_COLUMNS * 4);
    if (s)
        return s;
    m->active = lists;
    m->starts = m->active + E;
    m->tokens = m->starts + E + 1;
    m->weights = (float *)(m->tokens + places);
    m->inner = inner;
    return STATUS_OK;
}

static enum gemm_kind kind_of(const struct ops_weight *weight)
{
    return ((const struct cpu_weight *)weight)->kind;
}

static enum status mix_round(struct ops *ops, struct mixture *m, int64_t T)
{
    const struct ops_moe_args *args = m->args;
    enum gemm_kind kind = kind_of(args->gate[0]), hidden_kind = kind_of(args->down[0]);
    enum status s = STATUS_OK;

    group_rows(m, T);
    for (int i = 0; !s && i < m->active_count; i++) {
        s = cpu_weight_prepare(ops, args->gate[m->active[i]]);
        if (!s)
            s = cpu_weight_prepare(ops, args->up[m->active[i]]);
        if (!s)
            s = cpu_weight_prepare(ops, args->down[m->active[i]]);
    }
    if (!s)
        s = cpu_activations(ops, kind, row_f32(args->x, m->first), T, args->x->strides[0], m->D, SCRATCH_ACTIVATIONS,
                            SCRATCH_SCALES, &m->x);
    if (s)
        return s;
    pool_run(m->cpu->pool, m->active_count * m->inner_panels, inner_block, m);
    s = cpu_activations(ops, hidden_kind, m->inner, m->starts[args->expert_count], m->J, m->J, SCRATCH_HIDDEN_ROUNDED,
                        SCRATCH_HIDDEN_SCALES, &m->hidden);
    if (!s)
        pool_run(m->cpu->pool, m->outer_panels, outer_block, m);
    return s;
}

/* One rounding serves all experts, so they must agree in dtype and numerics. */
static bool experts_agree(const struct ops_moe_args *args)
{
    const struct ops_weight *const *sets[] = {args->gate, args->up, args->down};

    for (int i = 0; i < 3; i++)
        for (int e = 0; e < args->expert_count; e++)
            if (kind_of(sets[i][e]) != kind_of(sets[i == 1 ? 0 : i][0]))
                return false;
    return true;
}

enum status cpu_moe(struct ops *ops, const struct ops_moe_args *args)
{
    int64_t T = args->x->dims[0];
    struct mixture m = {.cpu = cpu_of(ops), .args = args, .D = args->x->dims[1], .J = args->gate[0]->N};
    enum status s;

    if (!experts_agree(args))
        return ops_fail(ops, STATUS_UNSUPPORTED, "moe: experts of one layer differ in dtype");
    m.inner_panels = (m.J + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    m.outer_panels = (m.D + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    s = mixture_init(ops, &m, T < ROUND_TOKENS ? T : ROUND_TOKENS);
    for (; !s && m.first < T; m.first += ROUND_TOKENS)
        s = mix_round(ops, &m, T - m.first < ROUND_TOKENS ? T - m.first : ROUND_TOKENS);
    return s;
}
