/* engine/prefix_cache.h: sealed pages on disk, so that a pack seen before starts without prefill, also after a
 * restart.
 *
 * One file a page of 64 tokens: a header (magic, format, key, tokens, length, checksum), then the bytes of both caches
 * of all layers. The file's name is the page's key: a hash over the model's weights, the backend and its numerics, the
 * cache format and all tokens up to the page's last. Files are written beside their place and renamed, so that a crash
 * leaves none half-written under its name; a damaged or foreign file is removed and the page computed again.
 *
 * Writing runs on a thread of its own from a bounded queue: a page that finds the queue full is not saved this time.
 * Beyond the cap, the files used least recently are removed. */
#ifndef ENGINE_PREFIX_CACHE_H
#define ENGINE_PREFIX_CACHE_H

#include <stdint.h>

#include "base/status.h"
#include "engine/hash.h"
#include "kernels/ops.h"

struct prefix_cache;

/* `dir` is made if missing. */
enum status prefix_cache_open(const char *dir, int64_t max_bytes, int64_t page_bytes, struct prefix_cache **cache,
                              struct error *err) MUST_CHECK;
void prefix_cache_close(struct prefix_cache *cache); /* writes what is queued; NULL allowed */

/* The bytes of a page, page_bytes of them, into `bytes`. STATUS_NOT_FOUND where there is none (any more). */
enum status prefix_cache_load(struct prefix_cache *cache, const struct hash256 *key,
                              const int32_t tokens[CACHE_PAGE_TOKENS], void *bytes) MUST_CHECK;
/* Whether prefix_cache_save() would do anything: not there already, and room in the queue. */
bool prefix_cache_wants(struct prefix_cache *cache, const struct hash256 *key);
/* Queues a copy for writing. */
void prefix_cache_save(struct prefix_cache *cache, const struct hash256 *key,
                       const int32_t tokens[CACHE_PAGE_TOKENS], const void *bytes);
void prefix_cache_flush(struct prefix_cache *cache); /* waits until the queue is on disk; for tests */

struct prefix_cache_stats {
    int64_t files, bytes, loaded, saved, damaged, dropped;
};
void prefix_cache_get_stats(struct prefix_cache *cache, struct prefix_cache_stats *stats);

#endif
