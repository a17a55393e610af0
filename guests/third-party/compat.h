/* Put before every third-party source (`-include`): POSIX calls that the C library of WASI lacks.
 * WASI knows no users, no permission bits and no file locks, so these have nothing to do. */
#ifndef LIMOSA_COMPAT_H
#define LIMOSA_COMPAT_H

#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static inline int limosa_compat_chmod(int file, mode_t mode) {
    (void)file;
    (void)mode;
    return 0;
}
static inline int limosa_compat_chown(int file, uid_t owner, gid_t group) {
    (void)file;
    (void)owner;
    (void)group;
    return 0;
}
#define fchmod limosa_compat_chmod
#define fchown limosa_compat_chown

#endif
