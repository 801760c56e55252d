/* ingest/limits.h: every cap on hostile input, with its reason. A cap that is reached is reported as a problem
 * of that document with the code in quotes; nothing is cut silently. */
#ifndef INGEST_LIMITS_H
#define INGEST_LIMITS_H

/* Archives. DEFLATE expands at most 1032:1, honest archives of text seldom 50:1. */
#define LIMIT_ARCHIVE_RATIO 200                           /* output : input, once past the grace below; "limit-ratio" */
#define LIMIT_ARCHIVE_RATIO_GRACE_BYTES (10LL << 20)
#define LIMIT_ARCHIVE_TOTAL_BYTES (4LL << 30)             /* stops overlapping-entry bombs; "limit-total"     */
#define LIMIT_ARCHIVE_MEMBER_BYTES (512LL << 20)          /* a member lives in memory; "limit-member"         */
#define LIMIT_ARCHIVE_MEMBERS 100000                      /* "limit-members"                                  */
#define LIMIT_ARCHIVE_DEPTH 3                             /* archives in archives; "limit-depth"              */
#define LIMIT_ARCHIVE_SEEKABLE_BYTES (2LL << 30)          /* a zip from a pipe is buffered whole; "limit-size" */
#define LIMIT_MEMBER_NAME_BYTES 4096                      /* PATH_MAX; longer names are cut and reported      */

/* Documents. */
#define LIMIT_DOCUMENT_BYTES (2LL << 30)                  /* of one file; "limit-size"                        */
#define LIMIT_PAGES 20000                                 /* "limit-pages"                                    */
#define LIMIT_PAGE_TEXT_BYTES (4LL << 20)                 /* a dense page has 20 KB; "limit-page-text"        */
#define LIMIT_DOCUMENT_TEXT_BYTES (64LL << 20)            /* "limit-text"                                     */
#define LIMIT_PAGE_POINTS 14400                           /* PDF's own limit, 200 inches; "page-size"         */
#define LIMIT_LINE_BYTES (1LL << 20)                      /* one line or paragraph; longer ones are split     */
#define LIMIT_META_BYTES 4096                             /* title, author: cut                               */
#define LIMIT_HEADING_BYTES 512                           /* one heading: cut                                 */
#define LIMIT_MARKUP_DEPTH 256                            /* HTML elements inside each other; deeper is flat  */
#define LIMIT_PROBLEMS 1000                               /* rows a document; then one "more-problems"        */

/* The child that reads one document. */
#define LIMIT_CHILD_MEMORY_BYTES (1LL << 30)              /* RLIMIT_AS (not in sanitizer builds); "memory"    */
#define LIMIT_CHILD_CPU_SECONDS 120                       /* RLIMIT_CPU; "timeout"                            */
#define LIMIT_CHILD_STACK_BYTES (8LL << 20)
#define LIMIT_CHILD_FILES 16                              /* RLIMIT_NOFILE                                    */
#define LIMIT_PROGRESS_SECONDS 60                         /* no frame for so long: killed; "timeout"          */
#define LIMIT_TOTAL_SECONDS 600                           /* of one document; "timeout"                       */

/* Frames from the child, which is not trusted. */
#define LIMIT_FRAME_BYTES (8 << 20)

#endif
