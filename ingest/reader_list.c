/* reader_list.c: the readers, one line each. A new format is a new file and a line here. */
#include "ingest/readers.h"

#include <stddef.h>

const struct reader *const reader_list[] = {
    &reader_pdf,
    &reader_zip,
    &reader_tar,
    &reader_gzip,
    &reader_bzip2,
    &reader_xz,
    &reader_zstd,
    &reader_rtf,
    &reader_mail,
    &reader_html,
    &reader_markdown,
    &reader_table,
    &reader_text,
    NULL,
};
