/* memory.c: what a model will take of a device, which layers stay there, and the refusal where it cannot be.
 *
 *   total = reserve + tables + caches + working memory + scratch + head (and MTP layer) + layers
 *
 * Layers that do not fit are streamed: kept in pinned host memory and brought into one of two slots ahead of use. They
 * are spread evenly among the resident ones, so that one travels while others compute. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine_impl.h"

/* Of the device's memory, for the driver's rounding of every block and for what is beside us. */
enum { RESERVE_DIVISOR = 128 };

static double mib(int64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Layer i of n, `count` of them streamed, evenly spread and the first one resident where it can be. */
static bool is_streamed(int i, int n, int count)
{
    return (int64_t)(i + 1) * count / n > (int64_t)i * count / n;
}

int memory_choose_streamed(const int64_t *bytes, int layers, int64_t room, bool *streamed)
{
    for (int count = 0; count <= layers; count++) {
        int64_t resident = 0, slot = 0;

        for (int i = 0; i < layers; i++) {
            streamed[i] = is_streamed(i, layers, count);
            if (!streamed[i])
                resident += bytes[i];
            else if (bytes[i] > slot)
                slot = bytes[i];
        }
        if (resident + 2 * slot <= room)
            return count;
    }
    return -1;
}

static void describe_layers(const struct model *m, int64_t *bytes, struct engine_memory *memory)
{
    memory->head_bytes = ops_group_bytes(m->ops, m->head_group);
    if (m->config.mtp)
        memory->head_bytes += ops_group_bytes(m->ops, m->layer[m->config.layers].group);
    for (int i = 0; i < m->config.layers; i++) {
        bytes[i] = ops_group_bytes(m->ops, m->layer[i].group);
        memory->layer_bytes += bytes[i];
    }
}

static void sum_up(const struct model *m, const int64_t *bytes, const bool *streamed, struct engine_memory *memory)
{
    for (int i = 0; i < m->config.layers; i++) {
        memory->streamed_layers += streamed[i];
        memory->resident_layers += !streamed[i];
        *(streamed[i] ? &memory->streamed_bytes : &memory->resident_bytes) += bytes[i];
        if (streamed[i] && 2 * bytes[i] > memory->slot_bytes)
            memory->slot_bytes = 2 * bytes[i];
    }
}

/* The smallest that could work: two slots of the largest layer. */
static int64_t least_for_layers(const int64_t *bytes, int layers)
{
    int64_t largest = 0, all = 0;

    for (int i = 0; i < layers; i++) {
        all += bytes[i];
        largest = bytes[i] > largest ? bytes[i] : largest;
    }
    return 2 * largest < all ? 2 * largest : all;
}

static enum status refuse(const struct engine *e, int64_t missing, int64_t least, struct error *err)
{
    const struct engine_memory *m = &e->info.memory;

    return error_set(err, STATUS_NO_MEMORY,
                     "the model does not fit the device: %.1f MiB are missing. Of %.1f MiB free, caches of %lld tokens "
                     "take %.1f, working memory %.1f, scratch %.1f, tables %.1f, head %.1f, reserve %.1f; the layers "
                     "need %.1f, or at least %.1f for two at a time. Fewer kv_tokens or a smaller prefill_chunk help",
                     mib(missing), mib(m->available_bytes), (long long)e->kv_tokens, mib(m->cache_bytes),
                     mib(m->work_bytes), mib(m->scratch_bytes), mib(m->table_bytes), mib(m->head_bytes),
                     mib(m->reserve_bytes), mib(m->layer_bytes), mib(least));
}

enum status memory_check(struct engine *e, struct error *err)
{
    struct engine_memory *memory = &e->info.memory;
    int layers = e->config.layers;
    int64_t *bytes, least, missing;
    struct ops_memory device;
    enum status s;

    if (ops_is_host(e->ops))
        return STATUS_OK;
    s = ops_memory(e->ops, &device);
    bytes = calloc((size_t)layers, sizeof *bytes);
    if (s || !bytes) {
        free(bytes);
        return error_set(err, s ? s : STATUS_NO_MEMORY, "the device's memory is not known: %s", ops_last_error(e->ops));
    }
    *memory = (struct engine_memory){.device_bytes = device.total, .available_bytes = device.available + device.used,
                                     .table_bytes = e->cache ? memory->table_bytes : device.used,
                                     .reserve_bytes = device.total / RESERVE_DIVISOR};
    memory->cache_bytes = kv_cache_page_bytes_of(&e->config, e->model.numerics) *
                          ((e->kv_tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS);
    memory->work_bytes = forward_bytes_of(&e->config, e->model.latent, &e->sizes);
    describe_layers(&e->model, bytes, memory);
    least = least_for_layers(bytes, layers);
    free(bytes);
    missing = memory->table_bytes + memory->reserve_bytes + memory->cache_bytes + memory->work_bytes +
              memory->head_bytes + least - memory->available_bytes;
    return missing > 0 ? refuse(e, missing, least, err) : STATUS_OK;
}

enum status memory_plan(struct engine *e, bool *streamed, struct error *err)
{
    struct engine_memory *memory = &e->info.memory;
    int layers = e->config.layers, count;
    int64_t *bytes, room, least;
    struct ops_memory device;
    enum status s;

    memory->cache_bytes = kv_cache_bytes(e->cache);
    memory->work_bytes = forward_bytes(e->forward);
    memory->step_tokens = e->prefill_chunk;
    if (ops_is_host(e->ops))
        return STATUS_OK;
    s = ops_memory(e->ops, &device);
    bytes = calloc((size_t)layers, sizeof *bytes);
    if (s || !bytes) {
        free(bytes);
        return error_set(err, s ? s : STATUS_NO_MEMORY, "the device's memory is not known: %s", ops_last_error(e->ops));
    }
    memory->scratch_bytes = device.scratch;
    memory->layer_bytes = 0;
    describe_layers(&e->model, bytes, memory);
    room = device.available - memory->reserve_bytes - memory->head_bytes;
    least = least_for_layers(bytes, layers);
    count = memory_choose_streamed(bytes, layers, room, streamed);
    if (count >= 0)
        sum_up(&e->model, bytes, streamed, memory);
    free(bytes);
    return count < 0 ? refuse(e, least - room, least, err) : STATUS_OK;
}

size_t engine_memory_text(const struct engine_memory *m, char *text, size_t bytes)
{
    int n;

    if (!m->device_bytes) {
        n = snprintf(text, bytes,
                     "host memory: weights mapped, caches %.1f MiB, working memory %.1f MiB for %d tokens a step",
                     mib(m->cache_bytes), mib(m->work_bytes), m->step_tokens);
    } else {
        n = snprintf(text, bytes,
                     "device memory, MiB: %.1f free of %.1f; %d layers resident %.1f, head %.1f, tables %.1f, caches "
                     "%.1f, working memory %.1f for %d tokens a step, scratch %.1f, reserve %.1f; %d layers streamed "
                     "from %.1f of pinned host memory through %.1f",
                     mib(m->available_bytes), mib(m->device_bytes), m->resident_layers, mib(m->resident_bytes),
                     mib(m->head_bytes), mib(m->table_bytes), mib(m->cache_bytes), mib(m->work_bytes),
                     m->step_tokens, mib(m->scratch_bytes), mib(m->reserve_bytes), m->streamed_layers,
                     mib(m->streamed_bytes), mib(m->slot_bytes));
    }
    return n < 0 ? 0 : (size_t)n;
}
