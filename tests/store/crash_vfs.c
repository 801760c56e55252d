/* crash_vfs.c: forwarding everything, remembering what was not synced. */
#include "tests/store/crash_vfs.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "tests/harness/check.h"

enum { MAX_FILES = 8, SECTOR_BYTES = 512 };

struct change { /* a write, or (bytes NULL) a truncation to `offset` */
    sqlite3_int64 offset;
    size_t len;
    char *bytes;
};

struct content {
    char *bytes;
    size_t len, cap;
};

struct disk_file {
    char name[64]; /* without its directory */
    bool there;
    struct content now, synced;
    VEC(struct change) changes; /* since the sync */
};

struct shim_file {
    sqlite3_file base;
    struct disk_file *disk; /* NULL: not tracked */
    sqlite3_file *real;     /* in the bytes behind this struct */
};

static struct {
    sqlite3_vfs vfs, *real;
    sqlite3_io_methods methods;
    struct disk_file files[MAX_FILES];
    int count;
    void (*crash)(void);
} disk;

/* --- Contents -------------------------------------------------------------------------------------------------- */

static void content_resize(struct content *content, size_t len)
{
    if (len > content->cap) {
        content->cap = len * 2;
        content->bytes = realloc(content->bytes, content->cap);
        CHECK(content->bytes != NULL);
    }
    if (len > content->len)
        memset(content->bytes + content->len, 0, len - content->len);
    content->len = len;
}

static void content_write(struct content *content, size_t offset, const char *bytes, size_t len)
{
    if (offset + len > content->len)
        content_resize(content, offset + len);
    memcpy(content->bytes + offset, bytes, len);
}

static void forget_changes(struct disk_file *file)
{
    for (size_t i = 0; i < file->changes.count; i++)
        free(file->changes.items[i].bytes);
    file->changes.count = 0;
}

static void note_change(struct disk_file *file, sqlite3_int64 offset, const void *bytes, size_t len)
{
    struct change change = {.offset = offset, .len = len};

    CHECK(vec_reserve(&file->changes, 1) == STATUS_OK);
    if (bytes) {
        change.bytes = malloc(len ? len : 1);
        CHECK(change.bytes != NULL);
        memcpy(change.bytes, bytes, len);
        content_write(&file->now, (size_t)offset, bytes, len);
    } else {
        content_resize(&file->now, (size_t)offset);
    }
    file->changes.items[file->changes.count++] = change;
    disk.crash();
}

/* Some of a write's sectors, each whole. */
static void tear(struct content *image, const struct change *change)
{
    for (size_t at = 0; at < change->len;) {
        size_t part = SECTOR_BYTES - ((size_t)change->offset + at) % SECTOR_BYTES;

        if (part > change->len - at)
            part = change->len - at;
        if (check_random() & 1)
            content_write(image, (size_t)change->offset + at, change->bytes + at, part);
        at += part;
    }
}

void crash_vfs_image(const char *dir)
{
    for (int i = 0; i < disk.count; i++) {
        const struct disk_file *file = &disk.files[i];
        struct content image = {0};
        char path[4200];
        FILE *out;

        if (!file->there)
            continue;
        content_resize(&image, file->synced.len);
        if (file->synced.len)
            memcpy(image.bytes, file->synced.bytes, file->synced.len);
        for (size_t c = 0; c < file->changes.count; c++) {
            const struct change *change = &file->changes.items[c];
            unsigned chance = (unsigned)(check_random() % 4);

            if (chance == 0)
                continue;
            if (!change->bytes)
                content_resize(&image, (size_t)change->offset);
            else if (chance == 1)
                tear(&image, change);
            else
                content_write(&image, (size_t)change->offset, change->bytes, change->len);
        }
        (void)snprintf(path, sizeof path, "%s/%s", dir, file->name);
        out = fopen(path, "w");
        CHECK(out != NULL && fwrite(image.bytes ? image.bytes : "", 1, image.len, out) == image.len &&
              fclose(out) == 0);
        free(image.bytes);
    }
}

/* --- The VFS --------------------------------------------------------------------------------------------------- */

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((struct shim_file *)file)->real;
}

static int shim_close(sqlite3_file *file)
{
    return real_of(file)->pMethods->xClose(real_of(file));
}

static int shim_read(sqlite3_file *file, void *bytes, int len, sqlite3_int64 offset)
{
    return real_of(file)->pMethods->xRead(real_of(file), bytes, len, offset);
}

static int shim_write(sqlite3_file *file, const void *bytes, int len, sqlite3_int64 offset)
{
    int rc = real_of(file)->pMethods->xWrite(real_of(file), bytes, len, offset);

    if (!rc && ((struct shim_file *)file)->disk)
        note_change(((struct shim_file *)file)->disk, offset, bytes, (size_t)len);
    return rc;
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 len)
{
    int rc = real_of(file)->pMethods->xTruncate(real_of(file), len);

    if (!rc && ((struct shim_file *)file)->disk)
        note_change(((struct shim_file *)file)->disk, len, NULL, 0);
    return rc;
}

static int shim_sync(sqlite3_file *file, int flags)
{
    struct disk_file *tracked = ((struct shim_file *)file)->disk;

    (void)flags; /* the real disk need not be waited for */
    if (tracked) {
        disk.crash(); /* just before */
        tracked->synced.len = 0;
        content_write(&tracked->synced, 0, tracked->now.bytes, tracked->now.len);
        forget_changes(tracked);
    }
    return SQLITE_OK;
}

static int shim_size(sqlite3_file *file, sqlite3_int64 *len)
{
    return real_of(file)->pMethods->xFileSize(real_of(file), len);
}

static int shim_lock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int shim_unlock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int shim_check_lock(sqlite3_file *file, int *held)
{
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), held);
}

static int shim_control(sqlite3_file *file, int op, void *argument)
{
    return real_of(file)->pMethods->xFileControl(real_of(file), op, argument);
}

static int shim_sector(sqlite3_file *file)
{
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int shim_device(sqlite3_file *file)
{
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int shim_shm_map(sqlite3_file *file, int page, int bytes, int extend, void volatile **out)
{
    return real_of(file)->pMethods->xShmMap(real_of(file), page, bytes, extend, out);
}

static int shim_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}

static void shim_shm_barrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shim_shm_unmap(sqlite3_file *file, int remove)
{
    return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static struct disk_file *track(const char *path)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

    for (int i = 0; i < disk.count; i++) {
        if (strcmp(disk.files[i].name, name) == 0)
            return &disk.files[i];
    }
    CHECK(disk.count < MAX_FILES);
    (void)snprintf(disk.files[disk.count].name, sizeof disk.files[0].name, "%s", name);
    return &disk.files[disk.count++];
}

static int shim_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *out_flags)
{
    struct shim_file *shim = (struct shim_file *)file;
    int rc;

    (void)vfs;
    memset(shim, 0, sizeof *shim);
    shim->real = (sqlite3_file *)(shim + 1);
    rc = disk.real->xOpen(disk.real, path, shim->real, flags, out_flags);
    if (shim->real->pMethods)
        shim->base.pMethods = &disk.methods;
    if (!rc && path && (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL))) {
        shim->disk = track(path);
        shim->disk->there = true;
    }
    return rc;
}

static int shim_delete(sqlite3_vfs *vfs, const char *path, int sync)
{
    (void)vfs;
    track(path)->there = false;
    return disk.real->xDelete(disk.real, path, sync);
}

void crash_vfs_begin(void (*crash)(void))
{
    disk.real = sqlite3_vfs_find(NULL);
    disk.crash = crash;
    disk.vfs = *disk.real;
    disk.vfs.zName = "crash";
    disk.vfs.szOsFile = (int)sizeof(struct shim_file) + disk.real->szOsFile;
    disk.vfs.xOpen = shim_open;
    disk.vfs.xDelete = shim_delete;
    disk.methods = (sqlite3_io_methods){
        .iVersion = 2, .xClose = shim_close, .xRead = shim_read, .xWrite = shim_write, .xTruncate = shim_truncate,
        .xSync = shim_sync, .xFileSize = shim_size, .xLock = shim_lock, .xUnlock = shim_unlock,
        .xCheckReservedLock = shim_check_lock, .xFileControl = shim_control, .xSectorSize = shim_sector,
        .xDeviceCharacteristics = shim_device, .xShmMap = shim_shm_map, .xShmLock = shim_shm_lock,
        .xShmBarrier = shim_shm_barrier, .xShmUnmap = shim_shm_unmap};
    CHECK_EQ_INT(sqlite3_vfs_register(&disk.vfs, 1), SQLITE_OK);
}

void crash_vfs_end(void)
{
    CHECK_EQ_INT(sqlite3_vfs_register(disk.real, 1), SQLITE_OK);
    CHECK_EQ_INT(sqlite3_vfs_unregister(&disk.vfs), SQLITE_OK);
    for (int i = 0; i < disk.count; i++) {
        forget_changes(&disk.files[i]);
        vec_finish(&disk.files[i].changes);
        free(disk.files[i].now.bytes);
        free(disk.files[i].synced.bytes);
    }
    memset(disk.files, 0, sizeof disk.files);
    disk.count = 0;
}
