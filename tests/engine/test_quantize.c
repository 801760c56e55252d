/* test_quantize.c: what dsa-quantize writes is what V3.2 has, loads in the engine, and is there whole or not at all. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/safetensors.h"
#include "kernels/fp8.h"
#include "tests/engine/fixture.h"
#include "tools/quantize.h"

enum { BLOCK = 128 };

static const char *path_of(const char *name)
{
    static char paths[4][4096];
    static int next;
    char *path = paths[next++ % 4];

    (void)snprintf(path, 4096, "%s/%s", check_temp_dir(), name);
    return path;
}

static void write_random(enum random_family family, enum random_dtype dtype, const char *dir)
{
    struct random_model model = random_model_default(family, dtype);
    struct error err = {0};

    CHECK(mkdir(dir, 0755) == 0);
    CHECK_OK(random_model_write(&model, dir, &err), &err);
}

static enum status quantize(const char *in, const char *out, bool float_scales, int threads,
                            struct quantize_totals *totals, struct error *err)
{
    const struct quantize_options options = {.in = in, .out = out, .float_scales = float_scales, .threads = threads};

    return quantize_checkpoint(&options, totals, err);
}

static double value_at(const struct tensor *tensor, int64_t i)
{
    if (tensor->dtype == DTYPE_F32)
        return (double)((const float *)tensor->data)[i];
    return (double)f32_from_bf16(((const uint16_t *)tensor->data)[i]);
}

/* Every element against its bound: half a step of e4m3 at its size, and the scale is the smallest that fits. */
static void check_matrix(const char *name, const struct tensor *before, const struct tensor *codes,
                         const struct tensor *scales, bool float_scales)
{
    int64_t rows = before->dims[0], columns = before->dims[1];

    CHECK_EQ_INT(codes->dtype, DTYPE_F8E4M3);
    CHECK_EQ_INT(codes->dims[0], rows);
    CHECK_EQ_INT(codes->dims[1], columns);
    CHECK_EQ_INT(scales->dtype, DTYPE_F32);
    CHECK_EQ_INT(scales->dims[0], (rows + BLOCK - 1) / BLOCK);
    CHECK_EQ_INT(scales->dims[1], (columns + BLOCK - 1) / BLOCK);
    for (int64_t block_row = 0; block_row < scales->dims[0]; block_row++) {
        for (int64_t block_column = 0; block_column < scales->dims[1]; block_column++) {
            float scale = ((const float *)scales->data)[block_row * scales->dims[1] + block_column];
            double amax = 0;
            int exponent;

            for (int64_t r = block_row * BLOCK; r < rows && r < (block_row + 1) * BLOCK; r++) {
                for (int64_t c = block_column * BLOCK; c < columns && c < (block_column + 1) * BLOCK; c++) {
                    double value = value_at(before, r * columns + c), bound;
                    double got = (double)f32_from_e4m3(((const uint8_t *)codes->data)[r * columns + c]) * (double)scale;

                    bound = fmax(fabs(value) * 0x1p-4, (double)scale * 0x1p-10) * 1.000001;
                    if (fabs(value - got) > bound)
                        FAIL("%s [%lld, %lld]: %g became %g", name, (long long)r, (long long)c, value, got);
                    amax = fmax(amax, fabs(value));
                }
            }
            CHECK(amax <= 448 * (double)scale * 1.000001);
            if (float_scales)
                CHECK_NEAR((double)scale, amax / 448, amax * 1e-7);
            else
                CHECK(frexpf(scale, &exponent) == 0.5f && amax > 223.99 * (double)scale);
        }
    }
}

TEST(matrices_are_quantised_and_the_rest_is_kept)
{
    static const enum random_family families[] = {RANDOM_V32, RANDOM_GLM5, RANDOM_V2LITE};
    static const enum random_dtype dtypes[] = {RANDOM_BF16, RANDOM_F32};

    for (int i = 0; i < 6; i++) {
        struct safetensors *before = NULL, *after = NULL;
        struct quantize_totals totals;
        struct error err = {0};
        char in[4096], out[4096], name[600];
        size_t matrices = 0;
        bool float_scales = i % 3 == 0;

        (void)snprintf(in, sizeof in, "%s/in%d", check_temp_dir(), i);
        (void)snprintf(out, sizeof out, "%s/out%d/", check_temp_dir(), i);
        write_random(families[i % 3], dtypes[i / 3], in);
        CHECK_OK(quantize(in, out, float_scales, 1 + i, &totals, &err), &err);
        CHECK_OK(safetensors_open(in, &before, &err), &err);
        CHECK_OK(safetensors_open(out, &after, &err), &err);
        for (size_t t = 0; t < safetensors_count(before); t++) {
            const struct tensor *source = safetensors_find(before, safetensors_name(before, t)), *scales;
            const struct tensor *result = safetensors_find(after, safetensors_name(before, t));

            CHECK(result != NULL);
            (void)snprintf(name, sizeof name, "%s_scale_inv", safetensors_name(before, t));
            scales = safetensors_find(after, name);
            if (scales) {
                check_matrix(name, source, result, scales, float_scales);
                matrices++;
            } else {
                CHECK_EQ_INT(result->dtype, source->dtype);
                CHECK_EQ_SPAN(span_of(result->data, (size_t)tensor_count(result) * dtype_bytes(result->dtype)),
                              span_of(source->data, (size_t)tensor_count(source) * dtype_bytes(source->dtype)));
            }
        }
        CHECK(matrices > 10);
        CHECK_EQ_INT(matrices, totals.quantized);
        CHECK_EQ_INT(safetensors_count(after), safetensors_count(before) + matrices);
        CHECK_EQ_INT(totals.tensors, safetensors_count(before));
        CHECK(totals.relative_error > 0.01 &&
              totals.relative_error < 0.04); /* 3 mantissa bits: 2.6% for normal weights */
        CHECK(access(path_of("out0/tokenizer.json"), F_OK) == 0);
        safetensors_close(before);
        safetensors_close(after);
    }
}

/* The names that V3.2 leaves alone: table of published tensor names. */
TEST(what_v32_leaves_is_left)
{
    static const struct {
        const char *name;
        bool wanted;
    } cases[] = {
        {"model.embed_tokens.weight", false},
        {"lm_head.weight", false},
        {"model.layers.3.mlp.gate.weight", false},
        {"model.layers.3.mlp.gate.e_score_correction_bias", false},
        {"model.layers.3.self_attn.indexer.weights_proj.weight", false},
        {"model.layers.3.self_attn.indexer.k_norm.weight", false},
        {"model.layers.3.self_attn.q_a_layernorm.weight", false},
        {"model.layers.3.input_layernorm.weight", false},
        {"model.layers.61.eh_proj.weight", false},
        {"model.layers.61.shared_head.head.weight", false},
        {"model.layers.61.embed_tokens.weight", false},
        {"model.layers.3.self_attn.indexer.wk.weight", true},
        {"model.layers.3.self_attn.indexer.wq_b.weight", true},
        {"model.layers.3.self_attn.q_proj.weight", true},
        {"model.layers.3.self_attn.q_a_proj.weight", true},
        {"model.layers.3.self_attn.q_b_proj.weight", true},
        {"model.layers.3.self_attn.kv_a_proj_with_mqa.weight", true},
        {"model.layers.3.self_attn.kv_b_proj.weight", true},
        {"model.layers.3.self_attn.o_proj.weight", true},
        {"model.layers.0.mlp.gate_proj.weight", true},
        {"model.layers.61.mlp.experts.255.down_proj.weight", true},
        {"model.layers.3.mlp.shared_experts.up_proj.weight", true},
        {"model.layers.3.self_attn.o_proj.bias", false},
    };
    uint16_t data[4] = {0};
    struct tensor matrix = tensor_2d(DTYPE_BF16, data, 2, 2), vector = tensor_1d(DTYPE_BF16, data, 4);
    struct tensor codes = tensor_2d(DTYPE_F8E4M3, data, 2, 2);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (quantize_wants(cases[i].name, &matrix) != cases[i].wanted)
            FAIL("%s is %s", cases[i].name, cases[i].wanted ? "left alone" : "quantised");
        CHECK(!quantize_wants(cases[i].name, &vector) && !quantize_wants(cases[i].name, &codes));
    }
}

/* The engine's logits from the result, against those from the weights it came from. */
TEST(the_engine_loads_the_result)
{
    enum { TOKENS = 40 };
    struct random_model model = random_model_default(RANDOM_V32, RANDOM_BF16);
    struct engine *engines[2] = {NULL};
    struct quantize_totals totals;
    struct error err = {0};
    int32_t *tokens = random_tokens(TOKENS, model.vocab);
    float *logits[2];
    double error = 0, sum = 0;
    const char *dirs[] = {path_of("in"), path_of("out")};

    write_random(RANDOM_V32, RANDOM_BF16, dirs[0]);
    CHECK_OK(quantize(dirs[0], dirs[1], false, 0, &totals, &err), &err);
    for (int i = 0; i < 2; i++) {
        struct engine_options options = {.model_dir = dirs[i], .backend = "ref", .plain = true};

        CHECK_OK(engine_open(&options, &engines[i], &err), &err);
        logits[i] = malloc((size_t)TOKENS * (size_t)model.vocab * sizeof **logits);
        CHECK(logits[i] != NULL);
        CHECK_OK(engine_logits(engines[i], tokens, TOKENS, logits[i], &err), &err);
    }
    for (int i = 0; i < TOKENS * model.vocab; i++) {
        double difference = (double)logits[0][i] - (double)logits[1][i];

        error += difference * difference;
        sum += (double)logits[0][i] * (double)logits[0][i];
    }
    if (!(sqrt(error / sum) < 0.1))
        FAIL("the logits moved by %.1f%%", 100 * sqrt(error / sum));
    for (int i = 0; i < 2; i++) {
        engine_close(engines[i]);
        free(logits[i]);
    }
    free(tokens);
}

TEST(threads_change_nothing)
{
    struct safetensors *files[2] = {NULL};
    struct quantize_totals totals[2];
    struct error err = {0};

    write_random(RANDOM_V32, RANDOM_F32, path_of("in"));
    CHECK_OK(quantize(path_of("in"), path_of("one"), false, 1, &totals[0], &err), &err);
    CHECK_OK(quantize(path_of("in"), path_of("many"), false, 7, &totals[1], &err), &err);
    CHECK(memcmp(&totals[0], &totals[1], sizeof totals[0]) == 0);
    CHECK_OK(safetensors_open(path_of("one"), &files[0], &err), &err);
    CHECK_OK(safetensors_open(path_of("many"), &files[1], &err), &err);
    for (size_t i = 0; i < safetensors_count(files[0]); i++) {
        const struct tensor *a = safetensors_find(files[0], safetensors_name(files[0], i));
        const struct tensor *b = safetensors_find(files[1], safetensors_name(files[0], i));

        CHECK(b && memcmp(a->data, b->data, (size_t)tensor_count(a) * dtype_bytes(a->dtype)) == 0);
    }
    safetensors_close(files[0]);
    safetensors_close(files[1]);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");

    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

TEST(bad_input_leaves_nothing)
{
    struct quantize_totals totals;
    struct error err = {0};
    struct safetensors *files = NULL;
    const struct tensor *tensor;
    char path[4096];
    float nan_value = NAN;
    off_t at = 0;
    int fd;

    CHECK_STATUS(quantize(path_of("absent"), path_of("out"), false, 1, &totals, &err), STATUS_CORRUPT);
    write_random(RANDOM_V32, RANDOM_FP8, path_of("fp8"));
    CHECK_STATUS(quantize(path_of("fp8"), path_of("out"), false, 1, &totals, &err), STATUS_BAD_INPUT);
    CHECK(strstr(err.message, "quantization_config"));
    write_random(RANDOM_V32, RANDOM_F32, path_of("in"));
    CHECK(mkdir(path_of("out"), 0755) == 0);
    CHECK_STATUS(quantize(path_of("in"), path_of("out"), false, 1, &totals, &err), STATUS_BAD_INPUT);
    CHECK(rmdir(path_of("out")) == 0);

    /* A NaN in one matrix: found, named, and nothing is left under the name of the result. */
    CHECK_OK(safetensors_open(path_of("in"), &files, &err), &err);
    tensor = safetensors_find(files, "model.layers.1.self_attn.o_proj.weight");
    CHECK(tensor != NULL);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", path_of("in"));
    fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    for (off_t i = 0; at == 0; i += 4) { /* where the matrix lies in the file: looked for by its first bytes */
        char bytes[64];

        CHECK(pread(fd, bytes, sizeof bytes, i) == sizeof bytes);
        if (memcmp(bytes, tensor->data, sizeof bytes) == 0)
            at = i;
    }
    CHECK(pwrite(fd, &nan_value, sizeof nan_value, at + 40) == sizeof nan_value);
    CHECK(close(fd) == 0);
    safetensors_close(files);
    CHECK_STATUS(quantize(path_of("in"), path_of("out"), false, 1, &totals, &err), STATUS_BAD_INPUT);
    CHECK(strstr(err.message, "model.layers.1.self_attn.o_proj.weight") != NULL);
    CHECK(access(path_of("out"), F_OK) != 0);

    /* An index that names a file outside. */
    CHECK(mkdir(path_of("odd"), 0755) == 0);
    (void)snprintf(path, sizeof path, "%s/config.json", path_of("odd"));
    write_text(path, "{}");
    (void)snprintf(path, sizeof path, "%s/model.safetensors.index.json", path_of("odd"));
    write_text(path, "{\"weight_map\":{\"a\":\"../in/model.safetensors\"}}");
    CHECK_STATUS(quantize(path_of("odd"), path_of("out"), false, 1, &totals, &err), STATUS_CORRUPT);
    write_text(path, "{\"weight_map\":{\"a\":\"shard.safetensors\"}}");
    CHECK_STATUS(quantize(path_of("odd"), path_of("out"), false, 1, &totals, &err), STATUS_NOT_FOUND);
    CHECK(access(path_of("out"), F_OK) != 0);
}

/* A run that is killed somewhere in the middle, or that meets a full disk, leaves no result; the next one completes. */
TEST(a_stopped_run_leaves_no_result)
{
    struct quantize_totals totals;
    struct error err = {0};
    struct safetensors *files = NULL;

    write_random(RANDOM_V32, RANDOM_BF16, path_of("in"));
    for (int round = 0; round < 12; round++) {
        pid_t child = fork();
        int how;

        CHECK(child >= 0);
        if (child == 0) {
            struct rlimit limit = {(rlim_t)(round * 40000), (rlim_t)(round * 40000)};

            if (round % 2)
                (void)signal(SIGXFSZ, SIG_IGN); /* the write fails; otherwise the signal kills us inside it */
            (void)setrlimit(RLIMIT_FSIZE, &limit);
            _exit(quantize(path_of("in"), path_of("out"), false, 1, &totals, &err) == STATUS_IO ? 3 : 4);
        }
        CHECK(waitpid(child, &how, 0) == child);
        if (round % 2)
            CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 3);
        else
            CHECK(WIFSIGNALED(how) && WTERMSIG(how) == SIGXFSZ);
        CHECK(access(path_of("out"), F_OK) != 0);
    }
    CHECK(access(path_of("out.part"), F_OK) == 0);
    CHECK_OK(quantize(path_of("in"), path_of("out"), false, 1, &totals, &err), &err);
    CHECK(access(path_of("out.part"), F_OK) != 0);
    CHECK_OK(safetensors_open(path_of("out"), &files, &err), &err);
    safetensors_close(files);
}
