/* prefix_cache.c: one file a page; see prefix_cache.h.
 *
 * File, little-endian:   0  8 bytes  magic "DSAKVPG1"
 *                        8  32       key
 *                       40  256      the page's 64 tokens, i32
 *                      296  8        length of the rest, u64
 *                      304  32       hash256 of the rest
 *                      336  …        layer 0 latent page, layer 0 index page, layer 1 latent page, …
 */
#include "engine/prefix_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/vec.h"

enum { QUEUE_CAP = 64, MAX_FILES = 1 << 20 };
static const char magic[8] = {'D', 'S', 'A', 'K', 'V', 'P', 'G', '1'};

struct file_header {
    char magic[8];
    struct hash256 key;
    int32_t tokens[CACHE_PAGE_TOKENS];
    uint64_t length;
    struct hash256 check;
};
_Static_assert(sizeof(struct file_header) == 336, "the header is written as it stands");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

struct entry {
    struct hash256 key;
    int64_t bytes;
    int64_t used; /* seconds; the file's modification time, touched on use */
};

struct job {
    struct file_header header;
    void *bytes;
};

struct prefix_cache {
    char *dir;
    int64_t max_bytes, page_bytes;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t writer;
    bool writer_runs, closing;
    struct job queue[QUEUE_CAP];
    int queued, first;
    bool writing;
    VEC(struct entry) entries; /* sorted by key */
    struct prefix_cache_stats stats;
};

/* --- The list of files ----------------------------------------------------------------------------------------- */

/* Where `key` is, or would be put. */
static size_t place(const struct prefix_cache *c, const struct hash256 *key, bool *there)
{
    size_t low = 0, high = c->entries.count;

    *there = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = memcmp(key, &c->entries.items[middle].key, sizeof *key);

        if (order == 0) {
            *there = true;
            return middle;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void path_of(const struct prefix_cache *c, const struct hash256 *key, const char *suffix, char *path, size_t cap)
{
    char hex[HASH_HEX_BYTES];

    hash_hex(key, hex);
    snprintf(path, cap, "%s/%s.kv%s", c->dir, hex, suffix);
}

static void forget(struct prefix_cache *c, size_t i)
{
    char path[4200];

    path_of(c, &c->entries.items[i].key, "", path, sizeof path);
    (void)unlink(path);
    c->stats.bytes -= c->entries.items[i].bytes;
    c->stats.files--;
    memmove(c->entries.items + i, c->entries.items + i + 1, (c->entries.count - i - 1) * sizeof *c->entries.items);
    c->entries.count--;
}

/* Removes the least recently used until `more` bytes fit. */
static void make_room(struct prefix_cache *c, int64_t more)
{
    while (c->entries.count && (c->stats.bytes + more > c->max_bytes || c->entries.count >= MAX_FILES)) {
        size_t oldest = 0;

        for (size_t i = 1; i < c->entries.count; i++) {
            if (c->entries.items[i].used < c->entries.items[oldest].used)
                oldest = i;
        }
        forget(c, oldest);
    }
}

static enum status remember(struct prefix_cache *c, const struct hash256 *key, int64_t bytes, int64_t used)
{
    bool there;
    size_t at = place(c, key, &there);

    if (there)
        return STATUS_OK;
    if (vec_reserve(&c->entries, 1))
        return STATUS_NO_MEMORY;
    memmove(c->entries.items + at + 1, c->entries.items + at, (c->entries.count - at) * sizeof *c->entries.items);
    c->entries.items[at] = (struct entry){*key, bytes, used};
    c->entries.count++;
    c->stats.files++;
    c->stats.bytes += bytes;
    return STATUS_OK;
}

static bool parse_name(const char *name, struct hash256 *key)
{
    if (strlen(name) != 67 || strcmp(name + 64, ".kv"))
        return false;
    for (int i = 0; i < 4; i++) {
        char word[17], *end;

        memcpy(word, name + 16 * i, 16);
        word[16] = 0;
        if (strspn(word, "0123456789abcdef") != 16)
            return false;
        key->word[i] = strtoull(word, &end, 16);
    }
    return true;
}

/* Files of other names are not ours and are left alone, but for what a crash left half-written. */
static enum status scan(struct prefix_cache *c, struct error *err)
{
    DIR *dir = opendir(c->dir);
    enum status s = STATUS_OK;
    struct dirent *item;

    if (!dir)
        return error_set(err, STATUS_IO, "'%s': %s", c->dir, strerror(errno));
    while (!s && (item = readdir(dir))) {
        struct hash256 key;
        struct stat stat;
        size_t len = strlen(item->d_name);

        if (len == 71 && !strcmp(item->d_name + 64, ".kv.tmp"))
            (void)unlinkat(dirfd(dir), item->d_name, 0);
        if (!parse_name(item->d_name, &key) || fstatat(dirfd(dir), item->d_name, &stat, AT_SYMLINK_NOFOLLOW) ||
            !S_ISREG(stat.st_mode))
            continue;
        s = remember(c, &key, stat.st_size, stat.st_mtime);
    }
    closedir(dir);
    if (s)
        return error_set(err, s, "'%s': no memory for the list of saved pages", c->dir);
    make_room(c, 0);
    return STATUS_OK;
}

/* --- Writing --------------------------------------------------------------------------------------------------- */

static bool write_all(int fd, const void *bytes, size_t len)
{
    const char *at = bytes;

    while (len) {
        ssize_t n = write(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

/* Not synced: a page lost with the power is computed again, and one torn by it fails its checksum. */
static bool write_page(const struct prefix_cache *c, const struct job *job)
{
    char path[4200], temporary[4200];
    bool good;
    int fd;

    path_of(c, &job->header.key, "", path, sizeof path);
    path_of(c, &job->header.key, ".tmp", temporary, sizeof temporary);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    good = write_all(fd, &job->header, sizeof job->header) && write_all(fd, job->bytes, job->header.length);
    good = !close(fd) && good;
    if (good && !rename(temporary, path))
        return true;
    (void)unlink(temporary);
    return false;
}

static void *run_writer(void *context)
{
    struct prefix_cache *c = context;

    pthread_mutex_lock(&c->lock);
    for (;;) {
        struct hasher h;
        struct job job;
        bool good;

        while (!c->queued && !c->closing)
            pthread_cond_wait(&c->changed, &c->lock);
        if (!c->queued)
            break;
        job = c->queue[c->first];
        c->first = (c->first + 1) % QUEUE_CAP;
        c->queued--;
        c->writing = true;
        make_room(c, c->page_bytes + (int64_t)sizeof job.header);
        pthread_mutex_unlock(&c->lock);
        hasher_init(&h, 2);
        hasher_put(&h, job.bytes, job.header.length);
        job.header.check = hasher_finish(&h);
        good = write_page(c, &job);
        free(job.bytes);
        pthread_mutex_lock(&c->lock);
        c->writing = false;
        if (good && !remember(c, &job.header.key, c->page_bytes + (int64_t)sizeof job.header, time(NULL)))
            c->stats.saved++;
        else
            c->stats.dropped++;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

bool prefix_cache_wants(struct prefix_cache *c, const struct hash256 *key)
{
    bool there;

    pthread_mutex_lock(&c->lock);
    (void)place(c, key, &there);
    for (int i = 0; i < c->queued && !there; i++)
        there = !memcmp(&c->queue[(c->first + i) % QUEUE_CAP].header.key, key, sizeof *key);
    if (!there && c->queued == QUEUE_CAP) {
        c->stats.dropped++;
        there = true;
    }
    pthread_mutex_unlock(&c->lock);
    return !there && c->page_bytes + (int64_t)sizeof(struct file_header) <= c->max_bytes;
}

void prefix_cache_save(struct prefix_cache *c, const struct hash256 *key, const int32_t tokens[CACHE_PAGE_TOKENS],
                       const void *bytes)
{
    struct job job = {.header = {.key = *key, .length = (uint64_t)c->page_bytes}};

    memcpy(job.header.magic, magic, sizeof magic);
    memcpy(job.header.tokens, tokens, sizeof job.header.tokens);
    job.bytes = malloc((size_t)c->page_bytes);
    if (!job.bytes)
        return;
    memcpy(job.bytes, bytes, (size_t)c->page_bytes);
    pthread_mutex_lock(&c->lock);
    if (c->queued < QUEUE_CAP) {
        c->queue[(c->first + c->queued++) % QUEUE_CAP] = job;
        job.bytes = NULL;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    free(job.bytes);
}

void prefix_cache_flush(struct prefix_cache *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->queued || c->writing)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

/* --- Reading --------------------------------------------------------------------------------------------------- */

static bool read_all(int fd, void *bytes, size_t len)
{
    char *at = bytes;

    while (len) {
        ssize_t n = read(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static bool read_page(const struct prefix_cache *c, int fd, const struct hash256 *key, const int32_t *tokens,
                      void *bytes)
{
    struct file_header header;
    struct hash256 check;
    struct hasher h;

    if (!read_all(fd, &header, sizeof header) || memcmp(header.magic, magic, sizeof magic) ||
        memcmp(&header.key, key, sizeof *key) || memcmp(header.tokens, tokens, sizeof header.tokens) ||
        header.length != (uint64_t)c->page_bytes || !read_all(fd, bytes, (size_t)c->page_bytes))
        return false;
    hasher_init(&h, 2);
    hasher_put(&h, bytes, (size_t)c->page_bytes);
    check = hasher_finish(&h);
    return !memcmp(&check, &header.check, sizeof check);
}

enum status prefix_cache_load(struct prefix_cache *c, const struct hash256 *key,
                              const int32_t tokens[CACHE_PAGE_TOKENS], void *bytes)
{
    char path[4200];
    bool there, good;
    size_t at;
    int fd;

    pthread_mutex_lock(&c->lock);
    (void)place(c, key, &there);
    pthread_mutex_unlock(&c->lock);
    if (!there)
        return STATUS_NOT_FOUND;
    path_of(c, key, "", path, sizeof path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    good = fd >= 0 && read_page(c, fd, key, tokens, bytes);
    if (good)
        (void)futimens(fd, NULL); /* its place in the order of use, also for the next run */
    if (fd >= 0)
        close(fd);
    pthread_mutex_lock(&c->lock);
    at = place(c, key, &there);
    if (there && good) {
        c->entries.items[at].used = time(NULL);
        c->stats.loaded++;
    } else if (there) {
        forget(c, at);
        c->stats.damaged++;
    }
    pthread_mutex_unlock(&c->lock);
    return good ? STATUS_OK : STATUS_NOT_FOUND;
}

/* --- Open and close -------------------------------------------------------------------------------------------- */

enum status prefix_cache_open(const char *dir, int64_t max_bytes, int64_t page_bytes, struct prefix_cache **cache,
                              struct error *err)
{
    struct prefix_cache *c;
    enum status s;

    if (strlen(dir) > 4000)
        return error_set(err, STATUS_BAD_INPUT, "'%.64s…': path too long", dir);
    if (mkdir(dir, 0700) && errno != EEXIST)
        return error_set(err, STATUS_IO, "'%s': %s", dir, strerror(errno));
    c = calloc(1, sizeof *c);
    if (!c || !(c->dir = strdup(dir))) {
        free(c);
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    c->max_bytes = max_bytes;
    c->page_bytes = page_bytes;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    s = scan(c, err);
    if (!s && pthread_create(&c->writer, NULL, run_writer, c))
        s = error_set(err, STATUS_NO_MEMORY, "no thread for saving pages");
    if (s) {
        prefix_cache_close(c);
        return s;
    }
    c->writer_runs = true;
    *cache = c;
    return STATUS_OK;
}

void prefix_cache_close(struct prefix_cache *c)
{
    if (!c)
        return;
    if (c->writer_runs) {
        pthread_mutex_lock(&c->lock);
        c->closing = true;
        pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->writer, NULL);
    }
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    vec_finish(&c->entries);
    free(c->dir);
    free(c);
}

void prefix_cache_get_stats(struct prefix_cache *c, struct prefix_cache_stats *stats)
{
    pthread_mutex_lock(&c->lock);
    *stats = c->stats;
    pthread_mutex_unlock(&c->lock);
}
