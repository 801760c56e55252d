/* package.c: the parts of a zipped document, their relations and what kind of document it is. */
#include "ingest/package.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "ingest/frame_writer.h"
#include "ingest/limits.h"
#include "ingest/xml_walk.h"

enum {
    PART_BYTES_MAX = 128 << 20,  /* one part: a sheet of a million cells has 60 MB */
    TOTAL_BYTES_MAX = 384 << 20, /* all parts, which live in memory together */
    PARTS_MAX = 20000,
    NAME_BYTES = 512
};

struct part {
    char *name;
    struct buf bytes;
};

struct package {
    VEC(struct part) parts;
    size_t total;
};

/* --- Parts ------------------------------------------------------------------------------------------------------- */

static bool is_text_part(const char *name)
{
    static const char *const endings[] = {".xml", ".rels", ".xhtml", ".html", ".htm", ".opf"};
    size_t len = strlen(name);

    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t tail = strlen(endings[i]);

        if (len > tail && strcmp(name + len - tail, endings[i]) == 0)
            return true;
    }
    return strcmp(name, "mimetype") == 0;
}

/* Reads the current entry. A part beyond its cap is left out and reported. */
static enum status add_part(struct package *package, struct archive *archive, const char *name,
                            const struct reader_job *job, size_t whole, struct error *err)
{
    struct part part = {0};
    enum status status = STATUS_OK;

    buf_init(&part.bytes, PART_BYTES_MAX);
    for (;;) {
        const void *bytes;
        size_t len;
        la_int64_t offset;
        int rc = archive_read_data_block(archive, &bytes, &len, &offset);

        if (rc == ARCHIVE_RETRY)
            continue;
        if (rc == ARCHIVE_EOF)
            break;
        if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN) {
            status = frame_writer_problem(job->out, "damaged-part", 0, "'%s': %s", name, archive_error_string(archive));
            break; /* what came is kept */
        }
        package->total += len;
        if (package->total > LIMIT_ARCHIVE_RATIO_GRACE_BYTES && package->total / LIMIT_ARCHIVE_RATIO > whole)
            status = frame_writer_fail(job->out, err, "limit-ratio", "'%s' expands more than %d:1", name,
                                       LIMIT_ARCHIVE_RATIO);
        else if (package->total > TOTAL_BYTES_MAX)
            status = frame_writer_fail(job->out, err, "limit-total", "more than %d bytes of XML", TOTAL_BYTES_MAX);
        else
            status = buf_append(&part.bytes, bytes, len);
        if (status)
            break;
    }
    if (status == STATUS_LIMIT) {
        buf_finish(&part.bytes);
        return frame_writer_problem(job->out, "limit-member", 0, "'%s' has more than %d bytes", name, PART_BYTES_MAX);
    }
    part.name = status ? NULL : strdup(name);
    if (!status && (!part.name || vec_reserve(&package->parts, 1)))
        status = error_set(err, STATUS_NO_MEMORY, "no memory for '%s'", name);
    if (status) {
        free(part.name);
        buf_finish(&part.bytes);
        return status;
    }
    package->parts.items[package->parts.count++] = part;
    return STATUS_OK;
}

static enum status read_parts(struct package *package, struct archive *archive, const struct reader_job *job,
                              size_t whole, struct error *err)
{
    struct archive_entry *entry;
    enum status status = STATUS_OK;

    for (int seen = 0; !status && seen < PARTS_MAX; seen++) {
        int rc = archive_read_next_header(archive, &entry);
        const char *name;

        if (rc == ARCHIVE_EOF)
            return STATUS_OK;
        if (rc == ARCHIVE_RETRY)
            continue;
        if (rc == ARCHIVE_FATAL || rc == ARCHIVE_FAILED) {
            if (package->parts.count)
                return frame_writer_problem(job->out, "damaged", 0, "%s", archive_error_string(archive));
            return frame_writer_fail(job->out, err, "damaged", "%s", archive_error_string(archive));
        }
        name = archive_entry_pathname(entry);
        if (!name || strlen(name) >= NAME_BYTES || !is_text_part(name))
            continue;
        if (archive_entry_is_data_encrypted(entry) > 0)
            return frame_writer_fail(job->out, err, "encrypted", "encrypted");
        status = add_part(package, archive, name, job, whole, err);
        if (!status)
            status = frame_writer_alive(job->out);
    }
    return status;
}

enum status package_open(const struct reader_job *job, struct package **out, struct error *err)
{
    struct package *package = calloc(1, sizeof *package);
    struct archive *archive = archive_read_new();
    struct span whole;
    enum status status;

    if (!package || !archive) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a package");
        goto out;
    }
    status = source_map(job->source, &whole, err);
    if (status)
        goto out;
    (void)archive_read_support_format_zip(archive);
    if (archive_read_open_memory(archive, whole.ptr, whole.len) != ARCHIVE_OK)
        status = frame_writer_fail(job->out, err, "damaged", "%s", archive_error_string(archive));
    else
        status = read_parts(package, archive, job, whole.len, err);
out:
    if (archive)
        (void)archive_read_free(archive);
    if (status)
        package_close(package);
    else
        *out = package;
    return status;
}

void package_close(struct package *package)
{
    if (!package)
        return;
    for (size_t i = 0; i < package->parts.count; i++) {
        free(package->parts.items[i].name);
        buf_finish(&package->parts.items[i].bytes);
    }
    vec_finish(&package->parts);
    free(package);
}

struct span package_part(const struct package *package, const char *name)
{
    for (size_t i = 0; i < package->parts.count; i++) {
        if (strcmp(package->parts.items[i].name, name) == 0)
            return buf_span(&package->parts.items[i].bytes);
    }
    return span_of(NULL, 0);
}

const char *package_part_name(const struct package *package, size_t index)
{
    return index < package->parts.count ? package->parts.items[index].name : NULL;
}

/* --- Relations --------------------------------------------------------------------------------------------------- */

struct relation_search {
    const char *id, *type;
    char target[NAME_BYTES];
};

static void relation_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct relation_search *search = context;
    char id[64], type[256];
    size_t len;

    if (search->target[0] || strcmp(name, "Relationship") != 0)
        return;
    (void)xml_attribute(attributes, "Id", id, sizeof id);
    (void)xml_attribute(attributes, "Type", type, sizeof type);
    len = strlen(type);
    if (search->id ? strcmp(id, search->id) == 0
                   : len >= strlen(search->type) && strcmp(type + len - strlen(search->type), search->type) == 0)
        (void)xml_attribute(attributes, "Target", search->target, sizeof search->target);
}

static void ignore_end(void *context, const char *name)
{
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

bool package_resolve(const char *part, const char *href, char *target, size_t size)
{
    const char *slash = strrchr(part, '/');
    char path[2 * NAME_BYTES];
    size_t len = 0, used = 0;

    if (href[0] != '/' && slash)
        len = (size_t)(slash - part) + 1;
    if (len + strlen(href) + 1 > sizeof path || strstr(href, "://"))
        return false;
    memcpy(path, part, len);
    for (const char *at = href; *at && *at != '#' && *at != '?'; at++) {
        if (*at == '%' && hex_digit(at[1]) >= 0 && hex_digit(at[2]) >= 0) {
            path[len++] = (char)(hex_digit(at[1]) << 4 | hex_digit(at[2]));
            at += 2;
        } else {
            path[len++] = *at;
        }
    }
    path[len] = '\0';
    for (char *rest = path, *step; (step = strsep(&rest, "/")) != NULL;) {
        if (*step == '\0' || strcmp(step, ".") == 0)
            continue;
        if (strcmp(step, "..") == 0) {
            while (used && target[used - 1] != '/')
                used--;
            used -= used > 0;
            continue;
        }
        if (used + strlen(step) + 2 > size)
            return false;
        used += (size_t)snprintf(target + used, size - used, "%s%s", used ? "/" : "", step);
    }
    target[used < size ? used : 0] = '\0';
    return used > 0;
}

bool package_relation(const struct package *package, const char *part, const char *id, const char *type, char *target,
                      size_t size)
{
    struct relation_search search = {.id = id, .type = type};
    struct xml_events events = {relation_start, ignore_end, NULL, &search};
    const char *slash = strrchr(part, '/');
    char rels[NAME_BYTES + 16];

    (void)snprintf(rels, sizeof rels, "%.*s_rels/%s.rels", slash ? (int)(slash - part) + 1 : 0, part,
                   slash ? slash + 1 : part);
    (void)xml_walk(package_part(package, rels), &events, NULL);
    return search.target[0] && package_resolve(part, search.target, target, size);
}

/* --- Metadata ---------------------------------------------------------------------------------------------------- */

enum { FIELD_BYTES = 1024 };

struct meta_search {
    char title[FIELD_BYTES], author[FIELD_BYTES], created[FIELD_BYTES], modified[FIELD_BYTES], language[FIELD_BYTES];
    char *field; /* the one that text goes to */
};

static void meta_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct meta_search *m = context;

    m->field = NULL;
    if (strcmp(name, "title") == 0)
        m->field = m->title;
    else if (strcmp(name, "creator") == 0 || strcmp(name, "initial-creator") == 0)
        m->field = m->author;
    else if (strcmp(name, "created") == 0 || strcmp(name, "creation-date") == 0)
        m->field = m->created;
    else if (strcmp(name, "modified") == 0)
        m->field = m->modified;
    else if (strcmp(name, "language") == 0)
        m->field = m->language;
    if (m->field && m->field[0])
        m->field = NULL; /* the first of several */
}

static void meta_end(void *context, const char *name)
{
    ((struct meta_search *)context)->field = NULL;
}

static void meta_text(void *context, struct span text)
{
    struct meta_search *m = context;
    size_t used;

    if (!m->field)
        return;
    used = strlen(m->field);
    (void)snprintf(m->field + used, FIELD_BYTES - used, "%.*s", (int)text.len, text.ptr);
}

enum status package_send_meta(const struct package *package, const char *part, struct frame_writer *out)
{
    struct meta_search *m = calloc(1, sizeof *m);
    struct xml_events events = {meta_start, meta_end, meta_text, m};
    struct frame_meta meta;
    enum status status;

    if (!m)
        return STATUS_NO_MEMORY;
    (void)xml_walk(package_part(package, part), &events, NULL);
    meta = (struct frame_meta){m->title, m->author, m->created, m->modified, m->language, 0};
    status = frame_writer_meta(out, &meta);
    free(m);
    return status;
}

/* --- What kind of document a zip is ----------------------------------------------------------------------- */

static unsigned le16(const char *at)
{
    return (unsigned char)at[0] | (unsigned)(unsigned char)at[1] << 8;
}

static unsigned long le32(const char *at)
{
    return le16(at) | (unsigned long)le16(at + 2) << 16;
}

/* The central directory, found by the record at the end; empty when there is none. */
static struct span central_directory(struct span zip)
{
    size_t lowest = zip.len > 65557 ? zip.len - 65557 : 0; /* a comment has 65535 bytes at most */

    for (size_t at = zip.len < 22 ? 0 : zip.len - 21; at-- > lowest;) {
        if (memcmp(zip.ptr + at, "PK\5\6", 4) == 0)
            return span_slice(zip, le32(zip.ptr + at + 16), le32(zip.ptr + at + 16) + le32(zip.ptr + at + 12));
    }
    return span_of(NULL, 0);
}

const struct reader *package_reader(struct span zip)
{
    static const struct {
        const char *part;
        const struct reader *reader;
    } kinds[] = {
        {"word/document.xml", &reader_docx},
        {"xl/workbook.xml", &reader_xlsx},
        {"ppt/presentation.xml", &reader_pptx},
        {"META-INF/container.xml", &reader_epub},
    };
    struct span directory = central_directory(zip);
    bool has_content = false, has_manifest = false;

    for (size_t at = 0; at + 46 <= directory.len && memcmp(directory.ptr + at, "PK\1\2", 4) == 0;) {
        struct span name = span_slice(directory, at + 46, at + 46 + le16(directory.ptr + at + 28));

        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            if (span_equal_cstr(name, kinds[i].part))
                return kinds[i].reader;
        }
        has_content |= span_equal_cstr(name, "content.xml");
        has_manifest |= span_equal_cstr(name, "META-INF/manifest.xml");
        at +=
            46 + (size_t)le16(directory.ptr + at + 28) + le16(directory.ptr + at + 30) + le16(directory.ptr + at + 32);
    }
    return has_content && has_manifest ? &reader_odf : NULL;
}
