/* reader_table.c: CSV and TSV (RFC 4180, and what people make of it): one line a row, cells joined by tabs.
 *
 * In a file named .csv the separator is the one of comma, semicolon, tab and bar that the first line has most of,
 * outside quotes. A quoted cell may hold separators, doubled quotes and line ends, which become spaces. */
#include <stdlib.h>
#include <strings.h>

#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/readers.h"
#include "ingest/text_lines.h"

struct table {
    struct block block;
    char separator;
    bool in_quotes; /* a cell goes on in the next line */
    size_t quoted_lines;
};

enum { QUOTED_LINES_MAX = 1000 }; /* beyond it, a quote was forgotten: the cell ends with its line */

static const char *extension(const char *name)
{
    const char *dot = name ? strrchr(name, '.') : NULL;

    return dot ? dot + 1 : "";
}

static int table_bid(struct span head, const char *name)
{
    const char *kind = extension(name);
    bool named = strcasecmp(kind, "csv") == 0 || strcasecmp(kind, "tsv") == 0 || strcasecmp(kind, "tab") == 0;

    return named && text_is_likely(head) ? 30 : 0;
}

static char find_separator(struct span line)
{
    static const char candidates[] = ",;\t|";
    size_t counts[4] = {0}, best = 0;
    bool quoted = false;

    for (size_t i = 0; i < line.len; i++) {
        const char *at = line.ptr[i] ? strchr(candidates, line.ptr[i]) : NULL;

        quoted ^= line.ptr[i] == '"';
        if (at && !quoted)
            counts[at - candidates]++;
    }
    for (size_t i = 1; i < 4; i++)
        best = counts[i] > counts[best] ? i : best;
    return candidates[best];
}

/* Adds one line of the file to the row. */
static enum status add_line(struct table *table, struct span line)
{
    size_t from = 0;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < line.len && !status; i++) {
        char c = line.ptr[i];

        if (c != '"' && (c != table->separator || table->in_quotes))
            continue;
        status = block_add(&table->block, span_slice(line, from, i));
        from = i + 1;
        if (status)
            break;
        if (c == table->separator) {
            status = block_tab(&table->block);
        } else if (table->in_quotes && from < line.len && line.ptr[from] == '"') {
            status = block_add(&table->block, span_of("\"", 1));
            from = ++i + 1;
        } else {
            table->in_quotes = !table->in_quotes;
        }
    }
    if (!status)
        status = block_add(&table->block, span_slice(line, from, line.len));
    table->quoted_lines = table->in_quotes ? table->quoted_lines + 1 : 0;
    if (table->quoted_lines > QUOTED_LINES_MAX)
        table->in_quotes = false;
    if (status)
        return status;
    if (table->in_quotes)
        block_space(&table->block);
    else
        status = block_begin(&table->block, LINE_TABLE_ROW, 0, NULL);
    return status;
}

static enum status table_read(const struct reader_job *job, struct error *err)
{
    struct frame_page page = {.number = 1};
    struct table table = {0};
    struct text_lines *lines = NULL;
    struct span line;
    enum status status = text_lines_open(job->source, job->out, &lines);

    block_init(&table.block, job->out);
    if (strcasecmp(extension(job->name), "csv") != 0)
        table.separator = '\t';
    table.block.kind = LINE_TABLE_ROW;
    if (!status)
        status = frame_writer_page_begin(job->out, &page);
    while (!status) {
        status = text_lines_next(lines, &line, err);
        if (status)
            break;
        if (!table.separator && line.len)
            table.separator = find_separator(line);
        status = add_line(&table, line);
        if (!status)
            status = frame_writer_alive(job->out);
    }
    if (status == STATUS_NOT_FOUND)
        status = block_end(&table.block);
    if (!status)
        status = frame_writer_page_end(job->out);
    text_lines_close(lines);
    block_finish(&table.block);
    return status;
}

const struct reader reader_table = {"table", "text/csv", table_bid, table_read};
