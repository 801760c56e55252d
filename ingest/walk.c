/* walk.c: see walk.h. Open folders are a stack; each holds its sorted names. */
#include "ingest/walk.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "base/vec.h"

enum {
    LIST_ENTRY_BYTES = 1 << 16, /* no path is longer; a list without separators is no list */
    LIST_BLOCK_BYTES = 1 << 16,
    FOLDER_DEPTH = 200
};

struct folder {
    char *path;
    struct dirent **entries;
    int count, next;
};

struct walk {
    bool hidden;
    char **paths; /* absolute */
    size_t path_count, path_next;
    VEC(struct folder) folders;
    FILE *list;
    char list_block[LIST_BLOCK_BYTES];
    size_t list_len, list_at;
    int list_separator; /* -1 until the first block was read */
    struct buf entry;   /* of the list */
    char *path;         /* of the file handed out */
    char *error;
    struct walk_counts counts;
};

enum status walk_create(const struct walk_options *options, struct walk **walk, struct error *err)
{
    struct walk *made = calloc(1, sizeof *made);
    enum status status = STATUS_OK;

    if (!made)
        return error_set(err, STATUS_NO_MEMORY, "no memory to walk");
    made->hidden = options->hidden;
    made->list_separator = -1;
    buf_init(&made->entry, LIST_ENTRY_BYTES);
    made->paths = calloc(options->path_count + 1, sizeof *made->paths);
    if (!made->paths) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory to walk");
        goto fail;
    }
    for (size_t i = 0; i < options->path_count; i++) {
        made->paths[i] = realpath(options->paths[i], NULL);
        if (!made->paths[i]) {
            status = error_set(err, STATUS_NOT_FOUND, "'%s': %s", options->paths[i], strerror(errno));
            goto fail;
        }
        made->path_count++;
    }
    if (options->files_from) {
        made->list = strcmp(options->files_from, "-") == 0 ? stdin : fopen(options->files_from, "re");
        if (!made->list) {
            status = error_set(err, STATUS_NOT_FOUND, "'%s': %s", options->files_from, strerror(errno));
            goto fail;
        }
    }
    *walk = made;
    return STATUS_OK;
fail:
    walk_destroy(made);
    return status;
}

static void folder_finish(struct folder *folder)
{
    for (int i = 0; i < folder->count; i++)
        free(folder->entries[i]);
    free(folder->entries);
    free(folder->path);
}

void walk_destroy(struct walk *walk)
{
    if (!walk)
        return;
    for (size_t i = 0; i < walk->path_count; i++)
        free(walk->paths[i]);
    free(walk->paths);
    for (size_t i = 0; i < walk->folders.count; i++)
        folder_finish(&walk->folders.items[i]);
    vec_finish(&walk->folders);
    if (walk->list && walk->list != stdin)
        (void)fclose(walk->list);
    buf_finish(&walk->entry);
    free(walk->path);
    free(walk->error);
    free(walk);
}

struct walk_counts walk_get_counts(const struct walk *walk)
{
    return walk->counts;
}

/* Byte order, not the locale's: the same everywhere. */
static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Takes over `path`. */
static enum status hand_out(struct walk *walk, char *path, const struct stat *info, int error, struct walk_file *file,
                            struct error *err)
{
    free(walk->path);
    free(walk->error);
    walk->path = path;
    walk->error = error ? strdup(strerror(error)) : NULL;
    if (!path || (error && !walk->error))
        return error_set(err, STATUS_NO_MEMORY, "no memory to walk");
    *file = (struct walk_file){.path = walk->path, .error = walk->error};
    if (info) {
        file->size_bytes = info->st_size;
        file->mtime_ms = (int64_t)info->st_mtim.tv_sec * 1000 + info->st_mtim.tv_nsec / 1000000;
    }
    return STATUS_OK;
}

/* Looks at one path. STATUS_AGAIN: nothing to hand out (a folder was opened, or it is passed over). Takes `path`. */
static enum status visit(struct walk *walk, char *path, bool named, struct walk_file *file, struct error *err)
{
    struct folder folder = {.path = path};
    struct stat info;
    enum status status;

    if (!path)
        return error_set(err, STATUS_NO_MEMORY, "no memory to walk");
    if (lstat(path, &info) != 0 || (named && S_ISLNK(info.st_mode) && stat(path, &info) != 0))
        return hand_out(walk, path, NULL, errno, file, err);
    if (S_ISREG(info.st_mode))
        return hand_out(walk, path, &info, 0, file, err);
    if (S_ISDIR(info.st_mode)) {
        status = walk->folders.count >= FOLDER_DEPTH ? STATUS_LIMIT : vec_reserve(&walk->folders, 1);
        if (status == STATUS_LIMIT)
            return hand_out(walk, path, NULL, ELOOP, file, err);
        if (!status)
            folder.count = scandir(path, &folder.entries, NULL, compare_entries);
        if (status || folder.count < 0) {
            folder.count = 0;
            return status ? status : hand_out(walk, path, NULL, errno, file, err);
        }
        walk->folders.items[walk->folders.count++] = folder;
        return STATUS_AGAIN;
    }
    if (named)
        return hand_out(walk, path, NULL, ENODEV, file, err);
    *(S_ISLNK(info.st_mode) ? &walk->counts.links : &walk->counts.special) += 1;
    free(path);
    return STATUS_AGAIN;
}

/* The next entry of the list into walk->entry. STATUS_NOT_FOUND at its end. */
static enum status next_entry(struct walk *walk, struct error *err)
{
    buf_clear(&walk->entry);
    for (;;) {
        char *block = walk->list_block, *separator;
        size_t len;

        if (walk->list_at == walk->list_len) {
            walk->list_at = 0;
            walk->list_len = fread(block, 1, sizeof walk->list_block, walk->list);
            if (!walk->list_len) {
                if (ferror(walk->list))
                    return error_set(err, STATUS_IO, "reading the list of files: %s", strerror(errno));
                return walk->entry.len ? STATUS_OK : STATUS_NOT_FOUND;
            }
            if (walk->list_separator < 0)
                walk->list_separator = memchr(block, '\0', walk->list_len) ? '\0' : '\n';
        }
        separator = memchr(block + walk->list_at, walk->list_separator, walk->list_len - walk->list_at);
        len = (separator ? (size_t)(separator - block) : walk->list_len) - walk->list_at;
        if (buf_append(&walk->entry, block + walk->list_at, len))
            return error_set(err, STATUS_BAD_INPUT, "the list of files holds a name of more than %d bytes",
                             LIST_ENTRY_BYTES);
        walk->list_at += len + (separator != NULL);
        if (separator && walk->entry.len)
            return STATUS_OK;
    }
}

static char *absolute(const char *path)
{
    char *real = realpath(path, NULL), *joined = NULL, here[PATH_MAX];

    if (real)
        return real;
    /* Not there: named as it would be. */
    if (path[0] == '/')
        return strdup(path);
    if (!getcwd(here, sizeof here) || asprintf(&joined, "%s/%s", here, path) < 0)
        return NULL;
    return joined;
}

enum status walk_next(struct walk *walk, struct walk_file *file, struct error *err)
{
    for (;;) {
        enum status status;

        if (walk->folders.count) {
            struct folder *folder = &walk->folders.items[walk->folders.count - 1];
            const char *name;
            char *path = NULL;

            if (folder->next == folder->count) {
                folder_finish(folder);
                walk->folders.count--;
                continue;
            }
            name = folder->entries[folder->next++]->d_name;
            if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
                continue;
            if (name[0] == '.' && !walk->hidden) {
                walk->counts.hidden++;
                continue;
            }
            if (asprintf(&path, "%s/%s", strcmp(folder->path, "/") == 0 ? "" : folder->path, name) < 0)
                path = NULL;
            status = visit(walk, path, false, file, err);
        } else if (walk->path_next < walk->path_count) {
            status = visit(walk, strdup(walk->paths[walk->path_next++]), true, file, err);
        } else if (walk->list) {
            status = next_entry(walk, err);
            if (!status)
                status = visit(walk, absolute(buf_cstr(&walk->entry)), true, file, err);
        } else {
            return STATUS_NOT_FOUND;
        }
        if (status != STATUS_AGAIN)
            return status;
    }
}

/* --- Paths as text ------------------------------------------------------------------------------------------- */

char *walk_path_text(const char *path)
{
    size_t len = strlen(path), at = 0;
    char *text = malloc(len * 4 + 1);

    for (size_t i = 0; text && i < len;) {
        uint32_t code;
        size_t bytes = utf8_decode(path + i, len - i, &code);

        if (bytes) {
            memcpy(text + at, path + i, bytes);
            at += bytes;
            i += bytes;
        } else {
            at += (size_t)sprintf(text + at, "\\x%02X", (unsigned char)path[i++]);
        }
    }
    if (text)
        text[at] = '\0';
    return text;
}

static bool is_gone(const char *path)
{
    struct stat info;

    return lstat(path, &info) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

bool walk_path_gone(const char *text)
{
    char *bytes;
    size_t at = 0;
    bool gone;

    if (!is_gone(text))
        return false;
    if (!strstr(text, "\\x"))
        return true;
    bytes = malloc(strlen(text) + 1);
    if (!bytes)
        return false;
    for (const char *c = text; *c;) {
        unsigned value;

        if (c[0] == '\\' && c[1] == 'x' && sscanf(c + 2, "%2X", &value) == 1 && value >= 0x80) {
            bytes[at++] = (char)value;
            c += 4;
        } else {
            bytes[at++] = *c++;
        }
    }
    bytes[at] = '\0';
    gone = is_gone(bytes);
    free(bytes);
    return gone;
}
