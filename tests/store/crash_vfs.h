/* tests/store/crash_vfs.h: a disk that loses what was not synced.
 *
 * A VFS over SQLite's own, made the default by crash_vfs_begin(). It keeps, for every database, journal and WAL, the
 * bytes as of the last sync and each write since. At crash points it writes an image of the disk as a power loss could
 * leave it: the synced bytes, and of the writes since then any subset, some of them with only some of their sectors.
 * The program goes on meanwhile; the images are opened and judged afterwards. */
#ifndef TESTS_STORE_CRASH_VFS_H
#define TESTS_STORE_CRASH_VFS_H

/* `crash` is called at every write, sync and truncation of a tracked file; it may call crash_vfs_image(). */
void crash_vfs_begin(void (*crash)(void));
void crash_vfs_end(void); /* SQLite's own VFS is the default again */
/* Writes the files of the moment into `dir`, which must exist. */
void crash_vfs_image(const char *dir);

#endif
