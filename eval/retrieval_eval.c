/* retrieval_eval.c: how well the right passage is found. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "eval/eval.h"
#include "retrieval/retrieval.h"

enum { DEPTH = 100 };

struct figures {
    double ndcg_10, recall_10, recall_100, first, first_5, first_10, mean_ms;
    size_t questions;
};

static double grade_of(const struct eval_question *question, size_t passage)
{
    for (size_t i = 0; i < question->judgement_count; i++) {
        if (question->judgements[i].passage == passage)
            return question->judgements[i].grade;
    }
    return 0;
}

static int by_grade(const void *left, const void *right)
{
    double a = ((const struct eval_judgement *)left)->grade, b = ((const struct eval_judgement *)right)->grade;

    return a > b ? -1 : a < b;
}

/* Linear gains, log2 discounts, as trec_eval's ndcg_cut. */
static void judge(const struct eval_question *question, const size_t *ranked, size_t count, struct figures *f)
{
    double gain = 0, ideal = 0;
    size_t found_10 = 0, found_100 = 0, first = SIZE_MAX;
    struct eval_judgement *best = calloc(question->judgement_count + 1, sizeof *best);

    if (!best)
        abort();
    for (size_t i = 0; i < question->judgement_count; i++)
        best[i] = question->judgements[i];
    qsort(best, question->judgement_count, sizeof *best, by_grade);
    for (size_t i = 0; i < question->judgement_count && i < 10; i++)
        ideal += best[i].grade / log2((double)i + 2);
    free(best);
    for (size_t i = 0; i < count && i < DEPTH; i++) {
        double grade = grade_of(question, ranked[i]);

        if (grade <= 0)
            continue;
        if (first == SIZE_MAX)
            first = i;
        found_100++;
        if (i < 10) {
            found_10++;
            gain += grade / log2((double)i + 2);
        }
    }
    f->questions++;
    f->ndcg_10 += ideal > 0 ? gain / ideal : 0;
    f->recall_10 += (double)found_10 / (double)question->judgement_count;
    f->recall_100 += (double)found_100 / (double)question->judgement_count;
    f->first += first == 0;
    f->first_5 += first < 5;
    f->first_10 += first < 10;
}

static enum status measure(struct eval_corpus *corpus, const struct eval_set *set,
                           const struct retrieval_options *options, int half, struct figures *f, struct error *err)
{
    int64_t spent_ns = 0;

    *f = (struct figures){0};
    for (size_t q = 0; q < set->question_count; q++) {
        const struct eval_question *question = &set->questions[q];
        struct arena arena;
        struct retrieval_result result = {0};
        size_t ranked[DEPTH], count = 0;
        int64_t start_ns = clock_monotonic_ns();
        enum status status;

        if (!question->judgement_count || (half >= 0 && eval_reported(question) != (half == 1)))
            continue;
        arena_init(&arena, (size_t)64 << 20);
        status = retrieval_search(corpus->store, span_from_cstr(question->text), options, &arena, &result, err);
        spent_ns += clock_monotonic_ns() - start_ns;
        for (size_t i = 0; i < result.count && count < DEPTH; i++)
            ranked[count++] = corpus->passages[result.passages[i].chunk_id];
        arena_finish(&arena);
        if (status && status != STATUS_BAD_INPUT)
            return status;
        judge(question, ranked, count, f);
    }
    f->mean_ms = f->questions ? (double)spent_ns / 1e6 / (double)f->questions : 0;
    return STATUS_OK;
}

static void print_figures(const char *name, const struct figures *f)
{
    double n = (double)(f->questions ? f->questions : 1);

    (void)printf("%-18s %5zu  nDCG@10 %.4f  R@10 %.4f  R@100 %.4f  first %.1f%%  in 5 %.1f%%  in 10 %.1f%%  %.2f ms\n",
                 name, f->questions, f->ndcg_10 / n, f->recall_10 / n, f->recall_100 / n, 100 * f->first / n,
                 100 * f->first_5 / n, 100 * f->first_10 / n, f->mean_ms);
}

static int usage(FILE *to)
{
    (void)fputs("usage: dsa-eval retrieval [--k1 X] [--b X] [--title-weight X] [--half tune|report] DIR…\n"
                "DIR holds corpus.jsonl, queries.jsonl and qrels.tsv (BEIR layout).\n", to);
    return to == stdout ? 0 : 64;
}

int eval_retrieval(int argc, char **argv)
{
    static const struct option names[] = {{"k1", required_argument, NULL, 'k'},
                                          {"b", required_argument, NULL, 'b'},
                                          {"title-weight", required_argument, NULL, 't'},
                                          {"half", required_argument, NULL, 'h'},
                                          {"help", no_argument, NULL, 'H'},
                                          {0}};
    struct retrieval_options options = {.limit = DEPTH};
    struct error err = {0};
    int option, half = -1;
    enum status status = STATUS_OK;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'k': options.k1 = atof(optarg); break;
        case 'b': options.b = atof(optarg); break;
        case 't': options.title_weight = atof(optarg); break;
        case 'h': half = optarg[0] == 'r'; break;
        case 'H': return usage(stdout);
        default: return usage(stderr);
        }
    }
    if (optind == argc)
        return usage(stderr);
    for (int i = optind; i < argc && !status; i++) {
        struct eval_set set = {0};
        struct eval_corpus corpus = {0};
        struct figures figures;
        const char *name = strrchr(argv[i], '/');

        status = eval_load_beir(argv[i], &set, &err);
        if (!status)
            status = eval_corpus_build(&set, &corpus, &err);
        if (!status)
            status = measure(&corpus, &set, &options, half, &figures, &err);
        if (!status)
            print_figures(name ? name + 1 : argv[i], &figures);
        eval_corpus_finish(&corpus);
        eval_set_finish(&set);
    }
    if (status)
        (void)fprintf(stderr, "dsa-eval: %s\n", err.message);
    return status ? 1 : 0;
}
