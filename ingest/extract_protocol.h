/* ingest/extract_protocol.h: how dsa-ingest speaks with the fork server dsa-extract.
 *
 * dsa-extract is started once (`dsa-extract --serve`) with one end of a Unix seqpacket socket pair as descriptor
 * EXTRACT_SOCKET_FD. Every message is one packet of at most EXTRACT_PACKET_BYTES: a JSON object. Unknown fields
 * are ignored. The server has no threads and never reads a document; each document is read by a child that it
 * forks, which jails itself before it looks at the first byte.
 *
 * Server, once, when it is ready (libraries loaded):
 *   {"ready": true, "version": "0.1.0", "jail": {"landlock_abi": 7, "seccomp": true}}
 *   landlock_abi 0 and seccomp false: not available. With neither, the server answers {"ready": false, "message"}
 *   and ends with code 69, unless it was started with --allow-unsandboxed.
 *
 * Client → server, with exactly two descriptors by SCM_RIGHTS: the document, open for reading, and the write end
 * of the pipe that receives the frames (frames.h). The server closes its copies as soon as it has forked.
 *   {"id": 7, "name": "report.pdf", "media_type": "application/pdf"?, "password": "…"?,
 *    "archive_depth": 0, "seekable": true, "size": 12345}
 *   id             any number the client likes, unique among running documents
 *   name           UTF-8, a label and a hint to the format; never opened
 *   media_type     the caller's word for the format; leave it out and the bytes decide
 *   archive_depth  archives around this document; an archive at LIMIT_ARCHIVE_DEPTH is refused with "limit-depth"
 *   seekable       false for a pipe; size is then ignored
 * Client → server, no descriptors: {"kill": 7}. The child is killed; its exit is reported as always.
 *
 * Server → client
 *   {"id": 7, "pid": 4711}                                  started
 *   {"id": 7, "error": "…"}                                 not started (no fork, bad request): nothing follows
 *   {"id": 7, "exit": "ok" | "signal 9" | "code 1",         ended; the pipe has no writer any more
 *    "reason": "ok" | "crash" | "memory" | "timeout" | "jail" | "killed",
 *    "max_rss_bytes": 23000000, "cpu_ms": 120}
 *   `reason` is the code for the document's error when its frames have no END:
 *     memory   an allocation failed under the child's limit     timeout   CPU seconds spent (RLIMIT_CPU)
 *     jail     it tried what it may not (seccomp)               killed    by {"kill"}; the client knows why
 *
 * Deadlines are the client's, because only it knows whether it is itself the one that is slow: no frame for
 * LIMIT_PROGRESS_SECONDS while it was reading, LIMIT_TOTAL_SECONDS in all for a document. The server ends with
 * code 0 when the socket is closed, and its children die with it. */
#ifndef INGEST_EXTRACT_PROTOCOL_H
#define INGEST_EXTRACT_PROTOCOL_H

enum {
    EXTRACT_SOCKET_FD = 3,
    EXTRACT_PACKET_BYTES = 16384,
    EXTRACT_EXIT_NO_JAIL = 69 /* EX_UNAVAILABLE */
};

#endif
