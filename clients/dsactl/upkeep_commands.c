/* upkeep_commands.c: backup, forget: on the store's files, with no word to the daemon. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clients/dsactl/dsactl.h"
#include "store/jobs.h"
#include "store/store.h"

static int exit_code(enum status s)
{
    switch (s) {
    case STATUS_OK: return 0;
    case STATUS_NOT_FOUND: return TOOL_NO_INPUT;
    case STATUS_BAD_INPUT: return TOOL_DATA;
    case STATUS_BUSY: return TOOL_RETRY;
    case STATUS_DENIED: return TOOL_DENIED;
    default: return TOOL_IO;
    }
}

static bool store_is_named(const struct dsactl *ctl)
{
    if (!ctl->tool.store)
        tool_error(&ctl->tool, "which store? Give --store DIR");
    return ctl->tool.store != NULL;
}

int dsactl_backup(const struct dsactl *ctl)
{
    struct store *store = NULL;
    struct error err = {0};
    enum status s;

    if (!store_is_named(ctl))
        return TOOL_USAGE;
    s = store_open(ctl->tool.store, STORE_READ, false, &store, &err); /* is it a store? */
    store_close(store);
    if (!s)
        s = store_backup(ctl->tool.store, ctl->argument, &err);
    if (s)
        tool_error(&ctl->tool, "%s", err.message);
    else
        (void)printf(ctl->tool.json ? "{\"backup\":true}\n" : "backed up\n");
    return exit_code(s);
}

struct forgotten {
    int64_t jobs, caches;
};

/* The document itself goes last: whatever breaks this off, the command can be given again. */
static enum status forget(const struct dsactl *ctl, int64_t id, struct forgotten *forgotten, struct error *err)
{
    struct store_document document = {0};
    struct store *store = NULL;
    struct jobs *jobs = NULL;
    char *path = NULL;
    enum status s = store_open(ctl->tool.store, STORE_INGEST, false, &store, err);

    if (!s)
        s = store_document_get(store, id, &document, err);
    if (!s && !(path = strdup(document.path)))
        s = error_set(err, STATUS_NO_MEMORY, "no memory for a path");
    if (!s)
        s = jobs_open(ctl->tool.store, &jobs, err);
    if (s == STATUS_BUSY)
        error_prefix(err, "forgetting needs the daemon stopped and no ingest at work");
    if (!s)
        s = jobs_clear_caches(ctl->tool.store, &forgotten->caches, err);
    if (!s)
        s = jobs_forget(jobs, id, path, &forgotten->jobs, err);
    if (!s)
        s = store_forget(store, id, err);
    jobs_close(jobs);
    store_close(store);
    free(path);
    return s;
}

int dsactl_forget(const struct dsactl *ctl)
{
    struct forgotten forgotten = {0};
    struct error err = {0};
    int64_t id = 0;
    enum status s;

    if (!dsactl_number(ctl, ctl->argument, &id) || !store_is_named(ctl))
        return TOOL_USAGE;
    s = forget(ctl, id, &forgotten, &err);
    if (s)
        tool_error(&ctl->tool, "%s", err.message);
    else if (ctl->tool.json)
        (void)printf("{\"document\":%" PRId64 ",\"jobs\":%" PRId64 ",\"caches\":%" PRId64 "}\n", id, forgotten.jobs,
                     forgotten.caches);
    else
        (void)printf("document %" PRId64 " is forgotten, with %" PRId64 " jobs and %" PRId64 " saved caches\n", id,
                     forgotten.jobs, forgotten.caches);
    return exit_code(s);
}
