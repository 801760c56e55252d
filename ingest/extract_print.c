/* extract_print.c: one file read in a jailed child, its frames printed as text for people and for tests.
 *
 *   start {"media_type":"application/pdf",…}
 *   page 1 612x792 'i'
 *   text 12 bold [72.0 90.5 540.0 102.0] A line of the page
 *   heading2 … | item … | row … | code … | problem {…} | member {…} | data 123 bytes | end
 *
 * The numbers of a line are its font size and the box around its words. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ingest/extract.h"
#include "ingest/frames.h"
#include "ingest/limits.h"

static void print_span(struct span text)
{
    (void)fwrite(text.ptr, 1, text.len, stdout);
}

static void print_line(const struct frame_line *line)
{
    static const char *const kinds[] = {"text", "heading", "item", "row", "code"};

    printf("%s", kinds[line->kind]);
    if (line->level)
        printf("%d", line->level);
    if (line->font_size > 0)
        printf(" %.4g", line->font_size);
    printf("%s%s%s%s", line->flags & LINE_BOLD ? " bold" : "", line->flags & LINE_TINY ? " tiny" : "",
           line->flags & LINE_FAINT ? " faint" : "", line->flags & LINE_ROTATED ? " rotated" : "");
    if (line->word_count) {
        struct frame_word box = line->words[0];

        for (uint32_t i = 1; i < line->word_count; i++) {
            const struct frame_word *w = &line->words[i];

            box.x0 = w->x0 < box.x0 ? w->x0 : box.x0;
            box.y0 = w->y0 < box.y0 ? w->y0 : box.y0;
            box.x1 = w->x1 > box.x1 ? w->x1 : box.x1;
            box.y1 = w->y1 > box.y1 ? w->y1 : box.y1;
        }
        printf(" [%.1f %.1f %.1f %.1f]", box.x0 / 20.0, box.y0 / 20.0, box.x1 / 20.0, box.y1 / 20.0);
    }
    putchar(' ');
    for (size_t i = 0; i < line->text.len; i++) {
        if (line->text.ptr[i] == '\n')
            (void)fputs("\\n", stdout);
        else
            putchar(line->text.ptr[i]);
    }
    putchar('\n');
}

/* What print_frame() keeps from frame to frame. */
struct printer {
    struct frame_word *words;
    size_t words_cap;
    size_t data_bytes; /* of the current member: how it is cut into frames is nobody's business */
};

static enum status print_frame(const struct frame *frame, struct printer *printer)
{
    static const char *const names[FRAME_TYPE_END] = {
        [FRAME_START] = "start",          [FRAME_META] = "meta",         [FRAME_PAGE_END] = "page-end",
        [FRAME_OUTLINE] = "outline",      [FRAME_MEMBER_BEGIN] = "member", [FRAME_MEMBER_END] = "member-end",
        [FRAME_PROBLEM] = "problem",      [FRAME_PROGRESS] = "progress", [FRAME_END] = "end",
    };
    struct frame_page page;
    struct frame_line line;
    enum status status;

    switch (frame->type) {
    case FRAME_PAGE_BEGIN:
        status = frame_get_page(frame->payload, &page);
        if (status)
            return status;
        printf("page %u %gx%g '%.*s'\n", page.number, page.width, page.height, (int)page.label.len, page.label.ptr);
        return STATUS_OK;
    case FRAME_LINE:
        status = frame_get_line(frame->payload, &line, &printer->words, &printer->words_cap);
        if (!status)
            print_line(&line);
        return status;
    case FRAME_MEMBER_DATA:
        printer->data_bytes += frame->payload.len;
        return STATUS_OK;
    case FRAME_PAGE_END:
    case FRAME_PROGRESS:
        return STATUS_OK;
    case FRAME_MEMBER_END:
        if (printer->data_bytes)
            printf("data %zu bytes\n", printer->data_bytes);
        printer->data_bytes = 0;
        __attribute__((fallthrough));
    default:
        printf("%s ", names[frame->type]);
        print_span(frame->payload);
        putchar('\n');
        return STATUS_OK;
    }
}

/* Prints frames until the pipe ends. *complete is set when END came. */
static enum status print_frames(int fd, bool raw, bool *complete)
{
    struct frame_order order = {0};
    struct printer printer = {0};
    size_t taken = 0;
    struct buf bytes;
    enum status status = STATUS_OK;

    buf_init(&bytes, 2 * (size_t)LIMIT_FRAME_BYTES + 4096);
    for (;;) {
        struct frame frame;
        size_t used;
        ssize_t n;

        status = frame_next(span_slice(buf_span(&bytes), taken, bytes.len), &frame, &used);
        if (!status) {
            status = frame_order_step(&order, &frame);
            if (!status && !raw)
                status = print_frame(&frame, &printer);
            if (!status && raw)
                print_span(span_of(bytes.ptr + taken, used));
            if (status)
                break;
            taken += used;
            continue;
        }
        if (status != STATUS_AGAIN)
            break;
        if (taken)
            memmove(bytes.ptr, bytes.ptr + taken, bytes.len - taken);
        bytes.len -= taken;
        taken = 0;
        status = buf_reserve(&bytes, 65536);
        if (status)
            break;
        n = read(fd, bytes.ptr + bytes.len, 65536);
        if (n <= 0)
            break;
        bytes.len += (size_t)n;
    }
    *complete = order.state == FRAME_ORDER_ENDED;
    free(printer.words);
    buf_finish(&bytes);
    return status == STATUS_AGAIN ? STATUS_OK : status;
}

int extract_print(const char *path, const struct extract_request *wishes, const struct jail *jail, bool raw,
                  bool allow_unsandboxed)
{
    struct extract_request request = *wishes;
    struct error err = {0};
    struct stat info;
    int frames[2], exit_status = 0;
    bool from_stdin = strcmp(path, "-") == 0, complete = false;
    enum status status;
    pid_t pid;

    request.document_fd = from_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (request.document_fd < 0 || fstat(request.document_fd, &info) != 0) {
        (void)fprintf(stderr, "dsa-extract: %s: %s\n", path, strerror(errno));
        return 66; /* EX_NOINPUT */
    }
    request.seekable = S_ISREG(info.st_mode);
    if (!request.name)
        request.name = from_stdin ? "" : path;
    if (pipe2(frames, O_CLOEXEC) != 0) {
        (void)fprintf(stderr, "dsa-extract: pipe: %s\n", strerror(errno));
        return 71; /* EX_OSERR */
    }
    request.frames_fd = frames[1];
    status = extract_start(&request, jail, allow_unsandboxed, &pid, &err);
    (void)close(frames[1]);
    if (status) {
        (void)fprintf(stderr, "dsa-extract: %s\n", err.message);
        return 69; /* EX_UNAVAILABLE */
    }
    status = print_frames(frames[0], raw, &complete);
    (void)close(frames[0]); /* a child that is still writing ends here */
    (void)waitpid(pid, &exit_status, 0);
    (void)fflush(stdout);
    if (status)
        (void)fprintf(stderr, "dsa-extract: bad frames from the child: %s\n", status_name(status));
    else if (!complete && WIFSIGNALED(exit_status))
        (void)fprintf(stderr, "dsa-extract: the child ended with signal %d\n", WTERMSIG(exit_status));
    else if (!complete)
        (void)fprintf(stderr, "dsa-extract: the child ended with code %d\n", WEXITSTATUS(exit_status));
    return complete ? 0 : 65; /* EX_DATAERR */
}
