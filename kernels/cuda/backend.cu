/* backend.cu: opens a CUDA device, accounts for its memory, and fills the operations table: the plug-in
 * dsa-backend-cuda.so.
 *
 * One stream; every op is queued on it (a second one, of weights.cu, carries weights alone). A CUDA error is kept in
 * the ops' error text with its call and line, and becomes a status: out of memory NO_MEMORY, no or wrong device
 * UNSUPPORTED, a lost device IO. A lost device stays lost: every later call fails with the same error. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

#include <stdlib.h>

#include "kernels/cuda/faults.h"

enum { NEEDS_MAJOR = 8 };
static const double MIB = 1024.0 * 1024.0;

#ifndef DSA_BACKEND_NAME
#define DSA_BACKEND_NAME "cuda"
#endif

extern "C" __attribute__((visibility("default"))) struct cuda_faults dsa_cuda_faults;
struct cuda_faults dsa_cuda_faults;
__thread bool cuda_rehearsing;
__thread struct cuda_following cuda_following;

/* --- Errors ------------------------------------------------------------------------------------------------------ */

static enum status status_of(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return STATUS_OK;
    case cudaErrorMemoryAllocation: return STATUS_NO_MEMORY;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorNoKernelImageForDevice: return STATUS_UNSUPPORTED;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration: return STATUS_BUG;
    default: return STATUS_IO;
    }
}

enum status cuda_fail(struct ops *ops, cudaError_t error, const char *call, const char *file, int line)
{
    enum status status = status_of(error);
    const char *what = status == STATUS_IO ? "the device is lost or in disorder: " : "";

    return ops_fail(ops, status, "%s%s (%s:%d: %.80s)", what, cudaGetErrorString(error), file, line, call);
}

cudaError_t cuda_outcome(struct ops *ops, cudaError_t error)
{
    struct cuda_backend *backend = backend_of(ops);

    /* After such an error nothing on the device can be trusted, whatever later calls say. */
    if (backend->lost == cudaSuccess && status_of(error) == STATUS_IO)
        backend->lost = error;
    return backend->lost != cudaSuccess ? backend->lost : error;
}

cudaError_t cuda_launched(struct ops *ops)
{
    if (dsa_cuda_faults.launches > 0 && --dsa_cuda_faults.launches == 0)
        return cuda_outcome(ops, cudaErrorLaunchFailure);
    return cuda_outcome(ops, cudaGetLastError());
}

/* --- Opening ----------------------------------------------------------------------------------------------------- */

/* What a person can do about it, where that is known. */
static enum status cannot_open(cudaError_t error, int device, int count, struct error *err)
{
    int driver = 0, runtime = 0;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (dsa_cuda_faults.open_error)
        driver = dsa_cuda_faults.driver_version;
    if ((error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) && driver == 0)
        return error_set(err, STATUS_UNSUPPORTED, "no NVIDIA driver is installed");
    if (error == cudaErrorInsufficientDriver)
        return error_set(err, STATUS_UNSUPPORTED, "the NVIDIA driver is for CUDA %d.%d, %d.%d is needed", driver / 1000,
                         driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (error == cudaErrorNoDevice || error == cudaErrorInvalidDevice)
        return error_set(err, STATUS_UNSUPPORTED, "there is no CUDA device %d: %d found", device, count);
    return error_set(err, status_of(error), "device %d of %d: %s", device, count, cudaGetErrorString(error));
}

static cudaError_t look_for(int device, int *count, struct cudaDeviceProp *properties)
{
    cudaError_t error = cudaGetDeviceCount(count);

    if (dsa_cuda_faults.open_error) {
        error = (cudaError_t)dsa_cuda_faults.open_error;
        *count = 0;
    }
    if (error == cudaSuccess && (device < 0 || device >= *count))
        error = *count ? cudaErrorInvalidDevice : cudaErrorNoDevice;
    if (error == cudaSuccess)
        error = cudaSetDevice(device);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(properties, device);
    if (error == cudaSuccess && dsa_cuda_faults.compute_major)
        properties->major = dsa_cuda_faults.compute_major;
    return error;
}

static enum status cuda_open(const struct ops_options *options, struct ops *ops, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)calloc(1, sizeof *backend);
    struct cudaDeviceProp properties;
    int count = 0, smem = 0;
    cudaError_t error;
    enum status status;

    if (!backend)
        return error_set(err, STATUS_NO_MEMORY, "no memory");
    error = look_for(options->device, &count, &properties);
    if (error == cudaSuccess && properties.major < NEEDS_MAJOR) {
        free(backend);
        return error_set(err, STATUS_UNSUPPORTED, "device %d, '%s', has compute capability %d.%d; 8.0 is needed",
                         options->device, properties.name, properties.major, properties.minor);
    }
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, options->device);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&backend->stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        free(backend);
        status = cannot_open(error, options->device, count, err);
        return status;
    }
    backend->device = options->device;
    /* For tests: CPU_PORTABLE leaves the generic kernels, CPU_AVX2 those of compute capability 8.0. */
    backend->wgmma = properties.major == 9 && !options->cpu_features;
    backend->mma = !(options->cpu_features & CPU_PORTABLE);
    backend->overlaps = properties.major >= 9;
    backend->sm_count = properties.multiProcessorCount;
    backend->smem_per_block = (size_t)smem;
    backend->lost = cudaSuccess;
    backend->limit = options->memory_bytes > 0 ? (size_t)options->memory_bytes : 0;
    ops->state = backend;
    ops->thread_count = 1;
    (void)snprintf(ops->description, sizeof ops->description, DSA_BACKEND_NAME " sm_%d%d %.100s", properties.major,
                   properties.minor, properties.name);
    return STATUS_OK;
}

/* What was allocated, so that the plan's figures are the real ones. Some hundreds at most: groups are one each. */
struct allocation {
    struct allocation *next;
    void *memory;
    size_t bytes;
};

static void cuda_close(struct ops *ops)
{
    struct cuda_backend *backend = backend_of(ops);

    (void)cudaStreamSynchronize(backend->stream);
    cuda_weights_finish(ops);
    cuda_expert_tables_finish(ops);
    for (int i = 0; i < SCRATCH_COUNT; i++)
        cuda_free(ops, backend->scratch[i]);
    while (backend->allocations)
        cuda_free(ops, backend->allocations->memory);
    (void)cudaStreamDestroy(backend->stream);
    free(backend);
}

/* --- Memory ------------------------------------------------------------------------------------------------------ */

static enum status no_memory(struct ops *ops, size_t bytes)
{
    struct ops_memory memory = {};

    (void)cuda_memory(ops, &memory);
    return ops_fail(ops, STATUS_NO_MEMORY, "no device memory for %.1f MiB: %.1f MiB of %.1f are used, %.1f are left",
                    (double)bytes / MIB, (double)memory.used / MIB, (double)memory.total / MIB,
                    (double)memory.available / MIB);
}

enum status cuda_memory(struct ops *ops, struct ops_memory *memory)
{
    struct cuda_backend *backend = backend_of(ops);
    size_t available = 0, total = 0, scratch = 0;

    CUDA_TRY(ops, cudaMemGetInfo(&available, &total));
    for (int i = 0; i < SCRATCH_COUNT; i++)
        scratch += backend->scratch_bytes[i];
    if (backend->limit && backend->limit < total)
        total = backend->limit;
    if (backend->limit) {
        size_t left = backend->limit > backend->used ? backend->limit - backend->used : 0;

        available = left < available ? left : available;
    }
    *memory = {(int64_t)total, (int64_t)available, (int64_t)backend->used, (int64_t)scratch};
    return STATUS_OK;
}

enum status cuda_alloc(struct ops *ops, size_t bytes, void **memory)
{
    struct cuda_backend *backend = backend_of(ops);
    struct allocation *allocation;
    void *made = NULL;
    cudaError_t error = cudaErrorMemoryAllocation;

    if (dsa_cuda_faults.allocations > 0 && --dsa_cuda_faults.allocations == 0)
        return no_memory(ops, bytes);
    allocation = (struct allocation *)calloc(1, sizeof *allocation);
    if (allocation && (!backend->limit || (backend->used <= backend->limit && bytes <= backend->limit - backend->used)))
        error = cudaMalloc(&made, bytes);
    if (error != cudaSuccess) {
        free(allocation);
        (void)cudaGetLastError(); /* it was reported: the next launch is not to blame */
        error = cuda_outcome(ops, error);
        return error == cudaErrorMemoryAllocation ? no_memory(ops, bytes)
                                                  : cuda_fail(ops, error, "cudaMalloc", __FILE__, __LINE__);
    }
    *allocation = {backend->allocations, made, bytes};
    backend->allocations = allocation;
    backend->used += bytes;
    *memory = made;
    return STATUS_OK;
}

void cuda_free(struct ops *ops, void *memory)
{
    struct cuda_backend *backend = backend_of(ops);

    for (struct allocation **link = &backend->allocations; memory && *link; link = &(*link)->next) {
        struct allocation *found = *link;

        if (found->memory != memory)
            continue;
        *link = found->next;
        backend->used -= found->bytes;
        (void)cudaFree(memory);
        free(found);
        return;
    }
}

enum status cuda_upload(struct ops *ops, void *device, const void *host, size_t bytes)
{
    cuda_following.after_kernel = false;
    CUDA_TRY(ops, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, backend_of(ops)->stream));
    CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_download(struct ops *ops, void *host, const void *device, size_t bytes)
{
    cuda_following.after_kernel = false;
    CUDA_TRY(ops, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, backend_of(ops)->stream));
    CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_fill(struct ops *ops, void *device, int byte, size_t bytes)
{
    cuda_following.after_kernel = false;
    CUDA_TRY(ops, cudaMemsetAsync(device, byte, bytes, backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_sync(struct ops *ops)
{
    CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_host_alloc(struct ops *ops, size_t bytes, void **memory)
{
    void *made = NULL;

    CUDA_TRY(ops, cudaMallocHost(&made, bytes));
    *memory = made;
    return STATUS_OK;
}

static void cuda_host_free(struct ops *ops, void *memory)
{
    (void)ops;
    (void)cudaFreeHost(memory);
}

static enum status cuda_upload_queued(struct ops *ops, void *device, const void *host, size_t bytes)
{
    cuda_following.after_kernel = false;
    CUDA_TRY(ops, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_download_queued(struct ops *ops, void *host, const void *device, size_t bytes)
{
    cuda_following.after_kernel = false;
    CUDA_TRY(ops, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, backend_of(ops)->stream));
    return STATUS_OK;
}

/* --- Scratch ----------------------------------------------------------------------------------------------------- */

static void cuda_rehearse(struct ops *ops, bool on)
{
    (void)ops;
    cuda_rehearsing = on;
}

enum status cuda_scratch(struct ops *ops, enum scratch_slot slot, size_t bytes, void **memory)
{
    struct cuda_backend *backend = backend_of(ops);
    enum status status;

    if (bytes > backend->scratch_bytes[slot]) {
        if (backend->recording)
            return ops_fail(ops, STATUS_BUSY, "scratch would have to grow while ops are recorded");
        CUDA_TRY(ops, cudaStreamSynchronize(backend->stream));
        cuda_free(ops, backend->scratch[slot]);
        backend->scratch[slot] = NULL;
        backend->scratch_bytes[slot] = 0;
        backend->scratch_moves++;
        status = cuda_alloc(ops, bytes, &backend->scratch[slot]);
        if (status)
            return status;
        backend->scratch_bytes[slot] = bytes;
    }
    *memory = backend->scratch[slot];
    return STATUS_OK;
}

extern "C" __attribute__((visibility("default"))) const struct ops_backend dsa_ops_backend = {
    OPS_BACKEND_ABI,
    sizeof(struct ops_backend),
    DSA_BACKEND_NAME,
    false,
    cuda_open,
    cuda_close,
    cuda_alloc,
    cuda_free,
    cuda_upload,
    cuda_download,
    cuda_fill,
    cuda_sync,
    cuda_weight_create,
    cuda_weight_destroy,
    cuda_linear,
    cuda_linears,
    cuda_linear_pair,
    cuda_norm_linears,
    cuda_embed,
    cuda_rmsnorm,
    cuda_layernorm,
    cuda_add,
    cuda_swiglu,
    cuda_rope,
    cuda_hadamard,
    cuda_latent_write,
    cuda_index_write,
    cuda_indexer_scores,
    cuda_topk,
    cuda_indexer_topk,
    cuda_attention,
    cuda_latent_dtype,
    cuda_router,
    cuda_moe,
    cuda_best,
    cuda_shortlist,
    cuda_memory,
    cuda_host_alloc,
    cuda_host_free,
    cuda_upload_queued,
    cuda_download_queued,
    cuda_rehearse,
    cuda_record_begin,
    cuda_record_end,
    cuda_replay,
    cuda_recording_destroy,
    cuda_group_begin,
    cuda_group_end,
    cuda_group_bytes,
    cuda_group_slots,
    cuda_group_load,
    cuda_group_use,
    cuda_group_done,
    cuda_group_destroy,
    NULL, /* weights have no packed form */
    NULL,
    NULL,
    NULL,
};
