/* ingest/readers.h: every reader of dsa-extract by name, how one is chosen, and what they share. */
#ifndef INGEST_READERS_H
#define INGEST_READERS_H

#include "ingest/reader.h"

extern const struct reader reader_pdf, reader_zip, reader_tar, reader_gzip, reader_bzip2, reader_xz,
    reader_zstd, reader_html, reader_markdown, reader_table, reader_text, reader_docx, reader_pptx, reader_xlsx,
    reader_odf, reader_epub, reader_mail, reader_rtf;

/* The reader for a document: the one named by `media_type` (may be NULL), else the highest bid; NULL for bytes
 * that no reader takes. `source` is looked at only for a zip whose head does not say what it is. */
const struct reader *detect_reader(struct source *source, const char *name, const char *media_type);

/* What a file that no reader takes seems to be, for its message: "a picture"; never NULL. */
const char *detect_kind(struct span head);

/* The text of an HTML document, into the page that is open. */
enum status html_send_text(struct source *source, struct frame_writer *out, struct error *err) MUST_CHECK;

/* Text of a stated or guessed encoding ("" not stated) as paragraphs, into the page that is open. */
enum status text_send_prose(struct source *source, const char *charset, struct frame_writer *out, struct error *err)
    MUST_CHECK;

/* Loads what poppler keeps for the life of a process, so that forked children find it there. */
void reader_pdf_warm_up(void);
/* Opens the converters of common encodings, whose modules then need no file in the jail. */
void reader_text_warm_up(void);

#endif
