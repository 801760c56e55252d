/* test_unpack.c: archives through the real extractor: what is in them comes out, and no more than the caps. */
#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/limits.h"
#include "ingest/member_name.h"
#include "tests/harness/check.h"
#include "tests/ingest/fixture_extract.h"

/* --- Making archives ------------------------------------------------------------------------------------------ */

enum { ARCHIVE_MAX = 64 << 20 };

struct maker {
    struct archive *archive;
    char *bytes;
    size_t used;
};

static void maker_open(struct maker *m, const char *format, const char *filter, const char *options)
{
    m->archive = archive_write_new();
    m->bytes = malloc(ARCHIVE_MAX);
    CHECK(m->archive && m->bytes);
    CHECK(archive_write_set_format_by_name(m->archive, format) == ARCHIVE_OK);
    if (strcmp(filter, "none") != 0)
        CHECK(archive_write_add_filter_by_name(m->archive, filter) == ARCHIVE_OK);
    CHECK(archive_write_set_bytes_per_block(m->archive, 0) == ARCHIVE_OK);
    if (options) {
        CHECK(archive_write_set_options(m->archive, options) == ARCHIVE_OK);
        CHECK(archive_write_set_passphrase(m->archive, "secret") == ARCHIVE_OK);
    }
    CHECK(archive_write_open_memory(m->archive, m->bytes, ARCHIVE_MAX, &m->used) == ARCHIVE_OK);
}

static void maker_add(struct maker *m, const char *name, int type, const char *link, const void *bytes, size_t len)
{
    struct archive_entry *entry = archive_entry_new();

    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, (unsigned)type);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_mtime(entry, 1700000000, 0);
    if (type == AE_IFLNK)
        archive_entry_set_symlink(entry, link);
    else if (link)
        archive_entry_set_hardlink(entry, link);
    archive_entry_set_size(entry, (la_int64_t)len);
    CHECK(archive_write_header(m->archive, entry) <= ARCHIVE_OK);
    CHECK(archive_write_data(m->archive, bytes, len) == (la_ssize_t)len);
    archive_entry_free(entry);
}

static void maker_add_text(struct maker *m, const char *name, const char *text)
{
    maker_add(m, name, AE_IFREG, NULL, text, strlen(text));
}

static struct span maker_close(struct maker *m)
{
    CHECK(archive_write_close(m->archive) == ARCHIVE_OK);
    archive_write_free(m->archive);
    return span_of(m->bytes, m->used);
}

static void maker_finish(struct maker *m)
{
    free(m->bytes);
}

static void extract(struct span bytes, const char *name, struct fixture_result *got)
{
    fixture_extract(bytes, name, false, NULL, NULL, got);
    CHECK_EQ_INT(got->code, 0);
    check_has_line(got, "end …");
}

/* The same by a file and by a pipe. */
static void extract_both(struct span bytes, const char *name, struct fixture_result *got)
{
    struct fixture_result pipe;

    extract(bytes, name, got);
    fixture_extract(bytes, name, true, NULL, NULL, &pipe);
    CHECK_EQ_SPAN(buf_span(&pipe.text), buf_span(&got->text));
    fixture_result_finish(&pipe);
}

/* --- Members -------------------------------------------------------------------------------------------------- */

TEST(every_format_and_filter_by_file_and_by_pipe)
{
    static const struct {
        const char *format, *filter, *type;
    } kinds[] = {
        {"zip", "none", "application/zip"},    {"ustar", "none", "application/x-tar"},
        {"pax", "none", "application/x-tar"},  {"gnutar", "none", "application/x-tar"},
        {"ustar", "gzip", "application/gzip"}, {"ustar", "bzip2", "application/x-bzip2"},
        {"ustar", "xz", "application/x-xz"},   {"ustar", "zstd", "application/zstd"},
    };
    char *big = malloc(700 << 10);

    for (size_t i = 0; i < 700 << 10; i++)
        big[i] = (char)(check_random() >> 56);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct maker m;
        struct fixture_result got;
        char start[128];

        maker_open(&m, kinds[i].format, kinds[i].filter, NULL);
        maker_add(&m, "folder/", AE_IFDIR, NULL, "", 0);
        maker_add_text(&m, "folder/a.txt", "first");
        maker_add(&m, "folder/big.bin", AE_IFREG, NULL, big, 700 << 10);
        maker_add_text(&m, "folder/empty", "");
        extract_both(maker_close(&m), "papers", &got);
        (void)snprintf(start, sizeof start, "start {\"media_type\":\"%s\"…", kinds[i].type);
        check_has_line(&got, start);
        CHECK_EQ_INT(count_lines(&got, "member {"), 3); /* a folder is no document */
        CHECK_EQ_INT(count_lines(&got, "member-end {\"complete\":true}"), 3);
        check_has_line(&got, "member {\"name\":\"folder/a.txt\"…");
        check_has_line(&got, "data 5 bytes");
        check_has_no(&got, "problem");
        fixture_result_finish(&got);
        maker_finish(&m);
    }
    free(big);
}

TEST(one_compressed_document)
{
    struct maker m;
    struct fixture_result got;

    maker_open(&m, "raw", "gzip", NULL);
    maker_add_text(&m, "ignored", "the text");
    extract_both(maker_close(&m), "folder/report.txt.gz", &got);
    check_has_line(&got, "member {\"name\":\"report.txt\"…");
    check_has_line(&got, "data 8 bytes");
    fixture_result_finish(&got);
    maker_finish(&m);
}

TEST(links_and_devices_are_listed_and_not_followed)
{
    struct maker m;
    struct fixture_result got;

    maker_open(&m, "ustar", "none", NULL);
    maker_add_text(&m, "real.txt", "real");
    maker_add(&m, "soft", AE_IFLNK, "/etc/passwd", "", 0);
    maker_add(&m, "hard", AE_IFREG, "real.txt", "", 0);
    maker_add(&m, "pipe", AE_IFIFO, NULL, "", 0);
    extract_both(maker_close(&m), "links.tar", &got);
    CHECK_EQ_INT(count_lines(&got, "member {"), 4);
    CHECK_EQ_INT(count_lines(&got, "member-end {\"complete\":false,\"skipped\":\"link-skipped\"}"), 2);
    CHECK_EQ_INT(count_lines(&got, "member-end {\"complete\":false,\"skipped\":\"special-skipped\"}"), 1);
    CHECK_EQ_INT(count_lines(&got, "problem {\"code\":\"link-skipped\""), 2);
    check_has_line(&got, "data 4 bytes");
    fixture_result_finish(&got);
    maker_finish(&m);
}

TEST(an_encrypted_member_is_listed_and_the_others_read)
{
    struct maker m;
    struct fixture_result got;

    maker_open(&m, "zip", "none", "zip:encryption=traditional");
    maker_add_text(&m, "locked.txt", "nobody reads this");
    extract_both(maker_close(&m), "locked.zip", &got);
    check_has_line(&got, "member-end {\"complete\":false,\"skipped\":\"encrypted-member\"}");
    fixture_result_finish(&got);
    maker_finish(&m);
}

TEST(names_of_every_kind_become_labels)
{
    static const struct {
        const char *raw, *label;
        bool not_utf8, unsafe;
    } names[] = {
        {"a/b.txt", "a/b.txt", false, false},
        {"/etc/passwd", "etc/passwd", false, true},
        {"../../x", "x", false, true},
        {"a/../../b", "a/b", false, true},
        {"./a//b", "a/b", false, false},
        {"C:\\docs\\a.txt", "docs/a.txt", false, true},
        {"docs\\a.txt", "docs/a.txt", false, false},
        {"odd\\name/a", "odd\\name/a", false, false}, /* a slash: the backslash is part of a name */
        {"..", "unnamed", false, true},
        {"", "unnamed", false, false},
        {"caf\xE9.txt", "caf\xEF\xBF\xBD.txt", true, false},
        {"a\nb", "a b", true, false},
        {"a\x1B[31mb", "a [31mb", true, false}, /* no colours in other people's terminals */
        {"..a", "..a", false, false},
    };
    struct member_name found;
    struct buf label;
    char *long_name = malloc(10000);

    buf_init(&label, 8 * LIMIT_MEMBER_NAME_BYTES);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK_OK(member_name_clean(span_from_cstr(names[i].raw), &label, &found), (struct error *)NULL);
        CHECK_EQ_STR(buf_cstr(&label), names[i].label);
        CHECK_EQ_INT(found.not_utf8, names[i].not_utf8);
        CHECK_EQ_INT(found.unsafe, names[i].unsafe);
    }
    memset(long_name, 0xC3, 10000);
    for (int i = 1; i < 10000; i += 2)
        long_name[i] = (char)0xA4;
    CHECK_OK(member_name_clean(span_of(long_name + 1, 9999), &label, &found), (struct error *)NULL);
    CHECK(found.cut);
    CHECK_OK(member_name_clean(span_of(long_name, 10000), &label, &found), (struct error *)NULL);
    CHECK(found.cut && !found.not_utf8);
    CHECK_EQ_INT(label.len, LIMIT_MEMBER_NAME_BYTES);
    buf_finish(&label);
    free(long_name);
}

TEST(names_that_lead_outside_are_reported_with_their_bytes)
{
    struct maker m;
    struct fixture_result got;

    maker_open(&m, "ustar", "none", NULL);
    maker_add_text(&m, "../x\xFF", "1");
    extract_both(maker_close(&m), "names.tar", &got);
    check_has_line(&got, "member {\"name\":\"x\xEF\xBF\xBD\",\"raw_name_hex\":\"2e2e2f78ff\"…");
    check_has_line(&got, "problem {\"code\":\"name-unsafe\"…");
    check_has_line(&got, "problem {\"code\":\"name-not-utf8\"…");
    fixture_result_finish(&got);
    maker_finish(&m);
}

/* --- Bombs ---------------------------------------------------------------------------------------------------- */

static long long bytes_out(const struct fixture_result *got)
{
    long long sum = 0;

    for (const char *at = buf_cstr(&got->text); at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, "data ", 5) == 0)
            sum += atoll(at + 5);
    }
    return sum;
}

TEST(a_flat_bomb_is_stopped_by_its_ratio)
{
    size_t len = 40 << 20;
    char *same = malloc(len);
    static const char *const formats[][2] = {{"zip", "none"}, {"ustar", "gzip"}, {"raw", "xz"}};

    memset(same, '0', len);
    for (int i = 0; i < 3; i++) {
        struct maker m;
        struct fixture_result got;

        maker_open(&m, formats[i][0], formats[i][1], NULL);
        maker_add(&m, "same", AE_IFREG, NULL, same, len);
        extract_both(maker_close(&m), "bomb", &got);
        check_has_line(&got, "member-end {\"complete\":false}");
        check_has_line(&got, "problem {\"code\":\"limit-ratio\"…");
        CHECK(bytes_out(&got) < (long long)len / 2);
        fixture_result_finish(&got);
        maker_finish(&m);
    }
    free(same);
}

static void put_le(struct buf *out, unsigned long long value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        CHECK(buf_append_byte(out, (char)(value >> (8 * i))) == STATUS_OK);
}

enum { LOCAL_BYTES = 31 };

/* The fields that a local header and a directory entry share, from the version needed to the name's length. */
static void put_zip_fields(struct buf *out, unsigned size)
{
    put_le(out, 20, 2);
    put_le(out, 0, 4); /* flags, stored */
    put_le(out, 0, 4); /* time, date */
    put_le(out, 0, 4); /* checksum: not looked at before the end */
    put_le(out, size, 4);
    put_le(out, size, 4);
    put_le(out, 1, 2); /* name, then extra */
    put_le(out, 0, 2);
}

/* A zip whose members lie inside each other: each one's bytes are the headers of all that follow, and `bytes`. */
static void make_overlapping(struct buf *out, unsigned bytes, unsigned count)
{
    size_t directory;

    for (unsigned i = 0; i < count; i++) {
        put_le(out, 0x04034B50, 4);
        put_zip_fields(out, (count - 1 - i) * LOCAL_BYTES + bytes);
        CHECK(buf_append(out, "a", 1) == STATUS_OK);
    }
    for (unsigned i = 0; i < bytes; i++)
        CHECK(buf_append_byte(out, 'x') == STATUS_OK);
    directory = out->len;
    for (unsigned i = 0; i < count; i++) {
        put_le(out, 0x02014B50, 4);
        put_le(out, 20, 2);
        put_zip_fields(out, (count - 1 - i) * LOCAL_BYTES + bytes);
        put_le(out, 0, 6); /* comment, disk, attributes inside */
        put_le(out, 0, 4);
        put_le(out, i * LOCAL_BYTES, 4);
        CHECK(buf_append(out, "a", 1) == STATUS_OK);
    }
    put_le(out, 0x06054B50, 4);
    put_le(out, 0, 4);
    put_le(out, count, 2);
    put_le(out, count, 2);
    put_le(out, (unsigned)(out->len - 12 - directory), 4);
    put_le(out, (unsigned)directory, 4);
    put_le(out, 0, 2);
}

TEST(members_that_overlap_are_stopped_in_all)
{
    struct buf zip;
    struct fixture_result got;

    buf_init(&zip, 1 << 20);
    make_overlapping(&zip, 65536, 4000); /* 500 MB from 380 KB, each member 1:1 */
    extract_both(buf_span(&zip), "overlap.zip", &got);
    check_has_line(&got, "problem {\"code\":\"limit-ratio\"…");
    CHECK(bytes_out(&got) <= LIMIT_ARCHIVE_RATIO * (long long)zip.len + 65536);
    fixture_result_finish(&got);
    buf_finish(&zip);
}

TEST(a_hole_of_a_sparse_member_counts)
{
    char tar[2048] = "sparse";
    unsigned sum = 0;
    struct fixture_result got;

    /* GNU's old form: one piece of 4 bytes at the end of 4 GiB. */
    memcpy(tar + 100, "0000644\0000000000\0000000000\00000000000004\00000000000000", 48);
    memset(tar + 148, ' ', 8);
    tar[156] = 'S';
    memcpy(tar + 257, "ustar  ", 8);
    memcpy(tar + 386, "37777777774\00000000000004", 24);
    memcpy(tar + 483, "40000000000", 12);
    for (int i = 0; i < 512; i++)
        sum += (unsigned char)tar[i];
    (void)snprintf(tar + 148, 8, "%06o", sum);
    memcpy(tar + 512, "tail", 4);
    extract_both(span_of(tar, sizeof tar), "sparse.tar", &got);
    check_has_line(&got, "member {\"name\":\"sparse\",\"size\":4294967296…");
    check_has_line(&got, "member-end {\"complete\":false}");
    check_has_line(&got, "problem {\"code\":\"limit-ratio\"…");
    CHECK(bytes_out(&got) <= 2 * LIMIT_ARCHIVE_RATIO_GRACE_BYTES);
    fixture_result_finish(&got);
}

/* `layers` times gzip around a text. */
static struct span make_layers(struct maker *m, int layers)
{
    struct span bytes = span_from_cstr("at the bottom");

    for (int i = 0; i < layers; i++) {
        struct maker outer;

        maker_open(&outer, "raw", "gzip", NULL);
        maker_add(&outer, "x", AE_IFREG, NULL, bytes.ptr, bytes.len);
        bytes = maker_close(&outer);
        if (i)
            maker_finish(m);
        *m = outer;
    }
    return bytes;
}

TEST(layers_of_compression_count_as_depth)
{
    for (int layers = 1; layers <= 40; layers += layers < 4 ? 1 : 12) {
        struct maker m;
        struct fixture_result got;

        extract(make_layers(&m, layers), "x.gz", &got);
        if (layers <= LIMIT_ARCHIVE_DEPTH)
            check_has_line(&got, "data 13 bytes");
        else
            check_has_line(&got, "problem {\"code\":\"limit-depth\"…");
        fixture_result_finish(&got);
        maker_finish(&m);
    }
}

TEST(an_archive_too_deep_is_refused)
{
    struct maker m;
    struct fixture_result got;
    struct span bytes;

    maker_open(&m, "zip", "none", NULL);
    maker_add_text(&m, "a", "a");
    bytes = maker_close(&m);
    fixture_extract(bytes, "x.zip", false, "--depth", "2", &got);
    check_has_line(&got, "data 1 bytes");
    fixture_result_finish(&got);
    fixture_extract(bytes, "x.zip", false, "--depth", "3", &got);
    check_has_line(&got, "problem {\"code\":\"limit-depth\"…");
    check_has_no(&got, "data ");
    fixture_result_finish(&got);
    maker_finish(&m);
}

TEST(a_member_beyond_its_cap_is_cut_and_the_next_one_read)
{
    size_t piece = 1 << 20, count = (LIMIT_ARCHIVE_MEMBER_BYTES >> 20) + 2;
    struct fixture_result got;
    char path[512], *noise = malloc(piece);
    struct archive *out = archive_write_new();
    struct archive_entry *entry = archive_entry_new();

    (void)snprintf(path, sizeof path, "%s/big.tar", check_temp_dir());
    CHECK(archive_write_set_format_ustar(out) == ARCHIVE_OK && archive_write_open_filename(out, path) == ARCHIVE_OK);
    archive_entry_set_pathname(entry, "big");
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_size(entry, (la_int64_t)(piece * count));
    CHECK(archive_write_header(out, entry) == ARCHIVE_OK);
    memset(noise, 'n', piece);
    for (size_t i = 0; i < count; i++)
        CHECK(archive_write_data(out, noise, piece) == (la_ssize_t)piece);
    archive_entry_set_pathname(entry, "small");
    archive_entry_set_size(entry, 3);
    CHECK(archive_write_header(out, entry) == ARCHIVE_OK && archive_write_data(out, "end", 3) == 3);
    archive_entry_free(entry);
    CHECK(archive_write_close(out) == ARCHIVE_OK);
    archive_write_free(out);
    fixture_extract_file(path, &got);
    check_has_line(&got, "problem {\"code\":\"limit-member\"…");
    check_has_line(&got, "data 3 bytes");
    CHECK_EQ_INT(bytes_out(&got), LIMIT_ARCHIVE_MEMBER_BYTES + 3);
    fixture_result_finish(&got);
    free(noise);
}

/* --- Damage --------------------------------------------------------------------------------------------------- */

TEST(random_damage_costs_the_archive_alone)
{
    static const char *const formats[][2] = {{"zip", "none"}, {"pax", "none"}, {"ustar", "gzip"}, {"ustar", "zstd"}};
    char text[20000];

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = "abcdefgh \n"[check_random() % 10];
    for (int kind = 0; kind < 4; kind++) {
        struct maker m;
        struct span good;

        maker_open(&m, formats[kind][0], formats[kind][1], NULL);
        for (int i = 0; i < 4; i++) {
            char name[16];

            (void)snprintf(name, sizeof name, "member%d", i);
            maker_add(&m, name, AE_IFREG, NULL, text, sizeof text);
        }
        good = maker_close(&m);
        for (int round = 0; round < 25; round++) {
            struct fixture_result got;
            char *bad = malloc(good.len);
            size_t len = round % 3 == 0 ? check_random() % good.len : good.len;

            memcpy(bad, good.ptr, good.len);
            for (int flips = 0; flips < 8; flips++)
                bad[check_random() % good.len] = (char)check_random();
            extract(span_of(bad, len), "damaged", &got);
            fixture_result_finish(&got);
            free(bad);
        }
        maker_finish(&m);
    }
}

TEST(an_empty_archive_and_nothing_compressed)
{
    struct maker m;
    struct fixture_result got;

    maker_open(&m, "zip", "none", NULL);
    extract(maker_close(&m), "empty.zip", &got);
    check_has_line(&got, "problem {\"code\":\"empty\"…");
    fixture_result_finish(&got);
    maker_finish(&m);
}
