/* emulator.cc: fibers, blocks, warps and the runtime's functions behind emulated/cuda_runtime.h.
 *
 * One operating-system thread. A block's fibers are resumed in rounds, in the order that DSA_EMULATED names; by default
 * a fresh permutation a round from a seeded generator. A fiber runs until it meets a barrier or ends. When nobody can
 * move, a pending copy lands; when none is pending it is a deadlock: what everyone waits for is printed and the process
 * ends, since a kernel that hangs a GPU must not pass a test. */
#include "kernels/cuda/emulated/emulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <set>
#include <string>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 128 * 1024 };

/* Read by kernels; in a section of their own, since what kernels touch of .bss is shared memory (memory.cc). */
#define READ_BY_KERNELS __attribute__((section("emulated_state")))
READ_BY_KERNELS struct emulated_thread *emulated_current = NULL;
READ_BY_KERNELS dim3 emulated_block(0, 0, 0), emulated_block_dim(0, 0, 0), emulated_grid_dim(0, 0, 0);
struct machine &machine = *new struct machine(); /* on the heap, away from what counts as shared memory */

uint64_t emulated_random(void)
{
    machine.random ^= machine.random << 13;
    machine.random ^= machine.random >> 7;
    machine.random ^= machine.random << 17;
    return machine.random;
}

void emulated_trap(const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "cuda-emulated: %s, block (%u,%u,%u)", machine.name, emulated_block.x, emulated_block.y,
            emulated_block.z);
    if (emulated_current)
        fprintf(stderr, ", thread (%u,%u,%u)", threadIdx.x, threadIdx.y, threadIdx.z);
    fprintf(stderr, ": ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}

/* --- Settings --------------------------------------------------------------------------------------------------- */

static char skip_file[64], trace_path[256];
static int skip_line = -1;
static std::set<std::pair<const char *, int>> places; /* met by this case of check_kernels */
static std::string trace_case;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

bool emulated_skip(const char *file, int line)
{
    if (trace_path[0])
        places.insert({file, line});
    return line == skip_line && strcmp(base_name(file), skip_file) == 0;
}

static std::string case_now(void)
{
    const char *name = getenv("DSA_CHECK_CASE");

    return name ? name : "";
}

/* A line for each place that the case met which now ends. */
static void write_trace(void)
{
    FILE *out = places.empty() ? NULL : fopen(trace_path, "a");

    for (const auto &place : places)
        if (out)
            fprintf(out, "%s:%d\t%s\n", base_name(place.first), place.second, trace_case.c_str());
    if (out)
        (void)fclose(out);
    places.clear();
    trace_case = case_now();
}

static void configure(void)
{
    const char *text = getenv("DSA_EMULATED"), *at;

    if (machine.configured)
        return;
    machine.configured = true;
    machine.random = 0x9E3779B97F4A7C15u;
    if (!text)
        return;
    if (strstr(text, "order=forward"))
        machine.order = machine::ORDER_FORWARD;
    if (strstr(text, "order=reverse"))
        machine.order = machine::ORDER_REVERSE;
    if (strstr(text, "async=late"))
        machine.async = machine::ASYNC_LATE;
    if (strstr(text, "async=early"))
        machine.async = machine::ASYNC_EARLY;
    at = strstr(text, "skip=");
    if (at)
        (void)sscanf(at, "skip=%63[^:]:%d", skip_file, &skip_line);
    at = strstr(text, "trace=");
    if (at && sscanf(at, "trace=%255s", trace_path) == 1)
        (void)atexit(write_trace);
    at = strstr(text, "seed=");
    if (at)
        machine.random ^= strtoull(at + 5, NULL, 10) * 0xBF58476D1CE4E5B9u;
}

/* --- Fibers: on x86-64 a switch is a dozen instructions; elsewhere ucontext's, with a system call each -------------
 */

#ifdef __x86_64__
extern "C" void emulated_switch(void **from, void *to);
__asm__(".text\n.globl emulated_switch\n.hidden emulated_switch\n.type emulated_switch, @function\nemulated_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size emulated_switch, . - emulated_switch\n");
#else
static ucontext_t contexts[MAX_THREADS + 1];

static void emulated_switch(void **from, void *to)
{
    (void)swapcontext((ucontext_t *)*from, (ucontext_t *)to);
}
#endif

#ifdef __SANITIZE_ADDRESS__
static void *sanitizer_stack;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
#endif

static void switch_to_scheduler(fiber *me, bool last)
{
    (void)last;
#ifdef __SANITIZE_ADDRESS__
    void *mine = NULL;

    __sanitizer_start_switch_fiber(last ? NULL : &mine, scheduler_stack, scheduler_stack_bytes);
    emulated_switch(&me->context, machine.scheduler);
    __sanitizer_finish_switch_fiber(mine, &scheduler_stack, &scheduler_stack_bytes);
#else
    emulated_switch(&me->context, machine.scheduler);
#endif
}

static void resume(fiber *f)
{
    emulated_current = &f->thread;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&sanitizer_stack, f->stack, STACK_BYTES);
    emulated_switch(&machine.scheduler, f->context);
    __sanitizer_finish_switch_fiber(sanitizer_stack, NULL, NULL);
#else
    emulated_switch(&machine.scheduler, f->context);
#endif
    emulated_current = NULL;
}

static void fiber_main(void)
{
    fiber *me = current();

#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_bytes);
#endif
    (*machine.kernel)();
    if (!me->followed)
        emulated_trap("the thread ended without after_previous()");
    async_thread_end(me);
    me->state = ENDED;
    switch_to_scheduler(me, true);
    abort();
}

static void fiber_prepare(fiber *f)
{
#ifdef __SANITIZE_ADDRESS__
    /* The frame in which a fiber ends never returns, nor do those of a block that was given up: what they poisoned
     * lies where the next block's frames will stand. */
    __asan_unpoison_memory_region(f->stack, STACK_BYTES);
#endif
#ifdef __x86_64__
    /* As emulated_switch() leaves it: six registers, then where to go on; 16-byte alignment as at a call. */
    uintptr_t *top = (uintptr_t *)(f->stack + STACK_BYTES) - 2;

    *--top = 0;
    *--top = (uintptr_t)fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = 0;
    f->context = top;
#else
    ucontext_t *context = &contexts[f->number];

    (void)getcontext(context);
    context->uc_stack.ss_sp = f->stack;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = NULL;
    makecontext(context, fiber_main, 0);
    f->context = context;
    machine.scheduler = &contexts[MAX_THREADS];
#endif
}

static void wait_as(enum fiber_state state)
{
    fiber *me = current();

    me->state = state;
    switch_to_scheduler(me, false);
}

void emulated_wait(const char *what, const void *object, unsigned number)
{
    fiber *me = current();

    (void)snprintf(me->waits_for, sizeof me->waits_for, "%s at shared address %#x, %u", what,
                   object ? emulated_shared_address(object) : 0, number);
    me->events_seen = machine.events;
    wait_as(BLOCKED);
}

void emulated_progress(void)
{
    machine.events++;
}

/* --- Meetings --------------------------------------------------------------------------------------------------- */

void emulated_sync_block(const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    current()->place = __builtin_return_address(0);
    wait_as(AT_BLOCK);
}

static void meet(enum warp_meeting meeting, unsigned mask)
{
    fiber *me = current();

    if (!(mask >> me->lane & 1))
        emulated_trap("a lane calls a warp operation whose mask %#x does not hold it", mask);
    me->meeting = meeting;
    me->mask = mask;
    wait_as(AT_WARP);
}

void emulated_sync_warp(unsigned mask, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    meet(MEET_MEMORY, mask);
}

const unsigned char *emulated_exchange(unsigned mask, const void *mine, size_t bytes)
{
    fiber *me = current();

    if (bytes > EMULATED_EXCHANGE_BYTES)
        abort();
    me->brought = (void *)mine;
    me->brought_bytes = bytes;
    meet(MEET_EXCHANGE, mask);
    return me->received;
}

void emulated_warp(void (*op)(void *const *lanes), void *mine)
{
    fiber *me = current();

    me->op = op;
    me->brought = mine;
    meet(MEET_OP, 0xFFFFFFFFu);
}

/* Lets the lanes of `mask` that are alive go on if all of them have come; true if they did. */
static bool release_lanes(unsigned w, fiber *first)
{
    fiber *lanes = &machine.fibers[w * LANES];
    unsigned end = machine.count - w * LANES < LANES ? machine.count - w * LANES : (unsigned)LANES;
    void *brought[LANES] = {};

    for (unsigned l = 0; l < end; l++) {
        if (!(first->mask >> l & 1) || lanes[l].state == ENDED)
            continue;
        if (lanes[l].state != AT_WARP || lanes[l].mask != first->mask)
            return false;
        if (lanes[l].meeting != first->meeting || (first->meeting == MEET_OP && lanes[l].op != first->op))
            emulated_trap("warp %u: lanes %u and %u meet at different operations", w, first->lane, l);
        brought[l] = lanes[l].brought;
    }
    if (first->meeting == MEET_OP) {
        for (unsigned l = 0; l < LANES; l++)
            if (!brought[l])
                emulated_trap("warp %u: lane %u is missing at an operation of the whole warp", w, l);
        first->op(brought);
    } else if (first->meeting == MEET_EXCHANGE) {
        for (unsigned to = 0; to < end; to++)
            for (unsigned l = 0; brought[to] && l < end; l++)
                if (brought[l])
                    memcpy(lanes[to].received + l * EMULATED_EXCHANGE_BYTES, brought[l], lanes[l].brought_bytes);
    } else {
        order_warp(w, first->mask);
    }
    for (unsigned l = 0; l < end; l++)
        if ((first->mask >> l & 1) && lanes[l].state == AT_WARP)
            lanes[l].state = RUNNABLE;
    return true;
}

/* Releases warps and the block where all have come; true if any was. */
static bool release(void)
{
    unsigned at_block = 0;
    bool moved = false;

    for (unsigned i = 0; i < machine.count; i++) {
        fiber *f = &machine.fibers[i];

        if (f->state == AT_WARP)
            moved |= release_lanes(f->warp, f);
        else if (f->state == BLOCKED && f->events_seen != machine.events) {
            f->state = RUNNABLE;
            moved = true;
        }
        at_block += f->state == AT_BLOCK;
    }
    if (machine.alive && at_block == machine.alive) {
        const void *place = NULL;

        order_block_barrier();
        for (unsigned i = 0; i < machine.count; i++) {
            fiber *f = &machine.fibers[i];

            if (f->state != AT_BLOCK)
                continue;
            if (place && !memory_same_line(place, f->place)) {
                memory_print_place(place);
                memory_print_place(f->place);
                emulated_trap("threads meet at different __syncthreads");
            }
            place = f->place;
            f->state = RUNNABLE;
        }
        moved = true;
    }
    return moved;
}

static void report_hang(void)
{
    unsigned states[5] = {};

    for (unsigned i = 0; i < machine.count; i++)
        states[machine.fibers[i].state]++;
    for (unsigned i = 0; i < machine.count; i++)
        if (machine.fibers[i].state == BLOCKED &&
            (i == 0 || machine.fibers[i - 1].state != BLOCKED ||
             strcmp(machine.fibers[i].waits_for, machine.fibers[i - 1].waits_for) != 0))
            fprintf(stderr, "cuda-emulated: thread %u waits for %s\n", i, machine.fibers[i].waits_for);
    emulated_trap("hangs: %u threads at __syncthreads, %u at a warp operation, %u at another barrier, %u ended",
                  states[AT_BLOCK], states[AT_WARP], states[BLOCKED], states[ENDED]);
}

static void run_round(unsigned *order)
{
    for (unsigned i = machine.count; machine.order == machine::ORDER_RANDOM && i > 1; i--) {
        unsigned j = (unsigned)(emulated_random() % i), swap = order[i - 1];

        order[i - 1] = order[j];
        order[j] = swap;
    }
    for (unsigned i = 0; i < machine.count; i++) {
        fiber *f = &machine.fibers[order[i]];

        if (f->state != RUNNABLE)
            continue;
        resume(f);
        machine.alive -= f->state == ENDED;
    }
}

void emulated_weights_before_previous(void)
{
    current()->may_read = true;
}

void emulated_after_previous(void)
{
    current()->followed = true;
}

static void run_block(void)
{
    unsigned order[MAX_THREADS];

    memory_block_begin();
    order_block_begin();
    async_block_begin();
    for (unsigned i = 0; i < machine.count; i++) {
        fiber *f = &machine.fibers[i];

        f->number = i;
        f->warp = i / LANES;
        f->lane = i % LANES;
        f->state = RUNNABLE;
        f->followed = f->may_read = false;
        f->copies.clear();
        f->copy_groups = 0;
        f->stores.clear();
        f->store_groups = 0;
        f->fence_serial = 0;
        f->thread.index = dim3(i % emulated_block_dim.x, i / emulated_block_dim.x % emulated_block_dim.y,
                               i / emulated_block_dim.x / emulated_block_dim.y);
        fiber_prepare(f);
        order[i] = machine.order == machine::ORDER_REVERSE ? machine.count - 1 - i : i;
    }
    machine.alive = machine.count;
    while (machine.alive) {
        run_round(order);
        if (machine.async == machine::ASYNC_EARLY ||
            (machine.async == machine::ASYNC_RANDOM && emulated_random() % 4 == 0))
            (void)async_deliver(false);
        if (!release() && machine.alive && !async_deliver(true))
            report_hang();
    }
    async_block_end();
}

/* --- Launch ----------------------------------------------------------------------------------------------------- */

static cudaError_t last_error = cudaSuccess;

void emulated_launch(const char *name, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                     const std::function<void(void)> &kernel)
{
    static unsigned char *stacks;
    unsigned threads = block.x * block.y * block.z;

    configure();
    if (trace_path[0] && trace_case != case_now())
        write_trace();
    if (threads == 0 || threads > MAX_THREADS || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
        grid.z > 65535 || grid.x > 0x7FFFFFFFu || dynamic_shared_bytes > SMEM_MOST) {
        last_error = cudaErrorInvalidConfiguration;
        return;
    }
    if (!stacks) {
        void *made = mmap(NULL, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (made == MAP_FAILED)
            abort();
        stacks = (unsigned char *)made;
        for (unsigned i = 0; i < MAX_THREADS; i++)
            machine.fibers[i].stack = stacks + (size_t)i * STACK_BYTES;
    }
    machine.name = name;
    machine.count = threads;
    machine.kernel = &kernel;
    emulated_block_dim = block;
    emulated_grid_dim = grid;
    memory_launch_begin(dynamic_shared_bytes);
    for (emulated_block.z = 0; emulated_block.z < grid.z; emulated_block.z++)
        for (emulated_block.y = 0; emulated_block.y < grid.y; emulated_block.y++)
            for (emulated_block.x = 0; emulated_block.x < grid.x; emulated_block.x++)
                run_block();
    memory_launch_end();
}

/* --- Device; streams are in streams.cc -------------------------------------------------------------------------------
 */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    const char *text = getenv("DSA_EMULATED"), *at = text ? strstr(text, "sms=") : NULL;

    (void)device;
    *properties = {"emulated on the host", 9, 0, at ? atoi(at + 4) : 132};
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)attribute;
    (void)device;
    *value = 232448; /* Hopper */
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;

    last_error = cudaSuccess;
    return error;
}
