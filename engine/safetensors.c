/* safetensors.c: 8 bytes little-endian header length · JSON header · data.
 *
 * The format: https://github.com/huggingface/safetensors (README, "Format"). A header is hostile input: its length
 * is bounded by the file's and by MAX_HEADER_BYTES, and offsets are compared before they are added. */
#include "engine/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/vec.h"

enum {
    MAX_HEADER_BYTES = 100 << 20, /* the format's own limit */
    MAX_SHARDS = 4096,
    MAX_NAME_BYTES = 512
};

struct mapping {
    unsigned char *bytes;
    size_t len, header; /* header: 8 + the JSON's length */
};

struct entry {
    char *name; /* owned */
    struct tensor tensor;
    size_t start, end; /* inside its file, to find overlaps */
    size_t file;
};

struct safetensors {
    VEC(struct mapping) files;
    VEC(struct entry) entries; /* sorted by name once all files are read */
};

static bool parse_dtype(const char *name, enum dtype *dtype)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } known[] = {{"F32", DTYPE_F32}, {"BF16", DTYPE_BF16}, {"F8_E4M3", DTYPE_F8E4M3}, {"I32", DTYPE_I32},
                 {"U8", DTYPE_U8}};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(name, known[i].name)) {
            *dtype = known[i].dtype;
            return true;
        }
    }
    return false;
}

/* The bytes a shape needs; false when it is no shape. */
static bool parse_shape(const json_t *shape, struct tensor *tensor, size_t *bytes)
{
    int64_t stride = 1;

    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_MAX_DIMS)
        return false;
    *bytes = dtype_bytes(tensor->dtype);
    tensor->dim_count = (int)json_array_size(shape);
    for (int i = 0; i < tensor->dim_count; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);

        if (!json_is_integer(dim) || json_integer_value(dim) < 0 || json_integer_value(dim) > INT32_MAX)
            return false;
        tensor->dims[i] = json_integer_value(dim);
        if (!checked_mul(*bytes, (size_t)tensor->dims[i], bytes))
            return false;
    }
    for (int i = tensor->dim_count - 1; i >= 0; i--) {
        tensor->strides[i] = stride;
        stride *= tensor->dims[i] > 0 ? tensor->dims[i] : 1;
    }
    return true;
}

static enum status read_entry(struct safetensors *st, const char *path, const char *name, const json_t *value,
                              struct error *err)
{
    const struct mapping *map = &st->files.items[st->files.count - 1];
    const json_t *offsets = json_object_get(value, "data_offsets");
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    struct entry entry = {.file = st->files.count - 1};
    size_t bytes, room = map->len - map->header;
    int64_t start, end;

    if (!dtype)
        return error_set(err, STATUS_CORRUPT, "'%s': tensor '%.100s': no dtype", path, name);
    if (strlen(name) > MAX_NAME_BYTES)
        return error_set(err, STATUS_CORRUPT, "'%s': a tensor's name is too long", path);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(json_array_get(offsets, 0)) ||
        !json_is_integer(json_array_get(offsets, 1)))
        return error_set(err, STATUS_CORRUPT, "'%s': tensor '%.100s': data_offsets must be two integers", path, name);
    start = json_integer_value(json_array_get(offsets, 0));
    end = json_integer_value(json_array_get(offsets, 1));
    if (start < 0 || end < start || (uint64_t)end > room)
        return error_set(err, STATUS_CORRUPT,
                         "'%s': tensor '%.100s': bytes %lld to %lld lie outside the file's %zu (truncated?)", path,
                         name, (long long)start, (long long)end, room);
    if (!parse_dtype(dtype, &entry.tensor.dtype))
        return STATUS_OK; /* nothing here reads it; a needed tensor is then reported as missing */
    if (!parse_shape(json_object_get(value, "shape"), &entry.tensor, &bytes))
        return error_set(err, STATUS_CORRUPT, "'%s': tensor '%.100s': bad shape", path, name);
    if (bytes != (size_t)(end - start))
        return error_set(err, STATUS_CORRUPT, "'%s': tensor '%.100s': its shape needs %zu bytes, its offsets give %lld",
                         path, name, bytes, (long long)(end - start));
    entry.start = (size_t)start;
    entry.end = (size_t)end;
    entry.tensor.data = map->bytes + map->header + start;
    if ((uintptr_t)entry.tensor.data % dtype_bytes(entry.tensor.dtype))
        return error_set(err, STATUS_CORRUPT, "'%s': tensor '%.100s': misaligned data", path, name);
    if (vec_reserve(&st->entries, 1) || !(entry.name = strdup(name)))
        return error_set(err, STATUS_NO_MEMORY, "'%s': out of memory", path);
    st->entries.items[st->entries.count++] = entry;
    return STATUS_OK;
}

static enum status read_header(struct safetensors *st, const char *path, struct error *err)
{
    struct mapping *map = &st->files.items[st->files.count - 1];
    enum status s = STATUS_OK;
    uint64_t length = 0;
    json_error_t json_error;
    json_t *header, *value;
    const char *name;

    if (map->len < 8)
        return error_set(err, STATUS_CORRUPT, "'%s': %zu bytes are no safetensors file", path, map->len);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | map->bytes[i];
    if (length > map->len - 8 || length > MAX_HEADER_BYTES)
        return error_set(err, STATUS_CORRUPT, "'%s': header length %llu exceeds the file (truncated?)", path,
                         (unsigned long long)length);
    map->header = 8 + (size_t)length;
    header = json_loadb((const char *)map->bytes + 8, (size_t)length, JSON_REJECT_DUPLICATES, &json_error);
    if (!json_is_object(header)) {
        json_decref(header);
        return error_set(err, STATUS_CORRUPT, "'%s': header is not JSON: %s", path, json_error.text);
    }
    json_object_foreach (header, name, value) {
        if (!strcmp(name, "__metadata__"))
            continue;
        s = read_entry(st, path, name, value, err);
        if (s)
            break;
    }
    json_decref(header);
    return s;
}

static enum status map_file(struct safetensors *st, const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct mapping map = {0};
    struct stat stat;

    if (fd < 0)
        return error_set(err, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s': %s", path, strerror(errno));
    if (fstat(fd, &stat) || !S_ISREG(stat.st_mode)) {
        close(fd);
        return error_set(err, STATUS_BAD_INPUT, "'%s': not a file", path);
    }
    map.len = (size_t)stat.st_size;
    if (map.len) {
        void *bytes = mmap(NULL, map.len, PROT_READ, MAP_SHARED, fd, 0);

        if (bytes == MAP_FAILED) {
            close(fd);
            return error_set(err, STATUS_IO, "'%s': cannot be mapped: %s", path, strerror(errno));
        }
        map.bytes = bytes;
    }
    close(fd);
    if (vec_reserve(&st->files, 1)) {
        if (map.len)
            munmap(map.bytes, map.len);
        return error_set(err, STATUS_NO_MEMORY, "'%s': out of memory", path);
    }
    st->files.items[st->files.count++] = map;
    return read_header(st, path, err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static enum status check_and_sort(struct safetensors *st, const char *where, struct error *err)
{
    struct entry *items = st->entries.items;
    size_t count = st->entries.count;

    if (count == 0)
        return error_set(err, STATUS_CORRUPT, "'%s': no tensors", where);
    qsort(items, count, sizeof *items, by_place);
    for (size_t i = 1; i < count; i++) {
        if (items[i].file == items[i - 1].file && items[i].start < items[i - 1].end)
            return error_set(err, STATUS_CORRUPT, "'%s': tensors '%.100s' and '%.100s' overlap", where,
                             items[i - 1].name, items[i].name);
    }
    qsort(items, count, sizeof *items, by_name);
    for (size_t i = 1; i < count; i++) {
        if (!strcmp(items[i].name, items[i - 1].name))
            return error_set(err, STATUS_CORRUPT, "'%s': tensor '%.100s' is in two files", where, items[i].name);
    }
    return STATUS_OK;
}

/* A shard's name comes from a file: it may not leave the directory. */
static bool plain_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static enum status map_shards(struct safetensors *st, const char *dir, const json_t *index, struct error *err)
{
    json_t *names = json_object_get(index, "weight_map"), *seen = json_object(), *value;
    enum status s = STATUS_OK;
    char path[4096];
    const char *tensor;

    if (!json_is_object(names)) {
        s = error_set(err, STATUS_CORRUPT, "'%s/model.safetensors.index.json': field \"weight_map\" is missing", dir);
        goto out;
    }
    json_object_foreach (names, tensor, value) {
        const char *shard = json_string_value(value);

        if (!shard || !plain_name(shard)) {
            s = error_set(err, STATUS_CORRUPT, "'%s/model.safetensors.index.json': tensor '%.100s': bad file name", dir,
                          tensor);
            goto out;
        }
        if (json_object_get(seen, shard))
            continue;
        if (json_object_set_new(seen, shard, json_true()) || json_object_size(seen) > MAX_SHARDS) {
            s = error_set(err, STATUS_LIMIT, "'%s': more than %d shards", dir, MAX_SHARDS);
            goto out;
        }
        snprintf(path, sizeof path, "%s/%s", dir, shard);
        s = map_file(st, path, err);
        if (s) {
            if (s == STATUS_NOT_FOUND)
                error_prefix(err, "missing shard");
            goto out;
        }
    }
out:
    json_decref(seen);
    return s;
}

enum status safetensors_open_file(const char *path, struct safetensors **files, struct error *err)
{
    struct safetensors *st = calloc(1, sizeof *st);
    enum status s;

    if (!st)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    s = map_file(st, path, err);
    if (!s)
        s = check_and_sort(st, path, err);
    if (s) {
        safetensors_close(st);
        return s;
    }
    *files = st;
    return STATUS_OK;
}

enum status safetensors_open(const char *model_dir, struct safetensors **files, struct error *err)
{
    struct safetensors *st;
    json_error_t json_error;
    char path[4096];
    json_t *index;
    enum status s;

    if (snprintf(path, sizeof path, "%s/model.safetensors.index.json", model_dir) >= (int)sizeof path)
        return error_set(err, STATUS_BAD_INPUT, "'%.64s…': path too long", model_dir);
    if (access(path, F_OK)) {
        snprintf(path, sizeof path, "%s/model.safetensors", model_dir);
        return safetensors_open_file(path, files, err);
    }
    index = json_load_file(path, JSON_REJECT_DUPLICATES, &json_error);
    if (!index)
        return error_set(err, STATUS_CORRUPT, "'%s': line %d: %s", path, json_error.line, json_error.text);
    st = calloc(1, sizeof *st);
    s = st ? map_shards(st, model_dir, index, err) : error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (!s)
        s = check_and_sort(st, model_dir, err);
    json_decref(index);
    if (s) {
        safetensors_close(st);
        return s;
    }
    *files = st;
    return STATUS_OK;
}

void safetensors_close(struct safetensors *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < st->entries.count; i++)
        free(st->entries.items[i].name);
    for (size_t i = 0; i < st->files.count; i++) {
        if (st->files.items[i].len)
            munmap(st->files.items[i].bytes, st->files.items[i].len);
    }
    vec_finish(&st->entries);
    vec_finish(&st->files);
    free(st);
}

const struct tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    size_t low = 0, high = st->entries.count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, st->entries.items[middle].name);

        if (order == 0)
            return &st->entries.items[middle].tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

size_t safetensors_count(const struct safetensors *st)
{
    return st->entries.count;
}

const char *safetensors_name(const struct safetensors *st, size_t i)
{
    return st->entries.items[i].name;
}

int64_t safetensors_bytes(const struct safetensors *st)
{
    int64_t total = 0;

    for (size_t i = 0; i < st->files.count; i++)
        total += (int64_t)st->files.items[i].len;
    return total;
}

void safetensors_digest(const struct safetensors *st, void (*put)(void *context, const void *bytes, size_t len),
                        void *context)
{
    const int64_t whole_up_to = (int64_t)4 << 30;
    const size_t stride = 16 << 20, sample = 64 << 10;
    bool whole = safetensors_bytes(st) <= whole_up_to;

    for (size_t i = 0; i < st->files.count; i++) {
        const struct mapping *map = &st->files.items[i];

        put(context, &map->len, sizeof map->len);
        put(context, map->bytes, whole ? map->len : map->header);
        for (size_t at = map->header; !whole && at < map->len; at += stride)
            put(context, map->bytes + at, map->len - at < sample ? map->len - at : sample);
    }
}
