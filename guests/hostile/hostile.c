/* A program that takes all it can get, of one thing, for ever.
 *
 * `hostile MODE`: memory, descriptors, files, names or timers are taken up to the limit; then one
 * line on standard error says how far that was, and it goes on trying. output, lines, loop, yield
 * and deaf know no limit. recursion ends by itself, with a trap. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

enum { PAGE = 65536 };

static void reached(const char *what, uint64_t count) {
    static int said;
    if (!said++)
        fprintf(stderr, "%s: %" PRIu64 "\n", what, count);
}

/* Grows by a page at a time and writes to all of it, again and again. */
static void memory(void) {
    for (;;) {
        size_t before = __builtin_wasm_memory_grow(0, 1);
        size_t pages = __builtin_wasm_memory_size(0);
        if (before != SIZE_MAX) {
            memset((char *)(before * PAGE), 0xa5, PAGE);
            continue;
        }
        reached("bytes of memory", (uint64_t)pages * PAGE);
        volatile char *own = (volatile char *)malloc(1);
        for (uintptr_t at = (uintptr_t)own & ~(uintptr_t)4095; at < pages * PAGE; at += 4096)
            *(volatile char *)at ^= 1;
        free((void *)own);
    }
}

/* Opens the root directory until there is no descriptor left, closes some, and opens again. */
static void descriptors(void) {
    uint64_t open_now = 0;
    for (;;) {
        int descriptor = open("/", O_RDONLY | O_DIRECTORY);
        if (descriptor >= 0) {
            open_now++;
            continue;
        }
        if (errno != EMFILE)
            exit(1);
        reached("descriptors", open_now);
        for (int each = 64; each < 128; each++)
            open_now -= close(each) == 0;
    }
}

static volatile unsigned one = 1;

__attribute__((noinline)) static unsigned deeper(unsigned depth) {
    return one ? deeper(depth + one) * 3 + depth : 0;
}

static void output(void) {
    static char text[PAGE];
    memset(text, 'x', sizeof text);
    for (;;)
        if (write(1, text, sizeof text) < 0)
            exit(1);
}

static void lines(void) {
    for (;;)
        if (write(1 + rand() % 2, "\n", 1) < 0)
            exit(1);
}

/* Files that grow until nothing may be written, and then go and come again. */
static void files(void) {
    static char block[PAGE];
    memset(block, 0x5a, sizeof block);
    for (;;) {
        uint64_t written = 0;
        for (int number = 0;; number++) {
            char name[32];
            snprintf(name, sizeof name, "/large-%d", number);
            int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
            if (file < 0)
                break;
            ssize_t wrote = 0;
            for (int blocks = 0; blocks < 16 && (wrote = write(file, block, sizeof block)) > 0; blocks++)
                written += (uint64_t)wrote;
            close(file);
            if (wrote < 0)
                break;
        }
        reached("bytes of files", written);
        for (int number = 0;; number++) {
            char name[32];
            snprintf(name, sizeof name, "/large-%d", number);
            if (unlink(name) != 0)
                break;
        }
    }
}

/* Empty files, directories in directories and links, until no name may be added. */
static void names(void) {
    uint64_t made = 0;
    for (uint64_t number = 0;; number++) {
        char name[64];
        snprintf(name, sizeof name, "/name-%" PRIu64, number);
        int failed;
        switch (number % 3) {
        case 0: {
            int file = open(name, O_WRONLY | O_CREAT, 0600);
            failed = file < 0;
            if (file >= 0)
                close(file);
            break;
        }
        case 1:
            failed = mkdir(name, 0700) != 0;
            break;
        default:
            // A link to itself; targets must not be absolute.
            failed = symlink(name + 1, name) != 0;
        }
        if (failed) {
            reached("names", made);
            continue;
        }
        made++;
    }
}

/* As many timers at once as one call takes, which end in a microsecond. */
static void timers(void) {
    enum { MOST = 1 << 14 };
    static __wasi_subscription_t subscriptions[MOST];
    static __wasi_event_t events[MOST];
    for (size_t each = 0; each < MOST; each++) {
        subscriptions[each].userdata = each;
        subscriptions[each].u.tag = __WASI_EVENTTYPE_CLOCK;
        subscriptions[each].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
        subscriptions[each].u.u.clock.timeout = 1000;
    }
    __wasi_size_t count = 0;
    for (;;) {
        if (__wasi_poll_oneoff(subscriptions, events, MOST, &count) != 0)
            exit(1);
        reached("timers", count);
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "memory"))
        memory();
    else if (!strcmp(mode, "descriptors"))
        descriptors();
    else if (!strcmp(mode, "recursion"))
        printf("%u\n", deeper(0));
    else if (!strcmp(mode, "output"))
        output();
    else if (!strcmp(mode, "lines"))
        lines();
    else if (!strcmp(mode, "loop"))
        while (one) {
        }
    else if (!strcmp(mode, "yield"))
        for (;;)
            sched_yield();
    else if (!strcmp(mode, "files"))
        files();
    else if (!strcmp(mode, "names"))
        names();
    else if (!strcmp(mode, "timers"))
        timers();
    else if (!strcmp(mode, "deaf"))
        for (;;)
            sleep(1000);
    fprintf(stderr, "hostile: no mode `%s`\n", mode);
    return 2;
}
