/* backend.cu: opens a CUDA device and fills the operations table: the plug-in dsa-backend-cuda.so.
 *
 * One stream; every op is queued on it. A CUDA error is kept in the ops' error text with its call and line,
 * and becomes a status: out of memory NO_MEMORY, no or wrong device UNSUPPORTED, a lost device IO. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

#include <stdlib.h>

enum { NEEDS_MAJOR = 8 };

#ifndef DSA_BACKEND_NAME
#define DSA_BACKEND_NAME "cuda"
#endif

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
    return ops_fail(ops, status_of(error), "%s:%d: %.80s: %s", file, line, call, cudaGetErrorString(error));
}

static enum status cuda_open(const struct ops_options *options, struct ops *ops, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)calloc(1, sizeof *backend);
    struct cudaDeviceProp properties;
    int count = 0, smem = 0;
    cudaError_t error;

    if (!backend)
        return error_set(err, STATUS_NO_MEMORY, "no memory");
    error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && (options->device < 0 || options->device >= count))
        error = count ? cudaErrorInvalidDevice : cudaErrorNoDevice;
    if (error == cudaSuccess)
        error = cudaSetDevice(options->device);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, options->device);
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
        return error_set(err, status_of(error), "device %d of %d: %s", options->device, count,
                         cudaGetErrorString(error));
    }
    backend->device = options->device;
    backend->wgmma = properties.major == 9;
    backend->sm_count = properties.multiProcessorCount;
    backend->smem_per_block = (size_t)smem;
    ops->state = backend;
    ops->thread_count = 1;
    (void)snprintf(ops->description, sizeof ops->description, DSA_BACKEND_NAME " sm_%d%d %.100s", properties.major,
                   properties.minor, properties.name);
    return STATUS_OK;
}

static void cuda_close(struct ops *ops)
{
    struct cuda_backend *backend = backend_of(ops);

    (void)cudaStreamSynchronize(backend->stream);
    for (int i = 0; i < SCRATCH_COUNT; i++)
        (void)cudaFree(backend->scratch[i]);
    (void)cudaStreamDestroy(backend->stream);
    free(backend);
}

enum status cuda_alloc(struct ops *ops, size_t bytes, void **memory)
{
    void *made = NULL;

    CUDA_TRY(ops, cudaMalloc(&made, bytes));
    *memory = made;
    return STATUS_OK;
}

void cuda_free(struct ops *ops, void *memory)
{
    (void)ops;
    (void)cudaFree(memory);
}

enum status cuda_upload(struct ops *ops, void *device, const void *host, size_t bytes)
{
    CUDA_TRY(ops, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, backend_of(ops)->stream));
    CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_download(struct ops *ops, void *host, const void *device, size_t bytes)
{
    CUDA_TRY(ops, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, backend_of(ops)->stream));
    CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_fill(struct ops *ops, void *device, int byte, size_t bytes)
{
    CUDA_TRY(ops, cudaMemsetAsync(device, byte, bytes, backend_of(ops)->stream));
    return STATUS_OK;
}

static enum status cuda_sync(struct ops *ops)
{
    CUDA_TRY(ops, cudaStreamSynchronize(backend_of(ops)->stream));
    return STATUS_OK;
}

enum status cuda_scratch(struct ops *ops, enum scratch_slot slot, size_t bytes, void **memory)
{
    struct cuda_backend *backend = backend_of(ops);

    if (bytes > backend->scratch_bytes[slot]) {
        CUDA_TRY(ops, cudaStreamSynchronize(backend->stream));
        (void)cudaFree(backend->scratch[slot]);
        backend->scratch[slot] = NULL;
        backend->scratch_bytes[slot] = 0;
        CUDA_TRY(ops, cudaMalloc(&backend->scratch[slot], bytes));
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
    cuda_router,
    cuda_moe,
};
