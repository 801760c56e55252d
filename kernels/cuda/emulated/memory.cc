/* memory.cc: what every access of a kernel is checked against: bounds, alignment, races, proxies.
 *
 *   shared memory   a line for every four bytes: the last accesses (thread, moment, bytes, place in the code), which
 * bytes the block has written, and what asynchronous is at work on them global memory   the last write and the last
 * read of every four bytes, block and thread
 *
 * An access conflicts with an earlier one of another thread to the same byte, one of the two a write and not both
 * atomic, unless the thread knows of that moment (emulator.h). Accesses of two blocks of one launch always conflict.
 * Hooks are those of -fsanitize=thread, called at each load and store of the kernels. Under AddressSanitizer there are
 * none: then it watches the bounds, and nothing here looks for races. */
#include "kernels/cuda/emulated/emulator.h"

#include <dlfcn.h>
#include <stdio.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <string>

/* Static shared memory: the section, or, since a template's variables ignore the attribute (GCC bug 41091), whatever
 * of .bss a kernel touches; the emulator's own variables there are never seen by a hook. */
extern "C" unsigned char __start_cuda_shared[], __stop_cuda_shared[];
extern "C" __attribute__((visibility("hidden"))) unsigned char __bss_start[], _end[];
/* So that the section is there even when no kernel has static shared memory. */
__shared__ unsigned char section_anchor[8];

/* --- Order ------------------------------------------------------------------------------------------------------- */

enum { MOST_SEEN = MAX_THREADS };

static uint32_t now[MAX_THREADS]; /* each thread's clock */
static uint32_t agent_now[AGENTS];
static uint32_t block_start, base;  /* moments before `base` are known to all threads of the block */
static uint32_t (*seen)[MOST_SEEN]; /* meaningful where seen_base[t] == base */
static uint32_t seen_base[MAX_THREADS];
static uint32_t (*fenced)[MOST_SEEN]; /* meaningful while any_fence */
static bool any_fence, any_agent;
static uint32_t agents_seen[MAX_THREADS][AGENTS];
static uint32_t launch_start;

uint32_t order_now(const fiber *f)
{
    return now[f->number];
}

static void *reserve(size_t bytes)
{
    void *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (made == MAP_FAILED) {
        fprintf(stderr, "cuda-emulated: no address space for %zu bytes\n", bytes);
        abort();
    }
    return made;
}

void order_block_begin(void)
{
    uint32_t latest = base;

    if (!seen) {
        seen = (uint32_t(*)[MOST_SEEN])reserve(sizeof *seen * MAX_THREADS);
        fenced = (uint32_t(*)[MOST_SEEN])reserve(sizeof *fenced * MAX_THREADS);
    }
    for (unsigned t = 0; t < MAX_THREADS; t++)
        latest = now[t] > latest ? now[t] : latest;
    block_start = base = latest + 1;
    for (unsigned t = 0; t < machine.count; t++) {
        now[t] = base;
        seen_base[t] = 0;
    }
    if (any_agent)
        memset(agents_seen, 0, sizeof agents_seen[0] * machine.count);
    any_fence = any_agent = false;
}

/* What t knows, spelt out. */
static uint32_t *seen_of(unsigned t)
{
    if (seen_base[t] != base) {
        for (unsigned u = 0; u < machine.count; u++)
            seen[t][u] = base - 1;
        seen_base[t] = base;
    }
    seen[t][t] = now[t];
    return seen[t];
}

static void raise(uint32_t *to, const uint32_t *from, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        to[i] = to[i] > from[i] ? to[i] : from[i];
}

void order_block_barrier(void)
{
    uint32_t latest = base;

    for (unsigned t = 0; t < machine.count; t++)
        latest = now[t] > latest ? now[t] : latest;
    base = latest + 1;
    if (any_fence) {
        for (unsigned t = 1; t < machine.count; t++)
            raise(fenced[0], fenced[t], machine.count);
        for (unsigned t = 1; t < machine.count; t++)
            memcpy(fenced[t], fenced[0], sizeof fenced[0][0] * machine.count);
    }
    if (any_agent) {
        for (unsigned t = 1; t < machine.count; t++)
            raise(agents_seen[0], agents_seen[t], AGENTS);
        for (unsigned t = 1; t < machine.count; t++)
            memcpy(agents_seen[t], agents_seen[0], sizeof agents_seen[0]);
    }
    for (unsigned t = 0; t < machine.count; t++)
        now[t] = base;
}

void order_warp(unsigned w, unsigned mask)
{
    uint32_t all[MOST_SEEN] = {}, all_fenced[MOST_SEEN] = {}, all_agents[AGENTS] = {};
    unsigned first = w * LANES, end = machine.count < first + LANES ? machine.count : first + LANES;

    for (unsigned t = first; t < end; t++)
        if (mask >> (t - first) & 1) {
            raise(all, seen_of(t), machine.count);
            if (any_fence)
                raise(all_fenced, fenced[t], machine.count);
            if (any_agent)
                raise(all_agents, agents_seen[t], AGENTS);
        }
    for (unsigned t = first; t < end; t++)
        if (mask >> (t - first) & 1) {
            memcpy(seen[t], all, sizeof all[0] * machine.count);
            if (any_fence)
                memcpy(fenced[t], all_fenced, sizeof all[0] * machine.count);
            if (any_agent)
                memcpy(agents_seen[t], all_agents, sizeof all_agents);
            now[t]++;
        }
}

void order_release(fiber *f, edge *e)
{
    unsigned t = f->number;

    e->seen.resize(machine.count);
    e->fenced.resize(machine.count);
    raise(e->seen.data(), seen_of(t), machine.count);
    if (any_fence)
        raise(e->fenced.data(), fenced[t], machine.count);
    raise(e->agents, agents_seen[t], AGENTS);
    now[t]++;
}

void order_acquire(fiber *f, const edge *e)
{
    unsigned t = f->number;

    if (!e->seen.empty()) {
        raise(seen_of(t), e->seen.data(), machine.count);
        if (any_fence)
            raise(fenced[t], e->fenced.data(), machine.count);
    }
    raise(agents_seen[t], e->agents, AGENTS);
}

void order_join(edge *into, const edge *from)
{
    into->seen.resize(machine.count);
    into->fenced.resize(machine.count);
    if (!from->seen.empty()) {
        raise(into->seen.data(), from->seen.data(), machine.count);
        raise(into->fenced.data(), from->fenced.data(), machine.count);
    }
    raise(into->agents, from->agents, AGENTS);
}

void order_fence(fiber *f)
{
    unsigned t = f->number;

    if (!any_fence) {
        for (unsigned u = 0; u < machine.count; u++)
            memset(fenced[u], 0, sizeof fenced[0][0] * machine.count);
        any_fence = true;
    }
    raise(fenced[t], seen_of(t), machine.count);
    now[t]++; /* what follows is not covered */
}

uint32_t order_agent_moment(unsigned agent)
{
    any_agent = true;
    return ++agent_now[agent];
}

void order_agent_seen(fiber *f, unsigned agent, uint32_t clock)
{
    if (agents_seen[f->number][agent] < clock)
        agents_seen[f->number][agent] = clock;
}

bool order_knows(const fiber *f, unsigned u, uint32_t clock)
{
    return u == f->number || clock < base || (seen_base[f->number] == base && seen[f->number][u] >= clock);
}

bool order_knows_fenced(const fiber *f, unsigned u, uint32_t clock)
{
    return any_fence && fenced[f->number][u] >= clock;
}

/* --- Shared memory ------------------------------------------------------------------------------------------------ */

enum { SLOTS = 4, WINDOW_BYTES = 256 * 1024, DYNAMIC_OFFSET = 16 /* mod 1024: what CUDA guarantees, and no more */ };

struct slot {
    uint32_t clock, pc;
    uint16_t who;
    uint8_t mask, kind;
};

struct line {
    struct slot slots[SLOTS];
    uint32_t block; /* of which block all this is */
    uint8_t written, is_barrier;
    uint16_t pending_writes, pending_reads, pending_by;
};

alignas(1024) static unsigned char window[WINDOW_BYTES];
static size_t dynamic_bytes;
static struct line *dynamic_lines, *static_lines;

static bool is_dynamic(const void *address)
{
    return (uintptr_t)address - (uintptr_t)window < WINDOW_BYTES;
}

static bool in_section(const void *address)
{
    return (uintptr_t)address - (uintptr_t)__start_cuda_shared < (uintptr_t)(__stop_cuda_shared - __start_cuda_shared);
}

static bool in_bss(const void *address)
{
    return (uintptr_t)address - (uintptr_t)__bss_start < (uintptr_t)(_end - __bss_start);
}

static bool is_static(const void *address)
{
    return in_section(address) || (in_bss(address) && !is_dynamic(address));
}

/* Offset of a byte of static shared memory; its low ten bits are those of the pointer. */
static uint32_t static_offset(const void *address)
{
    const unsigned char *start = in_section(address) ? __start_cuda_shared : __bss_start;

    return (uint32_t)((uintptr_t)address - ((uintptr_t)start & ~(uintptr_t)1023)) +
           (in_section(address) ? 0 : ((uint32_t)(__stop_cuda_shared - __start_cuda_shared) + 2048) / 1024 * 1024);
}

static struct line *line_of(const void *address)
{
    struct line *line;

    if (is_dynamic(address))
        line = &dynamic_lines[((uintptr_t)address - (uintptr_t)window) / 4];
    else
        line = &static_lines[static_offset(address) / 4];
    if (line->block != block_start) {
        memset(line, 0, sizeof *line);
        line->block = block_start;
    }
    return line;
}

bool memory_is_shared(const void *address, size_t bytes)
{
    if (is_dynamic(address))
        return (uintptr_t)address - (uintptr_t)window >= DYNAMIC_OFFSET &&
               (uintptr_t)address - (uintptr_t)window + bytes <= DYNAMIC_OFFSET + dynamic_bytes;
    return is_static(address) && is_static((const char *)address + bytes - 1);
}

void *emulated_dynamic_shared(void)
{
    return window + DYNAMIC_OFFSET;
}

uint32_t emulated_shared_address(const void *pointer)
{
    if (is_dynamic(pointer))
        return (uint32_t)((uintptr_t)pointer - (uintptr_t)window);
    if (!is_static(pointer))
        emulated_trap("%p is no address of shared memory", pointer);
    return WINDOW_BYTES + static_offset(pointer);
}

extern "C" const char __ehdr_start[]
    __attribute__((visibility("hidden"))); /* the linker's: this plug-in's first byte */

static uint32_t pc_offset(const void *pc)
{
    return pc ? (uint32_t)((uintptr_t)pc - (uintptr_t)__ehdr_start) : 0;
}

/* The line of source of a place in this plug-in, by addr2line where that is installed; else "?". */
static const std::string &line_of_source(uint32_t offset)
{
    static std::map<uint32_t, std::string> known;
    std::string &line = known[offset];
    Dl_info info;
    char command[512], text[256] = "?";
    FILE *pipe;

    if (!line.empty() || !dladdr((void *)&window, &info))
        return line;
    (void)snprintf(command, sizeof command, "addr2line -e '%.400s' %#x 2>/dev/null", info.dli_fname, offset - 1);
    pipe = popen(command, "r");
    if (pipe) {
        if (fgets(text, sizeof text, pipe))
            text[strcspn(text, "\n")] = '\0';
        (void)pclose(pipe);
    }
    return line = text;
}

static void print_offset(uint32_t offset)
{
    if (offset)
        fprintf(stderr, "  at %s (+%#x)\n", line_of_source(offset).c_str(), offset);
}

bool memory_same_line(const void *pc, const void *other)
{
    return pc == other || line_of_source(pc_offset(pc)) == line_of_source(pc_offset(other));
}

void memory_print_place(const void *pc)
{
    print_offset(pc_offset(pc));
}

static const char *kind_name(unsigned kind)
{
    static const char *const names[8] = {"read",       "write",       "atomic",       "atomic",
                                         "async read", "async write", "async atomic", "async atomic"};

    return names[kind & 7];
}

static void __attribute__((noreturn))
conflict(const void *address, unsigned kind, uint32_t pc, const struct slot *other, const char *why)
{
    bool agent = other->kind & ACCESS_ASYNC;

    fprintf(stderr, "cuda-emulated: %s\n", why);
    print_offset(pc);
    fprintf(stderr, "cuda-emulated: earlier, %s by %s %u\n", kind_name(other->kind), agent ? "agent" : "thread",
            other->who);
    print_offset(other->pc);
    emulated_trap("%s of shared address %#x: %s", kind_name(kind), emulated_shared_address(address), why);
}

/* The part of [address, address + bytes) that lies in the four bytes at `word`, as a mask. */
static uint8_t mask_in(uintptr_t word, uintptr_t address, size_t bytes)
{
    uint8_t mask = 0xF;

    if (address > word)
        mask = (uint8_t)(mask & (0xF << (address - word)));
    if (address + bytes < word + 4)
        mask = (uint8_t)(mask & (0xF >> (word + 4 - address - bytes)));
    return mask;
}

static void check_slots(fiber *f, struct line *line, const void *address, uint8_t mask, unsigned kind, uint32_t pc)
{
    for (int i = 0; i < SLOTS; i++) {
        struct slot *s = &line->slots[i];
        bool known;

        if (!(s->mask & mask) || !((s->kind | kind) & (ACCESS_WRITE | ACCESS_ATOMIC)) ||
            (s->kind & kind & ACCESS_ATOMIC))
            continue;
        if (s->kind & ACCESS_ASYNC) {
            known = agents_seen[f->number][s->who] >= s->clock;
        } else {
            known = order_knows(f, s->who, s->clock);
            if (known && (kind & ACCESS_ASYNC) && !order_knows_fenced(f, s->who, s->clock))
                conflict(address, kind, pc, s, "no proxy fence since an ordinary access");
        }
        if (!known)
            conflict(address, kind, pc, s, "a race");
    }
}

static void keep(struct line *line, struct slot one, fiber *f)
{
    struct slot *place = NULL;

    /* In place of one by the same actor that this one covers, or of one that a write known to be later covers. */
    for (int i = 0; i < SLOTS && !place; i++) {
        struct slot *s = &line->slots[i];

        if (!s->mask || (s->who == one.who && !((s->kind ^ one.kind) & ACCESS_ASYNC) && !(s->mask & ~one.mask) &&
                         (one.kind & ACCESS_WRITE || s->kind == one.kind)))
            place = s;
    }
    for (int i = 0; i < SLOTS && !place; i++) {
        struct slot *s = &line->slots[i];

        if (!(s->mask & ~one.mask) && (one.kind & ACCESS_WRITE) && !(one.kind & ACCESS_ASYNC))
            place = s;
    }
    for (int i = 0; i < SLOTS && !place; i++) {
        struct slot *s = &line->slots[i];

        if (!(s->kind & (ACCESS_WRITE | ACCESS_ASYNC)) && f && order_knows(f, s->who, s->clock) && !any_fence)
            place = s;
    }
    if (!place) {
        unsigned from = (unsigned)emulated_random();

        place = &line->slots[from % SLOTS];
        for (unsigned i = 0; i < SLOTS; i++) /* rather a read than a write */
            if (!(line->slots[(from + i) % SLOTS].kind & ACCESS_WRITE))
                place = &line->slots[(from + i) % SLOTS];
    }
    *place = one;
    if (one.kind & ACCESS_WRITE) /* the conflict check has shown that all others are known: they are covered */
        for (int i = 0; i < SLOTS; i++)
            if (&line->slots[i] != place && !(line->slots[i].mask & ~one.mask))
                line->slots[i].mask = 0;
}

static void access_shared(fiber *f, const void *address, size_t bytes, unsigned kind, const void *pc_pointer)
{
    uintptr_t at = (uintptr_t)address;
    uint32_t pc = 0;
    struct slot none = {};

    if (!memory_is_shared(address, bytes)) {
        memory_print_place(pc_pointer);
        emulated_trap("%s of %zu bytes at %zd: the block has %zu bytes of dynamic shared memory", kind_name(kind),
                      bytes, (ssize_t)(at - (uintptr_t)window) - DYNAMIC_OFFSET, dynamic_bytes);
    }
    for (uintptr_t word = at & ~(uintptr_t)3; word < at + bytes; word += 4) {
        struct line *line = line_of((void *)word);
        uint8_t mask = mask_in(word, at, bytes);
        const struct slot *same = &line->slots[0];

        if (line->is_barrier)
            conflict((void *)word, kind, pc_offset(pc_pointer), &none, "an ordinary access to an mbarrier");
        if (line->pending_writes)
            conflict((void *)word, kind, pc_offset(pc_pointer), &none, "a copy to it is in flight, not waited for");
        if (line->pending_reads && (kind & (ACCESS_WRITE | ACCESS_ATOMIC)))
            conflict((void *)word, kind, pc_offset(pc_pointer), &none, "something asynchronous still reads it");
        if (!(kind & ACCESS_WRITE) && (line->written & mask) != mask)
            conflict((void *)word, kind, pc_offset(pc_pointer), &none, "nobody has written it");
        if (kind & ACCESS_WRITE)
            line->written |= mask;
        if (same->who == f->number && same->clock == now[f->number] && same->kind == kind && !(mask & ~same->mask) &&
            !line->slots[1].mask)
            continue;
        if (!pc)
            pc = pc_offset(pc_pointer);
        check_slots(f, line, (void *)word, mask, kind, pc);
        if (!(kind & ACCESS_ASYNC))
            keep(line, {now[f->number], pc, (uint16_t)f->number, mask, (uint8_t)kind}, f);
    }
}

void memory_agent_done(unsigned agent, uint32_t clock, const void *address, size_t bytes, unsigned kind)
{
    uintptr_t at = (uintptr_t)address;

    for (uintptr_t word = at & ~(uintptr_t)3; word < at + bytes; word += 4) {
        struct line *line = line_of((void *)word);

        if (kind & ACCESS_WRITE)
            line->written |= mask_in(word, at, bytes);
        keep(line, {clock, 0, (uint16_t)agent, mask_in(word, at, bytes), (uint8_t)(kind | ACCESS_ASYNC)}, NULL);
    }
}

void memory_pend(const void *address, size_t bytes, int what, int by)
{
    uintptr_t at = (uintptr_t)address;

    for (uintptr_t word = at & ~(uintptr_t)3; word < at + bytes; word += 4) {
        struct line *line = line_of((void *)word);

        if (what == PENDING_WRITE)
            line->pending_writes = (uint16_t)(line->pending_writes + by);
        else
            line->pending_reads = (uint16_t)(line->pending_reads + by);
    }
}

void memory_wrote(fiber *f, void *address, size_t bytes, uint32_t clock)
{
    uintptr_t at = (uintptr_t)address;

    for (uintptr_t word = at; word < at + bytes; word += 4) {
        struct line *line = line_of((void *)word);

        line->written = 0xF;
        keep(line, {clock, 0, (uint16_t)f->number, 0xF, ACCESS_WRITE}, f);
    }
}

void memory_mark_barrier(const void *address, bool is_barrier)
{
    for (int i = 0; i < 2; i++)
        line_of((const char *)address + 4 * i)->is_barrier = is_barrier;
}

/* --- Global memory: an arena in which every buffer starts on a page of its own, with an empty page behind ----------
 */

enum { PAGE = 4096 };

struct global_slot {
    uint32_t clock;
    uint16_t who;
    uint8_t mask, kind;
};

struct global_line {
    struct global_slot write, read;
};

static const size_t ARENA_BYTES = (size_t)1 << 40;
static unsigned char *arena, *arena_next;
static uint16_t *page_bytes; /* how much of each page of the arena belongs to a buffer */
static struct global_line *global_lines;
static std::map<unsigned char *, size_t> allocations;

static bool in_arena(const void *address)
{
    return arena && (uintptr_t)address - (uintptr_t)arena < ARENA_BYTES;
}

static bool arena_holds(const void *address, size_t bytes)
{
    size_t first = (size_t)((const unsigned char *)address - arena), last = first + bytes - 1;

    for (size_t page = first / PAGE; page < last / PAGE; page++)
        if (page_bytes[page] != PAGE)
            return false;
    return last % PAGE < page_bytes[last / PAGE];
}

cudaError_t emulated_malloc(void **memory, size_t bytes)
{
    size_t pages = (bytes + PAGE - 1) / PAGE;
    unsigned char *made;

#ifdef __SANITIZE_ADDRESS__
    if (posix_memalign(memory, 256, bytes ? bytes : 1))
        return cudaErrorMemoryAllocation;
    memset(*memory, 0xA5, bytes);
    return cudaSuccess;
#endif
    if (!arena) {
        arena = (unsigned char *)mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED)
            abort();
        arena_next = arena + PAGE;
        page_bytes = (uint16_t *)reserve(ARENA_BYTES / PAGE * sizeof *page_bytes);
        global_lines = (struct global_line *)reserve(ARENA_BYTES / 4 * sizeof *global_lines);
    }
    made = arena_next;
    if ((size_t)(arena + ARENA_BYTES - made) < (pages + 2) * PAGE ||
        mprotect(made, pages * PAGE, PROT_READ | PROT_WRITE))
        return cudaErrorMemoryAllocation;
    arena_next += (pages + 1) * PAGE;
    memset(made, 0xA5, pages * PAGE); /* a pattern nobody may rely on */
    for (size_t i = 0; i < pages; i++)
        page_bytes[(size_t)(made - arena) / PAGE + i] =
            (uint16_t)(bytes - i * PAGE < PAGE ? bytes - i * PAGE : (size_t)PAGE);
    allocations[made] = bytes;
    *memory = made;
    return cudaSuccess;
}

/* Writes behind a buffer by code without hooks, copies of the runtime for one. */
static void check_slack(unsigned char *memory, size_t bytes)
{
    for (size_t i = bytes; i % PAGE; i++)
        if (memory[i] != 0xA5)
            emulated_trap("something wrote behind a buffer of %zu bytes", bytes);
}

cudaError_t emulated_free(void *memory)
{
#ifdef __SANITIZE_ADDRESS__
    free(memory);
    return cudaSuccess;
#endif
    if (memory) {
        auto found = allocations.find((unsigned char *)memory);
        size_t pages;

        if (found == allocations.end())
            return cudaErrorInvalidValue;
        check_slack(found->first, found->second);
        pages = (found->second + PAGE - 1) / PAGE;
        memset(page_bytes + (size_t)(found->first - arena) / PAGE, 0, pages * sizeof *page_bytes);
        (void)mmap(memory, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        (void)madvise(global_lines + (size_t)(found->first - arena) / 4, pages * PAGE / 4 * sizeof *global_lines,
                      MADV_DONTNEED);
        allocations.erase(found);
    }
    return cudaSuccess;
}

static void __attribute__((noreturn))
global_conflict(const void *address, unsigned kind, const void *pc, const struct global_slot *other)
{
    memory_print_place(pc);
    if (other->clock < block_start)
        emulated_trap("%s of global memory at %p that another block of this launch %s", kind_name(kind), address,
                      other->kind & ACCESS_WRITE ? "writes" : "reads");
    emulated_trap("%s of global memory at %p: a race with a %s by thread %u", kind_name(kind), address,
                  kind_name(other->kind), other->who);
}

static void access_global(fiber *f, const void *address, size_t bytes, unsigned kind, const void *pc)
{
    uintptr_t at = (uintptr_t)address;

    if (!f->followed && !(f->may_read && !(kind & (ACCESS_WRITE | ACCESS_ATOMIC)))) {
        memory_print_place(pc);
        emulated_trap("%s of global memory before after_previous()", kind_name(kind));
    }
    if (!arena_holds(address, bytes)) {
        auto after = allocations.upper_bound((unsigned char *)address);

        memory_print_place(pc);
        if (after == allocations.begin())
            emulated_trap("%s of %zu bytes of global memory that is not allocated", kind_name(kind), bytes);
        --after;
        emulated_trap("%s of %zu bytes at %zd of a buffer of %zu bytes", kind_name(kind), bytes,
                      (ssize_t)((unsigned char *)address - after->first), after->second);
    }
    for (uintptr_t word = at & ~(uintptr_t)3; word < at + bytes; word += 4) {
        struct global_line *line = &global_lines[(word - (uintptr_t)arena) / 4];
        struct global_slot one = {now[f->number], (uint16_t)f->number, mask_in(word, at, bytes), (uint8_t)kind};

        for (const struct global_slot *s : {&line->write, &line->read}) {
            if (s->clock < launch_start || !(s->mask & one.mask) ||
                !((s->kind | kind) & (ACCESS_WRITE | ACCESS_ATOMIC)) || (s->kind & kind & ACCESS_ATOMIC))
                continue;
            if (s->clock < block_start || !order_knows(f, s->who, s->clock))
                global_conflict((void *)word, kind, pc, s);
        }
        if (kind & ACCESS_WRITE) {
            if (line->write.clock == one.clock && line->write.who == one.who)
                one.mask |= line->write.mask;
            line->write = one;
        } else {
            if (line->read.clock == one.clock && line->read.who == one.who)
                one.mask |= line->read.mask;
            line->read = one;
        }
    }
}

/* --- All memory ----------------------------------------------------------------------------------------------------
 */

void memory_launch_begin(size_t dynamic_shared_bytes)
{
    size_t static_bytes = (size_t)(__stop_cuda_shared - __start_cuda_shared) + (size_t)(_end - __bss_start) + 8192;

    if (!dynamic_lines) {
        dynamic_lines = (struct line *)reserve(WINDOW_BYTES / 4 * sizeof *dynamic_lines);
        static_lines = (struct line *)reserve(static_bytes / 4 * sizeof *static_lines);
    }
    dynamic_bytes = dynamic_shared_bytes;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(window, WINDOW_BYTES);
    __asan_poison_memory_region(window + DYNAMIC_OFFSET + dynamic_bytes, WINDOW_BYTES - DYNAMIC_OFFSET - dynamic_bytes);
#endif
    launch_start = base + 1;
    for (unsigned t = 0; t < MAX_THREADS; t++)
        launch_start = now[t] >= launch_start ? now[t] + 1 : launch_start;
}

void memory_launch_end(void)
{
    for (const auto &allocation : allocations)
        check_slack(allocation.first, allocation.second);
}

void memory_block_begin(void)
{
    memset(__start_cuda_shared, 0xFF, (size_t)(__stop_cuda_shared - __start_cuda_shared));
    memset(window + DYNAMIC_OFFSET, 0xFF, dynamic_bytes);
}

void memory_access(fiber *f, const void *address, size_t bytes, unsigned kind, const void *pc)
{
#ifdef __SANITIZE_ADDRESS__
    /* Ordinary accesses go unseen then, so there is nothing to hold this one against. */
    if (is_dynamic(address) && !memory_is_shared(address, bytes))
        emulated_trap("%s of %zu bytes outside the block's shared memory", kind_name(kind), bytes);
    return;
#endif
    if (is_dynamic(address) || is_static(address))
        access_shared(f, address, bytes, kind, pc);
    else if (in_arena(address))
        access_global(f, address, bytes, kind, pc);
}

void emulated_atomic(void *address, size_t bytes)
{
    if (emulated_current)
        memory_access(current(), address, bytes, ACCESS_WRITE | ACCESS_ATOMIC, __builtin_return_address(0));
}

/* --- The compiler's hooks --------------------------------------------------------------------------------------------
 */

static inline void hook(const void *address, size_t bytes, unsigned kind, bool aligned, const void *pc)
{
    if (!emulated_current)
        return;
    if (aligned && ((uintptr_t)address & (bytes - 1)) &&
        (is_dynamic(address) || is_static(address) || in_arena(address))) {
        memory_print_place(pc);
        emulated_trap("%s of %zu bytes at an address that is not a multiple of it", kind_name(kind), bytes);
    }
    memory_access(current(), address, bytes, kind, pc);
}

#define HOOKS(bytes)                                                            \
    extern "C" void __tsan_read##bytes(void *address)                           \
    {                                                                           \
        hook(address, bytes, ACCESS_READ, true, __builtin_return_address(0));   \
    }                                                                           \
    extern "C" void __tsan_write##bytes(void *address)                          \
    {                                                                           \
        hook(address, bytes, ACCESS_WRITE, true, __builtin_return_address(0));  \
    }                                                                           \
    extern "C" void __tsan_unaligned_read##bytes(void *address)                 \
    {                                                                           \
        hook(address, bytes, ACCESS_READ, false, __builtin_return_address(0));  \
    }                                                                           \
    extern "C" void __tsan_unaligned_write##bytes(void *address)                \
    {                                                                           \
        hook(address, bytes, ACCESS_WRITE, false, __builtin_return_address(0)); \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void *address, size_t bytes)
{
    if (bytes)
        hook(address, bytes, ACCESS_READ, false, __builtin_return_address(0));
}

extern "C" void __tsan_write_range(void *address, size_t bytes)
{
    if (bytes)
        hook(address, bytes, ACCESS_WRITE, false, __builtin_return_address(0));
}

extern "C" void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
    if (bytes) {
        hook(from, bytes, ACCESS_READ, false, __builtin_return_address(0));
        hook(to, bytes, ACCESS_WRITE, false, __builtin_return_address(0));
    }
    return memcpy(to, from, bytes);
}

extern "C" void *__tsan_memset(void *to, int byte, size_t bytes)
{
    if (bytes)
        hook(to, bytes, ACCESS_WRITE, false, __builtin_return_address(0));
    return memset(to, byte, bytes);
}

extern "C" void *__tsan_memmove(void *to, const void *from, size_t bytes)
{
    if (bytes) {
        hook(from, bytes, ACCESS_READ, false, __builtin_return_address(0));
        hook(to, bytes, ACCESS_WRITE, false, __builtin_return_address(0));
    }
    return memmove(to, from, bytes);
}

extern "C" void __tsan_init(void)
{
}

extern "C" void __tsan_func_entry(void *)
{
}

extern "C" void __tsan_func_exit(void)
{
}

extern "C" void __tsan_vptr_update(void **, void *)
{
}

extern "C" void __tsan_vptr_read(void **)
{
}
