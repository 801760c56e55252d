/* reader_xlsx.c: workbooks of OOXML: one page a sheet, labelled with its name, one row a line.
 *
 * A cell's value is a number, an index into the shared strings, or text in place. Dates are numbers whose format
 * says so: they become ISO dates, because a serial number answers nobody's question. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/vec.h"
#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/package.h"
#include "ingest/xml_walk.h"

enum { VALUE_BYTES = 32768, NAME_BYTES = 128, COLUMNS_MAX = 16384, GAP_MAX = 64, SHEETS_MAX = 4096 };

struct sheet {
    char name[NAME_BYTES], id[NAME_BYTES];
};

struct date_format {
    int id; /* of numFmt */
};

struct xlsx {
    struct block block;
    enum status status;
    struct buf strings;                       /* shared strings, one after the other */
    VEC(size_t) string_ends;
    VEC(struct date_format) date_formats;
    VEC(bool) style_is_date;                  /* by index of cellXfs */
    VEC(struct sheet) sheets;
    bool in_cell_formats, dates_1904;
    bool in_text, in_value, skipping;         /* skipping: phonetic guides */
    char type[16], value[VALUE_BYTES];
    size_t value_len;
    int column, last_column, style;
};

static void keep(struct xlsx *x, enum status status)
{
    if (!x->status)
        x->status = status;
}

static void nothing(void *context, const char *name)
{
}

/* --- Styles: which of them are dates ---------------------------------------------------------------------- */

/* "yyyy-mm-dd", "h:mm": letters of dates outside quotes and brackets. */
static bool is_date_code(const char *code)
{
    bool quoted = false, bracket = false;

    for (; *code; code++) {
        quoted ^= *code == '"';
        bracket = *code == '[' || (bracket && *code != ']');
        if (*code == '\\' && code[1]) {
            code++;
            continue;
        }
        if (!quoted && !bracket && strchr("ymdhsYMDHS", *code))
            return true;
    }
    return false;
}

static bool is_date_format(const struct xlsx *x, int id)
{
    if ((id >= 14 && id <= 22) || (id >= 45 && id <= 47))
        return true;
    for (size_t i = 0; i < x->date_formats.count; i++) {
        if (x->date_formats.items[i].id == id)
            return true;
    }
    return false;
}

static void style_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct xlsx *x = context;
    char id[16], code[256];

    (void)xml_attribute(attributes, "numFmtId", id, sizeof id);
    if (strcmp(name, "numFmt") == 0) {
        if (xml_attribute(attributes, "formatCode", code, sizeof code) && is_date_code(code) &&
            vec_reserve(&x->date_formats, 1) == STATUS_OK)
            x->date_formats.items[x->date_formats.count++].id = atoi(id);
    } else if (strcmp(name, "cellXfs") == 0) {
        x->in_cell_formats = true;
    } else if (strcmp(name, "xf") == 0 && x->in_cell_formats && vec_reserve(&x->style_is_date, 1) == STATUS_OK) {
        x->style_is_date.items[x->style_is_date.count++] = is_date_format(x, atoi(id));
    }
}

static void style_end(void *context, const char *name)
{
    if (strcmp(name, "cellXfs") == 0)
        ((struct xlsx *)context)->in_cell_formats = false;
}

/* --- Shared strings --------------------------------------------------------------------------------------- */

static void string_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct xlsx *x = context;

    x->skipping = x->skipping || strcmp(name, "rPh") == 0;
    x->in_text = strcmp(name, "t") == 0 && !x->skipping;
}

static void string_end(void *context, const char *name)
{
    struct xlsx *x = context;

    x->in_text = false;
    if (strcmp(name, "rPh") == 0)
        x->skipping = false;
    if (strcmp(name, "si") == 0) {
        keep(x, vec_reserve(&x->string_ends, 1));
        if (!x->status)
            x->string_ends.items[x->string_ends.count++] = x->strings.len;
    }
}

static void string_text(void *context, struct span text)
{
    struct xlsx *x = context;

    if (x->in_text)
        keep(x, buf_append_span(&x->strings, text));
}

static struct span shared_string(const struct xlsx *x, long index)
{
    size_t start;

    if (index < 0 || (size_t)index >= x->string_ends.count)
        return span_of(NULL, 0);
    start = index ? x->string_ends.items[index - 1] : 0;
    return span_slice(buf_span(&x->strings), start, x->string_ends.items[index]);
}

/* --- Sheets ----------------------------------------------------------------------------------------------- */

static void book_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct xlsx *x = context;
    char value[16];

    if (strcmp(name, "workbookPr") == 0) {
        (void)xml_attribute(attributes, "date1904", value, sizeof value);
        x->dates_1904 = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
    } else if (strcmp(name, "sheet") == 0 && x->sheets.count < SHEETS_MAX && vec_reserve(&x->sheets, 1) == STATUS_OK) {
        struct sheet *sheet = &x->sheets.items[x->sheets.count++];

        (void)xml_attribute(attributes, "name", sheet->name, sizeof sheet->name);
        (void)xml_attribute_prefixed(attributes, "id", sheet->id, sizeof sheet->id);
    }
}

/* "BC12" is column 54, from 0. */
static int column_of(const char *reference)
{
    int column = 0;

    for (; *reference >= 'A' && *reference <= 'Z' && column < COLUMNS_MAX; reference++)
        column = column * 26 + (*reference - 'A' + 1);
    return column - 1;
}

/* Days since 1899-12-30 (so that the leap day that 1900 did not have costs nothing after it), or since 1904. */
static void format_date(const struct xlsx *x, double serial, char *text, size_t size)
{
    double days = floor(serial), seconds = rint((serial - days) * 86400);
    time_t at = (time_t)((days - (x->dates_1904 ? 24107 : 25569)) * 86400 + seconds);
    struct tm date;

    if (serial < 1) { /* a time of day */
        (void)snprintf(text, size, "%02d:%02d:%02d", (int)seconds / 3600, (int)seconds / 60 % 60, (int)seconds % 60);
        return;
    }
    if (!gmtime_r(&at, &date) || strftime(text, size, seconds > 0 ? "%Y-%m-%d %H:%M:%S" : "%Y-%m-%d", &date) == 0)
        (void)snprintf(text, size, "%.15g", serial);
}

static void send_number(struct xlsx *x)
{
    char text[64], *end;
    double number = strtod(x->value, &end);

    if (end == x->value || *end || !isfinite(number)) {
        keep(x, block_add(&x->block, span_of(x->value, x->value_len)));
        return;
    }
    if (x->style >= 0 && (size_t)x->style < x->style_is_date.count && x->style_is_date.items[x->style] && number >= 0 &&
        number < 2958466) /* the year 10000 */
        format_date(x, number, text, sizeof text);
    else
        (void)snprintf(text, sizeof text, "%.15g", number);
    keep(x, block_add(&x->block, span_from_cstr(text)));
}

static void send_cell(struct xlsx *x)
{
    int gap = x->column - x->last_column;

    if (!x->value_len)
        return;
    /* Empty cells keep their column, but a cell far to the right does not cost a tab for each on the way. */
    for (int i = 0; i < gap && i < GAP_MAX; i++)
        keep(x, block_tab(&x->block));
    x->last_column = x->column;
    if (strcmp(x->type, "s") == 0)
        keep(x, block_add(&x->block, shared_string(x, strtol(x->value, NULL, 10))));
    else if (strcmp(x->type, "b") == 0)
        keep(x, block_add(&x->block, span_from_cstr(x->value[0] == '1' ? "TRUE" : "FALSE")));
    else if (x->type[0] == '\0' || strcmp(x->type, "n") == 0)
        send_number(x);
    else
        keep(x, block_add(&x->block, span_of(x->value, x->value_len)));
}

static void sheet_start(void *context, const char *name, const struct xml_attributes *attributes)
{
    struct xlsx *x = context;
    char text[32];

    if (strcmp(name, "row") == 0) {
        keep(x, block_begin(&x->block, LINE_TABLE_ROW, 0, NULL));
        x->column = -1;
        x->last_column = 0;
    } else if (strcmp(name, "c") == 0) {
        x->column = xml_attribute(attributes, "r", text, sizeof text) && column_of(text) >= 0 ? column_of(text)
                                                                                              : x->column + 1;
        (void)xml_attribute(attributes, "t", x->type, sizeof x->type);
        x->style = xml_attribute(attributes, "s", text, sizeof text) ? atoi(text) : -1;
        x->value_len = 0;
        x->value[0] = '\0';
    }
    x->skipping = x->skipping || strcmp(name, "rPh") == 0;
    x->in_value = (strcmp(name, "v") == 0 || strcmp(name, "t") == 0) && !x->skipping;
}

static void sheet_end(void *context, const char *name)
{
    struct xlsx *x = context;

    x->in_value = false;
    if (strcmp(name, "rPh") == 0)
        x->skipping = false;
    else if (strcmp(name, "c") == 0)
        send_cell(x);
    else if (strcmp(name, "row") == 0)
        keep(x, block_end(&x->block));
    if (strcmp(name, "row") == 0)
        keep(x, frame_writer_alive(x->block.out));
}

static void sheet_text(void *context, struct span text)
{
    struct xlsx *x = context;
    size_t room = sizeof x->value - 1 - x->value_len, len = text.len < room ? text.len : room;

    if (!x->in_value)
        return;
    memcpy(x->value + x->value_len, text.ptr, len);
    x->value_len += len;
    x->value[x->value_len] = '\0';
}

static enum status send_sheet(struct xlsx *x, const struct package *package, const struct sheet *sheet, int number)
{
    struct frame_page page = {.number = (uint32_t)number, .label = span_from_cstr(sheet->name)};
    struct xml_events events = {sheet_start, sheet_end, sheet_text, x};
    char part[512];
    enum status status = frame_writer_page_begin(x->block.out, &page);

    if (!status)
        status = block_begin(&x->block, LINE_HEADING, 1, NULL);
    if (!status)
        status = block_add(&x->block, page.label);
    if (status)
        return status;
    if (!package_relation(package, "xl/workbook.xml", sheet->id, NULL, part, sizeof part)) {
        status = frame_writer_problem(x->block.out, "bad-page", number, "the sheet can't be found");
    } else {
        status = xml_walk(package_part(package, part), &events, &x->status);
        if (status == STATUS_CORRUPT)
            status = frame_writer_problem(x->block.out, "damaged-part", number, "'%s' is damaged XML", part);
    }
    if (!status)
        status = block_end(&x->block);
    return status ? status : frame_writer_page_end(x->block.out);
}

static enum status read_book(struct xlsx *x, const struct package *package, const struct reader_job *job,
                             struct error *err)
{
    struct xml_events styles = {style_start, style_end, NULL, x}, strings = {string_start, string_end, string_text, x};
    struct xml_events book = {book_start, nothing, NULL, x};
    enum status status = package_send_meta(package, "docProps/core.xml", job->out);

    (void)xml_walk(package_part(package, "xl/styles.xml"), &styles, NULL);
    if (!status)
        status = xml_walk(package_part(package, "xl/sharedStrings.xml"), &strings, &x->status);
    if (status == STATUS_CORRUPT) /* a workbook without strings has none of that name */
        status = package_part(package, "xl/sharedStrings.xml").len
                     ? frame_writer_problem(job->out, "damaged-part", 0, "the shared strings are damaged XML")
                     : STATUS_OK;
    (void)xml_walk(package_part(package, "xl/workbook.xml"), &book, NULL);
    for (size_t i = 0; i < x->sheets.count && !status; i++)
        status = send_sheet(x, package, &x->sheets.items[i], (int)i + 1);
    if (!status && !x->sheets.count)
        status = frame_writer_fail(job->out, err, "empty", "a workbook without sheets");
    return status;
}

static enum status xlsx_read(const struct reader_job *job, struct error *err)
{
    struct xlsx *x = calloc(1, sizeof *x);
    struct package *package = NULL;
    enum status status;

    if (!x)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a workbook");
    block_init(&x->block, job->out);
    buf_init(&x->strings, 256 << 20);
    status = package_open(job, &package, err);
    if (!status)
        status = read_book(x, package, job, err);
    package_close(package);
    block_finish(&x->block);
    buf_finish(&x->strings);
    vec_finish(&x->string_ends);
    vec_finish(&x->date_formats);
    vec_finish(&x->style_is_date);
    vec_finish(&x->sheets);
    free(x);
    return status;
}

static int no_bid(struct span head, const char *name)
{
    return 0;
}

const struct reader reader_xlsx = {
    "xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", no_bid, xlsx_read,
};
