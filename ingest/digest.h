/* ingest/digest.h: SHA-256 of bytes as they pass. */
#ifndef INGEST_DIGEST_H
#define INGEST_DIGEST_H

#include <stddef.h>

#include "base/status.h"

enum { DIGEST_HEX_BYTES = 65 };

struct digest {
    void *context; /* EVP_MD_CTX */
};

enum status digest_init(struct digest *digest) MUST_CHECK;
enum status digest_add(struct digest *digest, const void *bytes, size_t len) MUST_CHECK;
/* Writes 64 hex digits and a NUL; the digest may go on. */
enum status digest_hex(const struct digest *digest, char hex[DIGEST_HEX_BYTES]) MUST_CHECK;
void digest_finish(struct digest *digest); /* zero allowed */

/* Of a file from its start; leaves the descriptor's position alone. *bytes is how many there were. */
enum status digest_file(int fd, char hex[DIGEST_HEX_BYTES], long long *bytes, struct error *err) MUST_CHECK;

#endif
