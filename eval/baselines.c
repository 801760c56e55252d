/* baselines.c: one quotation a question without a model. What a reader model has to beat. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "eval/eval.h"
#include "retrieval/retrieval.h"

enum baseline { FIRST_SENTENCE, MOST_WORDS, BEST_BM25, REGRESSION, BEST_POSSIBLE, BASELINES };
static const char *const baseline_names[BASELINES] = {
    "first sentence of the best passage", "most idf-weighted question words, best passage",
    "best sentence by BM25, first five", "logistic regression, first five", "(best possible, first five)"};

struct tally {
    size_t questions, right[BASELINES], bytes[BASELINES];
};

/* BM25 of a sentence as a document of its own: overlap weighted by idf, less for length. Question words seldom stand
 * twice in a sentence, so tf is 1. */
static double sentence_bm25(const struct retrieval_sentence *sentence, double mean_words)
{
    double words = (double)(sentence->end - sentence->start) / 6; /* of six bytes */

    return (double)sentence->features[SENTENCE_OVERLAP] * 2.2 / (1 + 1.2 * (0.25 + 0.75 * words / mean_words));
}

static void count_answer(struct tally *tally, enum baseline baseline, const struct eval_question *question,
                         const struct retrieval_result *result, const struct retrieval_sentence *sentence)
{
    struct span text = span_slice(result->passages[sentence->passage].text, sentence->start, sentence->end);

    tally->right[baseline] += eval_has_answer(question, text);
    tally->bytes[baseline] += text.len;
}

static void judge(const struct eval_question *question, const struct retrieval_result *result,
                  const struct retrieval_sentence *sentences, size_t count, struct tally *tally)
{
    size_t words = 0, bm25 = 0, regression = 0, possible = 0;
    double bm25_score = -1;

    tally->questions++;
    if (!count)
        return;
    for (size_t i = 0; i < count; i++) {
        const struct retrieval_sentence *s = &sentences[i];
        double score = sentence_bm25(s, 22);

        if (s->passage == 0 && s->features[SENTENCE_OVERLAP] > sentences[words].features[SENTENCE_OVERLAP])
            words = i;
        if (score > bm25_score) {
            bm25_score = score;
            bm25 = i;
        }
        if (s->score > sentences[regression].score)
            regression = i;
        if (eval_has_answer(question, span_slice(result->passages[s->passage].text, s->start, s->end)))
            possible = i;
    }
    count_answer(tally, FIRST_SENTENCE, question, result, &sentences[0]);
    count_answer(tally, MOST_WORDS, question, result, &sentences[words]);
    count_answer(tally, BEST_BM25, question, result, &sentences[bm25]);
    count_answer(tally, REGRESSION, question, result, &sentences[regression]);
    count_answer(tally, BEST_POSSIBLE, question, result, &sentences[possible]);
}

static enum status measure(struct eval_corpus *corpus, const struct eval_set *set, struct tally halves[2],
                           struct error *err)
{
    struct retrieval_options options = {.limit = 20};

    for (size_t q = 0; q < set->question_count; q++) {
        const struct eval_question *question = &set->questions[q];
        struct arena arena;
        struct retrieval_result result = {0};
        struct retrieval_sentence *sentences = NULL;
        size_t count = 0;
        enum status status;

        if (!question->answer_count)
            continue;
        arena_init(&arena, (size_t)64 << 20);
        status = retrieval_search(corpus->store, span_from_cstr(question->text), &options, &arena, &result, err);
        if (!status)
            status = retrieval_score_sentences(corpus->store, span_from_cstr(question->text), &result, &arena,
                                               &sentences, &count, err);
        if (!status || status == STATUS_BAD_INPUT)
            judge(question, &result, sentences, status ? 0 : count, &halves[eval_reported(question)]);
        arena_finish(&arena);
        if (status && status != STATUS_BAD_INPUT)
            return status;
    }
    return STATUS_OK;
}

static void print_line(const struct tally *t, int baseline)
{
    double n = (double)(t->questions ? t->questions : 1);

    (void)printf("  %5.1f%% %5.0f B", 100 * (double)t->right[baseline] / n, (double)t->bytes[baseline] / n);
}

static void print_tallies(const struct tally halves[2])
{
    struct tally all = {.questions = halves[0].questions + halves[1].questions};

    (void)printf("%-48s  %-14s  %-14s  %s\n", "one sentence holds a gold answer; mean length", "tune (even)",
                 "report (odd)", "all");
    (void)printf("%-48s  %-14zu  %-14zu  %zu\n", "questions", halves[0].questions, halves[1].questions, all.questions);
    for (int b = 0; b < BASELINES; b++) {
        all.right[b] = halves[0].right[b] + halves[1].right[b];
        all.bytes[b] = halves[0].bytes[b] + halves[1].bytes[b];
        (void)printf("%-48s", baseline_names[b]);
        print_line(&halves[0], b);
        print_line(&halves[1], b);
        print_line(&all, b);
        (void)printf("\n");
    }
}

int eval_baselines(int argc, char **argv)
{
    struct eval_set set = {0};
    struct eval_corpus corpus = {0};
    struct tally halves[2] = {{0}};
    struct error err = {0};
    enum status status;

    if (argc != 3) {
        (void)fputs("usage: dsa-eval baselines DIR QA.jsonl\n"
                    "DIR holds corpus.jsonl, queries.jsonl and qrels.tsv; QA.jsonl the answers by the same ids.\n",
                    stderr);
        return 64;
    }
    status = eval_load_beir(argv[1], &set, &err);
    if (!status)
        status = eval_load_answers(argv[2], &set, &err);
    if (!status)
        status = eval_corpus_build(&set, &corpus, &err);
    if (!status)
        status = measure(&corpus, &set, halves, &err);
    if (!status)
        print_tallies(halves);
    else
        (void)fprintf(stderr, "dsa-eval: %s\n", err.message);
    eval_corpus_finish(&corpus);
    eval_set_finish(&set);
    return status ? 1 : 0;
}
