/* test_memory.c: what 128K tokens of context take, measured against the formula in engine/README.md. */
#include <stdio.h>
#include <string.h>

#include "tests/engine/fixture.h"

static double mib_of(const char *field)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kib = -1;

    CHECK(file != NULL);
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, field, strlen(field)))
            kib = atof(line + strlen(field));
    }
    fclose(file);
    return kib / 1024;
}

/* The formula, term by term. */
static double forward_mib(const struct model_config *c, int rows)
{
    double inter = c->dense_inter > c->expert_inter * c->shared_experts ? c->dense_inter
                                                                        : c->expert_inter * c->shared_experts;
    double width = 3.0 * c->hidden + c->q_lora + c->heads * (c->nope + c->rope + 2.0 * c->latent + c->value) +
                   c->latent + c->rope + c->index_heads * (c->index_dim + 1.0) + c->index_dim + c->index_topk +
                   2 * inter + c->experts + 2.0 * c->experts_kept;

    return rows * 4 * width / (1 << 20);
}

/* 12 layers, 45 M parameters, the caches of 128K tokens all in use, and a pass at their very end. The positions before
 * are zeros: this measures room, and tests/engine/test_forward.c what stands in it. */
TEST(memory_at_128k_is_what_the_formula_says)
{
    enum { CONTEXT = 1 << 17, ROWS = 64 };
    struct random_model m = random_model_default(RANDOM_V32, RANDOM_FP8);
    int32_t token[ROWS], position[ROWS], slot[ROWS], sequence[ROWS], *page;
    int64_t pages = CONTEXT / CACHE_PAGE_TOKENS;
    struct forward_batch batch = {.rows = ROWS, .token = token, .position = position, .slot = slot,
                                  .sequence = sequence, .sequences = 1, .pages = (int)pages, .logit_rows = 1};
    double before, after, expected;
    struct error err = {0};
    struct engine *engine;
    float *logits;

    if (!have_backend("cpu"))
        SKIP("no cpu backend");
    m.hidden = 512;
    m.layers = 12;
    m.heads = 8;
    m.q_lora = m.kv_lora = 256;
    m.nope = m.rope = m.v = 64;
    m.inter = 1536;
    m.moe_inter = 128;
    m.experts = 12;
    m.index_dim = 128;
    m.index_topk = 512;
    m.vocab = 4096;
    m.window = CONTEXT;
    write_model(&m);
    before = mib_of("VmRSS:");
    engine = open_engine_with((struct engine_options){.backend = "cpu", .threads = 2});
    CHECK_EQ_INT(kv_cache_pages(engine->cache), pages);
    page = malloc((size_t)pages * sizeof *page);
    logits = malloc((size_t)m.vocab * sizeof *logits);
    CHECK(page && logits && kv_cache_reserve(engine->cache, pages));
    for (int64_t i = 0; i < pages; i++)
        page[i] = kv_cache_take(engine->cache);
    for (int i = 0; i < m.layers; i++) {
        struct tensor *latent = kv_cache_latent(engine->cache, i), *index = kv_cache_index(engine->cache, i);

        CHECK_STATUS(ops_fill(engine->ops, latent->data, 0, (size_t)tensor_count(latent)), STATUS_OK);
        CHECK_STATUS(ops_fill(engine->ops, index->data, 0, (size_t)tensor_count(index)), STATUS_OK);
    }
    for (int i = 0; i < ROWS; i++) {
        position[i] = CONTEXT - ROWS + i;
        slot[i] = page[position[i] / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS + position[i] % CACHE_PAGE_TOKENS;
        token[i] = i;
        sequence[i] = 0;
    }
    batch.page_table = page;
    CHECK_OK(forward_run(engine->forward, &batch, logits, &err), &err);
    after = mib_of("VmRSS:");
    expected = (double)kv_cache_bytes(engine->cache) / (1 << 20) + forward_mib(&engine->config, engine->max_rows);
    printf("# caches and working memory by the formula: %.0f MiB; weights: %.0f MiB; resident: %.0f MiB more\n",
           expected, (double)engine_info(engine)->weight_bytes / (1 << 20), after - before);
    CHECK((double)forward_bytes(engine->forward) / (1 << 20) < expected);
    /* weights may be resident twice (mapped and packed), and the backend has scratch of its own */
    CHECK(after - before < expected + 2.0 * (double)engine_info(engine)->weight_bytes / (1 << 20) + 256);
    CHECK(after < 3 * 1024);
    for (int64_t i = 0; i < pages; i++)
        kv_cache_unref(engine->cache, page[i]);
    free(page);
    free(logits);
    engine_close(engine);
}
