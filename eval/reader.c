/* reader.c: a reader model through the real road: retrieve, pack, prompt, generate in quote mode, compare. The same
 * questions and the same measure as baselines.c; and questions that the passages do not answer. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "eval/eval.h"
#include "retrieval/retrieval.h"

enum {
    DEFAULT_BUDGET = 2048,
    HEADER_TOKENS = 24,     /* of a block, about: marks, id, rank, title */
    MAX_QUOTE_BYTES = 400,  /* as dsad */
    MAX_ANSWER_TOKENS = 256,
    MAX_STOP_IDS = 16
};

struct reader {
    struct engine *engine;
    struct eval_corpus corpus;
    size_t budget;
    int passages;    /* to retrieve */
    bool verbose;
};

struct answer {
    bool abstained;
    char *text;             /* of the first quotation, owned; NULL if there is none */
    size_t len;
    struct pack_place place; /* its first place */
    size_t prompt_tokens, output_tokens;
    int64_t prefill_ns, decode_ns;
};

struct tally {
    size_t questions, right, gold_passage, abstained, bytes, quoted;
    size_t prompt_tokens, output_tokens;
    int64_t prefill_ns, decode_ns;
};

static enum status count_tokens(void *context, struct span text, size_t *tokens)
{
    return tokenizer_count(context, text, tokens);
}

/* --- One question ---------------------------------------------------------------------------------------- */

static int by_score(const void *left, const void *right)
{
    const struct pack_block *a = *(const struct pack_block *const *)left, *b = *(const struct pack_block *const *)right;

    if (a->score != b->score)
        return a->score < b->score ? 1 : -1;
    return a->id < b->id ? -1 : 1;
}

static enum status fill_blocks(const struct pack *pack, struct arena *arena, struct prompt_block **prompt_blocks,
                               struct quote_block **quote_blocks)
{
    struct prompt_block *blocks = arena_alloc_array(arena, pack->count, sizeof *blocks);
    struct quote_block *quotes = arena_alloc_array(arena, pack->count, sizeof *quotes);
    const struct pack_block **order = arena_alloc_array(arena, pack->count, sizeof *order);

    if (!blocks || !quotes || !order)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < pack->count; i++) {
        const struct pack_block *block = &pack->blocks[i];

        order[i] = block;
        blocks[i] = (struct prompt_block){.id = block->id, .title = span_from_cstr(block->title), .text = block->text};
        quotes[i] = (struct quote_block){block->id, block->text};
    }
    qsort(order, pack->count, sizeof *order, by_score);
    for (size_t i = 0; i < pack->count; i++)
        blocks[order[i] - pack->blocks].rank = (int)i + 1;
    *prompt_blocks = blocks;
    *quote_blocks = quotes;
    return STATUS_OK;
}

static enum status run_sequence(struct reader *reader, const struct prompt *prompt, const struct quote_index *index,
                                struct sequence **sequence, struct error *err)
{
    const struct engine_info *info = engine_info(reader->engine);
    int32_t stops[MAX_STOP_IDS];
    struct sequence_options options = {.tokens = prompt->tokens.ids, .token_count = prompt->tokens.count,
                                       .max_tokens = MAX_ANSWER_TOKENS, .stop_ids = stops, .quotes = index,
                                       .sampling = {.top_p = 1, .repetition_penalty = 1}}; /* greedy */
    struct sequence_status state = {0};
    bool worked = true;
    enum status status;

    options.stop_id_count = prompt_stop_ids(engine_tokenizer(reader->engine), info->prompt_style, stops, MAX_STOP_IDS);
    if (options.stop_id_count > MAX_STOP_IDS)
        options.stop_id_count = MAX_STOP_IDS;
    status = sequence_create(reader->engine, &options, sequence, err);
    while (!status && state.state != SEQUENCE_DONE) {
        const struct quote_span *spans;

        status = engine_step(reader->engine, &worked, err);
        sequence_get_status(*sequence, &state);
        if (!status && !worked && state.state != SEQUENCE_DONE)
            status = error_set(err, STATUS_BUG, "the engine stopped before the answer did");
        if (sequence_quotes(*sequence, &spans) > 0)
            break; /* one quotation is compared */
    }
    if (!status && state.reason == REASON_FAILED)
        status = error_set(err, STATUS_BUG, "%s", sequence_error(*sequence));
    return status;
}

static enum status take_answer(struct reader *reader, const struct pack *pack, struct sequence *sequence,
                               struct arena *arena, struct answer *answer, struct error *err)
{
    const struct quote_span *spans = NULL;
    struct sequence_status state;
    enum status status = STATUS_OK;

    sequence_get_status(sequence, &state);
    answer->prompt_tokens = state.prompt_tokens - state.cached_tokens;
    answer->output_tokens = state.output_tokens;
    answer->prefill_ns = state.prefill_ns;
    answer->decode_ns = state.decode_ns;
    answer->abstained = sequence_quotes(sequence, &spans) == 0;
    if (!answer->abstained) {
        const struct pack_block *block = &pack->blocks[spans[0].block_id - 1];
        struct span quoted = span_slice(block->text, spans[0].start, spans[0].end);
        struct pack_place *places = NULL;
        size_t count = 0;

        status = pack_locate(reader->corpus.store, block, spans[0].start, spans[0].end, arena, &places, &count, err);
        answer->text = malloc(quoted.len + 1);
        if (!status && !answer->text)
            status = error_set(err, STATUS_NO_MEMORY, "out of memory");
        if (!status) {
            memcpy(answer->text, quoted.ptr, quoted.len);
            answer->len = quoted.len;
            if (count)
                answer->place = places[0];
        }
    }
    return status;
}

static enum status ask(struct reader *reader, struct span question, struct answer *answer, struct error *err)
{
    const struct engine_info *info = engine_info(reader->engine);
    struct retrieval_options options = {.limit = reader->passages};
    struct pack_options pack_options = {.budget_tokens = reader->budget, .header_tokens = HEADER_TOKENS,
                                        .count_tokens = count_tokens,
                                        .context = (void *)(uintptr_t)engine_tokenizer(reader->engine)};
    struct quote_params params = {.none = info->random_weights ? NULL : "Not in these documents.", .max_quotations = 1,
                                  .max_bytes = MAX_QUOTE_BYTES, .word_edges = true};
    struct retrieval_result result = {0};
    struct prompt_block *blocks = NULL;
    struct quote_block *quotes = NULL;
    struct quote_index *index = NULL;
    struct sequence *sequence = NULL;
    struct prompt prompt = {0};
    struct pack pack = {0};
    struct arena arena;
    enum status status;

    *answer = (struct answer){.abstained = true};
    arena_init(&arena, (size_t)256 << 20);
    status = retrieval_search(reader->corpus.store, question, &options, &arena, &result, err);
    if (status == STATUS_BAD_INPUT) { /* no words: nothing is found */
        status = STATUS_OK;
        goto out;
    }
    if (!status)
        status = pack_build(reader->corpus.store, &result, &pack_options, &arena, &pack, err);
    if (status || !pack.count)
        goto out; /* nothing found is an abstention */
    status = fill_blocks(&pack, &arena, &blocks, &quotes);
    if (status) {
        (void)error_set(err, status, "out of memory");
        goto out;
    }
    status = prompt_build(engine_tokenizer(reader->engine), info->prompt_style, PROMPT_ANSWER, blocks, pack.count,
                          question, (size_t)info->window_tokens - MAX_ANSWER_TOKENS, &prompt, err);
    if (!status)
        status = quote_index_create(engine_quote_vocab(reader->engine), quotes, pack.count, &params, &index, err);
    if (!status)
        status = run_sequence(reader, &prompt, index, &sequence, err);
    if (!status)
        status = take_answer(reader, &pack, sequence, &arena, answer, err);
out:
    sequence_destroy(sequence);
    quote_index_destroy(index);
    prompt_finish(&prompt);
    arena_finish(&arena);
    return status;
}

/* --- All questions --------------------------------------------------------------------------------------- */

/* The passage of eval's set that a place stands in: each is one page of its document. */
static bool in_gold_passage(struct reader *reader, const struct eval_question *question, const struct answer *answer)
{
    struct retrieval_options options = {.documents = &answer->place.document_id, .document_count = 1, .limit = 1000};
    struct arena arena;
    struct retrieval_result result = {0};
    bool gold = false;

    arena_init(&arena, (size_t)64 << 20);
    if (!retrieval_search(reader->corpus.store, span_of(answer->text, answer->len), &options, &arena, &result, NULL)) {
        for (size_t i = 0; i < result.count; i++) {
            if (result.passages[i].page != answer->place.page)
                continue;
            for (size_t j = 0; j < question->judgement_count; j++)
                gold |= question->judgements[j].passage == reader->corpus.passages[result.passages[i].chunk_id];
        }
    }
    arena_finish(&arena);
    return gold;
}

static enum status read_all(struct reader *reader, const struct eval_set *set, bool answerable, size_t limit,
                            struct tally halves[2], struct error *err)
{
    size_t done = 0;

    for (size_t q = 0; q < set->question_count && done < limit; q++) {
        const struct eval_question *question = &set->questions[q];
        struct tally *tally = &halves[eval_reported(question)];
        struct answer answer;
        bool right;
        enum status status;

        if (question->answerable != answerable || (answerable && !question->answer_count))
            continue;
        status = ask(reader, span_from_cstr(question->text), &answer, err);
        if (status) {
            free(answer.text);
            return status;
        }
        right = answer.text && eval_has_answer(question, span_of(answer.text, answer.len));
        done++;
        tally->questions++;
        tally->right += right;
        tally->abstained += answer.abstained;
        tally->quoted += answer.text != NULL;
        tally->bytes += answer.len;
        tally->gold_passage += answer.text && in_gold_passage(reader, question, &answer);
        tally->prompt_tokens += answer.prompt_tokens;
        tally->output_tokens += answer.output_tokens;
        tally->prefill_ns += answer.prefill_ns;
        tally->decode_ns += answer.decode_ns;
        if (reader->verbose)
            (void)printf("%s %s\n    %.*s\n", right ? "+" : "-", question->text, (int)answer.len,
                         answer.text ? answer.text : "");
        free(answer.text);
    }
    return STATUS_OK;
}

static double share(size_t part, size_t whole)
{
    return whole ? 100 * (double)part / (double)whole : 0;
}

static void print_tally(const char *half, const struct tally *t, bool answerable)
{
    (void)printf("%-12s %5zu questions", half, t->questions);
    if (answerable)
        (void)printf("  holds a gold answer %5.1f%%  from a gold passage %5.1f%%  mean %3.0f B",
                     share(t->right, t->questions), share(t->gold_passage, t->questions),
                     t->quoted ? (double)t->bytes / (double)t->quoted : 0);
    (void)printf("  abstained %5.1f%%\n", share(t->abstained, t->questions));
}

static struct tally add(const struct tally *a, const struct tally *b)
{
    return (struct tally){a->questions + b->questions, a->right + b->right, a->gold_passage + b->gold_passage,
                          a->abstained + b->abstained, a->bytes + b->bytes, a->quoted + b->quoted,
                          a->prompt_tokens + b->prompt_tokens, a->output_tokens + b->output_tokens,
                          a->prefill_ns + b->prefill_ns, a->decode_ns + b->decode_ns};
}

static void print_halves(const char *what, const struct tally halves[2], bool answerable)
{
    struct tally all = add(&halves[0], &halves[1]);

    (void)printf("%s\n", what);
    print_tally("tune (even)", &halves[0], answerable);
    print_tally("report (odd)", &halves[1], answerable);
    print_tally("all", &all, answerable);
    (void)printf("%-12s prefill %.0f tokens/s over %zu, decode %.1f tokens/s over %zu\n", "speed",
                 all.prefill_ns ? (double)all.prompt_tokens * 1e9 / (double)all.prefill_ns : 0, all.prompt_tokens,
                 all.decode_ns ? (double)all.output_tokens * 1e9 / (double)all.decode_ns : 0, all.output_tokens);
}

static int usage(FILE *to)
{
    (void)fputs(
        "usage: dsa-eval reader --model DIR [--backend NAME] [--budget TOKENS] [--passages N] [--limit N]\n"
        "       [--unanswerable SOURCE] [--verbose] DIR QA.jsonl\n"
        "DIR holds corpus.jsonl, queries.jsonl and qrels.tsv; QA.jsonl the answers by the same ids. SOURCE: also\n"
        "ask the unanswerable questions of that source over the same passages.\n",
        to);
    return to == stdout ? 0 : 64;
}

struct arguments {
    const char *model, *backend, *unanswerable, *dir, *answers;
    size_t limit;
};

static enum status run(struct reader *reader, const struct arguments *arguments, struct error *err)
{
    struct engine_options options = {.model_dir = arguments->model, .backend = arguments->backend};
    struct eval_set set = {0}, others = {0};
    struct tally right[2] = {{0}}, none[2] = {{0}};
    enum status status = eval_load_beir(arguments->dir, &set, err);

    if (!status)
        status = eval_load_answers(arguments->answers, &set, err);
    if (!status && arguments->unanswerable)
        status = eval_load_records(arguments->answers, arguments->unanswerable, &others, err);
    if (!status)
        status = eval_corpus_build(&set, &reader->corpus, err);
    if (!status)
        status = engine_open(&options, &reader->engine, err);
    if (!status) {
        (void)printf("%s, %s%s, packs of %zu tokens\n", engine_info(reader->engine)->architecture,
                     engine_info(reader->engine)->backend,
                     engine_info(reader->engine)->random_weights ? ", RANDOM WEIGHTS: figures of chance" : "",
                     reader->budget);
        status = read_all(reader, &set, true, arguments->limit, right, err);
    }
    if (!status) {
        print_halves("answerable questions, one quotation each", right, true);
        if (arguments->unanswerable) {
            status = read_all(reader, &others, false, arguments->limit, none, err);
            if (!status)
                print_halves("unanswerable questions", none, false);
        }
    }
    engine_close(reader->engine);
    eval_corpus_finish(&reader->corpus);
    eval_set_finish(&set);
    eval_set_finish(&others);
    return status;
}

int eval_reader(int argc, char **argv)
{
    static const struct option names[] = {{"model", required_argument, NULL, 'm'},
                                          {"backend", required_argument, NULL, 'b'},
                                          {"budget", required_argument, NULL, 't'},
                                          {"passages", required_argument, NULL, 'p'},
                                          {"limit", required_argument, NULL, 'l'},
                                          {"unanswerable", required_argument, NULL, 'u'},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    struct reader reader = {.budget = DEFAULT_BUDGET, .passages = 20};
    struct arguments arguments = {.limit = SIZE_MAX};
    struct error err = {0};
    int option;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'm': arguments.model = optarg; break;
        case 'b': arguments.backend = optarg; break;
        case 't': reader.budget = (size_t)strtoul(optarg, NULL, 10); break;
        case 'p': reader.passages = atoi(optarg); break;
        case 'l': arguments.limit = (size_t)strtoul(optarg, NULL, 10); break;
        case 'u': arguments.unanswerable = optarg; break;
        case 'v': reader.verbose = true; break;
        case 'h': return usage(stdout);
        default: return usage(stderr);
        }
    }
    if (!arguments.model || argc - optind != 2)
        return usage(stderr);
    arguments.dir = argv[optind];
    arguments.answers = argv[optind + 1];
    if (run(&reader, &arguments, &err)) {
        (void)fprintf(stderr, "dsa-eval: %s\n", err.message);
        return 1;
    }
    return 0;
}
