/* A program that calls WASI preview 1 itself, not through the C library, and checks what it gets: the
 * corner cases that programs and their libraries rely on. It prints the name of each part that holds,
 * and ends with 1 at the first check that fails. It is given `/` and expects it to be empty; with an
 * argument it leaves its files behind. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

typedef __wasi_fd_t fd_t;
typedef __wasi_errno_t errno_t_;
typedef __wasi_rights_t rights_t;

#define ROOT root
static fd_t root;

#define EXPECT(call, expected)                                                                         \
    do {                                                                                               \
        errno_t_ got_ = (call);                                                                        \
        if (got_ != (expected)) {                                                                      \
            printf("line %d: %s gave %d, not %d\n", __LINE__, #call, got_, (int)(expected));           \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)
#define OK(call) EXPECT(call, __WASI_ERRNO_SUCCESS)
#define CHECK(holds)                                                                                   \
    do {                                                                                               \
        if (!(holds)) {                                                                                \
            printf("line %d: %s does not hold\n", __LINE__, #holds);                                   \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

static const rights_t ALL = ~(rights_t)0;
static const rights_t NO_WRITE = ~(rights_t)0 & ~__WASI_RIGHTS_FD_WRITE;
enum { FOLLOW = __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW };

static errno_t_ open_at(fd_t directory, const char *path, __wasi_oflags_t flags, rights_t rights,
                        __wasi_lookupflags_t lookup, __wasi_fdflags_t fdflags, fd_t *out) {
    return __wasi_path_open(directory, lookup, path, flags, rights, ALL, fdflags, out);
}

static fd_t create(const char *path) {
    fd_t file;
    OK(open_at(ROOT, path, __WASI_OFLAGS_CREAT, ALL, FOLLOW, 0, &file));
    return file;
}

static fd_t open_directory(const char *path) {
    fd_t directory;
    OK(open_at(ROOT, path, __WASI_OFLAGS_DIRECTORY, NO_WRITE, FOLLOW, 0, &directory));
    return directory;
}

static errno_t_ write_some(fd_t file, const void *bytes, size_t size) {
    __wasi_ciovec_t part = {.buf = bytes, .buf_len = size};
    __wasi_size_t count;
    errno_t_ error = __wasi_fd_write(file, &part, 1, &count);
    if (!error)
        CHECK(count == size);
    return error;
}

static errno_t_ read_some(fd_t file, void *bytes, size_t size, size_t *count) {
    __wasi_iovec_t part = {.buf = bytes, .buf_len = size};
    __wasi_size_t got = 0;
    errno_t_ error = __wasi_fd_read(file, &part, 1, &got);
    *count = got;
    return error;
}

static __wasi_filestat_t stat_of(const char *path, __wasi_lookupflags_t lookup) {
    __wasi_filestat_t status;
    OK(__wasi_path_filestat_get(ROOT, lookup, path, &status));
    return status;
}

static uint64_t seek(fd_t file, int64_t offset, __wasi_whence_t whence) {
    __wasi_filesize_t position;
    OK(__wasi_fd_seek(file, offset, whence, &position));
    return position;
}

static void done(const char *part) { printf("%s\n", part); }

static void find_root(void) {
    __wasi_prestat_t found;
    for (root = 3; __wasi_fd_prestat_get(root, &found) == 0; root++) {
        char name[8] = {0};
        if (found.tag != __WASI_PREOPENTYPE_DIR || found.u.dir.pr_name_len >= sizeof name)
            continue;
        EXPECT(__wasi_fd_prestat_dir_name(root, (uint8_t *)name, 0), __WASI_ERRNO_NAMETOOLONG);
        OK(__wasi_fd_prestat_dir_name(root, (uint8_t *)name, found.u.dir.pr_name_len));
        if (!strcmp(name, "/"))
            return;
    }
    printf("there is no /\n");
    exit(1);
}

static void paths(void) {
    fd_t out;
    OK(__wasi_path_create_directory(ROOT, "d"));
    OK(__wasi_path_symlink("..", ROOT, "d/up"));
    OK(__wasi_path_symlink("../..", ROOT, "d/upup"));
    EXPECT(__wasi_path_symlink("/etc", ROOT, "absolute"), __WASI_ERRNO_PERM);
    const char *outside[] = {"..", "../x", "d/../..", "/", "/etc/x", "d/upup/x"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        EXPECT(open_at(ROOT, outside[i], 0, NO_WRITE, FOLLOW, 0, &out), __WASI_ERRNO_PERM);
    OK(open_at(ROOT, "d/up/d/./up/d", __WASI_OFLAGS_DIRECTORY, NO_WRITE, FOLLOW, 0, &out));
    OK(__wasi_fd_close(out));
    EXPECT(open_at(ROOT, "", 0, NO_WRITE, FOLLOW, 0, &out), __WASI_ERRNO_NOENT);
    char long_name[300];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    EXPECT(open_at(ROOT, long_name, 0, NO_WRITE, FOLLOW, 0, &out), __WASI_ERRNO_NAMETOOLONG);
    /* Links: followed where they must be, given up in circles. */
    fd_t file = create("f");
    OK(write_some(file, "content", 7));
    OK(__wasi_fd_close(file));
    OK(__wasi_path_symlink("two", ROOT, "one"));
    OK(__wasi_path_symlink("d/../f", ROOT, "two"));
    OK(__wasi_path_symlink("round", ROOT, "about"));
    OK(__wasi_path_symlink("about", ROOT, "round"));
    EXPECT(open_at(ROOT, "round", 0, NO_WRITE, FOLLOW, 0, &out), __WASI_ERRNO_LOOP);
    EXPECT(open_at(ROOT, "one", 0, NO_WRITE, 0, 0, &out), __WASI_ERRNO_LOOP);
    OK(open_at(ROOT, "one", 0, ALL, FOLLOW, 0, &out));
    OK(__wasi_fd_close(out));
    CHECK(stat_of("one", 0).filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
    CHECK(stat_of("one", FOLLOW).ino == stat_of("f", 0).ino);
    char target[16];
    __wasi_size_t length;
    OK(__wasi_path_readlink(ROOT, "two", (uint8_t *)target, sizeof target, &length));
    CHECK(length == 6 && !memcmp(target, "d/../f", 6));
    OK(__wasi_path_readlink(ROOT, "two", (uint8_t *)target, 3, &length));
    CHECK(length == 3);
    EXPECT(__wasi_path_readlink(ROOT, "f", (uint8_t *)target, 3, &length), __WASI_ERRNO_INVAL);
    /* A slash at the end wants a directory. */
    EXPECT(open_at(ROOT, "f/", 0, NO_WRITE, FOLLOW, 0, &out), __WASI_ERRNO_NOTDIR);
    EXPECT(open_at(ROOT, "new/", __WASI_OFLAGS_CREAT, ALL, FOLLOW, 0, &out), __WASI_ERRNO_ISDIR);
    EXPECT(__wasi_path_unlink_file(ROOT, "f/"), __WASI_ERRNO_NOTDIR);
    EXPECT(__wasi_path_rename(ROOT, "f", ROOT, "g/"), __WASI_ERRNO_NOTDIR);
    OK(__wasi_path_rename(ROOT, "d/", ROOT, "e/"));
    OK(__wasi_path_rename(ROOT, "e", ROOT, "d"));
    EXPECT(open_at(ROOT, "d", 0, ALL, FOLLOW, 0, &out), __WASI_ERRNO_ISDIR);
    EXPECT(open_at(ROOT, "d", __WASI_OFLAGS_DIRECTORY, ALL, FOLLOW, 0, &out), __WASI_ERRNO_ISDIR);
    EXPECT(open_at(ROOT, "f", __WASI_OFLAGS_DIRECTORY, ALL, FOLLOW, 0, &out), __WASI_ERRNO_NOTDIR);
    EXPECT(open_at(ROOT, "f", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, ALL, FOLLOW, 0, &out),
           __WASI_ERRNO_EXIST);
    done("paths");
}

static void names(void) {
    /* A file that is open outlives its name, and the name it is replaced at. */
    fd_t kept = create("kept");
    OK(write_some(kept, "kept", 4));
    fd_t other = create("other");
    OK(write_some(other, "other", 5));
    OK(__wasi_path_rename(ROOT, "other", ROOT, "kept"));
    __wasi_filestat_t status;
    OK(__wasi_fd_filestat_get(kept, &status));
    CHECK(status.nlink == 0 && status.size == 4);
    CHECK(stat_of("kept", 0).size == 5 && stat_of("kept", 0).nlink == 1);
    char bytes[8];
    size_t count;
    seek(kept, 0, __WASI_WHENCE_SET);
    OK(read_some(kept, bytes, sizeof bytes, &count));
    CHECK(count == 4 && !memcmp(bytes, "kept", 4));
    OK(__wasi_path_unlink_file(ROOT, "kept"));
    EXPECT(__wasi_path_unlink_file(ROOT, "kept"), __WASI_ERRNO_NOENT);
    OK(write_some(other, "s", 1));
    OK(__wasi_fd_filestat_get(other, &status));
    CHECK(status.nlink == 0 && status.size == 6);
    OK(__wasi_fd_close(kept));
    OK(__wasi_fd_close(other));
    /* Names of one file. */
    OK(__wasi_path_link(ROOT, 0, "f", ROOT, "d/again"));
    CHECK(stat_of("f", 0).nlink == 2 && stat_of("f", 0).ino == stat_of("d/again", 0).ino);
    OK(__wasi_path_rename(ROOT, "f", ROOT, "d/again"));
    CHECK(stat_of("f", 0).nlink == 2);
    EXPECT(__wasi_path_link(ROOT, 0, "f", ROOT, "d/again"), __WASI_ERRNO_EXIST);
    EXPECT(__wasi_path_link(ROOT, 0, "d", ROOT, "d2"), __WASI_ERRNO_PERM);
    OK(__wasi_path_link(ROOT, 0, "one", ROOT, "link-to-link"));
    CHECK(stat_of("link-to-link", 0).filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
    OK(__wasi_path_unlink_file(ROOT, "d/again"));
    CHECK(stat_of("f", 0).nlink == 1);
    /* Directories. */
    OK(__wasi_path_create_directory(ROOT, "full"));
    OK(__wasi_path_create_directory(ROOT, "full/x"));
    OK(__wasi_path_create_directory(ROOT, "empty"));
    EXPECT(__wasi_path_rename(ROOT, "empty", ROOT, "full"), __WASI_ERRNO_NOTEMPTY);
    EXPECT(__wasi_path_rename(ROOT, "full", ROOT, "full/x/y"), __WASI_ERRNO_INVAL);
    EXPECT(__wasi_path_rename(ROOT, "f", ROOT, "empty"), __WASI_ERRNO_ISDIR);
    EXPECT(__wasi_path_rename(ROOT, "empty", ROOT, "f"), __WASI_ERRNO_NOTDIR);
    OK(__wasi_path_rename(ROOT, "full", ROOT, "empty"));
    EXPECT(__wasi_path_remove_directory(ROOT, "empty"), __WASI_ERRNO_NOTEMPTY);
    EXPECT(__wasi_path_remove_directory(ROOT, "f"), __WASI_ERRNO_NOTDIR);
    EXPECT(__wasi_path_unlink_file(ROOT, "empty"), __WASI_ERRNO_ISDIR);
    fd_t gone = open_directory("empty/x");
    OK(__wasi_path_remove_directory(ROOT, "empty/x"));
    EXPECT(__wasi_path_create_directory(gone, "y"), __WASI_ERRNO_NOENT);
    OK(__wasi_fd_close(gone));
    OK(__wasi_path_remove_directory(ROOT, "empty/"));
    done("names");
}

static void content(void) {
    fd_t file = create("data"), append;
    CHECK(seek(file, 100, __WASI_WHENCE_SET) == 100);
    OK(write_some(file, "end", 3));
    CHECK(stat_of("data", 0).size == 103);
    __wasi_filesize_t position;
    EXPECT(__wasi_fd_seek(file, -1, __WASI_WHENCE_SET, &position), __WASI_ERRNO_INVAL);
    EXPECT(__wasi_fd_seek(file, -104, __WASI_WHENCE_END, &position), __WASI_ERRNO_INVAL);
    CHECK(seek(file, -3, __WASI_WHENCE_END) == 100);
    OK(__wasi_fd_tell(file, &position));
    CHECK(position == 100);
    char bytes[8];
    size_t count;
    OK(read_some(file, bytes, sizeof bytes, &count));
    CHECK(count == 3 && !memcmp(bytes, "end", 3));
    OK(read_some(file, bytes, sizeof bytes, &count));
    CHECK(count == 0);
    /* Appending, wherever the position is; and no longer. */
    OK(open_at(ROOT, "data", 0, ALL, FOLLOW, __WASI_FDFLAGS_APPEND, &append));
    OK(write_some(append, "+", 1));
    OK(__wasi_fd_tell(append, &position));
    CHECK(position == 104);
    OK(__wasi_fd_fdstat_set_flags(append, 0));
    seek(append, 0, __WASI_WHENCE_SET);
    OK(write_some(append, "S", 1));
    CHECK(stat_of("data", 0).size == 104);
    EXPECT(__wasi_fd_fdstat_set_flags(append, 0x100), __WASI_ERRNO_INVAL);
    OK(__wasi_fd_close(append));
    /* At a place, in several parts, without moving. */
    __wasi_ciovec_t parts[] = {{(const uint8_t *)"ab", 2}, {NULL, 0}, {(const uint8_t *)"cde", 3}};
    __wasi_size_t moved;
    OK(__wasi_fd_pwrite(file, parts, 3, 10, &moved));
    CHECK(moved == 5);
    __wasi_iovec_t into[] = {{(uint8_t *)bytes, 3}, {(uint8_t *)bytes + 3, 2}};
    OK(__wasi_fd_pread(file, into, 2, 10, &moved));
    CHECK(moved == 5 && !memcmp(bytes, "abcde", 5));
    OK(__wasi_fd_tell(file, &position));
    CHECK(position == 103);
    OK(__wasi_fd_pread(file, into, 2, 1000, &moved));
    CHECK(moved == 0);
    /* Sizes. */
    OK(__wasi_fd_filestat_set_size(file, 12));
    OK(__wasi_fd_filestat_set_size(file, (__wasi_filesize_t)1 << 40));
    OK(__wasi_fd_pread(file, into, 2, 10, &moved));
    CHECK(moved == 5 && !memcmp(bytes, "ab\0\0\0", 5));
    OK(__wasi_fd_filestat_set_size(file, 12));
    OK(__wasi_fd_allocate(file, 0, 5));
    CHECK(stat_of("data", 0).size == 12);
    OK(__wasi_fd_allocate(file, 1 << 20, 3 << 20));
    CHECK(stat_of("data", 0).size == 4 << 20);
    EXPECT(__wasi_fd_allocate(file, 0, 0), __WASI_ERRNO_INVAL);
    EXPECT(__wasi_fd_allocate(file, 0, (__wasi_filesize_t)1 << 50), __WASI_ERRNO_NOSPC);
    EXPECT(__wasi_fd_filestat_set_size(file, ~(__wasi_filesize_t)0), __WASI_ERRNO_FBIG);
    OK(__wasi_fd_filestat_set_size(file, 0));
    for (int advice = 0; advice <= 5; advice++)
        OK(__wasi_fd_advise(file, 0, 100, (__wasi_advice_t)advice));
    EXPECT(__wasi_fd_advise(file, 0, 100, 6), __WASI_ERRNO_INVAL);
    OK(__wasi_fd_sync(file));
    OK(__wasi_fd_datasync(file));
    OK(__wasi_fd_close(file));
    EXPECT(__wasi_fd_close(file), __WASI_ERRNO_BADF);
    done("content");
}

static void rights(void) {
    fd_t reader, writer, directory = open_directory(".");
    OK(open_at(ROOT, "f", 0, __WASI_RIGHTS_FD_READ, FOLLOW, 0, &reader));
    OK(open_at(ROOT, "f", 0, __WASI_RIGHTS_FD_WRITE, FOLLOW, 0, &writer));
    char byte;
    size_t count;
    EXPECT(read_some(writer, &byte, 1, &count), __WASI_ERRNO_BADF);
    EXPECT(write_some(reader, "x", 1), __WASI_ERRNO_BADF);
    __wasi_filesize_t position;
    EXPECT(__wasi_fd_seek(reader, 0, __WASI_WHENCE_SET, &position), __WASI_ERRNO_NOTCAPABLE);
    EXPECT(__wasi_fd_tell(reader, &position), __WASI_ERRNO_NOTCAPABLE);
    __wasi_filestat_t status;
    EXPECT(__wasi_fd_filestat_get(reader, &status), __WASI_ERRNO_NOTCAPABLE);
    EXPECT(__wasi_fd_filestat_set_size(reader, 0), __WASI_ERRNO_INVAL);
    EXPECT(__wasi_fd_filestat_set_size(writer, 0), __WASI_ERRNO_NOTCAPABLE);
    __wasi_fdstat_t state;
    OK(__wasi_fd_fdstat_get(directory, &state));
    CHECK(!(state.fs_rights_base & __WASI_RIGHTS_FD_FILESTAT_SET_SIZE));
    CHECK(state.fs_filetype == __WASI_FILETYPE_DIRECTORY && state.fs_flags == 0);
    /* Given up, and not to be had again. */
    rights_t base = state.fs_rights_base & ~__WASI_RIGHTS_PATH_UNLINK_FILE;
    rights_t inheriting = state.fs_rights_inheriting & ~__WASI_RIGHTS_FD_WRITE;
    OK(__wasi_fd_fdstat_set_rights(directory, base, inheriting));
    EXPECT(__wasi_fd_fdstat_set_rights(directory, state.fs_rights_base, inheriting),
           __WASI_ERRNO_NOTCAPABLE);
    EXPECT(__wasi_path_unlink_file(directory, "f"), __WASI_ERRNO_NOTCAPABLE);
    fd_t through;
    OK(open_at(directory, "f", 0, ALL, FOLLOW, 0, &through));
    EXPECT(write_some(through, "x", 1), __WASI_ERRNO_BADF);
    OK(__wasi_fd_fdstat_get(through, &state));
    CHECK(!(state.fs_rights_base & __WASI_RIGHTS_FD_WRITE));
    CHECK(state.fs_rights_base & __WASI_RIGHTS_FD_READ);
    base &= ~__WASI_RIGHTS_PATH_FILESTAT_SET_SIZE & ~__WASI_RIGHTS_PATH_CREATE_FILE;
    OK(__wasi_fd_fdstat_set_rights(directory, base, inheriting));
    fd_t none;
    EXPECT(open_at(directory, "f", __WASI_OFLAGS_TRUNC, 0, FOLLOW, 0, &none),
           __WASI_ERRNO_NOTCAPABLE);
    EXPECT(open_at(directory, "new", __WASI_OFLAGS_CREAT, 0, FOLLOW, 0, &none),
           __WASI_ERRNO_NOTCAPABLE);
    CHECK(stat_of("f", 0).size == 7);
    OK(__wasi_fd_close(through));
    OK(__wasi_fd_close(directory));
    OK(__wasi_fd_close(reader));
    OK(__wasi_fd_close(writer));
    done("rights");
}

static void descriptors(void) {
    fd_t a = create("a"), b = create("b");
    OK(write_some(b, "b", 1));
    EXPECT(__wasi_fd_renumber(b, 1000), __WASI_ERRNO_BADF);
    EXPECT(__wasi_fd_renumber(1000, b), __WASI_ERRNO_BADF);
    OK(__wasi_fd_renumber(b, a));
    EXPECT(write_some(b, "x", 1), __WASI_ERRNO_BADF);
    __wasi_filesize_t position;
    OK(__wasi_fd_tell(a, &position));
    CHECK(position == 1);
    CHECK(create("b") == b);
    OK(__wasi_fd_close(a));
    OK(__wasi_fd_close(b));
    /* A flood ends with an error, and nothing is lost. */
    static fd_t many[100000];
    size_t count = 0;
    errno_t_ error = 0;
    while (count < sizeof many / sizeof *many &&
           !(error = open_at(ROOT, "f", 0, NO_WRITE, FOLLOW, 0, &many[count])))
        count++;
    CHECK(error == __WASI_ERRNO_MFILE);
    while (count)
        OK(__wasi_fd_close(many[--count]));
    /* Streams and directories are no files. */
    EXPECT(__wasi_fd_seek(1, 0, __WASI_WHENCE_SET, &position), __WASI_ERRNO_SPIPE);
    EXPECT(__wasi_fd_seek(ROOT, 0, __WASI_WHENCE_SET, &position), __WASI_ERRNO_BADF);
    char byte;
    size_t got;
    EXPECT(read_some(ROOT, &byte, 1, &got), __WASI_ERRNO_ISDIR);
    EXPECT(write_some(ROOT, "x", 1), __WASI_ERRNO_BADF);
    fd_t none;
    EXPECT(open_at(1, "f", 0, NO_WRITE, FOLLOW, 0, &none), __WASI_ERRNO_NOTDIR);
    EXPECT(__wasi_sock_shutdown(1, __WASI_SDFLAGS_WR), __WASI_ERRNO_NOTSOCK);
    EXPECT(__wasi_sock_accept(1, 0, &none), __WASI_ERRNO_NOTSOCK);
    __wasi_filestat_t in, out;
    OK(__wasi_fd_filestat_get(0, &in));
    OK(__wasi_fd_filestat_get(1, &out));
    CHECK(in.dev != stat_of(".", 0).dev && in.ino != out.ino);
    __wasi_fdstat_t state;
    OK(__wasi_fd_fdstat_get(1, &state));
    CHECK(!(state.fs_rights_base & (__WASI_RIGHTS_FD_SEEK | __WASI_RIGHTS_FD_TELL)));
    done("descriptors");
}

enum { LISTED = 300 };

/* Lists "list" through a small buffer, and does `each` to every name in between. Gives their number. */
static int list(fd_t directory, int (*each)(fd_t, const char *, int)) {
    uint8_t buffer[100];
    uint64_t cookie = 0;
    int count = 0;
    for (;;) {
        __wasi_size_t used;
        OK(__wasi_fd_readdir(directory, buffer, sizeof buffer, cookie, &used));
        size_t at = 0;
        while (at + sizeof(__wasi_dirent_t) <= used) {
            __wasi_dirent_t entry;
            memcpy(&entry, buffer + at, sizeof entry);
            if (at + sizeof entry + entry.d_namlen > used)
                break;
            char name[64] = {0};
            memcpy(name, buffer + at + sizeof entry, entry.d_namlen);
            cookie = entry.d_next;
            at += sizeof entry + entry.d_namlen;
            if (name[0] != '.')
                count += each(directory, name, count);
        }
        if (used < sizeof buffer)
            return count;
        CHECK(at > 0);
    }
}

static char seen[LISTED];

static int look(fd_t directory, const char *name, int count) {
    (void)directory, (void)count;
    seen[atoi(name + 1)]++;
    return 1;
}

/* For every entry that is found: another one is made and one is renamed. */
static int disturb(fd_t directory, const char *name, int count) {
    char made[32], renamed[32];
    fd_t file;
    if (name[0] != 'f')
        return 0;
    snprintf(made, sizeof made, "new%d", count);
    OK(open_at(directory, made, __WASI_OFLAGS_CREAT, ALL, FOLLOW, 0, &file));
    OK(__wasi_fd_close(file));
    snprintf(renamed, sizeof renamed, "g%s", name + 1);
    OK(__wasi_path_rename(directory, name, directory, renamed));
    return 1;
}

static int remove_it(fd_t directory, const char *name, int count) {
    (void)count;
    OK(__wasi_path_unlink_file(directory, name));
    return 1;
}

static void listing(void) {
    OK(__wasi_path_create_directory(ROOT, "list"));
    fd_t directory = open_directory("list");
    char name[32];
    for (int i = 0; i < LISTED; i++) {
        fd_t file;
        snprintf(name, sizeof name, "f%d", i);
        OK(open_at(directory, name, __WASI_OFLAGS_CREAT, ALL, FOLLOW, 0, &file));
        OK(__wasi_fd_close(file));
    }
    CHECK(list(directory, look) == LISTED);
    for (int i = 0; i < LISTED; i++)
        CHECK(seen[i] == 1);
    /* What stays is listed once, what comes does not make the listing endless. */
    CHECK(list(directory, disturb) == LISTED);
    CHECK(list(directory, look) == 2 * LISTED);
    /* As `rm -r` does it. */
    CHECK(list(directory, remove_it) == 2 * LISTED);
    CHECK(list(directory, look) == 0);
    OK(__wasi_path_remove_directory(ROOT, "list"));
    OK(__wasi_fd_close(directory));
    done("listing");
}

static void times(void) {
    enum { BOTH = __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_MTIM };
    fd_t file = create("timed");
    OK(__wasi_fd_filestat_set_times(file, 5, 6, BOTH));
    CHECK(stat_of("timed", 0).atim == 5 && stat_of("timed", 0).mtim == 6);
    EXPECT(__wasi_fd_filestat_set_times(file, 5, 6, BOTH | __WASI_FSTFLAGS_ATIM_NOW),
           __WASI_ERRNO_INVAL);
    OK(__wasi_path_filestat_set_times(ROOT, 0, "timed", 0, 0, 0));
    CHECK(stat_of("timed", 0).atim == 5 && stat_of("timed", 0).mtim == 6);
    OK(write_some(file, "x", 1));
    CHECK(stat_of("timed", 0).mtim > 6 && stat_of("timed", 0).atim == 5);
    char byte;
    size_t count;
    seek(file, 0, __WASI_WHENCE_SET);
    OK(read_some(file, &byte, 1, &count));
    CHECK(stat_of("timed", 0).atim > 5);
    OK(__wasi_path_symlink("timed", ROOT, "timed-link"));
    OK(__wasi_path_filestat_set_times(ROOT, 0, "timed-link", 8, 9, BOTH));
    CHECK(stat_of("timed-link", 0).mtim == 9 && stat_of("timed", 0).mtim > 9);
    OK(__wasi_path_filestat_set_times(ROOT, FOLLOW, "timed-link", 8, 9, BOTH));
    CHECK(stat_of("timed", 0).mtim == 9);
    OK(__wasi_path_filestat_set_times(ROOT, 0, "timed", 1, 1, __WASI_FSTFLAGS_MTIM_NOW));
    CHECK(stat_of("timed", 0).mtim > 9 && stat_of("timed", 0).atim == 8);
    /* A directory is modified by what happens to its names. */
    OK(__wasi_path_filestat_set_times(ROOT, 0, "d", 3, 3, BOTH));
    OK(__wasi_path_link(ROOT, 0, "timed", ROOT, "d/linked"));
    CHECK(stat_of("d", 0).mtim > 3);
    OK(__wasi_fd_close(file));
    done("times");
}

static __wasi_subscription_t clock_event(uint64_t id, __wasi_clockid_t clock, uint64_t timeout,
                                         __wasi_subclockflags_t flags) {
    __wasi_subscription_t event = {.userdata = id};
    event.u.tag = __WASI_EVENTTYPE_CLOCK;
    event.u.u.clock.id = clock;
    event.u.u.clock.timeout = timeout;
    event.u.u.clock.flags = flags;
    return event;
}

static __wasi_subscription_t fd_event(uint64_t id, __wasi_eventtype_t type, fd_t fd) {
    __wasi_subscription_t event = {.userdata = id};
    event.u.tag = type;
    if (type == __WASI_EVENTTYPE_FD_READ)
        event.u.u.fd_read.file_descriptor = fd;
    else
        event.u.u.fd_write.file_descriptor = fd;
    return event;
}

static uint64_t now(__wasi_clockid_t clock) {
    __wasi_timestamp_t time;
    OK(__wasi_clock_time_get(clock, 1, &time));
    return time;
}

static void polling(void) {
    enum { MANY = 500, MS = 1000000 };
    static __wasi_subscription_t in[MANY];
    static __wasi_event_t out[MANY];
    __wasi_size_t count;
    EXPECT(__wasi_poll_oneoff(in, out, 0, &count), __WASI_ERRNO_INVAL);
    uint64_t before = now(__WASI_CLOCKID_MONOTONIC);
    in[0] = clock_event(1, __WASI_CLOCKID_MONOTONIC, 20 * MS, 0);
    OK(__wasi_poll_oneoff(in, out, 1, &count));
    CHECK(count == 1 && out[0].userdata == 1 && out[0].error == 0);
    CHECK(now(__WASI_CLOCKID_MONOTONIC) - before >= 20 * MS);
    /* Absolute, on both clocks; the earliest of many. */
    for (int i = 0; i < MANY; i++)
        in[i] = clock_event((uint64_t)i, __WASI_CLOCKID_MONOTONIC, (uint64_t)(MANY - i) * MS, 0);
    OK(__wasi_poll_oneoff(in, out, MANY, &count));
    CHECK(count == 1 && out[0].userdata == MANY - 1);
    uint64_t until = now(__WASI_CLOCKID_REALTIME) + 5 * MS;
    in[0] = clock_event(7, __WASI_CLOCKID_REALTIME, until,
                        __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME);
    OK(__wasi_poll_oneoff(in, out, 1, &count));
    CHECK(count == 1 && now(__WASI_CLOCKID_REALTIME) >= until);
    until = now(__WASI_CLOCKID_MONOTONIC) - 1;
    in[0] = clock_event(8, __WASI_CLOCKID_MONOTONIC, until,
                        __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME);
    OK(__wasi_poll_oneoff(in, out, 1, &count));
    CHECK(count == 1 && out[0].userdata == 8);
    /* All that is ready at once, what is wrong among it. */
    fd_t file = create("polled");
    OK(write_some(file, "abc", 3));
    seek(file, 1, __WASI_WHENCE_SET);
    in[0] = fd_event(1, __WASI_EVENTTYPE_FD_READ, file);
    in[1] = fd_event(2, __WASI_EVENTTYPE_FD_WRITE, 1);
    in[2] = fd_event(3, __WASI_EVENTTYPE_FD_READ, 9999);
    in[3] = fd_event(4, __WASI_EVENTTYPE_FD_WRITE, 0);
    in[4] = clock_event(5, 77, 1, 0);
    in[5] = clock_event(6, __WASI_CLOCKID_MONOTONIC, 1000 * MS, 0);
    OK(__wasi_poll_oneoff(in, out, 6, &count));
    CHECK(count == 5);
    CHECK(out[0].userdata == 1 && out[0].error == 0 && out[0].fd_readwrite.nbytes == 2);
    CHECK(out[1].userdata == 2 && out[1].error == 0);
    CHECK(out[2].userdata == 3 && out[2].error == __WASI_ERRNO_BADF);
    CHECK(out[3].userdata == 4 && out[3].error == __WASI_ERRNO_BADF);
    CHECK(out[4].userdata == 5 && out[4].error == __WASI_ERRNO_INVAL);
    OK(__wasi_fd_close(file));
    done("polling");
}

static void rest(void) {
    /* Long: in pieces, each of which may be the last before a freeze. */
    enum { LONG = 1 << 20 };
    static uint8_t random[LONG];
    OK(__wasi_random_get(random, LONG));
    int zeros = 0;
    for (int i = 0; i < LONG; i += 4096) {
        int block = 0;
        for (int k = 0; k < 64; k++)
            block |= random[i + k];
        zeros += block == 0;
    }
    CHECK(zeros == 0);
    OK(__wasi_random_get(random, 0));
    for (int i = 0; i < 20; i++)
        OK(__wasi_sched_yield());
    __wasi_timestamp_t resolution;
    OK(__wasi_clock_res_get(__WASI_CLOCKID_REALTIME, &resolution));
    CHECK(resolution > 0);
    EXPECT(__wasi_clock_res_get(99, &resolution), __WASI_ERRNO_INVAL);
    CHECK(now(__WASI_CLOCKID_MONOTONIC) > 0 && now(__WASI_CLOCKID_PROCESS_CPUTIME_ID) > 0);
    /* Pointers and counts that lie. */
    __wasi_size_t count;
    __wasi_ciovec_t wild = {.buf = (const uint8_t *)0xfffffff0u, .buf_len = 100};
    EXPECT(__wasi_fd_write(1, &wild, 1, &count), __WASI_ERRNO_FAULT);
    EXPECT(__wasi_fd_write(1, &wild, 0x7fffffff, &count), __WASI_ERRNO_INVAL);
    EXPECT(__wasi_random_get((uint8_t *)0xfffffff0u, 100), __WASI_ERRNO_FAULT);
    done("rest");
}

static void clean(void) {
    const char *files[] = {"d/up", "d/upup", "d/linked", "one", "two", "round", "about",
                           "link-to-link", "f", "a", "b", "data", "timed", "timed-link", "polled"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        OK(__wasi_path_unlink_file(ROOT, files[i]));
    OK(__wasi_path_remove_directory(ROOT, "d"));
    done("clean");
}

int main(int argc, char **argv) {
    (void)argv;
    find_root();
    paths();
    names();
    content();
    rights();
    descriptors();
    listing();
    times();
    polling();
    rest();
    if (argc < 2)
        clean();
    return 0;
}
