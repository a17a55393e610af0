/* A small command, in several ways:
 *
 *   hello                 greets, prints its arguments and environment, then standard input line
 *                         by line with numbers, until its end
 *   hello sleep MS        sleeps and says whether both clocks agree that it did
 *   hello tick COUNT MS   prints COUNT numbers, one every MS milliseconds (COUNT 0: for ever)
 *   hello spin ROUNDS     computes without any call to the host, then prints a checksum
 *   hello recurse DEPTH   calls itself that deep, then prints a checksum
 *   hello grow MIB        grows its memory by steps and checks at the end what it wrote
 *   hello random          draws random bytes twice and says whether they differ
 *   hello exit CODE       ends with that code
 *   hello trap            runs into `unreachable` */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int compare_strings(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int greet(int argc, char **argv) {
    printf("hello\n");
    for (int i = 1; i < argc; i++)
        printf("argument %d: %s\n", i, argv[i]);
    size_t count = 0;
    while (environ[count])
        count++;
    qsort(environ, count, sizeof *environ, compare_strings);
    for (size_t i = 0; i < count; i++)
        printf("environment: %s\n", environ[i]);
    fflush(stdout);
    char line[256];
    for (unsigned long number = 1; fgets(line, sizeof line, stdin);) {
        size_t length = strcspn(line, "\n");
        int whole = line[length] == '\n';
        line[length] = 0;
        printf("line %lu: %s\n", number, line);
        fflush(stdout);
        number += (unsigned long)whole;
    }
    printf("end of input\n");
    return ferror(stdin) ? 1 : 0;
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) {
        perror("hello: clock_gettime");
        exit(1);
    }
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void sleep_ms(uint64_t ms) {
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0) {
        if (errno != EINTR) {
            perror("hello: nanosleep");
            exit(1);
        }
    }
}

static int sleep_once(uint64_t ms) {
    uint64_t monotonic = now_ns(CLOCK_MONOTONIC), real = now_ns(CLOCK_REALTIME);
    sleep_ms(ms);
    /* The real clock may be set back a little while this runs; the monotonic one may not. */
    int slept = now_ns(CLOCK_MONOTONIC) - monotonic >= ms * 1000000u;
    int moved = now_ns(CLOCK_REALTIME) + 1000000000u > real + ms * 1000000u;
    printf("slept %s, clock moved %s\n", slept ? "enough" : "too little", moved ? "on" : "back");
    return slept && moved ? 0 : 1;
}

static int tick(uint64_t count, uint64_t ms) {
    for (uint64_t i = 1; !count || i <= count; i++) {
        printf("tick %llu\n", (unsigned long long)i);
        fflush(stdout);
        sleep_ms(ms);
    }
    return 0;
}

static int spin(uint64_t rounds) {
    uint64_t value = 1;
    for (uint64_t i = 0; i < rounds; i++)
        value = (value ^ (value >> 29) ^ i) * 0xbf58476d1ce4e5b9u;
    printf("spun %016llx\n", (unsigned long long)value);
    return 0;
}

/* Each level keeps a value across the call, so every frame matters. */
static __attribute__((noinline)) uint32_t recurse(uint32_t depth) {
    uint32_t own = depth * 2654435761u;
    return depth ? (recurse(depth - 1) ^ own) * 16777619u : own;
}

static int grow(uint64_t mib) {
    enum { STEP = 1 << 20 };
    uint32_t **steps = calloc(mib ? mib : 1, sizeof *steps);
    uint64_t wrong = 0;
    for (uint64_t i = 0; steps && i < mib; i++) {
        steps[i] = malloc(STEP);
        if (!steps[i]) {
            printf("no memory after %llu MiB\n", (unsigned long long)i);
            return 1;
        }
        for (uint32_t k = 0; k < STEP / 4; k++)
            steps[i][k] = (uint32_t)i * 2654435761u + k;
    }
    for (uint64_t i = 0; i < mib; i++)
        for (uint32_t k = 0; k < STEP / 4; k++)
            wrong += steps[i][k] != (uint32_t)i * 2654435761u + k;
    printf("grew %llu MiB, %llu words wrong\n", (unsigned long long)mib,
           (unsigned long long)wrong);
    return wrong ? 1 : 0;
}

static int draw(void) {
    unsigned char first[32], second[32];
    if (getentropy(first, sizeof first) != 0 || getentropy(second, sizeof second) != 0) {
        perror("hello: getentropy");
        return 1;
    }
    int differ = memcmp(first, second, sizeof first) != 0;
    printf("random draws %s\n", differ ? "differ" : "are equal");
    return differ ? 0 : 1;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    uint64_t second = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    if (!strcmp(what, "sleep"))
        return sleep_once(first);
    if (!strcmp(what, "tick"))
        return tick(first, second);
    if (!strcmp(what, "spin"))
        return spin(first);
    if (!strcmp(what, "recurse")) {
        printf("recursed %08x\n", recurse((uint32_t)first));
        return 0;
    }
    if (!strcmp(what, "grow"))
        return grow(first);
    if (!strcmp(what, "random"))
        return draw();
    if (!strcmp(what, "exit"))
        return (int)first;
    if (!strcmp(what, "trap"))
        __builtin_trap();
    return greet(argc, argv);
}
