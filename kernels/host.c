/* host.c: ordinary memory as device memory. */
#include "kernels/host.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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
