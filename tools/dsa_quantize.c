/* dsa_quantize.c: `dsa-quantize`: see dsa-quantize(1). */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/quantize.h"

enum { EXIT_USAGE = 64, EXIT_DATA = 65, EXIT_SOFTWARE = 70, MAX_THREADS = 256 };

static int usage(FILE *to)
{
    fprintf(to, "usage: dsa-quantize [--json] [--quiet] [--scales ue8m0|float] [--threads N] IN OUT\n");
    return to == stdout ? 0 : EXIT_USAGE;
}

static void print_line(void *context, const struct quantize_report *tensor)
{
    if (tensor->quantized)
        printf("%-64s fp8   %8.4f%%  %.3e  %12zu -> %12zu\n", tensor->name, 100 * tensor->relative_error,
               tensor->largest_error, tensor->bytes_before, tensor->bytes_after);
    else
        printf("%-64s %-5s %8s   %9s  %12zu -> %12zu\n", tensor->name, dtype_name(tensor->from), "kept", "",
               tensor->bytes_before, tensor->bytes_after);
}

/* Names come from a file: what JSON does not take as it is gets escaped. */
static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned)(unsigned char)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

static void print_json(void *context, const struct quantize_report *tensor)
{
    printf("{\"tensor\":");
    print_json_string(tensor->name);
    printf(",\"from\":\"%s\",\"to\":\"%s\",\"relative_error\":%.6g,\"largest_error\":%.6g,\"bytes_before\":%zu,"
           "\"bytes_after\":%zu}\n",
           dtype_name(tensor->from), tensor->quantized ? dtype_name(DTYPE_F8E4M3) : dtype_name(tensor->from),
           tensor->relative_error, tensor->largest_error, tensor->bytes_before, tensor->bytes_after);
}

static void print_totals(const struct quantize_totals *totals, bool json)
{
    if (json)
        printf("{\"tensors\":%zu,\"quantized\":%zu,\"shards\":%zu,\"relative_error\":%.6g,\"bytes_before\":%" PRIu64
               ",\"bytes_after\":%" PRIu64 "}\n",
               totals->tensors, totals->quantized, totals->shards, totals->relative_error, totals->bytes_before,
               totals->bytes_after);
    else
        printf("%zu of %zu tensors in %zu files quantised, relative error %.4f%%; %" PRIu64 " bytes before, %" PRIu64
               " after (%.1f%%)\n",
               totals->quantized, totals->tensors, totals->shards, 100 * totals->relative_error, totals->bytes_before,
               totals->bytes_after,
               totals->bytes_before ? 100 * (double)totals->bytes_after / (double)totals->bytes_before : 0);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"json", no_argument, NULL, 'j'},         {"quiet", no_argument, NULL, 'q'},
        {"scales", required_argument, NULL, 's'}, {"threads", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},         {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    struct quantize_options options = {0};
    struct quantize_totals totals;
    struct error err = {0};
    bool json = false, quiet = false;
    int option;
    char *end;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'j': json = true; break;
        case 'q': quiet = true; break;
        case 'h': return usage(stdout);
        case 'V': printf("dsa-quantize %s\n", DSA_VERSION); return 0;
        case 's':
            options.float_scales = strcmp(optarg, "float") == 0;
            if (!options.float_scales && strcmp(optarg, "ue8m0") != 0)
                return usage(stderr);
            break;
        case 't':
            options.threads = (int)strtol(optarg, &end, 10);
            if (*end || end == optarg || options.threads < 1 || options.threads > MAX_THREADS)
                return usage(stderr);
            break;
        default: return usage(stderr);
        }
    }
    if (argc - optind != 2)
        return usage(stderr);
    options.in = argv[optind];
    options.out = argv[optind + 1];
    options.report = quiet ? NULL : json ? print_json : print_line;
    if (quantize_checkpoint(&options, &totals, &err)) {
        fprintf(stderr, "dsa-quantize: %s\n", err.message);
        return err.status == STATUS_BAD_INPUT || err.status == STATUS_CORRUPT || err.status == STATUS_UNSUPPORTED ||
                       err.status == STATUS_NOT_FOUND
                   ? EXIT_DATA : EXIT_SOFTWARE;
    }
    print_totals(&totals, json);
    return fflush(stdout) ? EXIT_SOFTWARE : 0;
}
