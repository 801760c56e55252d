/* make_store.c: the fixture's store at MAKE_STORE and, if wanted, a checkpoint of random weights at MAKE_MODEL, for
 * tests in other languages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/daemon/fixture.h"

static void copy(const char *from, const char *to)
{
    char command[1200];

    (void)snprintf(command, sizeof command, "cp -r '%s' '%s'", from, to);
    CHECK(system(command) == 0);
}

TEST(make_store)
{
    const char *store = getenv("MAKE_STORE"), *model = getenv("MAKE_MODEL");
    struct fixture f;

    if (!store)
        SKIP("MAKE_STORE is not set");
    fixture_store(&f, true);
    copy(f.store, store);
    if (model)
        copy(fixture_model(), model);
}
