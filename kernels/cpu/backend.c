/* backend.c: opening, scratch memory and the table of the CPU backend. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/places.h"
#include "kernels/host.h"

enum {
    MAX_THREADS = 256,         /* each keeps scratch; beyond this the shared counter is what a loop waits for */
    INTERLEAVE_BYTES = 2 << 20 /* host_alloc() gives whole pages from here on */
};

static int usable_cpus(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

static void cpu_close(struct ops *ops)
{
    struct cpu *cpu = cpu_of(ops);

    if (!cpu)
        return;
    for (int i = 0; i < SCRATCH_COUNT; i++)
        free(cpu->shared[i].data);
    for (int i = 0; cpu->own && i < ops->thread_count; i++)
        free(cpu->own[i].data);
    free(cpu->own);
    pool_destroy(cpu->pool);
    free(cpu);
    ops->state = NULL;
}

static enum status cpu_open(const struct ops_options *options, struct ops *ops, struct error *err)
{
    int threads = options->threads > 0 ? options->threads : usable_cpus();
    struct cpu *cpu = calloc(1, sizeof *cpu);
    enum status s = STATUS_OK;

    ops->state = cpu;
    ops->thread_count = threads < MAX_THREADS ? threads : MAX_THREADS;
    if (cpu)
        cpu->own = calloc((size_t)ops->thread_count, sizeof *cpu->own);
    if (!cpu || !cpu->own) {
        s = error_set(err, STATUS_NO_MEMORY, "no memory for a backend");
        goto out;
    }
    cpu->isa = cpu_choose_isa(options->cpu_features, err);
    if (!cpu->isa) {
        s = STATUS_UNSUPPORTED;
        goto out;
    }
    cpu->tier = options->tier;
    cpu_tables_init();
    s = pool_create(ops->thread_count, &cpu->pool, err);
    if (s)
        goto out;
    if (options->pin_threads)
        pool_pin(cpu->pool);
    (void)snprintf(ops->description, sizeof ops->description, "cpu %s %d thread%s", cpu->isa->name, ops->thread_count,
                   ops->thread_count == 1 ? "" : "s");
out:
    if (s)
        cpu_close(ops);
    return s;
}

/* Contents need not survive, so the old block goes first: two large ones never live side by side. */
static enum status grow(struct ops *ops, struct scratch *scratch, size_t bytes)
{
    void *block = NULL;

    if (bytes <= scratch->bytes)
        return STATUS_OK;
    free(scratch->data);
    *scratch = (struct scratch){0};
    bytes = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    if (host_alloc(ops, bytes, &block))
        return STATUS_NO_MEMORY;
    *scratch = (struct scratch){block, bytes};
    return STATUS_OK;
}

enum status cpu_scratch(struct ops *ops, int which, size_t bytes, void **memory)
{
    struct scratch *scratch = &cpu_of(ops)->shared[which];
    enum status s = grow(ops, scratch, bytes ? bytes : 1);

    if (!s)
        *memory = scratch->data;
    return s;
}

enum status cpu_own_scratch(struct ops *ops, size_t bytes)
{
    enum status s = STATUS_OK;

    for (int i = 0; !s && i < ops->thread_count; i++)
        s = grow(ops, &cpu_of(ops)->own[i], bytes ? bytes : 1);
    return s;
}

/* Caches and tables; weights in panels as well (linear.c). */
enum status cpu_alloc(struct ops *ops, size_t bytes, void **memory)
{
    enum status s = host_alloc(ops, bytes, memory);

    if (!s && bytes >= INTERLEAVE_BYTES)
        places_interleave(*memory, bytes);
    return s;
}

const struct ops_backend ops_backend_cpu = {
    .abi = OPS_BACKEND_ABI,
    .bytes = sizeof(struct ops_backend),
    .name = "cpu",
    .host = true,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = host_free,
    .upload = host_upload,
    .download = host_download,
    .fill = host_fill,
    .sync = host_sync,
    .weight_create = cpu_weight_create,
    .weight_destroy = cpu_weight_destroy,
    .linear = cpu_linear,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .layernorm = cpu_layernorm,
    .add = cpu_add,
    .swiglu = cpu_swiglu,
    .rope = cpu_rope,
    .hadamard = cpu_hadamard,
    .latent_write = cpu_latent_write,
    .index_write = cpu_index_write,
    .indexer_scores = cpu_indexer_scores,
    .topk = cpu_topk,
    .indexer_topk = cpu_indexer_topk,
    .attention = cpu_attention,
    .router = cpu_router,
    .moe = cpu_moe,
    .best = host_best,
    .shortlist = host_shortlist,
    .packed_form = "cpu-panels-1",
    .weight_packed_bytes = cpu_weight_packed_bytes,
    .weight_pack = cpu_weight_pack,
    .weight_adopt = cpu_weight_adopt,
};
