/* full_disk.c: loaded before libc into a dsad under test: the disk that a store lies on, as full as the test wants.
 *
 * While the file FULL_DISK_DIR.full is there, writes below FULL_DISK_DIR (databases, their logs, saved caches) find so
 * many bytes free as that file says, counted from its appearance, and then ENOSPC, in the middle of a write where that
 * is where the space ends. Where a word follows the number, only files whose names hold it. Other files are left
 * alone. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_llong left = -1; /* -1: the disk is not full */
static char only[32];          /* written before `left` */

/* The file is replaced as a whole, so that its number is never half there. */
static void look(const char *dir)
{
    char path[4200], text[32] = "";
    int fd;

    (void)snprintf(path, sizeof path, "%s.full", dir);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        atomic_store(&left, -1);
        return;
    }
    if (atomic_load(&left) < 0 && read(fd, text, sizeof text - 1) > 0) {
        const char *word = strchr(text, ' ');

        (void)snprintf(only, sizeof only, "%s", word ? word + 1 : "");
        atomic_store(&left, strtoll(text, NULL, 10));
    }
    (void)close(fd);
}

static bool concerns(int fd)
{
    const char *dir = getenv("FULL_DISK_DIR");
    char link[64], path[4200];
    ssize_t len;

    if (!dir)
        return false;
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof path - 1);
    if (len <= 0)
        return false;
    path[len] = '\0';
    if (strncmp(path, dir, strlen(dir)) != 0 || path[strlen(dir)] != '/')
        return false;
    look(dir);
    return atomic_load(&left) >= 0 && strstr(path + strlen(dir), only);
}

/* How much of a write there is room for; -1: none. */
static ssize_t room(int fd, size_t count)
{
    int saved = errno;
    long long got;

    if (count == 0 || !concerns(fd)) {
        errno = saved;
        return (ssize_t)count;
    }
    got = atomic_load(&left);
    if (got > (long long)count)
        got = (long long)count;
    (void)atomic_fetch_sub(&left, got);
    errno = got > 0 ? saved : ENOSPC;
    return got > 0 ? (ssize_t)got : -1;
}

static void *next_of(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (!found)
        abort();
    return found;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    static ssize_t (*next)(int, const void *, size_t);
    ssize_t most = room(fd, count);

    if (!next)
        *(void **)&next = next_of("write");
    return most < 0 ? -1 : next(fd, bytes, (size_t)most);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    ssize_t most = room(fd, count);

    if (!next)
        *(void **)&next = next_of("pwrite64");
    return most < 0 ? -1 : next(fd, bytes, (size_t)most, at);
}
