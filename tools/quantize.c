/* quantize.c: a checkpoint directory to its FP8 form, shard by shard.
 *
 * Every shard becomes a shard of the same name. Inside, F32 tensors come first (the scales among them), then BF16, then
 * the codes, so that each begins at a multiple of its element's size. A shard is laid out before a byte is written;
 * tensors are then written at their places, so that no more than one matrix is held in memory.
 *
 *   OUT.part/…  every file written, synced  →  OUT.part synced  →  renamed OUT  →  parent synced */
#include "tools/quantize.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <jansson.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/vec.h"
#include "engine/safetensors.h"

enum { MAX_SHARDS = 4096, MAX_HEADER_BYTES = 100 << 20, PATH_BYTES = 4096, BLOCK = 128, WRITE_BYTES = 8 << 20 };

/* One tensor of the shard being written. */
struct piece {
    char *name; /* owned; for scales, the matrix's name with "_scale_inv" */
    const struct tensor *source;
    enum dtype dtype; /* as written */
    int64_t dims[TENSOR_MAX_DIMS];
    int dim_count;
    size_t bytes, offset;
    bool quantized;    /* codes: its scales are pieces.items[scales] */
    bool is_scales;
    size_t scales;
};

typedef VEC(struct piece) piece_list;

struct run {
    const struct quantize_options *options;
    struct quantize_totals *totals;
    struct error *err;
    char target[PATH_BYTES], part[PATH_BYTES]; /* OUT without slashes at its end, and beside it OUT.part */
    int threads;
    bool has_index;
    json_t *shards;     /* name → null, in the order of the index */
    json_t *weight_map; /* of the new index */
    double squared_error, squared_sum;
};

/* --- Which tensors ------------------------------------------------------------------------------------ */

bool quantize_wants(const char *name, const struct tensor *tensor)
{
    static const char *const patterns[] = {
        "*.self_attn.q_proj.weight",      "*.self_attn.q_a_proj.weight", "*.self_attn.q_b_proj.weight",
        "*.self_attn.kv_a_proj_with_mqa.weight", "*.self_attn.kv_b_proj.weight", "*.self_attn.o_proj.weight",
        "*.self_attn.indexer.wq_b.weight", "*.self_attn.indexer.wk.weight", "*.mlp.gate_proj.weight",
        "*.mlp.up_proj.weight",           "*.mlp.down_proj.weight",      "*.mlp.experts.*_proj.weight",
        "*.mlp.shared_experts.*_proj.weight",
    };

    if (tensor->dim_count != 2 || (tensor->dtype != DTYPE_F32 && tensor->dtype != DTYPE_BF16))
        return false;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    }
    return false;
}

/* --- Files -------------------------------------------------------------------------------------------- */

static enum status io_error(struct run *run, const char *path)
{
    return error_set(run->err, errno == ENOSPC ? STATUS_LIMIT : STATUS_IO, "'%s': %s", path, strerror(errno));
}

static enum status join(struct run *run, char out[PATH_BYTES], const char *dir, const char *name)
{
    if (snprintf(out, PATH_BYTES, "%s/%s", dir, name) >= PATH_BYTES)
        return error_set(run->err, STATUS_BAD_INPUT, "'%.100s…': path too long", dir);
    return STATUS_OK;
}

static enum status create(struct run *run, const char *path, int *fd)
{
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return *fd < 0 ? io_error(run, path) : STATUS_OK;
}

static enum status write_at(struct run *run, int fd, const char *path, const void *bytes, size_t len, size_t offset)
{
    const char *at = bytes;

    while (len) {
        size_t piece = len < WRITE_BYTES ? len : WRITE_BYTES;
        ssize_t wrote = pwrite(fd, at, piece, (off_t)offset);

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return io_error(run, path);
        at += wrote;
        offset += (size_t)wrote;
        len -= (size_t)wrote;
    }
    return STATUS_OK;
}

/* Closes; a file counts as written only after its sync. */
static enum status finish(struct run *run, int fd, const char *path, enum status status)
{
    if (!status && fsync(fd))
        status = io_error(run, path);
    if (close(fd) && !status)
        status = io_error(run, path);
    return status;
}

static enum status sync_dir(struct run *run, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? io_error(run, path) : finish(run, fd, path, STATUS_OK);
}

static enum status write_json(struct run *run, const char *name, const json_t *root)
{
    char path[PATH_BYTES], *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    enum status status;
    int fd;

    if (!text)
        return error_set(run->err, STATUS_NO_MEMORY, "out of memory");
    status = join(run, path, run->part, name);
    if (!status && !(status = create(run, path, &fd))) {
        status = write_at(run, fd, path, text, strlen(text), 0);
        status = status ? status : write_at(run, fd, path, "\n", 1, strlen(text));
        status = finish(run, fd, path, status);
    }
    free(text);
    return status;
}

/* --- One shard ---------------------------------------------------------------------------------------- */

static const char *format_name(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32: return "F32";
    case DTYPE_BF16: return "BF16";
    case DTYPE_F8E4M3: return "F8_E4M3";
    case DTYPE_I32: return "I32";
    case DTYPE_U8: return "U8";
    }
    return "?";
}

static void pieces_finish(piece_list *pieces)
{
    for (size_t i = 0; i < pieces->count; i++)
        free(pieces->items[i].name);
    vec_finish(pieces);
}

static enum status add_piece(struct run *run, piece_list *pieces, const char *name, const char *suffix,
                             struct piece piece)
{
    piece.bytes = dtype_bytes(piece.dtype);
    for (int i = 0; i < piece.dim_count; i++)
        piece.bytes *= (size_t)piece.dims[i];
    if (vec_reserve(pieces, 1) || asprintf(&piece.name, "%s%s", name, suffix) < 0)
        return error_set(run->err, STATUS_NO_MEMORY, "out of memory");
    pieces->items[pieces->count++] = piece;
    return STATUS_OK;
}

/* The header of an input shard, for the order of its tensors and those that the reader passes over. */
static enum status read_header(struct run *run, const char *path, json_t **header)
{
    FILE *file = fopen(path, "rb");
    unsigned char word[8];
    uint64_t len = 0;
    char *text = NULL;
    enum status status = STATUS_CORRUPT;

    if (!file)
        return io_error(run, path);
    if (fread(word, 1, 8, file) == 8) {
        for (int i = 7; i >= 0; i--)
            len = len << 8 | word[i];
        text = len <= MAX_HEADER_BYTES ? malloc(len + 1) : NULL;
        if (text && fread(text, 1, len, file) == len && (*header = json_loadb(text, len, 0, NULL)))
            status = STATUS_OK;
    }
    free(text);
    (void)fclose(file);
    return status ? error_set(run->err, status, "'%s': unreadable header", path) : STATUS_OK;
}

static enum status plan_tensor(struct run *run, const char *path, const char *name, const struct tensor *source,
                               piece_list *pieces)
{
    struct piece piece = {.source = source, .dim_count = 2};
    enum status status;

    if (!source)
        return error_set(run->err, STATUS_UNSUPPORTED, "'%s': tensor '%s' is of a type that is neither BF16 nor F32",
                         path, name);
    if (source->dtype == DTYPE_F8E4M3)
        return error_set(run->err, STATUS_BAD_INPUT, "'%s': tensor '%s' is FP8 already", path, name);
    piece.quantized = quantize_wants(name, source);
    piece.dtype = source->dtype;
    if (piece.quantized) {
        piece.dtype = DTYPE_F32;
        piece.quantized = false;
        piece.is_scales = true;
        piece.dims[0] = (source->dims[0] + BLOCK - 1) / BLOCK;
        piece.dims[1] = (source->dims[1] + BLOCK - 1) / BLOCK;
        if ((status = add_piece(run, pieces, name, "_scale_inv", piece)))
            return status;
        piece.scales = pieces->count - 1;
        piece.is_scales = false;
        piece.quantized = true;
        piece.dtype = DTYPE_F8E4M3;
    }
    piece.dim_count = source->dim_count;
    memcpy(piece.dims, source->dims, sizeof piece.dims);
    return add_piece(run, pieces, name, "", piece);
}

/* Gives every piece its place, and makes the header: 8 bytes of length, JSON, blanks to a multiple of 8. */
static enum status lay_out(struct run *run, piece_list *pieces, const json_t *metadata, char **text, size_t *text_len)
{
    static const enum dtype order[] = {DTYPE_F32, DTYPE_I32, DTYPE_BF16, DTYPE_F8E4M3, DTYPE_U8};
    json_t *header = json_object();
    size_t offset = 0, len, padded;
    char *json = NULL;
    bool ok = header != NULL;

    if (metadata)
        ok = ok && json_object_set(header, "__metadata__", (json_t *)metadata) == 0;
    for (size_t type = 0; type < sizeof order / sizeof *order; type++) {
        for (size_t i = 0; i < pieces->count && ok; i++) {
            struct piece *piece = &pieces->items[i];
            json_t *dims = json_array();

            if (piece->dtype != order[type]) {
                json_decref(dims);
                continue;
            }
            for (int d = 0; d < piece->dim_count; d++)
                ok = ok && json_array_append_new(dims, json_integer(piece->dims[d])) == 0;
            piece->offset = offset;
            ok = ok && json_object_set_new(header, piece->name,
                                           json_pack("{s:s,s:o,s:[I,I]}", "dtype", format_name(piece->dtype), "shape",
                                                     dims, "data_offsets", (json_int_t)offset,
                                                     (json_int_t)(offset + piece->bytes))) == 0;
            offset += piece->bytes;
        }
    }
    json = ok ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!json)
        return error_set(run->err, STATUS_NO_MEMORY, "out of memory");
    len = strlen(json);
    padded = (len + 7) / 8 * 8;
    *text = malloc(8 + padded);
    if (!*text) {
        free(json);
        return error_set(run->err, STATUS_NO_MEMORY, "out of memory");
    }
    for (int i = 0; i < 8; i++)
        (*text)[i] = (char)((uint64_t)padded >> (8 * i) & 0xFF);
    memcpy(*text + 8, json, len);
    memset(*text + 8 + len, ' ', padded - len);
    *text_len = 8 + padded;
    free(json);
    return STATUS_OK;
}

static void report(struct run *run, const struct piece *piece, size_t bytes_after, const struct quantize_matrix *matrix)
{
    struct quantize_report line = {
        .name = piece->name, .from = piece->source->dtype, .quantized = piece->quantized,
        .bytes_before = (size_t)tensor_count(piece->source) * dtype_bytes(piece->source->dtype),
        .bytes_after = bytes_after,
    };

    run->totals->tensors++;
    run->totals->bytes_before += line.bytes_before;
    run->totals->bytes_after += line.bytes_after;
    if (piece->quantized) {
        run->totals->quantized++;
        run->squared_error += matrix->squared_error;
        run->squared_sum += matrix->squared_sum;
        line.relative_error = matrix->squared_sum > 0 ? sqrt(matrix->squared_error / matrix->squared_sum) : 0;
        line.largest_error = matrix->largest_error;
    }
    if (run->options->report)
        run->options->report(run->options->context, &line);
}

static enum status write_quantized(struct run *run, int fd, const char *path, size_t base, const piece_list *pieces,
                                   const struct piece *piece)
{
    const struct piece *scales = &pieces->items[piece->scales];
    struct quantize_matrix matrix = {.source = piece->source, .float_scales = run->options->float_scales};
    enum status status = STATUS_NO_MEMORY;

    matrix.codes = malloc(piece->bytes + 1);
    matrix.scales = malloc(scales->bytes + 1);
    if (matrix.codes && matrix.scales)
        status = quantize_matrix(&matrix, run->threads);
    if (status == STATUS_BAD_INPUT)
        (void)error_set(run->err, status, "tensor '%s' holds a value that is not finite", piece->name);
    else if (status)
        (void)error_set(run->err, status, "tensor '%s': out of memory", piece->name);
    else if (!(status = write_at(run, fd, path, matrix.codes, piece->bytes, base + piece->offset)) &&
             !(status = write_at(run, fd, path, matrix.scales, scales->bytes, base + scales->offset)))
        report(run, piece, piece->bytes + scales->bytes, &matrix);
    free(matrix.codes);
    free(matrix.scales);
    return status;
}

static enum status write_pieces(struct run *run, const char *shard, const piece_list *pieces, const char *header,
                                size_t header_len)
{
    char path[PATH_BYTES];
    enum status status;
    int fd;

    if ((status = join(run, path, run->part, shard)) || (status = create(run, path, &fd)))
        return status;
    status = write_at(run, fd, path, header, header_len, 0);
    for (size_t i = 0; i < pieces->count && !status; i++) {
        const struct piece *piece = &pieces->items[i];

        if (!status && json_object_set_new(run->weight_map, piece->name, json_string(shard)))
            status = error_set(run->err, STATUS_NO_MEMORY, "out of memory");
        else if (piece->quantized)
            status = write_quantized(run, fd, path, header_len, pieces, piece);
        else if (!piece->is_scales &&
                 !(status = write_at(run, fd, path, piece->source->data, piece->bytes, header_len + piece->offset)))
            report(run, piece, piece->bytes, NULL);
    }
    return finish(run, fd, path, status);
}

static enum status quantize_shard(struct run *run, const char *shard)
{
    struct safetensors *files = NULL;
    piece_list pieces = {0};
    json_t *header = NULL;
    const json_t *value;
    char path[PATH_BYTES], *text = NULL;
    const char *name;
    size_t text_len = 0;
    enum status status;

    if ((status = join(run, path, run->options->in, shard)) ||
        (status = safetensors_open_file(path, &files, run->err)) || (status = read_header(run, path, &header)))
        goto out;
    json_object_foreach(header, name, value) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if ((status = plan_tensor(run, path, name, safetensors_find(files, name), &pieces)))
            goto out;
    }
    if ((status = lay_out(run, &pieces, json_object_get(header, "__metadata__"), &text, &text_len)))
        goto out;
    status = write_pieces(run, shard, &pieces, text, text_len);
    run->totals->shards++;

out:
    free(text);
    pieces_finish(&pieces);
    json_decref(header);
    safetensors_close(files);
    return status;
}

/* --- The checkpoint ----------------------------------------------------------------------------------- */

/* A name out of an index may not leave the directory. */
static bool plain_name(const char *name)
{
    return name && *name && *name != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static enum status list_shards(struct run *run)
{
    char path[PATH_BYTES];
    json_t *index = NULL, *value;
    json_error_t where;
    const char *tensor;
    enum status status;

    if ((status = join(run, path, run->options->in, "model.safetensors.index.json")))
        return status;
    if (access(path, F_OK) != 0)
        return json_object_set_new(run->shards, "model.safetensors", json_null())
                   ? error_set(run->err, STATUS_NO_MEMORY, "out of memory") : STATUS_OK;
    run->has_index = true;
    index = json_load_file(path, 0, &where);
    if (!json_is_object(json_object_get(index, "weight_map")))
        status = error_set(run->err, STATUS_CORRUPT, "'%s': %s", path, index ? "no \"weight_map\"" : where.text);
    json_object_foreach(json_object_get(index, "weight_map"), tensor, value) {
        if (!plain_name(json_string_value(value)))
            status = error_set(run->err, STATUS_CORRUPT, "'%s': tensor '%.100s': bad file name", path, tensor);
        else if (json_object_set_new(run->shards, json_string_value(value), json_null()))
            status = error_set(run->err, STATUS_NO_MEMORY, "out of memory");
        if (!status && json_object_size(run->shards) > MAX_SHARDS)
            status = error_set(run->err, STATUS_LIMIT, "'%s': more than %d shards", path, MAX_SHARDS);
        if (status)
            break;
    }
    json_decref(index);
    return status;
}

/* config.json, with what says that the weights are FP8. */
static enum status make_config(struct run *run, json_t **config)
{
    char path[PATH_BYTES];
    json_error_t where;
    enum status status;
    const json_t *before;
    json_t *root, *quantization;

    if ((status = join(run, path, run->options->in, "config.json")))
        return status;
    root = json_load_file(path, 0, &where);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(run->err, STATUS_CORRUPT, "'%s': %s", path, root ? "not an object" : where.text);
    }
    before = json_object_get(root, "quantization_config");
    if (before && !json_is_null(before)) {
        json_decref(root);
        return error_set(run->err, STATUS_BAD_INPUT, "'%s': quantised already (quantization_config)", path);
    }
    quantization = json_pack("{s:s,s:s,s:s,s:[i,i]}", "activation_scheme", "dynamic", "fmt", "e4m3", "quant_method",
                             "fp8", "weight_block_size", BLOCK, BLOCK);
    if (quantization && !run->options->float_scales &&
        json_object_set_new(quantization, "scale_fmt", json_string("ue8m0"))) {
        json_decref(quantization);
        quantization = NULL;
    }
    if (!quantization || json_object_set_new(root, "quantization_config", quantization)) {
        json_decref(root);
        return error_set(run->err, STATUS_NO_MEMORY, "out of memory");
    }
    *config = root;
    return STATUS_OK;
}

static enum status copy_file(struct run *run, const char *name)
{
    char from[PATH_BYTES], to[PATH_BYTES], *bytes = malloc(WRITE_BYTES);
    int in = -1, out = -1;
    size_t offset = 0;
    enum status status = bytes ? STATUS_OK : error_set(run->err, STATUS_NO_MEMORY, "out of memory");

    if (status || (status = join(run, from, run->options->in, name)) || (status = join(run, to, run->part, name)))
        goto out;
    in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0) {
        status = io_error(run, from);
        goto out;
    }
    if ((status = create(run, to, &out)))
        goto out;
    for (;;) {
        ssize_t got = read(in, bytes, WRITE_BYTES);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = io_error(run, from);
        if (got <= 0 || (status = write_at(run, out, to, bytes, (size_t)got, offset)))
            break;
        offset += (size_t)got;
    }
    status = finish(run, out, to, status);

out:
    if (in >= 0)
        (void)close(in);
    free(bytes);
    return status;
}

/* Everything beside the weights and what is made anew: tokenizer.json, generation_config.json, LICENSE, … */
static enum status copy_others(struct run *run)
{
    enum status status = STATUS_OK;
    DIR *dir = opendir(run->options->in);
    const struct dirent *entry;

    if (!dir)
        return io_error(run, run->options->in);
    while (!status && (entry = readdir(dir))) {
        const char *name = entry->d_name;
        char path[PATH_BYTES];
        struct stat st;

        if (name[0] == '.' || fnmatch("*.safetensors", name, 0) == 0 || strcmp(name, "config.json") == 0 ||
            strcmp(name, "model.safetensors.index.json") == 0)
            continue;
        status = join(run, path, run->options->in, name);
        if (!status && stat(path, &st) == 0 && S_ISREG(st.st_mode))
            status = copy_file(run, name);
    }
    (void)closedir(dir);
    return status;
}

/* What an earlier run that was stopped left behind. OUT.part is ours by its name; only plain files are removed. */
static enum status clear_part(struct run *run)
{
    DIR *dir = opendir(run->part);
    const struct dirent *entry;

    if (!dir)
        return io_error(run, run->part);
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && unlinkat(dirfd(dir), entry->d_name, 0)) {
            enum status status = io_error(run, run->part);

            (void)closedir(dir);
            return status;
        }
    }
    (void)closedir(dir);
    return STATUS_OK;
}

/* Before a long run: the result is at most half of F32 and a little above half of BF16; be sure of 60% of the input. */
static enum status check_room(struct run *run)
{
    const char *shard;
    const json_t *value;
    struct statvfs fs;
    uint64_t need = 0;

    json_object_foreach(run->shards, shard, value) {
        char path[PATH_BYTES];
        struct stat st;
        enum status status = join(run, path, run->options->in, shard);

        if (status)
            return status;
        if (stat(path, &st))
            return error_set(run->err, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s': %s", path,
                             strerror(errno));
        need += (uint64_t)st.st_size / 10 * 6;
    }
    if (statvfs(run->part, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < need)
        return error_set(run->err, STATUS_LIMIT, "'%s': %llu MiB free, about %llu MiB needed", run->part,
                         (unsigned long long)((uint64_t)fs.f_bavail * fs.f_frsize >> 20),
                         (unsigned long long)(need >> 20));
    return STATUS_OK;
}

static enum status write_index(struct run *run)
{
    json_t *index = json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)run->totals->bytes_after,
                              "weight_map", run->weight_map);
    enum status status = index ? write_json(run, "model.safetensors.index.json", index)
                               : error_set(run->err, STATUS_NO_MEMORY, "out of memory");

    json_decref(index);
    return status;
}

static enum status publish(struct run *run)
{
    char parent[PATH_BYTES], *slash;
    enum status status = sync_dir(run, run->part);

    if (status)
        return status;
    if (rename(run->part, run->target))
        return io_error(run, run->target);
    memcpy(parent, run->target, sizeof parent);
    slash = strrchr(parent, '/');
    if (slash && slash != parent)
        *slash = '\0';
    return sync_dir(run, slash == parent ? "/" : slash ? parent : ".");
}

static int cpu_count(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static enum status prepare(struct run *run)
{
    size_t len = strlen(run->options->out);
    struct stat st;

    while (len > 1 && run->options->out[len - 1] == '/')
        len--;
    if (len == 0 || len > PATH_BYTES - 8)
        return error_set(run->err, STATUS_BAD_INPUT, "'%.100s': not a usable path", run->options->out);
    (void)snprintf(run->target, sizeof run->target, "%.*s", (int)len, run->options->out);
    (void)snprintf(run->part, sizeof run->part, "%.*s.part", (int)len, run->options->out);
    if (lstat(run->target, &st) == 0)
        return error_set(run->err, STATUS_BAD_INPUT, "'%s' is there already", run->target);
    if (mkdir(run->part, 0755) == 0)
        return STATUS_OK;
    return errno == EEXIST ? clear_part(run) : io_error(run, run->part);
}

enum status quantize_checkpoint(const struct quantize_options *options, struct quantize_totals *totals,
                                struct error *err)
{
    struct run run = {.options = options, .totals = totals, .err = err};
    json_t *config = NULL;
    const json_t *value;
    const char *shard;
    enum status status;

    *totals = (struct quantize_totals){0};
    run.threads = options->threads > 0 ? options->threads : cpu_count();
    run.shards = json_object();
    run.weight_map = json_object();
    if (!run.shards || !run.weight_map) {
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
        goto out;
    }
    if ((status = make_config(&run, &config)) || (status = list_shards(&run)) || (status = prepare(&run)) ||
        (status = check_room(&run)))
        goto out;
    json_object_foreach(run.shards, shard, value) {
        if ((status = quantize_shard(&run, shard)))
            goto out;
    }
    if (run.has_index && (status = write_index(&run)))
        goto out;
    if ((status = copy_others(&run)) || (status = write_json(&run, "config.json", config)))
        goto out;
    totals->relative_error = run.squared_sum > 0 ? sqrt(run.squared_error / run.squared_sum) : 0;
    status = publish(&run);

out:
    json_decref(config);
    json_decref(run.shards);
    json_decref(run.weight_map);
    return status;
}
