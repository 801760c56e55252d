/* daemon/generate.h: the engine thread: steps the scheduler, tells the writer what came out. It knows tokens and
 * sequences, neither SQLite nor ZeroMQ. */
#ifndef DAEMON_GENERATE_H
#define DAEMON_GENERATE_H

#include <stdatomic.h>

#include "daemon/queue.h"
#include "engine/engine.h"

struct generate {
    struct engine *engine;
    struct queue in;        /* owned by whoever fills this in */
    struct queue *writer;
    atomic_llong steps;     /* counts up with every turn: the watchdog's proof of progress … */
    atomic_bool busy;       /* … while there is work in hand */
};

void *generate_run(void *generate); /* the thread; ends when `in` is closed */

#endif
