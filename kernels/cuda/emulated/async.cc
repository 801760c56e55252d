/* async.cc: Hopper's asynchronous instructions, by the rules of the PTX ISA.
 *
 * A copy or a product is registered when it is issued: its destination turns NaN, what it will read is marked, and it
 * is checked that its issuer knows of all earlier accesses to those bytes, through the async proxy. It takes place when
 * a wait demands it, when nothing else can move, or at some moment between (DSA_EMULATED). What waited for it then
 * knows of it, and nobody else does. */
#include "kernels/cuda/emulated/emulator.h"

#include <stdio.h>

#include <deque>

extern "C" {
#include "kernels/fp8.h"
}

struct mbarrier {
    unsigned expected, pending, agent;
    int64_t bytes; /* announced and not landed; below zero when they came early */
    int64_t phase; /* phases complete */
    edge gathering, last;
    unsigned init_thread;
    uint32_t init_clock;
    int64_t waited[MAX_THREADS]; /* phases each thread has seen complete, -1: never waited */
};

struct pending {
    mbarrier *bar;
    std::vector<copy> copies; /* of cp.async, by `by`; then an arrival */
    fiber *by;
    uint32_t clock;
    edge knows;
    void *shared; /* of a bulk load */
    const void *global;
    unsigned bytes;
};

struct named_barrier {
    int threads, arrived;
    uint64_t generation;
    edge gathering, last;
};

static std::map<uint64_t *, std::unique_ptr<mbarrier>> mbarriers;
static std::deque<std::unique_ptr<pending>> in_flight;
static named_barrier named[NAMED_BARRIERS];
static unsigned next_agent;
static int group_registers[MAX_WARPS / 4];

#define HERE __builtin_return_address(0)

void async_block_begin(void)
{
    mbarriers.clear();
    for (named_barrier &b : named)
        b = named_barrier();
    next_agent = 0;
    for (int &registers : group_registers)
        registers = 0;
    for (unsigned w = 0; w * LANES < machine.count; w++) {
        machine.warps[w].products.clear();
        machine.warps[w].sums.clear();
        machine.warps[w].product_groups = machine.warps[w].serial = 0;
    }
}

void async_thread_end(fiber *f)
{
    if (!f->copies.empty() || !machine.warps[f->warp].products.empty())
        emulated_trap("the thread ended with asynchronous work in flight");
    for (const bulk_store &store : f->stores)
        if (!store.read)
            emulated_trap("the thread ended while a bulk store may still read shared memory");
    for (const bulk_store &store : f->stores) /* the end of the kernel waits for the rest */
        memcpy(store.global, store.data.data(), store.data.size());
    f->stores.clear();
}

void async_block_end(void)
{
    if (!in_flight.empty())
        emulated_trap("the block ended with %zu copies in flight", in_flight.size());
    for (const auto &entry : mbarriers)
        if (entry.second->bytes || entry.second->pending != entry.second->expected)
            emulated_trap(
                "the block ended amid a phase of the mbarrier at %#x: %u of %u arrivals and %lld bytes are due",
                emulated_shared_address(entry.first), entry.second->pending, entry.second->expected,
                (long long)entry.second->bytes);
    for (int id = 0; id < NAMED_BARRIERS; id++)
        if (named[id].arrived)
            emulated_trap("the block ended with %d of %d threads at named barrier %d", named[id].arrived,
                          named[id].threads, id);
}

void emulated_fence_proxy(const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    order_fence(current());
}

/* --- cp.async ---------------------------------------------------------------------------------------------------- */

void emulated_copy_begin(void *shared, const void *global, int bytes)
{
    fiber *me = current();

    if ((uintptr_t)shared % 16 || (bytes && (uintptr_t)global % 16)) {
        memory_print_place(HERE);
        emulated_trap("cp.async of 16 bytes is not aligned to 16");
    }
    memory_access(me, shared, 16, ACCESS_WRITE, HERE);
    if (bytes)
        memory_access(me, global, (size_t)bytes, ACCESS_READ, HERE);
    memory_pend(shared, 16, PENDING_WRITE, 1);
    memset(shared, 0xFF, 16);
    me->copies.push_back({shared, global, bytes, me->copy_groups});
}

static void land(fiber *by, const copy &c, uint32_t clock)
{
    memory_pend(c.shared, 16, PENDING_WRITE, -1);
    memset(c.shared, 0, 16);
    memcpy(c.shared, c.global, (size_t)c.bytes);
    memory_wrote(by, c.shared, 16, clock);
}

void emulated_copy_commit(const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    current()->copy_groups++;
}

void emulated_copy_wait(int newest, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    std::vector<copy> left;

    for (const copy &c : me->copies)
        if (newest >= 0 && c.group + (unsigned)newest >= me->copy_groups)
            left.push_back(c);
        else
            land(me, c, order_now(me));
    me->copies = left;
}

/* --- mbarriers ---------------------------------------------------------------------------------------------------- */

/* The barrier, known to be initialised to this thread. */
static mbarrier *barrier_of(uint64_t *bar, bool by_async_proxy, const void *pc)
{
    auto found = mbarriers.find(bar);
    const fiber *me = current();

    if (found == mbarriers.end()) {
        memory_print_place(pc);
        emulated_trap("an mbarrier is used before its init");
    }
    if (!order_knows(me, found->second->init_thread, found->second->init_clock)) {
        memory_print_place(pc);
        emulated_trap("an mbarrier is used without a barrier after its init");
    }
    if (by_async_proxy && !order_knows_fenced(me, found->second->init_thread, found->second->init_clock)) {
        memory_print_place(pc);
        emulated_trap("an mbarrier is used by a bulk copy without mbarrier_init_fence() after its init");
    }
    return found->second.get();
}

static void complete(mbarrier *b)
{
    if (b->pending || b->bytes)
        return;
    b->last = b->gathering;
    b->gathering = edge();
    b->pending = b->expected;
    b->phase++;
    emulated_progress();
}

static void count_arrival(mbarrier *b, uint64_t *bar)
{
    if (b->pending == 0)
        emulated_trap("more arrivals at the mbarrier at %#x than its %u, with bytes still to land",
                      bar ? emulated_shared_address(bar) : 0, b->expected);
    b->pending--;
    complete(b);
}

void emulated_mbarrier_init(uint64_t *bar, unsigned arrivals, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    auto made = std::unique_ptr<mbarrier>(new mbarrier());

    if ((uintptr_t)bar % 8 || arrivals == 0 || arrivals >= 1u << 20)
        emulated_trap("mbarrier_init of %u arrivals at an address ending in %u", arrivals,
                      (unsigned)((uintptr_t)bar % 8));
    if (mbarriers.count(bar))
        emulated_trap("an mbarrier is initialised twice");
    memory_access(me, bar, 8, ACCESS_WRITE, HERE);
    memory_mark_barrier(bar, true);
    made->expected = made->pending = arrivals;
    made->agent = next_agent++ % BARRIER_AGENTS;
    made->init_thread = me->number;
    made->init_clock = order_now(me);
    for (int64_t &waited : made->waited)
        waited = -1;
    mbarriers[bar] = std::move(made);
}

void emulated_mbarrier_arrive(uint64_t *bar, unsigned expected_bytes, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    mbarrier *b = barrier_of(bar, false, HERE);

    order_release(me, &b->gathering);
    b->bytes += expected_bytes;
    if (b->bytes >= 1 << 20)
        emulated_trap("more than 2^20 - 1 bytes announced to an mbarrier");
    count_arrival(b, bar);
}

static bool try_wait(uint64_t *bar, unsigned parity)
{
    fiber *me = current();
    mbarrier *b = barrier_of(bar, false, HERE);
    int64_t waited = b->waited[me->number];

    if (parity > 1)
        emulated_trap("an mbarrier's parity is 0 or 1, not %u", parity);
    /* Wanted is the first phase of this parity that the thread has not seen, or the one it saw last again. */
    if (waited >= 0 && b->phase >= waited + 2 && ((waited & 1) == (int)parity))
        emulated_trap(
            "a wait on the mbarrier at %#x came two phases late: %lld are complete, this thread has seen %lld",
            emulated_shared_address(bar), (long long)b->phase, (long long)waited);
    if (((b->phase - 1) & 1) != (int)parity)
        return false;
    b->waited[me->number] = b->phase;
    order_acquire(me, &b->last);
    return true;
}

void emulated_mbarrier_wait(uint64_t *bar, unsigned parity, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    while (!try_wait(bar, parity))
        emulated_wait("an mbarrier", bar, parity);
}

/* Gives way when it fails, as its caller will ask again. */
bool emulated_mbarrier_try_wait(uint64_t *bar, unsigned parity, const char *file, int line)
{
    if (emulated_skip(file, line) || try_wait(bar, parity))
        return true;
    emulated_wait("an mbarrier", bar, parity);
    return try_wait(bar, parity);
}

void emulated_copy_arrive(uint64_t *bar, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    auto made = std::unique_ptr<pending>(new pending());

    made->bar = barrier_of(bar, false, HERE);
    made->copies = me->copies;
    made->by = me;
    made->clock = order_now(me);
    order_release(me, &made->knows);
    me->copies.clear();
    in_flight.push_back(std::move(made));
}

/* --- Bulk copies ----------------------------------------------------------------------------------------------------
 */

static void check_bulk(const void *shared, const void *global, unsigned bytes, const void *pc)
{
    if ((uintptr_t)shared % 16 == 0 && (uintptr_t)global % 16 == 0 && bytes % 16 == 0 && bytes > 0)
        return;
    memory_print_place(pc);
    emulated_trap("a bulk copy of %u bytes: size and addresses are multiples of 16", bytes);
}

void emulated_bulk_load(void *shared, const void *global, unsigned bytes, uint64_t *bar)
{
    fiber *me = current();
    auto made = std::unique_ptr<pending>(new pending());

    check_bulk(shared, global, bytes, HERE);
    made->bar = barrier_of(bar, true, HERE);
    memory_access(me, shared, bytes, ACCESS_WRITE | ACCESS_ASYNC, HERE);
    memory_access(me, global, bytes, ACCESS_READ, HERE);
    memory_pend(shared, bytes, PENDING_WRITE, 1);
    memset(shared, 0xFF, bytes);
    made->shared = shared;
    made->global = global;
    made->bytes = bytes;
    in_flight.push_back(std::move(made));
}

bool async_deliver(bool must)
{
    std::unique_ptr<pending> p;
    size_t at;

    if (in_flight.empty())
        return false;
    at = machine.async == machine::ASYNC_RANDOM ? emulated_random() % in_flight.size() : 0;
    (void)must;
    p = std::move(in_flight[at]);
    in_flight.erase(in_flight.begin() + (ptrdiff_t)at);
    if (p->shared) {
        uint32_t moment = order_agent_moment(p->bar->agent);

        memory_pend(p->shared, p->bytes, PENDING_WRITE, -1);
        memcpy(p->shared, p->global, p->bytes);
        memory_agent_done(p->bar->agent, moment, p->shared, p->bytes, ACCESS_WRITE);
        p->bar->gathering.agents[p->bar->agent] = moment;
        p->bar->bytes -= p->bytes;
        complete(p->bar);
    } else {
        for (const copy &c : p->copies)
            land(p->by, c, p->clock);
        order_join(&p->bar->gathering, &p->knows);
        count_arrival(p->bar, NULL);
    }
    return true;
}

void emulated_bulk_store(void *global, const void *shared, unsigned bytes)
{
    fiber *me = current();

    check_bulk(shared, global, bytes, HERE);
    memory_access(me, shared, bytes, ACCESS_READ | ACCESS_ASYNC, HERE);
    memory_access(me, global, bytes, ACCESS_WRITE, HERE);
    memory_pend(shared, bytes, PENDING_READ, 1);
    memset(global, 0xFF, bytes);
    me->stores.push_back({global, shared, bytes, me->store_groups, false, {}});
}

void emulated_bulk_commit(const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    current()->store_groups++;
}

void emulated_bulk_wait(int newest, bool read_only, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    std::vector<bulk_store> left;

    for (bulk_store &store : me->stores) {
        if (store.group + (unsigned)newest < me->store_groups) {
            if (!store.read) {
                memory_pend(store.shared, store.bytes, PENDING_READ, -1);
                store.data.assign((const unsigned char *)store.shared,
                                  (const unsigned char *)store.shared + store.bytes);
                store.read = true;
            }
            if (!read_only) {
                memcpy(store.global, store.data.data(), store.bytes);
                continue;
            }
        }
        left.push_back(store);
    }
    me->stores = left;
}

/* --- Named barriers and registers --------------------------------------------------------------------------------- */

void emulated_named_barrier(int id, int threads, bool wait, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    named_barrier *b = &named[id & (NAMED_BARRIERS - 1)];
    uint64_t generation = b->generation;

    if (id < 1 || id >= NAMED_BARRIERS || threads <= 0 || threads % LANES || threads > (int)machine.count)
        emulated_trap("named barrier %d of %d threads in a block of %u", id, threads, machine.count);
    if (b->arrived && b->threads != threads)
        emulated_trap("named barrier %d is used with %d and with %d threads at once", id, b->threads, threads);
    b->threads = threads;
    order_release(me, &b->gathering);
    if (++b->arrived == threads) {
        b->last = b->gathering;
        b->gathering = edge();
        b->arrived = 0;
        b->generation++;
        emulated_progress();
    }
    if (!wait)
        return;
    while (b->generation == generation)
        emulated_wait("a named barrier", NULL, (unsigned)id);
    if (b->generation != generation + 1)
        emulated_trap("named barrier %d went round twice while a thread waited", id);
    order_acquire(me, &b->last);
}

void emulated_registers(int count, bool raise)
{
    int total = 0, each = 65536 / (int)machine.count / 8 * 8; /* as the compiler gives them to one block an SM */
    int launched = (each < 255 ? each : 255) * (int)machine.count;

    (void)raise;
    if (machine.count % 128)
        emulated_trap("setmaxnreg in a block that is not made of warpgroups");
    group_registers[current()->warp / 4] = count;
    for (unsigned g = 0; g < machine.count / 128; g++) {
        if (group_registers[g] == 0)
            return;
        total += group_registers[g] * 128;
    }
    if (total > launched)
        emulated_trap("setmaxnreg: the warpgroups ask for %d of %d registers", total, launched);
}

/* --- wgmma -------------------------------------------------------------------------------------------------------- */

void emulated_check_operand(const void *tile, int swizzle)
{
    static const unsigned multiple[4] = {16, 1024, 512, 256}; /* none, 128, 64, 32 bytes */

    if (emulated_shared_address(tile) % multiple[swizzle & 3])
        emulated_trap("a wgmma operand is not aligned to %u bytes", multiple[swizzle & 3]);
    if (emulated_shared_address(tile) >= 1u << 18)
        emulated_trap("a wgmma operand lies in static shared memory");
}

struct operand_map {
    uint32_t start, leading, stride;
    int swizzle;
    bool transposed;
    int element_bytes;
};

static operand_map decode(uint64_t descriptor, bool transposed, int element_bytes)
{
    return {(uint32_t)(descriptor & 0x3FFF) << 4,
            (uint32_t)(descriptor >> 16 & 0x3FFF) << 4,
            (uint32_t)(descriptor >> 32 & 0x3FFF) << 4,
            (int)(descriptor >> 62),
            transposed,
            element_bytes};
}

/* The shared address of element (row, k) of an operand: PTX ISA, "Shared Memory Matrix Layout". */
static uint32_t element_address(const operand_map &m, unsigned row, unsigned k)
{
    static const unsigned widths[4] = {16, 128, 64, 32}; /* bytes of a row of the swizzled atom */
    unsigned width = widths[m.swizzle];
    uint32_t at;

    if (!m.transposed) {
        unsigned byte = k * (unsigned)m.element_bytes;

        at = m.start + row / 8 * m.stride + row % 8 * width;
        at += m.swizzle ? byte : byte / 16 * m.leading + byte % 16;
    } else {
        unsigned across = width / (unsigned)m.element_bytes; /* N-values in a row of the atom */

        at = m.start + k % 8 * width + row % across * (unsigned)m.element_bytes;
        at += m.swizzle ? row / across * m.leading + k / 8 * m.stride : row / across * m.stride + k / 8 * m.leading;
    }
    return at ^ (m.swizzle == 0 ? 0 : (at >> 7 & (width / 16 - 1)) << 4);
}

static unsigned char *window_start(void)
{
    return (unsigned char *)emulated_dynamic_shared() - emulated_shared_address(emulated_dynamic_shared());
}

/* Calls `visit` for every 16 bytes of rows [first, first + rows) of an operand; k = 32 / element bytes. */
template <typename Visit> static void for_chunks(const operand_map &m, unsigned first, unsigned rows, Visit visit)
{
    unsigned K = 32 / (unsigned)m.element_bytes;

    if (!m.transposed) {
        for (unsigned row = first; row < first + rows; row++)
            for (unsigned k = 0; k < K; k += K / 2)
                visit(window_start() + element_address(m, row, k));
    } else {
        for (unsigned k = 0; k < K; k++)
            for (unsigned row = first; row < first + rows; row += 16 / (unsigned)m.element_bytes)
                visit(window_start() + element_address(m, row, k));
    }
}

static float element_value(const unsigned char *at, int element_bytes)
{
    static float e4m3[256];
    uint16_t bits;

    if (element_bytes == 1) {
        if (e4m3[1] == 0)
            for (unsigned code = 0; code < 256; code++)
                e4m3[code] = f32_from_e4m3((uint8_t)code);
        return e4m3[*at];
    }
    memcpy(&bits, at, 2);
    return __uint_as_float((uint32_t)bits << 16);
}

static unsigned char *operand_at(const operand_map &m, unsigned row, unsigned k)
{
    return window_start() + element_address(m, row, k);
}

struct wgmma_arguments {
    emulated_product p;
    fiber *f;
};

static size_t accumulator_of(warp *w, void *const *lanes)
{
    size_t i;

    for (i = 0; i < w->sums.size(); i++)
        if (w->sums[i].d[0] == ((wgmma_arguments *)lanes[0])->p.d && w->sums[i].n == ((wgmma_arguments *)lanes[0])->p.n)
            return i;
    w->sums.push_back(accumulator());
    w->sums[i].n = ((wgmma_arguments *)lanes[0])->p.n;
    for (unsigned l = 0; l < LANES; l++)
        w->sums[i].d[l] = ((wgmma_arguments *)lanes[l])->p.d;
    return i;
}

/* Where element i of lane l lies in the warp's [16, n]. */
static size_t sum_index(unsigned l, unsigned i, int n)
{
    return (l / 4 + 8 * (i / 2 % 2)) * (size_t)n + 8 * (i / 4) + 2 * (l % 4) + i % 2;
}

static void wgmma_issue(void *const *lanes)
{
    const wgmma_arguments *first = (const wgmma_arguments *)lanes[0];
    const emulated_product &p = first->p;
    fiber *leader = first->f;
    warp *w = &machine.warps[leader->warp];
    unsigned row = 16 * (leader->warp % 4);
    accumulator *sums;
    wgmma_op op;

    emulated_current = &leader->thread;
    if (machine.count % 128)
        emulated_trap("wgmma in a block that is not made of warpgroups");
    op.p = p;
    op.group = w->product_groups;
    op.sums = accumulator_of(w, lanes);
    sums = &w->sums[op.sums];
    for (unsigned l = 0; l < LANES; l++) {
        const wgmma_arguments *lane = (const wgmma_arguments *)lanes[l];

        if (lane->p.a_descriptor != p.a_descriptor || lane->p.b_descriptor != p.b_descriptor || lane->p.add != p.add)
            emulated_trap("wgmma: lanes of a warp give different operands");
        if (lane->f->fence_serial <= sums->touched_serial)
            emulated_trap("wgmma: no wgmma_fence() since the sums were in the thread's hands");
        if (p.a)
            memcpy(op.a[l], lane->p.a, sizeof op.a[l]);
    }
    if (!sums->running) {
        size_t half = (size_t)sums->n / 2;

        sums->value.resize(16 * (size_t)sums->n);
        for (unsigned l = 0; l < LANES; l++) {
            if (!sums->fenced.empty() && p.add &&
                memcmp(sums->fenced.data() + l * half, sums->d[l], half * sizeof(float)) != 0)
                emulated_trap("wgmma: sums were written after wgmma_fence()");
            for (unsigned i = 0; i < half; i++)
                sums->value[sum_index(l, i, sums->n)] = sums->d[l][i];
            memset(sums->d[l], 0xFF, half * sizeof(float));
        }
    }
    sums->running++;
    for (int side = p.a ? 1 : 0; side < 2; side++) {
        operand_map m = decode(side ? p.b_descriptor : p.a_descriptor, side ? p.transposed : false, p.element_bytes);

        for_chunks(m, side ? 0 : row, side ? (unsigned)p.n : 16, [&](unsigned char *at) {
            memory_access(leader, at, 16, ACCESS_READ | ACCESS_ASYNC, NULL);
            memory_pend(at, 16, PENDING_READ, 1);
        });
    }
    w->products.push_back(op);
    emulated_current = NULL;
}

void emulated_wgmma(const struct emulated_product &product)
{
    wgmma_arguments mine = {product, current()};

    emulated_warp(wgmma_issue, &mine);
}

void emulated_wgmma_fence(const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    fiber *me = current();
    warp *w = &machine.warps[me->warp];

    me->fence_serial = w->serial + 1;
    for (accumulator &sums : w->sums) {
        size_t half = (size_t)sums.n / 2;

        if (sums.running)
            continue;
        sums.fenced.resize(LANES * half);
        memcpy(sums.fenced.data() + me->lane * half, sums.d[me->lane], half * sizeof(float));
    }
}

static void wgmma_commit(void *const *lanes)
{
    machine.warps[((fiber *)lanes[0])->warp].product_groups++;
}

void emulated_wgmma_commit(const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    emulated_warp(wgmma_commit, current());
}

/* Value (row, k) of A as lane and register hold it, for A in registers. */
static float register_value(const wgmma_op &op, unsigned row, unsigned k)
{
    unsigned per = 4 / (unsigned)op.p.element_bytes, half = 16 / (unsigned)op.p.element_bytes;
    uint32_t word = op.a[4 * (row % 8) + k % half / per][row / 8 + 2 * (k / half)];
    unsigned char bytes[4];

    memcpy(bytes, &word, 4);
    return element_value(bytes + k % per * (unsigned)op.p.element_bytes, op.p.element_bytes);
}

static void run_product(fiber *leader, warp *w, const wgmma_op &op)
{
    static double a[16][32], b[32][256];
    accumulator *sums = &w->sums[op.sums];
    unsigned K = 32 / (unsigned)op.p.element_bytes, n = (unsigned)op.p.n, row = 16 * (leader->warp % 4);
    unsigned agent = BARRIER_AGENTS + leader->warp;
    uint32_t moment = order_agent_moment(agent);
    operand_map left = decode(op.p.a_descriptor, false, op.p.element_bytes);
    operand_map right = decode(op.p.b_descriptor, op.p.transposed, op.p.element_bytes);

    for (unsigned k = 0; k < K; k++) {
        for (unsigned r = 0; r < 16; r++)
            a[r][k] =
                op.p.a ? register_value(op, r, k) : element_value(operand_at(left, row + r, k), op.p.element_bytes);
        for (unsigned c = 0; c < n; c++)
            b[k][c] = element_value(operand_at(right, c, k), op.p.element_bytes);
    }
    for (unsigned r = 0; r < 16; r++) {
        double total[256];

        for (unsigned c = 0; c < n; c++)
            total[c] = op.p.add ? sums->value[r * (size_t)n + c] : 0.0;
        for (unsigned k = 0; k < K; k++)
            for (unsigned c = 0; c < n; c++)
                total[c] += a[r][k] * b[k][c];
        for (unsigned c = 0; c < n; c++)
            sums->value[r * (size_t)n + c] = (float)total[c];
    }
    for (int side = op.p.a ? 1 : 0; side < 2; side++)
        for_chunks(side ? right : left, side ? 0 : row, side ? n : 16, [&](unsigned char *at) {
            memory_pend(at, 16, PENDING_READ, -1);
            memory_agent_done(agent, moment, at, 16, ACCESS_READ);
        });
    for (unsigned l = 0; l < LANES; l++)
        order_agent_seen(&machine.fibers[leader->warp * LANES + l], agent, moment);
    if (--sums->running)
        return;
    for (unsigned l = 0; l < LANES; l++)
        for (unsigned i = 0; i < n / 2; i++)
            sums->d[l][i] = sums->value[sum_index(l, i, sums->n)];
    sums->touched_serial = ++w->serial;
    sums->fenced.clear();
}

struct wait_arguments {
    fiber *f;
    int newest;
};

static void wgmma_retire(void *const *lanes)
{
    const wait_arguments *first = (const wait_arguments *)lanes[0];
    warp *w = &machine.warps[first->f->warp];
    std::vector<wgmma_op> left;

    emulated_current = &first->f->thread;
    for (const wgmma_op &op : w->products)
        if (op.group + (unsigned)first->newest >= w->product_groups)
            left.push_back(op);
        else
            run_product(first->f, w, op);
    w->products = left;
    emulated_current = NULL;
}

void emulated_wgmma_wait(int newest, const char *file, int line)
{
    if (emulated_skip(file, line))
        return;
    wait_arguments mine = {current(), newest};

    emulated_warp(wgmma_retire, &mine);
}
