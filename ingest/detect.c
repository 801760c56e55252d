/* detect.c: which reader takes a document. */
#include <stddef.h>
#include <string.h>

#include "ingest/package.h"
#include "ingest/readers.h"
#include "ingest/source.h"

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
