/* reader_rtf.c: Rich Text Format: control words, groups, and bytes in the document's code page.
 *
 * A group begins with "{" and ends with "}"; what a control word sets inside ends with its group. Groups that
 * hold no text of the document (fonts, colours, pictures, "\*" ones) are passed over. Nothing recurses: groups
 * are a depth and, up to a cap, a stack of what they set. */
#include <iconv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/readers.h"
#include "ingest/source.h"

enum { GROUPS_MAX = LIMIT_MARKUP_DEPTH, WORD_BYTES = 33, FIELD_BYTES = 1024, FONTS_MAX = 512, FIRST_CODE_PAGE = 1252 };

struct group {
    int unicode_skip; /* characters after \u that say the same for old readers */
    int page;         /* code page of its font; 0: the document's */
    char *field;      /* of the metadata: text goes there */
};

struct rtf {
    struct block block;
    struct span text;
    size_t at;
    struct group groups[GROUPS_MAX];
    int depth;
    int skip_depth;     /* groups from this depth up are passed over; 0 none */
    int to_skip;        /* characters still to pass over after \u */
    int level;          /* of the paragraph, 0 no heading */
    bool in_table, list_item;
    uint32_t high;      /* first half of a surrogate pair */
    int page;           /* code page of the document */
    int font_pages[FONTS_MAX]; /* by font number; 0: the document's */
    long font;          /* that the font table speaks of */
    iconv_t converter;  /* from `converter_page` */
    int converter_page;
    char pending[8];    /* bytes of a character of several */
    size_t pending_len;
    char title[FIELD_BYTES], author[FIELD_BYTES];
};

static struct group *group(struct rtf *r)
{
    return &r->groups[r->depth < GROUPS_MAX ? r->depth : GROUPS_MAX - 1];
}

static enum status add(struct rtf *r, const char *text, size_t len)
{
    char *field = group(r)->field;
    enum status status = STATUS_OK;

    if (r->skip_depth)
        return STATUS_OK;
    if (field) {
        size_t used = strlen(field);

        (void)snprintf(field + used, FIELD_BYTES - used, "%.*s", (int)len, text);
        return STATUS_OK;
    }
    if (block_is_empty(&r->block) && !r->in_table && r->block.kind == LINE_TEXT && (r->level || r->list_item))
        status = r->level ? block_begin(&r->block, LINE_HEADING, r->level, NULL)
                          : block_begin(&r->block, LINE_LIST_ITEM, 0, "- ");
    return status ? status : block_add(&r->block, span_of(text, len));
}

static enum status add_code(struct rtf *r, uint32_t code)
{
    char text[UTF8_MAX_BYTES];
    size_t len;

    if (code >= 0xD800 && code < 0xDC00) {
        r->high = code;
        return STATUS_OK;
    }
    if (code >= 0xDC00 && code < 0xE000 && r->high)
        code = 0x10000 + ((r->high - 0xD800) << 10) + (code - 0xDC00);
    r->high = 0;
    len = utf8_encode(code, text);
    return len ? add(r, text, len) : STATUS_OK;
}

/* The converter of the current font's code page; windows-1252 for one that iconv does not know. */
static iconv_t converter(struct rtf *r)
{
    int page = group(r)->page ? group(r)->page : r->page;
    char name[24];

    if (r->converter_page == page)
        return r->converter;
    if (r->converter != (iconv_t)-1)
        (void)iconv_close(r->converter);
    (void)snprintf(name, sizeof name, page == 65001 ? "UTF-8" : page == 10000 ? "MACINTOSH" : "CP%d", page);
    r->converter = iconv_open("UTF-8", name);
    if (r->converter == (iconv_t)-1)
        r->converter = iconv_open("UTF-8", "WINDOWS-1252");
    r->converter_page = page;
    return r->converter;
}

/* One byte of the code page; several may make a character. */
static enum status add_byte(struct rtf *r, char byte)
{
    char out[16], *in = r->pending, *to = out;
    size_t in_left, room = sizeof out;

    if (r->to_skip > 0) {
        r->to_skip--;
        return STATUS_OK;
    }
    if ((unsigned char)byte < 0x80 && !r->pending_len)
        return add(r, &byte, 1);
    r->pending[r->pending_len++] = byte;
    in_left = r->pending_len;
    if (iconv(converter(r), &in, &in_left, &to, &room) == (size_t)-1 && r->pending_len < 4)
        return STATUS_OK;
    r->pending_len = 0;
    return add(r, out, (size_t)(to - out));
}

/* --- Control words ---------------------------------------------------------------------------------------- */

static enum status end_paragraph(struct rtf *r)
{
    if (r->in_table) {
        block_space(&r->block);
        return STATUS_OK;
    }
    return block_end(&r->block);
}

static bool is_passed_over(const char *word)
{
    static const char *const words[] = {
        "fonttbl",   "colortbl",   "stylesheet",   "pict",      "object",   "listtable", "listoverridetable",
        "themedata", "datastore",  "latentstyles", "header",    "headerl",  "headerr",   "headerf",
        "footer",    "footerl",    "footerr",      "footerf",   "listtext", "pntext",    "pntxta",
        "pntxtb",    "xe",         "tc",           "generator", "filetbl",  "revtbl",    "rsidtbl",
        "fldinst",   "nonshppict", "creatim",      "revtim",    "printim",  "operator",  "company",
        "doccomm",   "keywords",   "subject",      "template",  "category",
    };

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(word, words[i]) == 0)
            return true;
    }
    return false;
}

/* Windows' character sets of fonts, as code pages. */
static int page_of_charset(long charset)
{
    static const int pages[][2] = {
        {77, 10000}, {128, 932}, {129, 949},  {130, 1361}, {134, 936},  {136, 950},  {161, 1253}, {162, 1254},
        {163, 1258}, {177, 1255}, {178, 1256}, {186, 1257}, {204, 1251}, {222, 874},  {238, 1250},
    };

    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        if (pages[i][0] == charset)
            return pages[i][1];
    }
    return 0;
}

/* Fonts are told apart in the font table, which is passed over, and chosen in the text. */
static void apply_font(struct rtf *r, const char *word, long number)
{
    if (strcmp(word, "f") == 0 && number >= 0 && number < FONTS_MAX) {
        r->font = number;
        group(r)->page = r->font_pages[number];
    } else if (strcmp(word, "fcharset") == 0) {
        r->font_pages[r->font] = page_of_charset(number);
    }
}

static enum status apply(struct rtf *r, const char *word, bool has_number, long number)
{
    static const struct {
        const char *word;
        uint32_t code;
    } characters[] = {
        {"emdash", 0x2014}, {"endash", 0x2013}, {"lquote", 0x2018}, {"rquote", 0x2019}, {"ldblquote", 0x201C},
        {"rdblquote", 0x201D}, {"bullet", 0x2022}, {"emspace", ' '}, {"enspace", ' '}, {"tab", ' '},
    };

    apply_font(r, word, number);
    if (is_passed_over(word)) {
        if (!r->skip_depth)
            r->skip_depth = r->depth;
        return STATUS_OK;
    }
    if (strcmp(word, "u") == 0) {
        r->to_skip = 0;
        if (has_number && add_code(r, (uint32_t)(number < 0 ? number + 65536 : number) & 0x1FFFFF))
            return STATUS_NO_MEMORY;
        r->to_skip = group(r)->unicode_skip;
        return STATUS_OK;
    }
    if (r->skip_depth)
        return STATUS_OK;
    for (size_t i = 0; i < sizeof characters / sizeof *characters; i++) {
        if (strcmp(word, characters[i].word) == 0)
            return add_code(r, characters[i].code);
    }
    if (strcmp(word, "par") == 0 || strcmp(word, "line") == 0 || strcmp(word, "sect") == 0 || strcmp(word, "page") == 0)
        return end_paragraph(r);
    if (strcmp(word, "pard") == 0) {
        r->level = 0;
        r->list_item = false;
        if (r->in_table && block_is_empty(&r->block))
            r->in_table = false; /* set again by \intbl */
    } else if (strcmp(word, "intbl") == 0 && !r->in_table) {
        r->in_table = true;
        return block_begin(&r->block, LINE_TABLE_ROW, 0, NULL);
    } else if (strcmp(word, "cell") == 0) {
        r->in_table = true;
        r->block.kind = LINE_TABLE_ROW;
        return block_tab(&r->block);
    } else if (strcmp(word, "row") == 0) {
        r->in_table = false;
        return block_end(&r->block);
    } else if (strcmp(word, "outlinelevel") == 0 && number >= 0 && number <= 8) {
        r->level = number < 6 ? (int)number + 1 : 6;
    } else if (strcmp(word, "ls") == 0 || strcmp(word, "pnlvlblt") == 0) {
        r->list_item = true;
    } else if (strcmp(word, "uc") == 0 && number >= 0 && number < 16) {
        group(r)->unicode_skip = (int)number;
    } else if (strcmp(word, "ansicpg") == 0 && number > 0) {
        r->page = number < 100000 ? (int)number : FIRST_CODE_PAGE;
    } else if (strcmp(word, "title") == 0) {
        group(r)->field = r->title;
    } else if (strcmp(word, "author") == 0) {
        group(r)->field = r->author;
    }
    return STATUS_OK;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* After a backslash: a word with a number, or a symbol. */
static enum status take_control(struct rtf *r)
{
    struct span rest = span_slice(r->text, r->at, r->text.len);
    char word[WORD_BYTES] = "", c = rest.len ? rest.ptr[0] : ' ';
    size_t len = 0;
    bool negative;
    long number = 0;
    size_t digits = 0;

    while (len < rest.len && len + 1 < sizeof word && ((rest.ptr[len] | 32) >= 'a' && (rest.ptr[len] | 32) <= 'z')) {
        word[len] = rest.ptr[len];
        len++;
    }
    if (len == 0) {
        r->at += rest.len > 0;
        if (c == '\'' && rest.len >= 3 && hex_value(rest.ptr[1]) >= 0 && hex_value(rest.ptr[2]) >= 0) {
            r->at += 2;
            return add_byte(r, (char)(hex_value(rest.ptr[1]) << 4 | hex_value(rest.ptr[2])));
        }
        if (c == '*' && !r->skip_depth)
            r->skip_depth = r->depth;
        if (c == '~' || c == '\n' || c == '\r')
            return c == '~' ? add(r, " ", 1) : end_paragraph(r);
        if (c == '_')
            return add(r, "-", 1);
        return c == '{' || c == '}' || c == '\\' ? add_byte(r, c) : STATUS_OK;
    }
    negative = len < rest.len && rest.ptr[len] == '-';
    len += negative;
    for (; len < rest.len && digits < 9 && rest.ptr[len] >= '0' && rest.ptr[len] <= '9'; len++, digits++)
        number = number * 10 + (rest.ptr[len] - '0');
    if (len < rest.len && rest.ptr[len] == ' ')
        len++; /* the space belongs to the word */
    r->at += len;
    if (strcmp(word, "bin") == 0 && !negative) { /* raw bytes follow */
        r->at = r->text.len - r->at < (size_t)number ? r->text.len : r->at + (size_t)number;
        return STATUS_OK;
    }
    return apply(r, word, digits > 0, negative ? -number : number);
}

static enum status walk(struct rtf *r)
{
    enum status status = STATUS_OK;

    while (r->at < r->text.len && !status) {
        char c = r->text.ptr[r->at++];

        if (c == '{') {
            struct group outer = *group(r);

            r->depth++;
            if (r->depth < GROUPS_MAX)
                *group(r) = outer;
            r->to_skip = 0;
        } else if (c == '}') {
            if (r->skip_depth == r->depth)
                r->skip_depth = 0;
            r->depth -= r->depth > 0;
            r->to_skip = 0;
        } else if (c == '\\') {
            status = take_control(r);
        } else if (c != '\n' && c != '\r') {
            status = add_byte(r, c);
        }
        if ((r->at & 0xFFFF) == 0 && !status)
            status = frame_writer_alive(r->block.out);
    }
    return status ? status : block_end(&r->block);
}

static int rtf_bid(struct span head, const char *name)
{
    return head.len >= 5 && memcmp(head.ptr, "{\\rtf", 5) == 0 ? 60 : 0;
}

static enum status rtf_read(const struct reader_job *job, struct error *err)
{
    struct frame_page page = {.number = 1};
    struct rtf *r = calloc(1, sizeof *r);
    struct frame_meta meta;
    enum status status;

    if (!r)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an RTF document");
    block_init(&r->block, job->out);
    r->groups[0].unicode_skip = 1;
    r->page = FIRST_CODE_PAGE;
    r->converter = (iconv_t)-1;
    status = source_map(job->source, &r->text, err);
    if (!status)
        status = frame_writer_page_begin(job->out, &page);
    if (!status)
        status = walk(r);
    if (!status)
        status = frame_writer_page_end(job->out);
    meta = (struct frame_meta){.title = r->title, .author = r->author};
    if (!status)
        status = frame_writer_meta(job->out, &meta);
    if (r->converter != (iconv_t)-1)
        (void)iconv_close(r->converter);
    block_finish(&r->block);
    free(r);
    return status;
}

const struct reader reader_rtf = {"rtf", "application/rtf", rtf_bid, rtf_read};
