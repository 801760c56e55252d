/* ingest/sentence.h: where a sentence ends, by rule. */
#ifndef INGEST_SENTENCE_H
#define INGEST_SENTENCE_H

#include "base/span.h"

/* The length of the first sentence of `text`, the blanks after it included; text.len if it is the only one. A
 * full stop ends it unless it follows an abbreviation or an initial; the next sentence begins with anything but a
 * lower-case letter. East Asian full stops end it without a blank. */
size_t sentence_length(struct span text);

/* The length, at most `max` and at least 1 character, at which an overlong sentence is best cut: after a clause's
 * sign, else after a blank, else between two characters. */
size_t sentence_cut(struct span text, size_t max);

/* True if `text` ends as a sentence does. */
bool sentence_ends(struct span text);

#endif
