/* daemon/restore.h: what earlier attempts left of a question: cursors and answer from its stream, the pack as it was
 * kept. The engine is driven through it before anything new is said. */
#ifndef DAEMON_RESTORE_H
#define DAEMON_RESTORE_H

#include "daemon/question.h"

/* Fills the cursors, answer and citations of `question`, and the tokens, text and pack of `work`. */
enum status restore(struct writer *writer, struct question *question, struct work *work, struct error *err) MUST_CHECK;

/* Makes of a CITATION's header what FINAL has of it: with the quoted words, without geometry. */
void restore_quote(json_t *brief, struct span quoted);

#endif
