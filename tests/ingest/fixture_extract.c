/* fixture_extract.c: runs dsa-extract as its users do. EXTRACT_PROGRAM is its path in the build tree. */
#include "tests/ingest/fixture_extract.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/harness/check.h"

enum { OUTPUT_MAX = 512 << 20 };

static pid_t spawn(char *const *arguments, int input, int *output)
{
    int ends[2];
    pid_t pid;

    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)dup2(input, STDIN_FILENO);
        (void)dup2(ends[1], STDOUT_FILENO);
        (void)execv(EXTRACT_PROGRAM, arguments);
        _exit(127);
    }
    (void)close(ends[1]);
    *output = ends[0];
    return pid;
}

static void collect(pid_t pid, int output, struct fixture_result *result)
{
    int status;
    ssize_t n;

    buf_init(&result->text, OUTPUT_MAX);
    do {
        CHECK(buf_reserve(&result->text, 1 << 16) == STATUS_OK);
        n = read(output, result->text.ptr + result->text.len, 1 << 16);
        if (n > 0)
            result->text.len += (size_t)n;
    } while (n > 0);
    result->text.ptr[result->text.len] = '\0';
    (void)close(output);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    result->code = WEXITSTATUS(status);
    CHECK(result->code != 127);
}

/* A process that writes the bytes into a pipe, whose read end is returned. */
static pid_t feed(struct span bytes, int *input)
{
    int ends[2];
    pid_t pid;

    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        size_t done = 0;

        (void)signal(SIGPIPE, SIG_DFL);
        (void)close(ends[0]);
        while (done < bytes.len) {
            ssize_t n = write(ends[1], bytes.ptr + done, bytes.len - done);

            if (n <= 0)
                break;
            done += (size_t)n;
        }
        _exit(0);
    }
    (void)close(ends[1]);
    *input = ends[0];
    return pid;
}

static int memory_file(struct span bytes)
{
    int fd = memfd_create("fixture", MFD_CLOEXEC);

    CHECK(fd >= 0);
    CHECK(write(fd, bytes.ptr, bytes.len) == (ssize_t)bytes.len);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

void fixture_extract(struct span bytes, const char *name, bool by_pipe, const char *option, const char *value,
                     struct fixture_result *result)
{
    char *arguments[8] = {(char[]){"dsa-extract"}, (char[]){"--name"}, (char *)(uintptr_t)name};
    int input = -1, output, count = 3;
    pid_t feeder = -1, pid;

    if (option)
        arguments[count++] = (char *)(uintptr_t)option;
    if (option && value)
        arguments[count++] = (char *)(uintptr_t)value;
    arguments[count++] = (char[]){"-"};
    if (by_pipe)
        feeder = feed(bytes, &input);
    else
        input = memory_file(bytes);
    pid = spawn(arguments, input, &output);
    (void)close(input);
    collect(pid, output, result);
    if (feeder > 0)
        (void)waitpid(feeder, NULL, 0);
}

void fixture_extract_file(const char *path, struct fixture_result *result)
{
    char *arguments[] = {(char[]){"dsa-extract"}, (char *)(uintptr_t)path, NULL};
    int output;
    pid_t pid = spawn(arguments, STDIN_FILENO, &output);

    collect(pid, output, result);
}

void fixture_result_finish(struct fixture_result *result)
{
    buf_finish(&result->text);
}

static const char *next_line(const char *at)
{
    const char *end = strchr(at, '\n');

    return end ? end + 1 : NULL;
}

void check_has_line(const struct fixture_result *result, const char *line)
{
    size_t len = strlen(line);
    bool prefix = len >= 3 && strcmp(line + len - 3, "…") == 0;

    if (prefix)
        len -= 3;
    for (const char *at = buf_cstr(&result->text); at && *at; at = next_line(at)) {
        if (strncmp(at, line, len) == 0 && (prefix || at[len] == '\n'))
            return;
    }
    FAIL("no line '%s' in:\n%.3000s", line, buf_cstr(&result->text));
}

void check_has_no(const struct fixture_result *result, const char *part)
{
    if (strstr(buf_cstr(&result->text), part))
        FAIL("'%s' in:\n%.3000s", part, buf_cstr(&result->text));
}

int count_lines(const struct fixture_result *result, const char *prefix)
{
    int count = 0;

    for (const char *at = buf_cstr(&result->text); at && *at; at = next_line(at))
        count += strncmp(at, prefix, strlen(prefix)) == 0;
    return count;
}
