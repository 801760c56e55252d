/* emulated/emulator.h: what the emulator's own files share.
 *
 * Order is kept by vector clocks. Every thread has a clock, which moves on when it releases (arrives at any barrier);
 * `seen[t][u]` is the last moment of u that t knows of. A moment before the last block-wide barrier is known to
 * all. `fenced[t][u]` is the same for the async proxy: the last moment of u whose accesses a proxy fence, on a path to
 * t, has made visible to it. Copy engines and tensor cores act under names of their own, the agents. */
#ifndef KERNELS_CUDA_EMULATED_EMULATOR_H
#define KERNELS_CUDA_EMULATED_EMULATOR_H

#include "kernels/cuda/emulated/cuda_runtime.h"

#include <map>
#include <memory>
#include <vector>

enum {
    LANES = 32,
    MAX_THREADS = 1024,
    MAX_WARPS = MAX_THREADS / LANES,
    BARRIER_AGENTS = 64, /* one an mbarrier, in turn */
    AGENTS = BARRIER_AGENTS + MAX_WARPS,
    NAMED_BARRIERS = 16,
    SMEM_MOST = 232448
};

enum fiber_state { RUNNABLE, AT_BLOCK, AT_WARP, BLOCKED, ENDED };
enum warp_meeting { MEET_MEMORY, MEET_EXCHANGE, MEET_OP };

/* What one or many threads knew when they released. */
struct edge {
    std::vector<uint32_t> seen, fenced;
    uint32_t agents[AGENTS] = {};
};

struct copy {
    void *shared;
    const void *global;
    int bytes;
    unsigned group; /* commits before it was begun */
};

struct bulk_store {
    void *global;
    const void *shared;
    unsigned bytes, group;
    bool read; /* into data, on its way */
    std::vector<unsigned char> data;
};

struct fiber {
    struct emulated_thread thread; /* first: emulated_current points here */
    void *context;
    unsigned char *stack;
    enum fiber_state state;
    bool followed; /* has called after_previous() */
    bool may_read; /* before that: weights_before_previous() */
    unsigned number, warp, lane;
    /* The meeting of lanes this one waits for. */
    enum warp_meeting meeting;
    unsigned mask;
    void (*op)(void *const *lanes);
    void *brought;
    size_t brought_bytes;
    alignas(8) unsigned char received[LANES * EMULATED_EXCHANGE_BYTES];
    const void *place;  /* of the __syncthreads it waits at */
    char waits_for[96]; /* while BLOCKED */
    uint64_t events_seen;
    std::vector<copy> copies; /* begun, not yet waited for */
    unsigned copy_groups;     /* committed */
    std::vector<bulk_store> stores;
    unsigned store_groups;
    unsigned fence_serial; /* of the last wgmma_fence */
};

/* Accumulators of one warp: the values that products in flight have, while the registers hold NaN. */
struct accumulator {
    float *d[LANES];
    int n;
    std::vector<float> value; /* [16, n]; meaningful while `running` */
    unsigned running;
    unsigned touched_serial;   /* when the registers were last handed to the threads */
    std::vector<float> fenced; /* what they held at the last fence, [lane, n / 2] */
};

struct wgmma_op {
    emulated_product p;
    uint32_t a[LANES][4];
    unsigned group;
    size_t sums; /* index of its accumulator */
};

struct warp {
    std::vector<wgmma_op> products;
    std::vector<accumulator> sums;
    unsigned product_groups, serial;
};

struct machine {
    fiber fibers[MAX_THREADS];
    warp warps[MAX_WARPS];
    void *scheduler;
    unsigned count, alive;
    const std::function<void(void)> *kernel;
    uint64_t random, events;
    const char *name;
    enum { ORDER_RANDOM, ORDER_FORWARD, ORDER_REVERSE } order;
    enum { ASYNC_RANDOM, ASYNC_LATE, ASYNC_EARLY } async;
    bool configured;
};
extern struct machine &machine;

static inline fiber *current(void)
{
    return (fiber *)emulated_current;
}

uint64_t emulated_random(void);
/* A barrier, wait, fence or arrival was met there; true: leave it out. */
bool emulated_skip(const char *file, int line);
/* Gives way until something happens; `what` is printed should nothing ever happen. */
void emulated_wait(const char *what, const void *object, unsigned number);
void emulated_progress(void); /* something happened: blocked fibers look again */

/* --- async.cc -------------------------------------------------------------------------------------------------- */

void async_block_begin(void);
void async_block_end(void); /* complains of what was left in flight */
void async_thread_end(fiber *f);
bool async_deliver(bool must); /* lets a pending copy land; false: none is pending */

/* --- memory.cc ------------------------------------------------------------------------------------------------- */

enum access_kind { ACCESS_READ = 0, ACCESS_WRITE = 1, ACCESS_ATOMIC = 2, ACCESS_ASYNC = 4 };
enum { PENDING_WRITE = 1, PENDING_READ = 2 };

void memory_launch_begin(size_t dynamic_shared_bytes);
void memory_launch_end(void);
void memory_block_begin(void);
bool memory_is_shared(const void *address, size_t bytes);

/* An access by fiber `f`; for ACCESS_ASYNC also by agent `agent` at its moment `clock`. */
void memory_access(fiber *f, const void *address, size_t bytes, unsigned kind, const void *pc);
void memory_agent_done(unsigned agent, uint32_t clock, const void *address, size_t bytes, unsigned kind);
/* Marks shared memory that something asynchronous is at work on. */
void memory_pend(const void *address, size_t bytes, int what, int by);
void memory_wrote(fiber *f, void *address, size_t bytes, uint32_t clock); /* a landed cp.async */
void memory_mark_barrier(const void *address, bool is_barrier);

void order_block_begin(void);
void order_block_barrier(void);
uint32_t order_now(const fiber *f);
void order_release(fiber *f, edge *e);
void order_acquire(fiber *f, const edge *e);
void order_join(edge *into, const edge *from);
void order_fence(fiber *f);
void order_warp(unsigned warp, unsigned mask);
uint32_t order_agent_moment(unsigned agent); /* a new moment of it */
void order_agent_seen(fiber *f, unsigned agent, uint32_t clock);
bool order_knows(const fiber *f, unsigned thread, uint32_t clock);
bool order_knows_fenced(const fiber *f, unsigned thread, uint32_t clock);

void memory_print_place(const void *pc);
bool memory_same_line(const void *pc, const void *other);

#endif
