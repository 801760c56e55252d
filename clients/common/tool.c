/* tool.c: shared by the command-line programs. */
#include "clients/common/tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

enum { CONNECT_MS = 5000, REPLY_MS = 10000, KEY_CHARS = 40 };

void tool_error(const struct tool *tool, const char *format, ...)
{
    char line[1024];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    (void)fflush(stdout);
    (void)fprintf(stderr, "%s: ", tool->program);
    tool_print(stderr, line, strlen(line));
    (void)fputc('\n', stderr);
}

/* --- The daemon -------------------------------------------------------------------------------------------------- */

struct address {
    char endpoint[256], server_key[KEY_CHARS + 1], public_key[KEY_CHARS + 1], secret_key[KEY_CHARS + 1];
};

/* STORE/run/endpoint: the address, and for tcp the daemon's public key. */
static int read_note(const struct tool *tool, struct address *address)
{
    char path[4096];
    FILE *file;

    (void)snprintf(path, sizeof path, "%s/run/endpoint", tool->store);
    file = fopen(path, "re");
    if (!file) {
        tool_error(tool, "no daemon serves the store '%s' (%s: %s): start dsad --store '%s'", tool->store, path,
                   strerror(errno), tool->store);
        return TOOL_UNAVAILABLE;
    }
    if (!fgets(address->endpoint, sizeof address->endpoint, file))
        address->endpoint[0] = '\0';
    address->endpoint[strcspn(address->endpoint, "\n")] = '\0';
    if (!fgets(address->server_key, sizeof address->server_key, file))
        address->server_key[0] = '\0';
    (void)fclose(file);
    return 0;
}

static int read_key(const struct tool *tool, struct address *address)
{
    FILE *file = fopen(tool->key_file, "re");
    char line[256] = "";
    int code = 0;

    if (!file) {
        tool_error(tool, "key '%s': %s", tool->key_file, strerror(errno));
        return TOOL_NO_INPUT;
    }
    while (fgets(line, sizeof line, file) && line[0] == '#')
        continue;
    line[strcspn(line, "\r\n \t")] = '\0';
    if (strlen(line) != KEY_CHARS || zmq_curve_public(address->public_key, line)) {
        tool_error(tool, "'%s' holds no CURVE key of 40 characters", tool->key_file);
        code = TOOL_DATA;
    } else {
        memcpy(address->secret_key, line, KEY_CHARS + 1);
    }
    explicit_bzero(line, sizeof line);
    (void)fclose(file);
    return code;
}

static int find_address(const struct tool *tool, struct address *address)
{
    int code = 0;

    *address = (struct address){0};
    if (tool->connect)
        (void)snprintf(address->endpoint, sizeof address->endpoint, "%s", tool->connect);
    else if (tool->store)
        code = read_note(tool, address);
    else
        (void)snprintf(address->endpoint, sizeof address->endpoint, "ipc:///run/dsad/dsad.sock");
    if (tool->server_key)
        (void)snprintf(address->server_key, sizeof address->server_key, "%s", tool->server_key);
    if (!code && address->server_key[0] && !tool->key_file) {
        tool_error(tool, "the daemon at '%s' asks for a key: give --key FILE", address->endpoint);
        code = TOOL_USAGE;
    }
    if (!code && tool->key_file)
        code = read_key(tool, address);
    return code;
}

int tool_open(const struct tool *tool, struct dsa_client **client)
{
    struct dsa_options options = {.size = sizeof options};
    const struct dsa_event *event;
    struct address address;
    char message[256];
    int code = find_address(tool, &address);

    if (code)
        return code;
    options.endpoint = address.endpoint;
    if (address.server_key[0]) {
        options.server_key = address.server_key;
        options.public_key = address.public_key;
        options.secret_key = address.secret_key;
    }
    if (dsa_open(&options, client, message, sizeof message)) {
        tool_error(tool, "%s", message);
        return TOOL_USAGE;
    }
    explicit_bzero(address.secret_key, sizeof address.secret_key);
    /* The first event of a handle is its connection. */
    if (dsa_next_event(*client, CONNECT_MS, &event) != DSA_OK || event->type != DSA_EVENT_CONNECTED) {
        tool_error(tool, "no daemon answers at '%s'", address.endpoint);
        dsa_close(*client);
        return TOOL_UNAVAILABLE;
    }
    return 0;
}

int tool_exit_code(const char *code)
{
    static const struct {
        const char *code;
        int exit;
    } table[] = {{"busy", TOOL_RETRY}, {"shutting-down", TOOL_RETRY}, {"store-failed", TOOL_RETRY},
                 {"deadline", TOOL_UNAVAILABLE}, {"denied", TOOL_DENIED}, {"cancelled", TOOL_INTERRUPTED},
                 {"engine-failed", TOOL_INTERNAL}, {"internal", TOOL_INTERNAL}, {"empty-store", TOOL_NO_INPUT},
                 {"no-such-job", TOOL_NO_INPUT}, {"no-such-collection", TOOL_NO_INPUT}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(code, table[i].code) == 0)
            return table[i].exit;
    return TOOL_DATA;
}

int tool_ask(const struct tool *tool, struct dsa_client *client, int type, const char *json,
             const struct dsa_event **event)
{
    uint64_t request;

    if (dsa_request(client, type, json, REPLY_MS, &request)) {
        tool_error(tool, "%s", dsa_error(client));
        return TOOL_INTERNAL;
    }
    for (;;) {
        if (dsa_next_event(client, -1, event)) {
            tool_error(tool, "%s", dsa_error(client));
            return TOOL_INTERNAL;
        }
        if (type == 'D' && (*event)->type == DSA_EVENT_DISCONNECTED) {
            tool_error(tool, "the daemon ended before it answered"); /* its successor is not to hear of it */
            return TOOL_UNAVAILABLE;
        }
        if ((*event)->request != request)
            continue;
        if ((*event)->type == DSA_EVENT_REPLY)
            return 0;
        tool_error(tool, "%s (%s)", (*event)->message, (*event)->code);
        return tool_exit_code((*event)->code);
    }
}

/* --- Printing ---------------------------------------------------------------------------------------------------- */

void tool_print(FILE *out, const char *text, size_t len)
{
    char stack[4096], *safe = stack;
    size_t cap = 3 * len + 1, used;

    if (cap > sizeof stack)
        safe = malloc(cap);
    if (!safe)
        return;
    used = dsa_sanitize(text, len, safe, cap);
    (void)fwrite(safe, 1, used, out);
    if (safe != stack)
        free(safe);
}

void tool_print_line(FILE *out, const char *text, size_t len, size_t most)
{
    char *line = malloc(most + 4);
    size_t used = 0, at = 0;

    if (!line)
        return;
    for (; at < len && used < most; at++) {
        bool space = strchr(" \t\r\n\f\v", text[at]) != NULL;

        if (space && (used == 0 || line[used - 1] == ' '))
            continue;
        line[used++] = space ? ' ' : text[at];
    }
    if (at < len)
        while (used && (text[at] & 0xC0) == 0x80 && at--)
            used--; /* back to the beginning of a character that was cut */
    tool_print(out, line, used);
    if (at < len)
        (void)fputs("…", out);
    free(line);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? slash + 1 : path;
}

void tool_print_place(FILE *out, const char *path, const char *member, const char *label, int page)
{
    const char *name = last_part(path);

    tool_print_line(out, name, strlen(name), 200);
    if (*member) {
        (void)fputs("//", out);
        tool_print_line(out, member, strlen(member), 200);
    }
    if (*label) {
        (void)fputs(" p. ", out);
        tool_print_line(out, label, strlen(label), 40);
    } else if (page > 0) {
        (void)fprintf(out, " p. %d", page);
    }
}

char *tool_read(const struct tool *tool, const char *path, size_t most, size_t *len)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *text = malloc(most + 1);
    bool bad;

    if (!file || !text) {
        tool_error(tool, "'%s': %s", path, strerror(errno));
        free(text);
        return NULL;
    }
    *len = fread(text, 1, most, file);
    bad = ferror(file) || (*len == most && fgetc(file) != EOF);
    if (bad)
        tool_error(tool, "'%s': %s", path, ferror(file) ? strerror(errno) : "is too long");
    if (file != stdin)
        (void)fclose(file);
    if (bad) {
        free(text);
        return NULL;
    }
    text[*len] = '\0';
    return text;
}
