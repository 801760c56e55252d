/* detect.c: which reader takes a document. */
#include <stddef.h>
#include <string.h>

#include "ingest/package.h"
#include "ingest/readers.h"
#include "ingest/source.h"

const char *detect_kind(struct span head)
{
    static const struct {
        const char *magic;
        size_t len;
        const char *kind;
    } kinds[] = {
        {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", 8, "an old or encrypted Microsoft Office file"},
        {"%!PS", 4, "a PostScript document"},
        {"7z\xBC\xAF\x27\x1C", 6, "a 7z archive"}, {"Rar!\x1A\x07", 6, "a rar archive"},
        {"\x89PNG", 4, "a picture"}, {"\xFF\xD8\xFF", 3, "a picture"}, {"GIF8", 4, "a picture"},
        {"II*\0", 4, "a picture"}, {"MM\0*", 4, "a picture"}, {"BM", 2, "a picture"},
        {"\x7F" "ELF", 4, "a program"}, {"MZ", 2, "a program"}, {"\xCA\xFE\xBA\xBE", 4, "a program"},
        {"ID3", 3, "a sound"}, {"OggS", 4, "a sound"}, {"fLaC", 4, "a sound"}, {"RIFF", 4, "a sound or film"},
        {"SQLite format 3", 15, "an SQLite database"}, {"\x1F\x9D", 2, "a compress (.Z) file"},
        {"\x04\x22\x4D\x18", 4, "an lz4 file"}, {"AT&TFORM", 8, "a DjVu document"},
    };

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (head.len >= kinds[i].len && memcmp(head.ptr, kinds[i].magic, kinds[i].len) == 0)
            return kinds[i].kind;
    }
    return head.len >= 12 && memcmp(head.ptr + 4, "ftyp", 4) == 0 ? "a film or picture" : "a kind of file";
}

const struct reader *detect_reader(struct source *source, const char *name, const char *media_type)
{
    struct span head = source_head(source);
    const struct reader *best = NULL;
    struct span whole;
    int best_bid = 0;

    for (size_t i = 0; reader_list[i]; i++) {
        int bid = reader_list[i]->bid(head, name);

        /* The caller's word for the format decides between readers that would take it. */
        if (bid && media_type && strcmp(media_type, reader_list[i]->media_type) == 0)
            bid += 1000;
        if (bid > best_bid) {
            best_bid = bid;
            best = reader_list[i];
        }
    }
    if (best == &reader_zip && source_map(source, &whole, NULL) == STATUS_OK) {
        const struct reader *package = package_reader(whole);

        best = package ? package : best;
    }
    return best;
}
