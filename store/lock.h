/* store/lock.h: who may write. Byte ranges of the store's file `lock`, held by open file description, so that two
 * opens in one process exclude each other too, and the kernel lets go when the holder dies. Internal to store/. */
#ifndef STORE_LOCK_H
#define STORE_LOCK_H

#include "base/status.h"

enum lock_what { LOCK_DAEMON, LOCK_INGEST };

/* STATUS_BUSY if taken. *fd is closed with close(), which unlocks; it is closed on exec. */
enum status lock_take(const char *store_dir, enum lock_what what, int *fd, struct error *err) MUST_CHECK;

#endif
