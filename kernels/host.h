/* kernels/host.h: memory of the backends whose device is the host. */
#ifndef KERNELS_HOST_H
#define KERNELS_HOST_H

#include "kernels/ops_impl.h"

enum status host_alloc(struct ops *ops, size_t bytes, void **memory);
void host_free(struct ops *ops, void *memory);
enum status host_upload(struct ops *ops, void *device, const void *host, size_t bytes);
enum status host_download(struct ops *ops, void *host, const void *device, size_t bytes);
enum status host_fill(struct ops *ops, void *device, int byte, size_t bytes);
enum status host_sync(struct ops *ops);
/* Of `ref` and `cpu` both: on the host the sampler reads the logits where they are, and asks for no such ops. */
enum status host_best(struct ops *ops, const struct ops_best_args *args);
enum status host_shortlist(struct ops *ops, const struct ops_shortlist_args *args);

#endif
