/* unpack.c: archives and compressed files by libarchive, member by member, into frames.
 *
 * Only zip, tar, gzip, bzip2, xz and zstd are registered: libarchive's other readers have a record of memory
 * errors. Nothing is written to disk and no name is opened. A zip is read by seeking in the whole file, from a
 * pipe too, so that the central directory decides in both cases. What an archive may expand to is capped in
 * total, by ratio and by member (limits.h): the total stops entries that overlap, whose ratios look honest. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "ingest/frame_writer.h"
#include "ingest/limits.h"
#include "ingest/member_name.h"
#include "ingest/readers.h"
#include "ingest/source.h"

struct unpack {
    const struct reader_job *job;
    struct frame_writer *out;
    struct archive *archive;
    struct error *err;
    bool is_zip;
    struct span whole;       /* of a zip */
    long long total;         /* bytes that came out */
    int members;
    struct buf label;        /* the current member's name, repaired */
    enum status source_status; /* of the last source_read() */
    bool stop;               /* a cap of the whole archive was reached and reported */
};

/* --- Bids ----------------------------------------------------------------------------------------------------- */

static bool starts_with(struct span head, const char *magic, size_t len)
{
    return head.len >= len && memcmp(head.ptr, magic, len) == 0;
}

static int zip_bid(struct span head, const char *name)
{
    (void)name;
    return starts_with(head, "PK\3\4", 4) || starts_with(head, "PK\5\6", 4) ? 60 : 0;
}

/* The checksum of a tar header: the sum of its bytes, its own field taken as spaces. */
static int tar_bid(struct span head, const char *name)
{
    unsigned sum = 0, stated = 0;
    int digits = 0;

    (void)name;
    if (head.len < 512)
        return 0;
    for (int i = 0; i < 512; i++)
        sum += i >= 148 && i < 156 ? ' ' : (unsigned char)head.ptr[i];
    for (int i = 148; i < 156; i++) {
        char c = head.ptr[i];

        if (c >= '0' && c <= '7') {
            stated = stated * 8 + (unsigned)(c - '0');
            digits++;
        } else if (digits) {
            break;
        }
    }
    return digits && stated == sum && head.ptr[0] ? 70 : 0;
}

static int gzip_bid(struct span head, const char *name)
{
    (void)name;
    return starts_with(head, "\x1F\x8B\x08", 3) ? 60 : 0;
}

static int bzip2_bid(struct span head, const char *name)
{
    (void)name;
    return starts_with(head, "BZh", 3) && head.len >= 10 && (memcmp(head.ptr + 4, "1AY&SY", 6) == 0 ||
                                                            memcmp(head.ptr + 4, "\x17\x72\x45\x38\x50\x90", 6) == 0)
               ? 60
               : 0;
}

static int xz_bid(struct span head, const char *name)
{
    (void)name;
    return starts_with(head, "\xFD" "7zXZ\0", 6) ? 60 : 0;
}

static int zstd_bid(struct span head, const char *name)
{
    (void)name;
    return starts_with(head, "\x28\xB5\x2F\xFD", 4) ? 60 : 0;
}

/* --- Opening -------------------------------------------------------------------------------------------------- */

static la_ssize_t read_piece(struct archive *archive, void *context, const void **bytes)
{
    struct unpack *u = context;
    struct span piece;

    u->source_status = source_read(u->job->source, &piece, u->err);
    if (u->source_status) {
        archive_set_error(archive, EIO, "%s", u->err ? u->err->message : "read");
        return ARCHIVE_FATAL;
    }
    *bytes = piece.ptr;
    return (la_ssize_t)piece.len;
}

static enum status open_archive(struct unpack *u)
{
    int rc;

    u->archive = archive_read_new();
    if (!u->archive)
        return error_set(u->err, STATUS_NO_MEMORY, "no memory for an archive");
    if (u->is_zip) {
        enum status status = source_map(u->job->source, &u->whole, u->err);

        if (status)
            return status;
        (void)archive_read_support_format_zip(u->archive);
        if (u->job->password)
            (void)archive_read_add_passphrase(u->archive, u->job->password);
        rc = archive_read_open_memory(u->archive, u->whole.ptr, u->whole.len);
    } else {
        (void)archive_read_support_filter_gzip(u->archive);
        (void)archive_read_support_filter_bzip2(u->archive);
        (void)archive_read_support_filter_xz(u->archive);
        (void)archive_read_support_filter_zstd(u->archive);
        (void)archive_read_support_format_tar(u->archive);
        (void)archive_read_support_format_raw(u->archive); /* one compressed document */
        rc = archive_read_open(u->archive, u, NULL, read_piece, NULL);
    }
    if (rc == ARCHIVE_OK || rc == ARCHIVE_WARN)
        return STATUS_OK;
    if (strstr(archive_error_string(u->archive) ? archive_error_string(u->archive) : "", "too many filters"))
        return frame_writer_fail(u->out, u->err, "limit-depth", "compressed in more than %d layers",
                                 LIMIT_ARCHIVE_DEPTH);
    return frame_writer_fail(u->out, u->err, "damaged", "not a readable archive: %s", archive_error_string(u->archive));
}

/* Layers of compression count as archives in archives. Known after the first header was read. */
static enum status check_depth(struct unpack *u)
{
    int layers = archive_filter_count(u->archive) - 1; /* without the bytes themselves */

    if (layers < 1)
        layers = 1;
    if (u->job->archive_depth + layers <= LIMIT_ARCHIVE_DEPTH)
        return STATUS_OK;
    return frame_writer_fail(u->out, u->err, "limit-depth", "more than %d archives inside each other",
                             LIMIT_ARCHIVE_DEPTH);
}

/* --- Members -------------------------------------------------------------------------------------------------- */

/* Bytes that went in, for the ratio: all of a zip, of a stream what was taken so far. */
static long long bytes_in(struct unpack *u)
{
    return u->is_zip ? (long long)u->whole.len : (long long)archive_filter_bytes(u->archive, -1);
}

/* Counts what comes out and stops the whole archive at its caps. */
static enum status count_out(struct unpack *u, long long bytes)
{
    u->total += bytes;
    if (u->total > LIMIT_ARCHIVE_TOTAL_BYTES) {
        u->stop = true;
        return frame_writer_problem(u->out, "limit-total", 0, "stopped at '%s': more than %lld bytes in all",
                                    buf_cstr(&u->label), LIMIT_ARCHIVE_TOTAL_BYTES);
    }
    if (u->total > LIMIT_ARCHIVE_RATIO_GRACE_BYTES && u->total / LIMIT_ARCHIVE_RATIO > bytes_in(u)) {
        u->stop = true;
        return frame_writer_problem(u->out, "limit-ratio", 0, "stopped at '%s': expands more than %d:1",
                                    buf_cstr(&u->label), LIMIT_ARCHIVE_RATIO);
    }
    return STATUS_OK;
}

struct member_data {
    long long position; /* of the next byte */
    bool capped;        /* beyond LIMIT_ARCHIVE_MEMBER_BYTES: counted, not sent */
    bool complete;
};

/* Sends one block, or a hole's zeros where `bytes` is NULL, as far as the member's cap goes. */
static enum status send_block(struct unpack *u, struct member_data *data, const char *bytes, long long len)
{
    static const char zeros[1 << 16];
    enum status status = STATUS_OK;

    while (len && !data->capped && !u->stop && !status) {
        long long room = LIMIT_ARCHIVE_MEMBER_BYTES - data->position, piece = len;

        if (room <= 0) {
            data->capped = true;
            return frame_writer_problem(u->out, "limit-member", 0, "'%s' was cut at %lld bytes", buf_cstr(&u->label),
                                        LIMIT_ARCHIVE_MEMBER_BYTES);
        }
        if (!bytes && piece > (long long)sizeof zeros)
            piece = (long long)sizeof zeros;
        if (piece > room)
            piece = room;
        status = count_out(u, piece);
        if (!status && !u->stop)
            status = frame_writer_member_data(u->out, span_of(bytes ? bytes : zeros, (size_t)piece));
        data->position += piece;
        len -= piece;
        bytes = bytes ? bytes + piece : NULL;
    }
    /* What a capped member still holds costs time, so that it counts, though not one hole does. */
    if (data->capped && bytes && len && !status)
        status = count_out(u, len);
    return status;
}

static enum status send_data(struct unpack *u, struct member_data *data)
{
    const void *bytes;
    size_t len;
    la_int64_t offset;
    enum status status = STATUS_OK;

    while (!status && !u->stop) {
        int rc = archive_read_data_block(u->archive, &bytes, &len, &offset);

        if (rc == ARCHIVE_EOF) {
            data->complete = !data->capped;
            return STATUS_OK;
        }
        if (rc == ARCHIVE_RETRY)
            continue;
        if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN) {
            u->stop = rc == ARCHIVE_FATAL;
            return frame_writer_problem(u->out, "damaged-member", 0, "'%s': %s", buf_cstr(&u->label),
                                        archive_error_string(u->archive));
        }
        if (!data->capped && offset < data->position)
            return frame_writer_problem(u->out, "damaged-member", 0, "'%s' goes back in itself", buf_cstr(&u->label));
        if (!data->capped)
            status = send_block(u, data, NULL, offset - data->position);
        if (!status)
            status = send_block(u, data, bytes, (long long)len);
        if (!status)
            status = frame_writer_alive(u->out);
    }
    return status;
}

/* The name of the one document in a compressed file: the file's own, without the last part. */
static struct span inner_name(const char *outer)
{
    static const char *const endings[] = {".gz", ".bz2", ".xz", ".zst", ".GZ", ".BZ2", ".XZ"};
    struct span name = span_from_cstr(outer);

    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] == '/') {
            name = span_slice(name, i + 1, name.len);
            i = (size_t)-1;
        }
    }
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t len = strlen(endings[i]);

        if (name.len > len && memcmp(name.ptr + name.len - len, endings[i], len) == 0)
            return span_slice(name, 0, name.len - len);
    }
    return name;
}

static enum status name_member(struct unpack *u, struct archive_entry *entry, struct frame_member *member)
{
    struct member_name found;
    const char *path = archive_entry_pathname(entry);
    struct span raw = span_from_cstr(path ? path : archive_entry_pathname_utf8(entry));
    enum status status;

    if (archive_format(u->archive) == ARCHIVE_FORMAT_RAW)
        raw = inner_name(u->job->name);
    status = member_name_clean(raw, &u->label, &found);
    if (status)
        return status;
    member->name = buf_cstr(&u->label);
    if (found.not_utf8 || found.unsafe || found.cut)
        member->raw = raw;
    if (found.not_utf8)
        status = frame_writer_problem(u->out, "name-not-utf8", 0, "the name of '%s' is no text", member->name);
    if (!status && found.unsafe)
        status =
            frame_writer_problem(u->out, "name-unsafe", 0, "the name of '%s' led outside of its archive", member->name);
    if (!status && found.cut)
        status = frame_writer_problem(u->out, "name-long", 0, "the name of '%s' was cut", member->name);
    return status;
}

/* The code of what is listed and not read; NULL for a member to read. */
static const char *reason_to_skip(struct unpack *u, struct archive_entry *entry)
{
    if (archive_entry_hardlink(entry) || archive_entry_filetype(entry) == AE_IFLNK)
        return "link-skipped";
    if (archive_entry_filetype(entry) != AE_IFREG && archive_format(u->archive) != ARCHIVE_FORMAT_RAW)
        return "special-skipped";
    if (archive_entry_is_data_encrypted(entry) > 0 && !u->job->password)
        return "encrypted-member";
    return NULL;
}

static enum status send_member(struct unpack *u, struct archive_entry *entry)
{
    struct frame_member member = {.size = -1};
    struct member_data data = {0};
    const char *skip;
    enum status status;

    if (archive_entry_filetype(entry) == AE_IFDIR)
        return STATUS_OK;
    if (u->members == LIMIT_ARCHIVE_MEMBERS) {
        u->stop = true;
        return frame_writer_problem(u->out, "limit-members", 0, "more than %d members", LIMIT_ARCHIVE_MEMBERS);
    }
    u->members++;
    status = name_member(u, entry, &member);
    if (status)
        return status;
    skip = reason_to_skip(u, entry);
    if (skip)
        return frame_writer_member_skipped(u->out, &member, skip);
    if (archive_entry_size_is_set(entry))
        member.size = archive_entry_size(entry);
    if (archive_entry_mtime_is_set(entry))
        member.mtime_ms = (long long)archive_entry_mtime(entry) * 1000;
    status = frame_writer_member_begin(u->out, &member);
    if (!status)
        status = send_data(u, &data);
    return status ? status : frame_writer_member_end(u->out, data.complete);
}

/* Nothing could be read: why. Compressed nothing is no damage. */
static enum status fail_first(struct unpack *u)
{
    if (!u->is_zip && archive_filter_count(u->archive) > 1 && archive_filter_bytes(u->archive, 0) == 0 &&
        !archive_errno(u->archive))
        return frame_writer_fail(u->out, u->err, "empty", "nothing, compressed");
    return frame_writer_fail(u->out, u->err, "damaged", "not a readable archive: %s", archive_error_string(u->archive));
}

static enum status send_members(struct unpack *u)
{
    struct archive_entry *entry;
    bool first = true;
    enum status status = STATUS_OK;

    while (!status && !u->stop) {
        int rc = archive_read_next_header(u->archive, &entry);

        if (rc == ARCHIVE_EOF)
            break;
        if (rc == ARCHIVE_RETRY)
            continue;
        if (rc == ARCHIVE_FATAL || rc == ARCHIVE_FAILED) {
            if (u->source_status == STATUS_LIMIT)
                return u->source_status;
            if (u->members == 0)
                return fail_first(u);
            return frame_writer_problem(u->out, "damaged", 0, "after %d members: %s", u->members,
                                        archive_error_string(u->archive));
        }
        if (first)
            status = check_depth(u);
        first = false;
        if (!status)
            status = send_member(u, entry);
        if (!status)
            status = frame_writer_alive(u->out);
    }
    if (!status && u->members == 0)
        status = frame_writer_fail(u->out, u->err, "empty", "an archive without members");
    return status;
}

static enum status unpack(const struct reader_job *job, bool is_zip, struct error *err)
{
    struct unpack u = {.job = job, .out = job->out, .err = err, .is_zip = is_zip};
    enum status status;

    if (job->archive_depth >= LIMIT_ARCHIVE_DEPTH)
        return frame_writer_fail(job->out, err, "limit-depth", "more than %d archives inside each other",
                                 LIMIT_ARCHIVE_DEPTH);
    buf_init(&u.label, 8 * LIMIT_MEMBER_NAME_BYTES);
    status = open_archive(&u);
    if (!status)
        status = send_members(&u);
    if (u.archive)
        (void)archive_read_free(u.archive);
    buf_finish(&u.label);
    return status;
}

static enum status zip_read(const struct reader_job *job, struct error *err)
{
    return unpack(job, true, err);
}

static enum status stream_read(const struct reader_job *job, struct error *err)
{
    return unpack(job, false, err);
}

const struct reader reader_zip = {"zip", "application/zip", zip_bid, zip_read};
const struct reader reader_tar = {"tar", "application/x-tar", tar_bid, stream_read};
const struct reader reader_gzip = {"gzip", "application/gzip", gzip_bid, stream_read};
const struct reader reader_bzip2 = {"bzip2", "application/x-bzip2", bzip2_bid, stream_read};
const struct reader reader_xz = {"xz", "application/x-xz", xz_bid, stream_read};
const struct reader reader_zstd = {"zstd", "application/zstd", zstd_bid, stream_read};
