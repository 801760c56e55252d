/* The installed header, read by a C++ compiler. */
#include "dsa/client.h"

int main()
{
    struct dsa_options options = {};
    struct dsa_client *client = nullptr;

    options.size = sizeof options;
    return dsa_open(&options, &client, nullptr, 0) == DSA_ERROR && dsa_version() == DSA_API_VERSION ? 0 : 1;
}
