/* test_config.c: the table of options: files, units, precedence; and that dsad.conf(5) knows every key. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/packed.h"
#include "daemon/streams.h"
#include "tests/harness/check.h"

static const char *write_file(const char *text)
{
    static char path[300];
    FILE *file;

    (void)snprintf(path, sizeof path, "%s/dsad.conf", check_temp_dir());
    file = fopen(path, "w");
    CHECK(file);
    (void)fputs(text, file);
    (void)fclose(file);
    return path;
}

static void expect_bad(const char *text, const char *message)
{
    struct config config;
    struct error err = {0};

    config_init(&config);
    CHECK_STATUS(config_read_file(&config, write_file(text), &err), STATUS_BAD_INPUT);
    if (!strstr(err.message, message))
        FAIL("message '%s' lacks '%s'", err.message, message);
    config_finish(&config);
}

TEST(mistakes_are_named_with_their_line)
{
    expect_bad("[daemon]\nstroe = x\n", "dsad.conf:2: unknown key 'stroe'");
    expect_bad("[demon]\n", "dsad.conf:1: unknown section 'demon'");
    expect_bad("# remark\n\nstore = x\n", "dsad.conf:3: 'store' stands before the first section");
    expect_bad("[daemon\n", "section without ']'");
    expect_bad("[daemon]\nstore\n", "neither a section nor");
    expect_bad("[daemon]\nstore = a\nstore = b\n", "stands twice");
    expect_bad("[daemon]\ndrain = 5\n", "is not a time");
    expect_bad("[daemon]\ndrain = 5 parsecs\n", "is not a time");
    expect_bad("[limits]\nactive = 0\n", "out of range");
    expect_bad("[limits]\nactive = -3\n", "not a whole number");
    expect_bad("[limits]\nactive = 99999999999999999999\n", "not a whole number");
    expect_bad("[model]\nkv-disk = 9999999999TiB\n", "is not a size");
}

TEST(units_are_understood)
{
    int64_t value = 0;

    CHECK(config_parse_duration("250ms", &value) && value == 250);
    CHECK(config_parse_duration("2min", &value) && value == 120000);
    CHECK(config_parse_duration("7d", &value) && value == INT64_C(604800000));
    CHECK(config_parse_duration("0", &value) && value == 0);
    CHECK(!config_parse_duration("", &value));
    CHECK(!config_parse_duration("1", &value));
    CHECK(!config_parse_duration("s", &value));
    CHECK(config_parse_size("4096", &value) && value == 4096);
    CHECK(config_parse_size("3GiB", &value) && value == INT64_C(3221225472));
    CHECK(!config_parse_size("3GB", &value));
}

TEST(the_command_line_is_stronger_than_environment_and_file)
{
    char file_flag[320], program[] = "dsad", store[] = "--store", directory[] = "from-command";
    char *argv[] = {program, store, directory, file_flag, NULL};
    struct config config;
    struct error err = {0};
    bool usage = false;

    (void)snprintf(file_flag, sizeof file_flag, "--config=%s",
                   write_file("[daemon]\nstore = from-file\ndrain = 9s\n[limits]\nactive = 7\n"));
    (void)setenv("DSAD_LIMITS_ACTIVE", "11", 1);
    config_init(&config);
    CHECK_OK(config_load(&config, 4, argv, &usage, &err), &err);
    CHECK_EQ_STR(config.store, "from-command");
    CHECK_EQ_INT(config.drain_ms, 9000);
    CHECK_EQ_INT(config.max_active, 11);
    config_finish(&config);
    (void)unsetenv("DSAD_LIMITS_ACTIVE");
}

TEST(what_is_printed_can_be_read_again)
{
    struct config config, again;
    struct error err = {0};
    char path[300];
    FILE *file;

    (void)snprintf(path, sizeof path, "%s/printed.conf", check_temp_dir());
    config_init(&config);
    config.max_active = 5;
    file = fopen(path, "w");
    CHECK(file);
    config_print(&config, file);
    (void)fclose(file);
    config_init(&again);
    CHECK_OK(config_read_file(&again, path, &err), &err);
    CHECK_EQ_INT(again.max_active, 5);
    CHECK_EQ_INT(again.retention_ms, config.retention_ms);
    config_finish(&config);
    config_finish(&again);
}

/* Every key that --print-config knows stands in the manual page, under its section. */
TEST(the_manual_page_knows_every_key)
{
    static char page[65536], printed[16384];
    char line[256], section[64] = "", wanted[320];
    struct config config;
    FILE *file = fopen(MAN_DIR "/dsad.conf.5", "r"), *memory = fmemopen(printed, sizeof printed, "w+");
    const char *at = NULL;
    int keys = 0;

    CHECK(file && memory);
    page[fread(page, 1, sizeof page - 1, file)] = '\0';
    (void)fclose(file);
    config_init(&config);
    config_print(&config, memory);
    config_finish(&config);
    rewind(memory);
    while (fgets(line, sizeof line, memory) && *line) {
        char *equals = strstr(line, " = ");

        line[strcspn(line, "\n")] = '\0';
        if (*line == '[') {
            (void)snprintf(section, sizeof section, "%.*s", (int)strlen(line) - 2, line + 1);
            (void)snprintf(wanted, sizeof wanted, ".Ss Section %s\n", section);
            at = strstr(page, wanted);
            if (!at)
                FAIL("dsad.conf.5 lacks section '%s'", section);
        } else if (equals && *line != '#') {
            *equals = '\0';
            (void)snprintf(wanted, sizeof wanted, ".It Cm %s No = Ar", line);
            if (!strstr(at, wanted))
                FAIL("dsad.conf.5 lacks '%s' in section '%s'", line, section);
            keys++;
        }
    }
    (void)fclose(memory);
    CHECK(keys > 20);
}

/* --- Packs: what is kept comes back, and damage is refused ----------------------------------------------------------
 */

static struct packed *sample(void)
{
    static struct pack_segment segments[] = {{3, 7, 0, 5}, {4, 0, 6, 11}};
    static struct pack_block block = {.id = 1,
                                      .document_id = 42,
                                      .title = "T",
                                      .path = "/p",
                                      .member = "",
                                      .heading = "h",
                                      .label = "pp. 3-4",
                                      .first_page = 3,
                                      .last_page = 4,
                                      .text = {"hello\nworld", 11},
                                      .segments = segments,
                                      .segment_count = 2,
                                      .tokens = 3};
    static struct packed_evidence evidence = {{"{\"rank\":1}", 10}, {"hello", 5}};
    static struct packed_quote quote = {0, 6, 11};
    static int32_t tokens[] = {5, -1, 70000};
    struct packed *packed = packed_create();

    CHECK(packed);
    packed->generation = 9;
    packed->evidence = &evidence;
    packed->evidence_count = 1;
    packed->pack = (struct pack){&block, 1, 3};
    packed->tokens = tokens;
    packed->token_count = 3;
    packed->answer = span_from_cstr("world");
    packed->quotes = &quote;
    packed->quote_count = 1;
    return packed;
}

TEST(a_kept_pack_comes_back_whole)
{
    struct packed *packed = sample(), *again = NULL;
    struct error err = {0};
    struct buf bytes, twice;

    buf_init(&bytes, 1 << 20);
    buf_init(&twice, 1 << 20);
    CHECK_OK(packed_encode(packed, &bytes), (struct error *)NULL);
    CHECK_OK(packed_decode(buf_span(&bytes), &again, &err), &err);
    CHECK_EQ_INT(again->pack.blocks[0].segments[1].page, 4);
    CHECK_EQ_INT(again->tokens[1], -1);
    CHECK_EQ_SPAN(again->pack.blocks[0].text, packed->pack.blocks[0].text);
    CHECK_OK(packed_encode(again, &twice), (struct error *)NULL);
    CHECK_EQ_SPAN(buf_span(&twice), buf_span(&bytes));
    packed_unref(again);
    packed_unref(packed);
    buf_finish(&bytes);
    buf_finish(&twice);
}

TEST(a_damaged_pack_is_refused_or_harmless)
{
    struct packed *packed = sample();
    struct buf bytes;
    int refused = 0;

    buf_init(&bytes, 1 << 20);
    CHECK_OK(packed_encode(packed, &bytes), (struct error *)NULL);
    for (size_t len = 0; len < bytes.len; len++) {
        struct packed *again = NULL;

        CHECK_STATUS(packed_decode(span_of(bytes.ptr, len), &again, NULL), STATUS_CORRUPT);
    }
    for (int i = 0; i < 5000; i++) {
        struct packed *again = NULL;
        size_t at = check_random() % bytes.len;
        char old = bytes.ptr[at];

        bytes.ptr[at] ^= (char)(1 << check_random() % 8);
        if (packed_decode(buf_span(&bytes), &again, NULL) == STATUS_OK)
            packed_unref(again);
        else
            refused++;
        bytes.ptr[at] = old;
    }
    CHECK(refused > 500);
    packed_unref(packed);
    buf_finish(&bytes);
}

/* --- Credits ---------------------------------------------------------------------------------------------------------
 */

TEST(a_stream_never_takes_more_than_was_granted)
{
    struct sessions sessions = {0};
    struct session *session = sessions_add(&sessions, span_of("\0abcd", 5), "uid:1");
    unsigned char id[WIRE_ID_BYTES] = {1};
    struct stream *stream;
    int64_t granted = 5000, taken = 0;

    CHECK(session);
    stream = session_open(session, id, 7, 0, 100, granted);
    CHECK(stream);
    for (int i = 0; i < 10000; i++) {
        int64_t cost = 512 + (int64_t)(check_random() % 3000);

        if (stream_take_credit(stream, cost))
            taken += cost;
        else
            CHECK(!stream_behind(stream)); /* parked: nothing is asked of the disk */
        if (check_random() % 4 == 0) {
            int64_t more = (int64_t)(check_random() % 4000);

            stream_add_credit(stream, more);
            granted += more;
        }
        CHECK(taken <= granted);
    }
    stream_add_credit(stream, INT64_MAX);
    stream_add_credit(stream, INT64_MAX);
    stream_add_credit(stream, -5);
    CHECK(stream->credit > 0);
    CHECK(sessions_follow(&sessions, 7));
    CHECK(!sessions_follow(&sessions, 8));
    sessions_finish(&sessions);
}
