/* jail.c: rlimits, Landlock and seccomp for one child.
 *
 * Read first: landlock(7), seccomp(2). The filter is built by libseccomp once, in the server, and installed by
 * each child as plain BPF: building it costs more than a short document. Landlock's newer rights are spelled out
 * here because the kernel headers of Debian 12 stop at ABI 2; a kernel that does not know a right never sees it. */
#include "ingest/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ingest/limits.h"

#if defined(__SANITIZE_ADDRESS__)
#define JAIL_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define JAIL_SANITIZED 1
#endif
#endif
#ifndef JAIL_SANITIZED
#define JAIL_SANITIZED 0
#endif

/* --- Landlock's own words ------------------------------------------------------------------------------------ */

enum {
    SYS_LANDLOCK_CREATE_RULESET = 444, /* the same number on every architecture */
    SYS_LANDLOCK_ADD_RULE = 445,
    SYS_LANDLOCK_RESTRICT_SELF = 446,
    RULESET_VERSION = 1,
    RULE_PATH_BENEATH = 1
};

struct landlock_ruleset {
    uint64_t handled_fs, handled_net, scoped;
};

struct landlock_path {
    uint64_t allowed;
    int32_t parent_fd;
} __attribute__((packed));

enum {
    LANDLOCK_READ_FILE = 1 << 2,
    LANDLOCK_READ_DIR = 1 << 3
};

struct jail {
    int landlock_abi, ruleset_fd;
    struct sock_fprog filter; /* len 0: no seccomp */
    long long base_bytes;     /* address space in use before any document */
};

/* --- Building ------------------------------------------------------------------------------------------------ */

static void add_paths(int ruleset_fd, const char *const *paths)
{
    for (; *paths; paths++) {
        int fd = open(*paths, O_PATH | O_CLOEXEC);
        struct stat info;
        struct landlock_path path = {.allowed = LANDLOCK_READ_FILE, .parent_fd = fd};

        if (fd < 0)
            continue;
        if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode))
            path.allowed |= LANDLOCK_READ_DIR;
        (void)syscall(SYS_LANDLOCK_ADD_RULE, ruleset_fd, RULE_PATH_BENEATH, &path, 0);
        (void)close(fd);
    }
}

/* Away from the low numbers, which a child gives to its own descriptors. */
static int move_up(int fd)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 64);

    if (high < 0)
        return fd;
    (void)close(fd);
    return high;
}

static void prepare_landlock(struct jail *jail, const char *const *paths)
{
    long abi = syscall(SYS_LANDLOCK_CREATE_RULESET, NULL, 0, RULESET_VERSION);
    struct landlock_ruleset ruleset = {.handled_fs = (1u << 13) - 1}; /* all rights of ABI 1 */

    if (abi < 1)
        return;
    if (abi >= 2)
        ruleset.handled_fs |= 1u << 13; /* refer */
    if (abi >= 3)
        ruleset.handled_fs |= 1u << 14; /* truncate */
    if (abi >= 5)
        ruleset.handled_fs |= 1u << 15; /* ioctl on devices */
    if (abi >= 4)
        ruleset.handled_net = 3; /* bind and connect TCP */
    if (abi >= 6)
        ruleset.scoped = 3; /* abstract sockets and signals outside */
    jail->ruleset_fd = (int)syscall(SYS_LANDLOCK_CREATE_RULESET, &ruleset, sizeof ruleset, 0);
    if (jail->ruleset_fd < 0)
        return;
    jail->ruleset_fd = move_up(jail->ruleset_fd);
    add_paths(jail->ruleset_fd, paths);
    jail->landlock_abi = (int)abi;
}

/* Harmless on the descriptors and the memory that the child has anyway. */
static const int allowed_calls[] = {
    SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(readv), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(lseek),
    SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(close), SCMP_SYS(getdents64),
    SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(brk), SCMP_SYS(madvise),
    SCMP_SYS(futex), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(exit), SCMP_SYS(exit_group),
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(sched_yield), SCMP_SYS(getrusage),
    SCMP_SYS(tgkill), /* abort() signals itself; prepare_own_signals() forbids any other process */
};

/* Asked by libraries that live with a refusal. */
static const int refused_calls[] = {
    SCMP_SYS(ioctl), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(access), SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2), SCMP_SYS(uname), SCMP_SYS(sysinfo), SCMP_SYS(prlimit64), SCMP_SYS(getrlimit),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(getcwd), SCMP_SYS(stat), SCMP_SYS(lstat),
};

static int add_rules(scmp_filter_ctx ctx, bool may_open)
{
    const uint64_t writing = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY);
    static const int fcntl_commands[] = {F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC};
    int failed = 0;

    for (size_t i = 0; i < sizeof allowed_calls / sizeof *allowed_calls; i++)
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    for (size_t i = 0; i < sizeof refused_calls / sizeof *refused_calls; i++)
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), refused_calls[i], 0);
    for (size_t i = 0; i < sizeof fcntl_commands / sizeof *fcntl_commands; i++)
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                                   SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntl_commands[i], 0));
    if (may_open) {
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                                   SCMP_A2(SCMP_CMP_MASKED_EQ, writing, O_RDONLY));
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                                   SCMP_A1(SCMP_CMP_MASKED_EQ, writing, O_RDONLY));
    } else {
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
        failed |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(open), 0);
    }
    return failed;
}

/* libseccomp 2.5 exports to a descriptor only. */
static int export_filter(scmp_filter_ctx ctx, struct sock_fprog *filter)
{
    int fd = memfd_create("filter", MFD_CLOEXEC), rc = -1;
    off_t bytes;

    if (fd < 0 || seccomp_export_bpf(ctx, fd) != 0)
        goto out;
    bytes = lseek(fd, 0, SEEK_END);
    if (bytes <= 0 || bytes % (off_t)sizeof *filter->filter != 0)
        goto out;
    filter->filter = malloc((size_t)bytes);
    if (!filter->filter || pread(fd, filter->filter, (size_t)bytes, 0) != bytes)
        goto out;
    filter->len = (unsigned short)((size_t)bytes / sizeof *filter->filter);
    rc = 0;
out:
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

static enum status prepare_seccomp(struct jail *jail, struct error *err)
{
    uint32_t action = SECCOMP_RET_KILL_PROCESS;
    scmp_filter_ctx ctx;
    int failed;

    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0)
        return STATUS_OK; /* this kernel has none */
    ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!ctx)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a seccomp filter");
    failed = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    failed |= seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree */
    failed |= add_rules(ctx, jail->landlock_abi > 0);
    failed |= export_filter(ctx, &jail->filter);
    seccomp_release(ctx);
    return failed ? error_set(err, STATUS_IO, "the seccomp filter can't be built") : STATUS_OK;
}

static long long address_space_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    long long pages = 0;

    if (file) {
        if (fscanf(file, "%lld", &pages) != 1)
            pages = 0;
        (void)fclose(file);
    }
    return pages * sysconf(_SC_PAGESIZE);
}

enum status jail_create(const char *const *paths, struct jail **out, struct error *err)
{
    struct jail *jail = calloc(1, sizeof *jail);
    enum status status;

    if (!jail)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a jail");
    jail->ruleset_fd = -1;
    jail->base_bytes = address_space_bytes();
    prepare_landlock(jail, paths);
    status = prepare_seccomp(jail, err);
    if (status)
        jail_destroy(jail);
    else
        *out = jail;
    return status;
}

void jail_destroy(struct jail *jail)
{
    if (!jail)
        return;
    if (jail->ruleset_fd >= 0)
        (void)close(jail->ruleset_fd);
    free(jail->filter.filter);
    free(jail);
}

int jail_landlock_abi(const struct jail *jail)
{
    return jail->landlock_abi;
}

bool jail_has_seccomp(const struct jail *jail)
{
    return jail->filter.len > 0;
}

/* --- Entering ------------------------------------------------------------------------------------------------ */

static bool limit(int resource, long long soft, long long hard)
{
    struct rlimit value = {(rlim_t)soft, (rlim_t)hard}, now;

    /* A stricter limit of the caller's stays. */
    if (getrlimit((__rlimit_resource_t)resource, &now) == 0 && now.rlim_max < value.rlim_max) {
        value.rlim_max = now.rlim_max;
        if (value.rlim_cur > value.rlim_max)
            value.rlim_cur = value.rlim_max;
    }
    return setrlimit((__rlimit_resource_t)resource, &value) == 0;
}

static bool set_limits(const struct jail *jail, const struct jail_limits *limits)
{
    long long own = limits->memory_bytes ? limits->memory_bytes : LIMIT_CHILD_MEMORY_BYTES;
    long long memory = jail->base_bytes + own + limits->mapped_bytes;

    /* A sanitizer reserves terabytes of shadow. */
    return (JAIL_SANITIZED || limit(RLIMIT_AS, memory, memory)) && limit(RLIMIT_CORE, 0, 0) &&
           limit(RLIMIT_CPU, LIMIT_CHILD_CPU_SECONDS, LIMIT_CHILD_CPU_SECONDS + 1) &&
           limit(RLIMIT_FSIZE, limits->file_bytes, limits->file_bytes) && limit(RLIMIT_NPROC, 0, 0) &&
           limit(RLIMIT_NOFILE, LIMIT_CHILD_FILES, LIMIT_CHILD_FILES) &&
           limit(RLIMIT_STACK, LIMIT_CHILD_STACK_BYTES, LIMIT_CHILD_STACK_BYTES);
}

static bool install(const struct sock_fprog *filter)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) == 0;
}

/* tgkill() of any process but this one kills this one. Its number is known only now, so it is a filter of its own. */
static bool allow_own_signals_only(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])), /* low half: little-endian */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)getpid(), 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};

    return install(&filter);
}

static void close_from(int first)
{
    if (syscall(SYS_close_range, (unsigned)first, ~0u, 0) == 0)
        return;
    for (int fd = first; fd < 1024; fd++)
        (void)close(fd);
}

enum status jail_enter(const struct jail *jail, const struct jail_limits *limits, struct error *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return error_set(err, STATUS_DENIED, "jail: prctl: %s", strerror(errno));
    if (!set_limits(jail, limits))
        return error_set(err, STATUS_DENIED, "jail: setrlimit: %s", strerror(errno));
    if (jail->landlock_abi && syscall(SYS_LANDLOCK_RESTRICT_SELF, jail->ruleset_fd, 0) != 0)
        return error_set(err, STATUS_DENIED, "jail: landlock: %s", strerror(errno));
    close_from(limits->first_closed_fd); /* the ruleset too */
    if (jail->filter.len && !(allow_own_signals_only() && install(&jail->filter)))
        return error_set(err, STATUS_DENIED, "jail: seccomp: %s", strerror(errno));
    return STATUS_OK;
}
