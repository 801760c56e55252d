/* The installed header, read by a C11 compiler. */
#include "dsa/client.h"

#include <stddef.h>

int main(void)
{
    struct dsa_options options = {0};
    struct dsa_client *client = NULL;

    options.size = sizeof options;
    return dsa_open(&options, &client, NULL, 0) == DSA_ERROR && dsa_version() == DSA_API_VERSION ? 0 : 1;
}
