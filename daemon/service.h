/* daemon/service.h: the daemon as a whole: opens everything, runs the threads, comes to an orderly end. */
#ifndef DAEMON_SERVICE_H
#define DAEMON_SERVICE_H

#include "daemon/config.h"

/* Exit codes: sysexits.h where one fits. */
enum {
    EXIT_USAGE = 64, EXIT_NO_STORE = 66, EXIT_INTERNAL = 70, EXIT_IO = 74, EXIT_BUSY = 75, EXIT_CONFIG = 78
};

/* Opens store, model and endpoint, and closes them again. */
int service_check(const struct config *config);
/* Until SIGTERM, SIGINT or DRAIN. Returns the exit code. */
int service_run(const struct config *config);

#endif
