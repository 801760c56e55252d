/* extract_doctor.c: what the jail is worth on this machine, found out by trying to break it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ingest/extract.h"
#include "ingest/extract_protocol.h"
#include "ingest/jail.h"
#include "ingest/limits.h"

/* Each attempt returns true when it succeeded, which it must not. */
static bool try_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static bool try_read(void)
{
    return open("/etc/passwd", O_RDONLY) >= 0;
}

static bool try_write(void)
{
    return open("/tmp/dsa-extract-doctor", O_WRONLY | O_CREAT, 0600) >= 0;
}

static bool try_fork(void)
{
    return fork() >= 0;
}

static bool try_exec(void)
{
    (void)execl("/bin/true", "true", (char *)NULL);
    return errno != EACCES; /* still here: it failed, but only a refusal is good */
}

static bool try_memory(void)
{
    return mmap(NULL, 2 * (size_t)LIMIT_CHILD_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                0) != MAP_FAILED;
}

static const char *attempt(const struct jail *jail, bool (*try)(void))
{
    struct jail_limits limits = {.first_closed_fd = 3};
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(jail_enter(jail, &limits, NULL) ? 2 : try() ? 1 : 0);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return "could not be tried";
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGSYS ? "stopped (killed)" : "stopped (signal)";
    return WEXITSTATUS(status) == 0   ? "stopped (refused)"
           : WEXITSTATUS(status) == 1 ? "POSSIBLE"
                                      : "the jail does not close";
}

int extract_doctor(const struct jail *jail)
{
    static const struct {
        const char *what;
        bool (*try)(void);
    } attempts[] = {
        {"open a socket", try_socket}, {"read /etc/passwd", try_read}, {"write a file", try_write},
        {"start a process", try_fork}, {"run a program", try_exec},    {"take 2 GiB of memory", try_memory},
    };
    int abi = jail_landlock_abi(jail);
    bool seccomp = jail_has_seccomp(jail);

    if (abi)
        printf("%-22s yes, ABI %d\n", "landlock", abi);
    else
        printf("%-22s no\n", "landlock");
    printf("%-22s %s\n", "seccomp", seccomp ? "yes" : "no");
    (void)fflush(stdout);
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++)
        printf("%-22s %s\n", attempts[i].what, attempt(jail, attempts[i].try));
    if (!abi && !seccomp)
        printf("dsa-extract refuses to work here without --allow-unsandboxed.\n");
    return abi || seccomp ? 0 : EXTRACT_EXIT_NO_JAIL;
}
