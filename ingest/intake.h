/* ingest/intake.h: one document, from its first frame to everything a sink needs.
 *
 * Frames come in through intake_frame(), which believes nothing; intake_build() then runs the passes (furniture,
 * headings, columns, normalise, chunk) once, over the whole document. All memory is the intake's. */
#ifndef INGEST_INTAKE_H
#define INGEST_INTAKE_H

#include "ingest/ingest.h"
#include "ingest/frames.h"

struct intake;

enum status intake_create(struct intake **intake, struct error *err) MUST_CHECK;
void intake_destroy(struct intake *intake); /* NULL allowed */

/* Takes any frame but those of members. STATUS_CORRUPT: the child lies; STATUS_LIMIT: the document has grown
 * beyond its cap. In both cases what came before is still good. */
enum status intake_frame(struct intake *intake, const struct frame *frame, struct error *err) MUST_CHECK;

/* Adds a problem of our own; at most LIMIT_PROBLEMS are kept. */
enum status intake_problem(struct intake *intake, int page, const char *code, const char *message) MUST_CHECK;

/* Ends the stream: `code` NULL after END, else why it broke off ("crash", "timeout", …). */
enum status intake_end(struct intake *intake, const char *code, const char *message) MUST_CHECK;

bool intake_ended(const struct intake *intake);      /* END was seen */
bool intake_encrypted(const struct intake *intake);  /* it failed for want of a password */
bool intake_is_archive(const struct intake *intake); /* a member was begun */
size_t intake_pages(const struct intake *intake);

/* Runs the passes and fills *document; the caller sets collection, path, member, sha256, size and times. The
 * document is borrowed from the intake. */
enum status intake_build(struct intake *intake, struct ingest_document *document, struct error *err) MUST_CHECK;

#endif
