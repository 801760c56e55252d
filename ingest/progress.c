/* progress.c: see progress.h. Redraws in place with a carriage return and "erase to the end of the line". */
#include "ingest/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

enum { DRAW_MS = 100, LINE_BYTES = 256, BAR_CELLS = 20 };

void progress_init(struct progress *progress, int fd)
{
    *progress = (struct progress){.fd = isatty(fd) ? fd : -1, .start_ns = clock_monotonic_ns()};
}

static int format_time(double seconds, char *out, int cap)
{
    long s = (long)(seconds + 0.5);

    if (s >= 3600)
        return snprintf(out, (size_t)cap, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    return snprintf(out, (size_t)cap, "%ld:%02ld", s / 60, s % 60);
}

int progress_line(const struct progress *progress, double seconds, int64_t documents, int64_t pages, int64_t bytes,
                  int width, char *out, int cap)
{
    double share = progress->total_bytes > 0 ? (double)bytes / (double)progress->total_bytes : 0;
    double rate = seconds > 0 ? 1 / seconds : 0;
    char left[32] = "";
    int len;

    share = share > 1 ? 1 : share;
    if (progress->total_bytes > 0) {
        char bar[BAR_CELLS + 1];
        int full = (int)(share * BAR_CELLS);

        memset(bar, ' ', BAR_CELLS);
        memset(bar, '=', (size_t)full);
        if (full < BAR_CELLS)
            bar[full] = '>';
        bar[BAR_CELLS] = '\0';
        if (share > 0.01 && seconds > 1)
            (void)format_time(seconds * (1 - share) / share, left, sizeof left);
        len = snprintf(out, (size_t)cap, "[%s] %3.0f%%  %lld/%lld documents  %.0f pages/s  %.1f MB/s%s%s", bar,
                       share * 100, (long long)documents, (long long)progress->total_documents, (double)pages * rate,
                       (double)bytes * rate / 1e6, *left ? "  left " : "", left);
    } else {
        (void)format_time(seconds, left, sizeof left);
        len = snprintf(out, (size_t)cap, "%lld documents  %.0f pages/s  %.1f MB/s  %s", (long long)documents,
                       (double)pages * rate, (double)bytes * rate / 1e6, left);
    }
    if (len >= cap)
        len = cap - 1;
    if (width > 0 && len >= width) {
        len = width - 1;
        out[len] = '\0';
    }
    return len;
}

void progress_draw(struct progress *progress, int64_t documents, int64_t pages, int64_t bytes)
{
    char line[LINE_BYTES], drawn[LINE_BYTES + 8];
    struct winsize size = {0};
    int64_t now = clock_monotonic_ns();
    int len;

    if (progress->fd < 0 || now - progress->drawn_ns < DRAW_MS * 1000000LL)
        return;
    progress->drawn_ns = now;
    if (ioctl(progress->fd, TIOCGWINSZ, &size) != 0)
        size.ws_col = 80;
    (void)progress_line(progress, (double)(now - progress->start_ns) / 1e9, documents, pages, bytes, size.ws_col, line,
                        sizeof line);
    len = snprintf(drawn, sizeof drawn, "\r%s\x1b[K", line);
    progress->shown = write(progress->fd, drawn, (size_t)len) == len;
}

void progress_clear(struct progress *progress)
{
    static const char erase[] = "\r\x1b[K";

    if (progress->fd >= 0 && progress->shown && write(progress->fd, erase, sizeof erase - 1) > 0)
        progress->shown = false;
}
