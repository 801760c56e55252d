/* extract_main.c: dsa-extract, the program that reads hostile documents so that no other has to.
 *
 * dsa-ingest starts it with --serve (extract_protocol.h). By hand it prints what it finds in one file.
 *
 * Copyright: dsa-extract links poppler and is therefore distributed under the GPL, version 3 or later; its
 * sources that are also part of other programs stay under the MIT licence. */
#include <getopt.h>
#include <libxml/parser.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "ingest/extract.h"
#include "ingest/jail.h"
#include "ingest/readers.h"

static const char usage[] =
    "Usage: dsa-extract [--raw] [--name NAME] [--type MEDIA-TYPE] [--password-file FILE] FILE|-\n"
    "       dsa-extract --doctor\n"
    "       dsa-extract --serve          (started by dsa-ingest, with a socket as descriptor 3)\n"
    "\n"
    "Reads a document in a jailed child and prints its pages, lines and problems.\n"
    "\n"
    "  --raw                  write the frames as they are\n"
    "  --name NAME            the name that hints at the format\n"
    "  --type MEDIA-TYPE      the format, where several readers would take it\n"
    "  --password-file FILE   the password of an encrypted document (first line)\n"
    "  --depth N              archives around this document already\n"
    "  --memory MIB           what the child may take (1024)\n"
    "  --doctor               say what this kernel offers to jail the child, and try it\n"
    "  --allow-unsandboxed    go on without Landlock and seccomp\n";

struct options {
    struct extract_request wishes;
    bool serve, doctor, raw, allow_unsandboxed;
    const char *path;
    char password[1024];
};

enum { OPTION_SERVE = 256, OPTION_DOCTOR, OPTION_RAW, OPTION_NAME, OPTION_TYPE, OPTION_PASSWORD, OPTION_DEPTH,
       OPTION_MEMORY, OPTION_ALLOW };

static int read_password(struct options *options, const char *path)
{
    FILE *file = fopen(path, "re");

    if (!file || !fgets(options->password, sizeof options->password, file)) {
        (void)fprintf(stderr, "dsa-extract: no password in '%s'\n", path);
        if (file)
            (void)fclose(file);
        return 66; /* EX_NOINPUT */
    }
    (void)fclose(file);
    options->password[strcspn(options->password, "\r\n")] = '\0';
    options->wishes.password = options->password;
    return 0;
}

/* 0 to go on, else an exit code plus one (so that --help can end with 0). */
static int parse(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {
        {"serve", no_argument, NULL, OPTION_SERVE},
        {"doctor", no_argument, NULL, OPTION_DOCTOR},
        {"raw", no_argument, NULL, OPTION_RAW},
        {"name", required_argument, NULL, OPTION_NAME},
        {"type", required_argument, NULL, OPTION_TYPE},
        {"password-file", required_argument, NULL, OPTION_PASSWORD},
        {"depth", required_argument, NULL, OPTION_DEPTH},
        {"memory", required_argument, NULL, OPTION_MEMORY},
        {"allow-unsandboxed", no_argument, NULL, OPTION_ALLOW},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
    };
    int option, code = 0;

    while ((option = getopt_long(argc, argv, "hV", names, NULL)) != -1 && !code) {
        switch (option) {
        case OPTION_SERVE: options->serve = true; break;
        case OPTION_DOCTOR: options->doctor = true; break;
        case OPTION_RAW: options->raw = true; break;
        case OPTION_NAME: options->wishes.name = optarg; break;
        case OPTION_TYPE: options->wishes.media_type = optarg; break;
        case OPTION_PASSWORD: code = read_password(options, optarg); break;
        case OPTION_DEPTH: options->wishes.archive_depth = atoi(optarg); break;
        case OPTION_MEMORY: options->wishes.memory_bytes = atoll(optarg) << 20; break;
        case OPTION_ALLOW: options->allow_unsandboxed = true; break;
        case 'h': (void)fputs(usage, stdout); return 1;
        case 'V': (void)puts("dsa-extract " DSA_VERSION); return 1;
        default: (void)fputs(usage, stderr); return 65; /* EX_USAGE and one */
        }
    }
    if (code)
        return code + 1;
    if (!options->serve && !options->doctor && optind + 1 != argc) {
        (void)fputs(usage, stderr);
        return 65;
    }
    options->path = argv[optind];
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct error err = {0};
    struct jail *jail = NULL;
    int code = parse(argc, argv, &options);

    if (code)
        return code - 1;
    /* Names of members are UTF-8 for libarchive only in such a locale. */
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    (void)signal(SIGPIPE, SIG_IGN);
    if (jail_create(extract_paths, &jail, &err)) {
        (void)fprintf(stderr, "dsa-extract: %s\n", err.message);
        return 71; /* EX_OSERR */
    }
    if (options.doctor) {
        code = extract_doctor(jail);
    } else {
        xmlInitParser();
        reader_pdf_warm_up();
        reader_text_warm_up();
        code = options.serve
                   ? extract_serve(jail, options.allow_unsandboxed)
                   : extract_print(options.path, &options.wishes, jail, options.raw, options.allow_unsandboxed);
    }
    jail_destroy(jail);
    return code;
}
