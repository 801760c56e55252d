/* store/search.h: what scoring (bm25.c) and searching (search.c) share. Internal to store/. */
#ifndef STORE_SEARCH_H
#define STORE_SEARCH_H

#include "store/store_internal.h"

struct id_range {
    int64_t first, end; /* chunk ids [first, end) */
};

struct searching { /* one search at work */
    const struct store_search *search;
    bool filtered;
    struct id_range *ranges; /* of the documents that pass, ascending; owned by search.c */
    size_t range_count;
    size_t last_range;       /* where the last id was found: rows come in order */
};

/* May a row be a hit? By the chunk ids of the documents that the filter lets through. */
static inline bool store_filter_passes(struct searching *searching, int64_t id)
{
    size_t at = searching->last_range;

    if (!searching->filtered)
        return true;
    while (at < searching->range_count && id >= searching->ranges[at].end)
        at++;
    searching->last_range = at;
    return at < searching->range_count && id >= searching->ranges[at].first;
}

#endif
