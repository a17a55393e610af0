/* A program that works in its file tree: it makes, writes, renames, lists, reads and removes, and
 * checks each step. `files [ROUNDS]` prints what it found, the same in every round, and leaves
 * /keep/result behind. With a second argument it first prints that file. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 40, RECORD = 1000 };

static void check(int holds, const char *what, const char *path) {
    if (holds)
        return;
    printf("failed: %s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static uint32_t hash(uint32_t value, const void *data, size_t size) {
    for (const unsigned char *byte = data; size--; byte++)
        value = (value ^ *byte) * 16777619u;
    return value;
}

/* The bytes of record `number`; so long that one write is a call to the host of its own. */
static void fill(char record[RECORD], int number) {
    for (int i = 0; i < RECORD; i++)
        record[i] = (char)('a' + (number * 7 + i) % 26);
    record[RECORD - 1] = '\n';
}

static void write_all(int file, const char *data, size_t size, const char *path) {
    while (size) {
        ssize_t count = write(file, data, size);
        check(count > 0, "write", path);
        data += count;
        size -= (size_t)count;
    }
}

static uint32_t read_hashed(const char *path, long *size) {
    FILE *file = fopen(path, "r");
    check(file != NULL, "open", path);
    char block[777];
    uint32_t value = 2166136261u;
    size_t count;
    *size = 0;
    while ((count = fread(block, 1, sizeof block, file)) > 0) {
        value = hash(value, block, count);
        *size += (long)count;
    }
    check(!ferror(file), "read", path);
    fclose(file);
    return value;
}

static void make_files(void) {
    char path[64], record[RECORD];
    check(mkdir("/work", 0777) == 0, "mkdir", "/work");
    check(mkdir("/work", 0777) < 0 && errno == EEXIST, "mkdir twice", "/work");
    check(mkdir("/work/deep", 0777) == 0, "mkdir", "/work/deep");
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "/work/file-%02d", i);
        int file = open(path, O_CREAT | O_EXCL | O_RDWR, 0666);
        check(file >= 0, "create", path);
        for (int k = 0; k <= i % 5; k++) {
            fill(record, i + k);
            write_all(file, record, sizeof record, path);
        }
        /* Over the first record's start, then past the end: a hole of zeros. */
        check(pwrite(file, "START", 5, 0) == 5, "pwrite", path);
        check(lseek(file, 100, SEEK_END) >= 0, "seek", path);
        write_all(file, "END\n", 4, path);
        check(close(file) == 0, "close", path);
    }
    check(open("/work/file-00", O_CREAT | O_EXCL | O_RDWR, 0666) < 0 && errno == EEXIST,
          "create twice", "/work/file-00");
}

static void rename_and_shorten(void) {
    char from[64], to[64];
    for (int i = 0; i < FILES; i += 3) {
        snprintf(from, sizeof from, "/work/file-%02d", i);
        snprintf(to, sizeof to, "/work/deep/moved-%02d", i);
        check(rename(from, to) == 0, "rename", from);
        check(access(from, F_OK) < 0 && errno == ENOENT, "still there:", from);
    }
    check(rename("/work/file-01", "/work/file-02") == 0, "replace", "/work/file-02");
    check(truncate("/work/file-04", 10) == 0, "truncate", "/work/file-04");
    /* Appending goes to the end wherever the file was read. */
    int file = open("/work/file-04", O_RDWR | O_APPEND);
    check(file >= 0, "open", "/work/file-04");
    write_all(file, "appended", 8, "/work/file-04");
    char start[6] = {0};
    check(pread(file, start, 5, 0) == 5 && !strcmp(start, "START"), "pread", "/work/file-04");
    check(close(file) == 0, "close", "/work/file-04");
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Lists a directory with sizes and contents, in the order of names. */
static uint32_t list(const char *directory, uint32_t value) {
    char *names[FILES + 8];
    int count = 0;
    DIR *open = opendir(directory);
    check(open != NULL, "list", directory);
    for (struct dirent *entry; (entry = readdir(open));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        check(count < FILES + 8, "too many names in", directory);
        names[count] = strdup(entry->d_name);
        check(names[count] != NULL, "memory for", directory);
        count++;
    }
    closedir(open);
    qsort(names, (size_t)count, sizeof *names, compare_names);
    long total = 0;
    for (int i = 0; i < count; i++) {
        char path[128];
        struct stat status;
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        check(stat(path, &status) == 0, "stat", path);
        value = hash(value, names[i], strlen(names[i]));
        if (S_ISREG(status.st_mode)) {
            long size;
            uint32_t content = read_hashed(path, &size);
            check(size == (long)status.st_size, "size of", path);
            value = hash(value, &content, sizeof content);
            total += size;
        }
        free(names[i]);
    }
    printf("%s: %d names, %ld bytes\n", directory, count, total);
    return value;
}

static void remove_all(const char *directory) {
    char path[300];
    for (;;) {
        /* Opened anew for each name: what a listing shows while it is changed is not fixed. */
        DIR *open = opendir(directory);
        check(open != NULL, "list", directory);
        struct dirent *entry;
        while ((entry = readdir(open)))
            if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
                break;
        if (!entry) {
            closedir(open);
            break;
        }
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        closedir(open);
        struct stat status;
        check(stat(path, &status) == 0, "stat", path);
        if (S_ISDIR(status.st_mode)) {
            check(rmdir(path) < 0 && errno == ENOTEMPTY, "remove when full:", path);
            remove_all(path);
        } else {
            check(unlink(path) == 0, "remove", path);
        }
    }
    check(rmdir(directory) == 0, "remove", directory);
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    long size;
    uint32_t value = 2166136261u;
    if (argc > 2)
        printf("found %08x\n", read_hashed("/keep/result", &size));
    for (long round = 0; round < rounds; round++) {
        make_files();
        rename_and_shorten();
        value = list("/work", value);
        value = list("/work/deep", value);
        /* A file that was removed while it is open can still be read. */
        int open_file = open("/work/file-05", O_RDONLY);
        check(open_file >= 0, "open", "/work/file-05");
        check(unlink("/work/file-05") == 0, "remove", "/work/file-05");
        char start[6] = {0};
        check(read(open_file, start, 5) == 5 && !strcmp(start, "START"), "read after removal",
              "/work/file-05");
        check(close(open_file) == 0, "close", "/work/file-05");
        remove_all("/work");
    }
    check(mkdir("/keep", 0777) == 0 || errno == EEXIST, "mkdir", "/keep");
    FILE *result = fopen("/keep/result", "w");
    check(result != NULL, "create", "/keep/result");
    check(fprintf(result, "%08x\n", value) == 9, "write", "/keep/result");
    check(fclose(result) == 0, "close", "/keep/result");
    printf("kept %08x\n", value);
    return 0;
}
