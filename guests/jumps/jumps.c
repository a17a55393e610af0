/* setjmp and longjmp, which become exceptions in WebAssembly: out of deep recursions, through loops
   and callbacks, one inside the other, again and again.

   Prints what it does; the last line is a checksum over all of it. */

#include <sched.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static jmp_buf outer, inner;
static uint32_t checksum = 2166136261u;

static void note(uint32_t value) {
    checksum = (checksum ^ value) * 16777619u;
}

/* Jumps from `depth` calls down, having done some work at each of them. */
static uint32_t dive(uint32_t depth, uint32_t code) {
    volatile uint32_t local[4];
    for (uint32_t i = 0; i < 4; i++)
        local[i] = depth * i;
    if (depth == 0) {
        sched_yield();
        longjmp(code % 3 ? inner : outer, (int)code + 1);
    }
    note(depth);
    return dive(depth - 1, code) + local[depth % 4];
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (x == y)
        longjmp(inner, 1000);
    return x < y ? -1 : 1;
}

/* A jump out of a callback of the C library. */
static int sorts(uint32_t seed) {
    uint32_t numbers[24];
    int reason = setjmp(inner);
    if (reason != 0)
        return reason;
    for (int i = 0; i < 24; i++) {
        seed = seed * 1664525u + 1013904223u;
        numbers[i] = seed >> 27;
    }
    qsort(numbers, 24, sizeof numbers[0], compare);
    for (int i = 0; i < 24; i++)
        note(numbers[i]);
    return 0;
}

/* An error in one job leaves the job, every third leaves all of them. */
static uint32_t jobs(uint32_t first) {
    volatile uint32_t done = 0;
    for (volatile uint32_t job = first; job < first + 2; job++) {
        int reason = setjmp(inner);
        if (reason == 0) {
            sched_yield();
            dive(job + 3, job);
        } else {
            note((uint32_t)reason);
            done++;
        }
    }
    return done;
}

int main(void) {
    volatile uint32_t rounds = 0, whole = 0;
    while (rounds < 12) {
        rounds++;
        int reason = setjmp(outer);
        if (reason != 0) {
            note((uint32_t)reason << 8);
            printf("round %u left by %d\n", (unsigned)rounds, reason);
            continue;
        }
        whole += jobs(rounds * 5);
        printf("round %u: %u jobs, sorting ends with %d\n", (unsigned)rounds, (unsigned)whole,
               sorts(rounds));
    }
    printf("checksum %08x\n", (unsigned)checksum);
    return 0;
}
