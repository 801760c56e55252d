/* status.c: names of statuses, and error messages built without allocation. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *status_name(enum status status)
{
    switch (status) {
    case STATUS_OK: return "ok";
    case STATUS_BAD_INPUT: return "bad-input";
    case STATUS_NOT_FOUND: return "not-found";
    case STATUS_BUSY: return "busy";
    case STATUS_AGAIN: return "again";
    case STATUS_NO_MEMORY: return "no-memory";
    case STATUS_LIMIT: return "limit";
    case STATUS_IO: return "io";
    case STATUS_NO_SPACE: return "no-space";
    case STATUS_CORRUPT: return "corrupt";
    case STATUS_UNSUPPORTED: return "unsupported";
    case STATUS_DENIED: return "denied";
    case STATUS_CANCELLED: return "cancelled";
    case STATUS_BUG: return "bug";
    }
    return "unknown";
}

enum status error_set(struct error *err, enum status status, const char *format, ...)
{
    va_list arguments;

    if (err) {
        err->status = status;
        va_start(arguments, format);
        (void)vsnprintf(err->message, sizeof err->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

void error_prefix(struct error *err, const char *format, ...)
{
    char tail[ERROR_MESSAGE_BYTES];
    va_list arguments;
    size_t used;

    if (!err)
        return;
    memcpy(tail, err->message, sizeof tail);
    va_start(arguments, format);
    (void)vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    used = strlen(err->message);
    (void)snprintf(err->message + used, sizeof err->message - used, ": %s", tail);
}
