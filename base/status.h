/* base/status.h: how every part of the program reports failure.
 *
 * A function that can fail returns `enum status`; 0 is STATUS_OK. Where detail helps a person, its last
 * parameter is `struct error *err` (may be NULL), filled once, where the cause is known; callers add context
 * on the way up with error_prefix(). Libraries return errors and never log them. Outputs are untouched on
 * failure. A status says what the caller can do next, not where it happened. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))

enum status {
    STATUS_OK = 0,
    STATUS_BAD_INPUT,   /* the input is wrong: skip it, tell its owner           */
    STATUS_NOT_FOUND,   /* the named thing is not there                          */
    STATUS_BUSY,        /* somebody else holds it: retry later                   */
    STATUS_AGAIN,       /* nothing yet: call again                               */
    STATUS_NO_MEMORY,   /* an allocation failed                                  */
    STATUS_LIMIT,       /* a stated cap was reached                              */
    STATUS_IO,          /* the operating system refused a read or write          */
    STATUS_NO_SPACE,    /* the disk is full: the same works when there is room  */
    STATUS_CORRUPT,     /* stored data fails its own checks                      */
    STATUS_UNSUPPORTED, /* valid, but not for this build, backend or version     */
    STATUS_DENIED,      /* not allowed for this caller                           */
    STATUS_CANCELLED,   /* stopped on request                                    */
    STATUS_BUG          /* our mistake; nothing the caller did                   */
};

enum { ERROR_MESSAGE_BYTES = 512 };

struct error {
    enum status status;
    char message[ERROR_MESSAGE_BYTES]; /* one line of UTF-8, no final newline; "" when status is STATUS_OK */
};

/* A stable lower-case name ("bad-input"), for logs, JSON and the wire. Never NULL. */
const char *status_name(enum status status);

/* Fills *err (if not NULL) and returns `status`, so that a failing function can end in one line. */
enum status error_set(struct error *err, enum status status, const char *format, ...) PRINTF_LIKE(3, 4);

/* Puts "prefix: " in front of a message already set. The status stays. No-op when err is NULL. */
void error_prefix(struct error *err, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
