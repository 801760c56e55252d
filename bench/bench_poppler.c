/* bench_poppler.c: the floor under dsa-ingest: a bare loop of poppler over documents, nothing else.
 *
 *   bench_poppler [--layout] FILE...     prints documents, pages, bytes of text
 *
 * With --layout also the rectangles and attributes of every character, which dsa-extract needs. */
#include <poppler.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void read_page(PopplerPage *page, bool layout, size_t *bytes)
{
    PopplerRectangle *rects = NULL;
    char *text = poppler_page_get_text(page);
    guint count = 0;

    *bytes += text ? strlen(text) : 0;
    if (layout) {
        GList *attributes = poppler_page_get_text_attributes(page);

        (void)poppler_page_get_text_layout(page, &rects, &count);
        poppler_page_free_text_attributes(attributes);
        g_free(rects);
    }
    g_free(text);
}

int main(int argc, char **argv)
{
    bool layout = argc > 1 && strcmp(argv[1], "--layout") == 0;
    int documents = 0, pages = 0;
    size_t bytes = 0;

    for (int i = 1 + layout; i < argc; i++) {
        char *real = realpath(argv[i], NULL), *uri = real ? g_filename_to_uri(real, NULL, NULL) : NULL;
        PopplerDocument *document = uri ? poppler_document_new_from_file(uri, NULL, NULL) : NULL;

        free(real);
        g_free(uri);
        if (!document)
            continue;
        documents++;
        for (int p = 0; p < poppler_document_get_n_pages(document); p++) {
            PopplerPage *page = poppler_document_get_page(document, p);

            if (!page)
                continue;
            pages++;
            read_page(page, layout, &bytes);
            g_object_unref(page);
        }
        g_object_unref(document);
    }
    (void)printf("%d documents %d pages %zu bytes\n", documents, pages, bytes);
    return 0;
}
