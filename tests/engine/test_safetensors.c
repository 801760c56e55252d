/* test_safetensors.c: checkpoint files, whole and damaged. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/safetensors.h"
#include "tests/engine/fixture.h"

static const char *path_in_temp(const char *name)
{
    static char path[4][4200];
    static int turn;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", check_temp_dir(), name);
    return path[turn];
}

static void write_bytes(const char *name, const void *bytes, size_t len)
{
    FILE *file = fopen(path_in_temp(name), "wb");

    CHECK(file && fwrite(bytes, 1, len, file) == len && !fclose(file));
}

/* A file of the given header and `data` bytes 0, 1, 2, …; the header is padded to a multiple of 8. */
static size_t write_file(const char *name, const char *header, size_t data)
{
    unsigned char bytes[8192] = {0};
    size_t len = strlen(header), padded = (len + 7) / 8 * 8;

    CHECK(8 + padded + data <= sizeof bytes);
    bytes[0] = (unsigned char)padded;
    bytes[1] = (unsigned char)(padded >> 8);
    memset(bytes + 8, ' ', padded);
    memcpy(bytes + 8, header, len);
    for (size_t i = 0; i < data; i++)
        bytes[8 + padded + i] = (unsigned char)i;
    write_bytes(name, bytes, 8 + padded + data);
    return 8 + padded + data;
}

static enum status open_header(const char *header, size_t data, struct error *err)
{
    struct safetensors *st = NULL;
    enum status s;

    write_file("x.safetensors", header, data);
    s = safetensors_open_file(path_in_temp("x.safetensors"), &st, err);
    safetensors_close(st);
    return s;
}

TEST(safetensors_reads_a_file)
{
    struct safetensors *st = NULL;
    struct error err = {0};
    const struct tensor *t;

    write_file("x.safetensors",
               "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
               "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
               "\"half\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[2,6]},"
               "\"__metadata__\":{\"format\":\"pt\"}}", 32);
    CHECK_OK(safetensors_open_file(path_in_temp("x.safetensors"), &st, &err), &err);
    CHECK_EQ_INT(safetensors_count(st), 2); /* F16 is nothing this engine reads */
    t = safetensors_find(st, "b");
    CHECK(t && t->dtype == DTYPE_F32 && t->dim_count == 2 && t->dims[0] == 2 && t->dims[1] == 3 && t->strides[0] == 3);
    CHECK_EQ_INT(((unsigned char *)t->data)[0], 8);
    CHECK(!safetensors_find(st, "c"));
    safetensors_close(st);
}

TEST(safetensors_refuses_bad_entries)
{
    static const char *const bad[] = {
        "", "[]", "{", "{}", "{\"a\":1}", "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[32,40]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[\"0\",8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483647,2147483647,2147483647,4],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};

        if (open_header(bad[i], 32, &err) != STATUS_CORRUPT)
            FAIL("accepted: %s", bad[i]);
        CHECK(strstr(err.message, "x.safetensors") != NULL);
    }
}

TEST(safetensors_refuses_bad_lengths)
{
    struct safetensors *st = NULL;
    unsigned char bytes[16] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    struct error err = {0};

    write_bytes("x.safetensors", bytes, 0);
    CHECK_STATUS(safetensors_open_file(path_in_temp("x.safetensors"), &st, &err), STATUS_CORRUPT);
    write_bytes("x.safetensors", bytes, 5);
    CHECK_STATUS(safetensors_open_file(path_in_temp("x.safetensors"), &st, &err), STATUS_CORRUPT);
    write_bytes("x.safetensors", bytes, 16);
    CHECK_STATUS(safetensors_open_file(path_in_temp("x.safetensors"), &st, &err), STATUS_CORRUPT);
    CHECK_STATUS(safetensors_open_file("/nonexistent", &st, &err), STATUS_NOT_FOUND);
    CHECK_STATUS(safetensors_open_file("/", &st, &err), STATUS_BAD_INPUT);
}

/* Every byte of a real header, changed in turn: each file is read with its tensors inside it, or refused. */
TEST(safetensors_survives_every_changed_byte)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_FP8);
    unsigned char *bytes;
    size_t len, header, opened = 0, refused = 0;
    struct stat stat_;
    FILE *file;

    m.layers = 1;
    m.hidden = m.inter = m.vocab = 16;
    m.vocab = 300;
    write_model(&m);
    CHECK(!stat(path_in_temp("model.safetensors"), &stat_));
    len = (size_t)stat_.st_size;
    bytes = malloc(len);
    file = fopen(path_in_temp("model.safetensors"), "rb");
    CHECK(bytes && file && fread(bytes, 1, len, file) == len && !fclose(file));
    header = 8 + bytes[0] + 256 * (size_t)bytes[1];
    for (size_t i = 0; i < 1500; i++) {
        size_t at = check_random() % header;
        unsigned char was = bytes[at];
        struct safetensors *st = NULL;
        struct error err = {0};

        bytes[at] = (unsigned char)(i % 2 ? '0' + check_random() % 10 : check_random());
        write_bytes("y.safetensors", bytes, len);
        bytes[at] = was;
        if (safetensors_open_file(path_in_temp("y.safetensors"), &st, &err)) {
            CHECK(err.message[0]);
            refused++;
            continue;
        }
        opened++;
        for (size_t k = 0; k < safetensors_count(st); k++) { /* the last byte of each tensor can be read */
            const struct tensor *t = safetensors_find(st, safetensors_name(st, k));
            size_t size = (size_t)tensor_count(t) * dtype_bytes(t->dtype);
            volatile unsigned char last = size ? ((unsigned char *)t->data)[size - 1] : 0;

            (void)last;
        }
        safetensors_close(st);
    }
    CHECK(opened > 0 && refused > 0);
    free(bytes);
}

/* --- What engine_open() says of a damaged model directory ------------------------------------------------------ */

static void check_open_fails(enum status expected, const char *mention)
{
    struct engine_options options = {.model_dir = check_temp_dir(), .backend = "ref"};
    struct engine *engine = NULL;
    struct error err = {0};

    CHECK_STATUS(engine_open(&options, &engine, &err), expected);
    if (!strstr(err.message, mention))
        FAIL("the message does not mention '%s': %s", mention, err.message);
}

TEST(model_with_a_truncated_file)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_FP8);
    struct stat stat_;

    write_model(&m);
    CHECK(!stat(path_in_temp("model.safetensors"), &stat_));
    CHECK(!truncate(path_in_temp("model.safetensors"), stat_.st_size - 1));
    check_open_fails(STATUS_CORRUPT, "truncated");
    CHECK(!truncate(path_in_temp("model.safetensors"), 100));
    check_open_fails(STATUS_CORRUPT, "model.safetensors");
    CHECK(!unlink(path_in_temp("model.safetensors")));
    check_open_fails(STATUS_NOT_FOUND, "model.safetensors");
}

TEST(model_with_a_tensor_of_the_wrong_shape)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_BF16), other = m;
    struct error err = {0};

    other.v = 16; /* kv_b_proj and o_proj change with it */
    write_model(&m);
    CHECK(!rename(path_in_temp("model.safetensors"), path_in_temp("kept")));
    CHECK_OK(random_model_write(&other, check_temp_dir(), &err), &err);
    CHECK(!rename(path_in_temp("kept"), path_in_temp("model.safetensors")));
    check_open_fails(STATUS_CORRUPT, "kv_b_proj");
}

TEST(model_with_a_missing_tensor)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_BF16);
    struct error err = {0};
    struct random_model dense = m;

    dense.index_heads = 0; /* DSA silently off would be the worst answer: it must be refused */
    CHECK_OK(random_model_write(&dense, check_temp_dir(), &err), &err);
    CHECK(!rename(path_in_temp("model.safetensors"), path_in_temp("kept")));
    write_model(&m);
    CHECK(!rename(path_in_temp("kept"), path_in_temp("model.safetensors")));
    check_open_fails(STATUS_CORRUPT, "indexer");
}

TEST(model_with_a_missing_shard)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_BF16);
    static const char index[] = "{\"weight_map\":{\"a\":\"model.safetensors\",\"b\":\"gone.safetensors\"}}";
    static const char outside[] = "{\"weight_map\":{\"a\":\"../model.safetensors\"}}";

    write_model(&m);
    write_bytes("model.safetensors.index.json", index, sizeof index - 1);
    check_open_fails(STATUS_NOT_FOUND, "gone.safetensors");
    write_bytes("model.safetensors.index.json", outside, sizeof outside - 1);
    check_open_fails(STATUS_CORRUPT, "bad file name");
    write_bytes("model.safetensors.index.json", "{", 1);
    check_open_fails(STATUS_CORRUPT, "index.json");
}

TEST(model_of_an_unknown_architecture)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_BF16);
    static const char llama[] = "{\"architectures\":[\"LlamaForCausalLM\"]}";

    write_model(&m);
    write_bytes("config.json", llama, sizeof llama - 1);
    check_open_fails(STATUS_UNSUPPORTED, "LlamaForCausalLM");
}

TEST(model_in_shards_is_the_same_model)
{
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_BF16);
    static const char index[] = "{\"weight_map\":{\"a\":\"part-1.safetensors\",\"b\":\"part-1.safetensors\"}}";
    int32_t *tokens = random_tokens(20, m.vocab);
    struct engine *engine;
    float *whole, *sharded;

    write_model(&m);
    engine = open_engine("ref", 0, false);
    whole = logits_of(engine, tokens, 20);
    engine_close(engine);
    CHECK(!rename(path_in_temp("model.safetensors"), path_in_temp("part-1.safetensors")));
    write_bytes("model.safetensors.index.json", index, sizeof index - 1);
    engine = open_engine("ref", 0, false);
    sharded = logits_of(engine, tokens, 20);
    engine_close(engine);
    CHECK(!memcmp(whole, sharded, 20 * (size_t)m.vocab * sizeof *whole));
    free(whole);
    free(sharded);
    free(tokens);
}
