/* Threads or OS processes that pass a token around a ring of pipes on one processor; each touches
 * its working set before it passes the token on.
 *
 *   peer alone BYTES ROUNDS              one of them, which passes the token to itself
 *   peer threads|processes BYTES ROUNDS  two
 *
 * Prints the nanoseconds of one pass. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static size_t bytes;
static long rounds;

static void touch(volatile unsigned char *set) {
    for (size_t i = 0; i < bytes; i += 64)
        set[i]++;
}

static void pass(int from, int to) {
    unsigned char *set = aligned_alloc(4096, (bytes + 4096) / 4096 * 4096);
    char token;
    if (!set)
        exit(1);
    memset(set, 0, bytes);
    for (long i = 0; i < rounds; i++) {
        if (read(from, &token, 1) != 1)
            exit(1);
        touch(set);
        if (write(to, &token, 1) != 1)
            exit(1);
    }
}

static int there[2], back[2];

static void *other(void *unused) {
    (void)unused;
    pass(there[0], back[1]);
    return NULL;
}

int main(int argc, char **argv) {
    cpu_set_t one;
    struct timespec start, end;
    pthread_t thread;
    pid_t child = 0;
    if (argc != 4)
        return 2;
    bytes = strtoul(argv[2], NULL, 10);
    rounds = strtol(argv[3], NULL, 10);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof one, &one) || pipe(there) || pipe(back))
        return 1;
    int alone = !strcmp(argv[1], "alone");
    if (!strcmp(argv[1], "threads")) {
        if (pthread_create(&thread, NULL, other, NULL))
            return 1;
    } else if (!alone) {
        child = fork();
        if (child < 0)
            return 1;
        if (!child) {
            other(NULL);
            _exit(0);
        }
    }
    if (write(back[1], "t", 1) != 1)
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &start);
    pass(back[0], alone ? back[1] : there[1]);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec);
    printf("%.1f\n", ns / rounds / (alone ? 1 : 2));
    if (child)
        waitpid(child, NULL, 0);
    return 0;
}
