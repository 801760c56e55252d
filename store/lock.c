/* lock.c: open-file-description locks on single bytes of `lock`. */
#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum status lock_take(const char *store_dir, enum lock_what what, int *fd, struct error *err)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = what, .l_len = 1};
    char path[4096];
    int file;

    if (snprintf(path, sizeof path, "%s/lock", store_dir) >= (int)sizeof path)
        return error_set(err, STATUS_LIMIT, "'%.64s…': the path is too long", store_dir);
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0660);
    if (file < 0)
        return error_set(err, errno == EACCES || errno == EROFS || errno == EPERM ? STATUS_DENIED : STATUS_IO,
                         "'%s' cannot be opened: %s", path, strerror(errno));
    if (fcntl(file, F_OFD_SETLK, &range)) {
        int cause = errno;

        (void)close(file);
        if (cause == EAGAIN || cause == EACCES)
            return error_set(err, STATUS_BUSY, "'%s' is locked: another %s is at work", store_dir,
                             what == LOCK_DAEMON ? "daemon" : "ingest");
        return error_set(err, STATUS_IO, "'%s' cannot be locked: %s", path, strerror(cause));
    }
    *fd = file;
    return STATUS_OK;
}
