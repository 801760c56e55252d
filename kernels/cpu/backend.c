/* backend.c: opening of the CPU backend. */
#include "kernels/ops_impl.h"

static enum status cpu_open(const struct ops_options *options, struct ops *ops, struct error *err)
{
    return error_set(err, STATUS_UNSUPPORTED, "this build has no CPU backend yet");
}

const struct ops_backend ops_backend_cpu = {
    .abi = OPS_BACKEND_ABI, .bytes = sizeof(struct ops_backend), .name = "cpu", .host = true, .open = cpu_open};
