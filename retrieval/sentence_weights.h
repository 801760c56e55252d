/* retrieval/sentence_weights.h: written by tools/fit-sentences.py; see eval/README.md. */
static const double sentence_weights[SENTENCE_FEATURES] = {
    [SENTENCE_OVERLAP] = 1.0, [SENTENCE_PASSAGE_SCORE] = 0.2,
};
