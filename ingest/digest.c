/* digest.c: OpenSSL's SHA-256 behind digest.h. */
#include "ingest/digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK_BYTES = 256 << 10 };

enum status digest_init(struct digest *digest)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        return STATUS_NO_MEMORY;
    }
    digest->context = context;
    return STATUS_OK;
}

enum status digest_add(struct digest *digest, const void *bytes, size_t len)
{
    return EVP_DigestUpdate(digest->context, bytes, len) == 1 ? STATUS_OK : STATUS_NO_MEMORY;
}

enum status digest_hex(const struct digest *digest, char hex[DIGEST_HEX_BYTES])
{
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    EVP_MD_CTX *copy = EVP_MD_CTX_new();
    bool ok = copy && EVP_MD_CTX_copy_ex(copy, digest->context) == 1 && EVP_DigestFinal_ex(copy, bytes, &len) == 1;

    EVP_MD_CTX_free(copy);
    if (!ok)
        return STATUS_NO_MEMORY;
    for (unsigned i = 0; i < len; i++)
        (void)sprintf(hex + 2 * i, "%02x", bytes[i]);
    return STATUS_OK;
}

void digest_finish(struct digest *digest)
{
    EVP_MD_CTX_free(digest->context);
    digest->context = NULL;
}

enum status digest_file(int fd, char hex[DIGEST_HEX_BYTES], long long *bytes, struct error *err)
{
    struct digest digest = {0};
    char *block = malloc(BLOCK_BYTES);
    enum status status = block ? digest_init(&digest) : STATUS_NO_MEMORY;
    off_t at = 0;

    while (!status) {
        ssize_t len = pread(fd, block, BLOCK_BYTES, at);

        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            status = error_set(err, STATUS_IO, "%s", strerror(errno));
        if (len <= 0)
            break;
        status = digest_add(&digest, block, (size_t)len);
        at += len;
    }
    if (!status)
        status = digest_hex(&digest, hex);
    if (!status)
        *bytes = at;
    else if (status == STATUS_NO_MEMORY)
        error_set(err, status, "no memory to hash");
    digest_finish(&digest);
    free(block);
    return status;
}
