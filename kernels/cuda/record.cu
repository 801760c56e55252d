/* record.cu: queued ops as one CUDA graph. A decode step is some hundreds of launches of microseconds each; as a graph
 * they cost one launch.
 *
 * Capture is in thread-local mode: a call that would wait or allocate fails, and takes the capture with it. A graph
 * keeps addresses: one made before a scratch slot moved is refused (STATUS_AGAIN) and made again by its owner.
 *
 * Its kernels may start before their predecessor has ended (device.cuh, after_previous()): on an H200 a layer of
 * DeepSeek-V3.2 at 128K took 301 us instead of 336 for one row. Launched one by one they do not: it made prefill no
 * faster (README.md). */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/impl.cuh"

struct ops_recording {
    cudaGraphExec_t graph;
    unsigned scratch_moves;
};

enum status cuda_record_begin(struct ops *ops)
{
    CUDA_TRY(ops, cudaStreamBeginCapture(backend_of(ops)->stream, cudaStreamCaptureModeThreadLocal));
    backend_of(ops)->recording = true;
    cuda_following = {backend_of(ops)->overlaps, false};
    return STATUS_OK;
}

static enum status instantiate(struct ops *ops, cudaGraph_t graph, struct ops_recording **recording)
{
    struct ops_recording *made = (struct ops_recording *)calloc(1, sizeof *made);
    cudaError_t error;

    if (!made)
        return ops_fail(ops, STATUS_NO_MEMORY, "no memory for a recording");
    error = cuda_outcome(ops, cudaGraphInstantiate(&made->graph, graph, 0));
    if (error != cudaSuccess) {
        free(made);
        return cuda_fail(ops, error, "cudaGraphInstantiate", __FILE__, __LINE__);
    }
    made->scratch_moves = backend_of(ops)->scratch_moves;
    *recording = made;
    return STATUS_OK;
}

enum status cuda_record_end(struct ops *ops, struct ops_recording **recording)
{
    cudaGraph_t graph = NULL;
    cudaError_t error = cuda_outcome(ops, cudaStreamEndCapture(backend_of(ops)->stream, &graph));
    enum status status;

    backend_of(ops)->recording = false;
    cuda_following = {};
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return cuda_fail(ops, error, "cudaStreamEndCapture", __FILE__, __LINE__);
    }
    status = instantiate(ops, graph, recording);
    (void)cudaGraphDestroy(graph);
    return status;
}

enum status cuda_replay(struct ops *ops, struct ops_recording *recording)
{
    if (recording->scratch_moves != backend_of(ops)->scratch_moves)
        return ops_fail(ops, STATUS_AGAIN, "a recording is out of date");
    CUDA_TRY(ops, cudaGraphLaunch(recording->graph, backend_of(ops)->stream));
    CUDA_TRY(ops, cuda_launched(ops));
    return STATUS_OK;
}

void cuda_recording_destroy(struct ops *ops, struct ops_recording *recording)
{
    (void)ops;
    (void)cudaGraphExecDestroy(recording->graph);
    free(recording);
}
