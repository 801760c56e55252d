/* engine/safetensors.h: the tensors of a checkpoint directory, memory-mapped and read-only.
 *
 * One file (model.safetensors) or shards named by model.safetensors.index.json. Every field of a header is checked
 * before a tensor can be found: dtype, shape, that the bytes are what the shape needs, lie inside the file and
 * overlap with no other tensor. Nothing is copied; a tensor's address stays valid until safetensors_close(). */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include "base/status.h"
#include "kernels/tensor.h"

struct safetensors;

enum status safetensors_open(const char *model_dir, struct safetensors **files, struct error *err) MUST_CHECK;
/* A single file at `path`, for test vectors and tools. */
enum status safetensors_open_file(const char *path, struct safetensors **files, struct error *err) MUST_CHECK;
void safetensors_close(struct safetensors *files); /* NULL allowed */

/* The tensor of that name, or NULL. F32, BF16, F8_E4M3, I32 and U8 only: others are skipped when a file is read. */
const struct tensor *safetensors_find(const struct safetensors *files, const char *name);
size_t safetensors_count(const struct safetensors *files);
/* The i-th tensor in the order of names. */
const char *safetensors_name(const struct safetensors *files, size_t i);

int64_t safetensors_bytes(const struct safetensors *files); /* sum of the files' sizes */

/* Feeds `put` with what tells this checkpoint from others: every header whole, and the data whole up to 4 GiB; of
 * larger ones 64 KiB out of every 16 MiB. */
void safetensors_digest(const struct safetensors *files, void (*put)(void *context, const void *bytes, size_t len),
                        void *context);

#endif
