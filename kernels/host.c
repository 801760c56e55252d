/* host.c: ordinary memory as device memory. */
#include "kernels/host.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/rows.h"

/* From this size on, memory is aligned to and backed by huge pages where the kernel has them: gathers from a
 * cache of 4 KiB pages miss the TLB on every record. */
enum { HUGE_PAGE_BYTES = 2 << 20 };

enum status host_alloc(struct ops *ops, size_t bytes, void **memory)
{
    size_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    void *block = NULL;

    if (posix_memalign(&block, alignment, bytes))
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for %zu bytes", bytes);
    if (bytes >= HUGE_PAGE_BYTES)
        (void)madvise(block, bytes, MADV_HUGEPAGE);
    *memory = block;
    return STATUS_OK;
}

void host_free(struct ops *ops, void *memory)
{
    free(memory);
}

enum status host_upload(struct ops *ops, void *device, const void *host, size_t bytes)
{
    memcpy(device, host, bytes);
    return STATUS_OK;
}

enum status host_download(struct ops *ops, void *host, const void *device, size_t bytes)
{
    memcpy(host, device, bytes);
    return STATUS_OK;
}

enum status host_fill(struct ops *ops, void *device, int byte, size_t bytes)
{
    memset(device, byte, bytes);
    return STATUS_OK;
}

enum status host_sync(struct ops *ops)
{
    return STATUS_OK;
}

enum status host_best(struct ops *ops, const struct ops_best_args *args)
{
    int64_t V = args->logits->dims[1];

    for (int64_t t = 0; t < args->logits->dims[0]; t++) {
        const float *row = row_f32(args->logits, t);
        float largest = -INFINITY;
        int32_t best = -1;
        double sum = 0;

        for (int64_t v = 0; v < V; v++) {
            if (isnan(row[v])) {
                best = -1;
                break;
            }
            if (row[v] > largest) {
                largest = row[v];
                best = (int32_t)v;
            }
        }
        for (int64_t v = 0; best >= 0 && !isinf(largest) && v < V; v++)
            sum += exp((double)row[v] - (double)largest);
        row_i32(args->best, t)[0] = best;
        row_f32(args->log_probability, t)[0] = best >= 0 && !isinf(largest) ? (float)-log(sum) : 0;
    }
    return STATUS_OK;
}

enum status host_shortlist(struct ops *ops, const struct ops_shortlist_args *args)
{
    int64_t V = args->logits->dims[1], k = args->selected->dims[1];

    for (int64_t t = 0; t < args->logits->dims[0]; t++) {
        const float *row = row_f32(args->logits, t);
        const int32_t *selected = row_i32(args->selected, t);
        double temperature = (double)row_f32(args->temperature, t)[0], sum = 0;
        float largest = -INFINITY, *values = row_f32(args->values, t);

        for (int64_t j = 0; j < k; j++) {
            values[j] = selected[j] < 0 ? -INFINITY : row[selected[j]];
            largest = values[j] > largest ? values[j] : largest;
        }
        for (int64_t v = 0; v < V; v++)
            sum += exp(((double)row[v] - (double)largest) / temperature);
        row_f32(args->total, t)[0] = (float)sum;
    }
    return STATUS_OK;
}
