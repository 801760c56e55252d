/* features.c: the sentences' features with right or wrong, for tools/fit-sentences.py.
 *
 * Output, little-endian: "DSAF", u32 features, then for each sentence: u32 question, u32 right, f32 × features. */
#include <stdio.h>
#include <string.h>

#include "eval/eval.h"
#include "retrieval/retrieval.h"

static enum status write_question(struct eval_corpus *corpus, const struct eval_question *question, uint32_t number,
                                  FILE *out, struct error *err)
{
    struct retrieval_options options = {.limit = 20};
    struct arena arena;
    struct retrieval_result result = {0};
    struct retrieval_sentence *sentences = NULL;
    size_t count = 0;
    enum status status;

    arena_init(&arena, (size_t)64 << 20);
    status = retrieval_search(corpus->store, span_from_cstr(question->text), &options, &arena, &result, err);
    if (!status)
        status = retrieval_score_sentences(corpus->store, span_from_cstr(question->text), &result, &arena, &sentences,
                                           &count, err);
    for (size_t i = 0; i < count && !status; i++) {
        const struct retrieval_sentence *s = &sentences[i];
        uint32_t head[2] = {number, eval_has_answer(question, span_slice(result.passages[s->passage].text, s->start,
                                                                         s->end))};

        if (fwrite(head, sizeof head, 1, out) != 1 || fwrite(s->features, sizeof s->features, 1, out) != 1)
            status = error_set(err, STATUS_IO, "the features cannot be written");
    }
    arena_finish(&arena);
    return status == STATUS_BAD_INPUT ? STATUS_OK : status;
}

int eval_features(int argc, char **argv)
{
    struct eval_set set = {0};
    struct eval_corpus corpus = {0};
    struct error err = {0};
    uint32_t width = SENTENCE_FEATURES;
    FILE *out = NULL;
    enum status status;

    if (argc != 4) {
        (void)fputs("usage: dsa-eval features QA.jsonl SOURCE OUT.bin\n"
                    "Only for training questions; SOURCE as in the records, or 'all'.\n", stderr);
        return 64;
    }
    status = eval_load_records(argv[1], strcmp(argv[2], "all") ? argv[2] : NULL, &set, &err);
    if (!status)
        status = eval_corpus_build(&set, &corpus, &err);
    if (!status) {
        out = fopen(argv[3], "we");
        if (!out || fwrite("DSAF", 4, 1, out) != 1 || fwrite(&width, sizeof width, 1, out) != 1)
            status = error_set(&err, STATUS_IO, "'%s' cannot be written", argv[3]);
    }
    for (size_t q = 0; q < set.question_count && !status; q++) {
        if (set.questions[q].answerable && set.questions[q].answer_count)
            status = write_question(&corpus, &set.questions[q], (uint32_t)q, out, &err);
    }
    if (out && fclose(out) && !status)
        status = error_set(&err, STATUS_IO, "'%s' cannot be written", argv[3]);
    if (status)
        (void)fprintf(stderr, "dsa-eval: %s\n", err.message);
    eval_corpus_finish(&corpus);
    eval_set_finish(&set);
    return status ? 1 : 0;
}
