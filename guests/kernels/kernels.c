/* Kernels for measuring what freezability costs: small loops of very different shape.
 *
 * Each is exported as `run_NAME(n) -> checksum`: n rounds of a few milliseconds, whose result
 * depends on all of them. As a program: `kernels NAME N` prints the checksum, `kernels` alone
 * runs each kernel for one round. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name))) int32_t name(int32_t n)
#define NEVER_INLINE __attribute__((noinline))

static uint32_t mix(uint32_t checksum, uint32_t value) {
    return (checksum ^ value) * 16777619u;
}

/* Recursion: nothing but calls. */
static NEVER_INLINE uint32_t fib(uint32_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

EXPORT(run_fib) {
    uint32_t checksum = 0;
    for (int32_t i = 0; i < n; i++)
        checksum = mix(checksum, fib(27 + (uint32_t)i % 2));
    return (int32_t)checksum;
}

/* Calls four deep in a loop, none of them recursive. */
static NEVER_INLINE uint32_t level4(uint32_t x) { return x * 2654435761u + 1; }
static NEVER_INLINE uint32_t level3(uint32_t x) { return level4(x) ^ level4(x + 3); }
static NEVER_INLINE uint32_t level2(uint32_t x) { return level3(x) + level3(x >> 1); }
static NEVER_INLINE uint32_t level1(uint32_t x) { return level2(x) ^ level2(x + 7); }

EXPORT(run_calls) {
    uint32_t checksum = 0;
    for (int32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < 100000; k++)
            checksum += level1(checksum + k);
    return (int32_t)checksum;
}

/* Floating point held in registers: four sums in one loop. */
EXPORT(run_fpsum) {
    double a = 0, b = 1, c = 2, d = 3;
    for (int32_t i = 0; i < n; i++)
        for (int32_t k = 1; k <= 1000000; k++) {
            double x = 1.0 / k;
            a += x;
            b += x * x;
            c -= x * 0.5;
            d += a * 1e-9;
        }
    double total = a + b + c + d;
    uint64_t bits;
    memcpy(&bits, &total, sizeof bits);
    return (int32_t)mix((uint32_t)bits, (uint32_t)(bits >> 32));
}

/* Tight nested loops over bytes. */
enum { SIEVE = 1 << 20 };
static uint8_t composite[SIEVE];

EXPORT(run_sieve) {
    uint32_t checksum = 0;
    for (int32_t i = 0; i < n; i++) {
        memset(composite, 0, sizeof composite);
        uint32_t primes = 0;
        for (uint32_t p = 2; p < SIEVE; p++) {
            if (composite[p])
                continue;
            primes++;
            for (uint32_t m = p * 2; m < SIEVE; m += p)
                composite[m] = 1;
        }
        checksum = mix(checksum, primes);
    }
    return (int32_t)checksum;
}

/* Recursion, loops and comparisons through a function pointer. */
enum { SORTED = 1 << 15 };
static uint32_t numbers[SORTED];

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void quicksort(uint32_t *low, uint32_t *high, int (*order)(const void *, const void *)) {
    while (low < high) {
        uint32_t pivot = low[(high - low) / 2], *i = low, *j = high;
        while (i <= j) {
            while (order(i, &pivot) < 0)
                i++;
            while (order(&pivot, j) < 0)
                j--;
            if (i <= j) {
                uint32_t swapped = *i;
                *i++ = *j;
                *j-- = swapped;
            }
        }
        quicksort(low, j, order);
        low = i;
    }
}

EXPORT(run_qsort) {
    uint32_t checksum = 0, random = 1;
    for (int32_t i = 0; i < n; i++) {
        for (int k = 0; k < SORTED; k++)
            numbers[k] = random = random * 1664525u + 1013904223u;
        quicksort(numbers, numbers + SORTED - 1, compare);
        for (int k = 0; k < SORTED; k += 97)
            checksum = mix(checksum, numbers[k]);
    }
    return (int32_t)checksum;
}

/* Loops three deep over doubles. */
enum { SIDE = 160 };
static double left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

EXPORT(run_matmul) {
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < SIDE; k++) {
            left[i][k] = (i * 7 + k) % 13 - 6;
            right[i][k] = (i + k * 5) % 11 - 5;
        }
    for (int32_t round = 0; round < n; round++) {
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++) {
                double sum = 0;
                for (int k = 0; k < SIDE; k++)
                    sum += left[i][k] * right[k][j];
                product[i][j] = sum;
            }
        left[round % SIDE][3] = (int)product[round % SIDE][5] % 17;
    }
    uint32_t checksum = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            checksum = mix(checksum, (uint32_t)(int32_t)product[i][j]);
    return (int32_t)checksum;
}

/* Words copied by a loop that the compiler must not turn into memory.copy. */
enum { WORDS = 1 << 18 };
static volatile uint32_t source[WORDS], target[WORDS];

EXPORT(run_copy) {
    for (uint32_t k = 0; k < WORDS; k++)
        source[k] = k * 2654435761u;
    uint32_t checksum = 0;
    for (int32_t i = 0; i < n; i++) {
        for (int pass = 0; pass < 8; pass++)
            for (uint32_t k = 0; k < WORDS; k++)
                target[k] = source[k];
        source[(uint32_t)i % WORDS] += (uint32_t)i;
        checksum = mix(checksum, target[(uint32_t)i * 31 % WORDS]);
    }
    return (int32_t)checksum;
}

/* The C library: printf into strings, malloc and free in a mixed order. */
enum { KEPT = 64 };

EXPORT(run_strings) {
    char *kept[KEPT] = {0};
    uint32_t checksum = 0;
    for (int32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < 10000; k++) {
            char text[96];
            int length = snprintf(text, sizeof text, "%u:%s:%08x:%5.2f", k,
                                  kept[k % 7] ? "again" : "first", checksum, k * 0.25);
            char **slot = &kept[(k * 13 + checksum) % KEPT];
            free(*slot);
            *slot = malloc((size_t)length + 1 + k % 200);
            if (!*slot)
                abort();
            memcpy(*slot, text, (size_t)length + 1);
            for (const char *c = kept[k % KEPT]; c && *c; c++)
                checksum = mix(checksum, (uint32_t)*c);
        }
    for (int k = 0; k < KEPT; k++)
        free(kept[k]);
    return (int32_t)checksum;
}

static const struct kernel {
    const char *name;
    int32_t (*run)(int32_t n);
} kernels[] = {
    {"fib", run_fib},     {"calls", run_calls},   {"fpsum", run_fpsum}, {"sieve", run_sieve},
    {"qsort", run_qsort}, {"matmul", run_matmul}, {"copy", run_copy},   {"strings", run_strings},
};

int main(int argc, char **argv) {
    int found = 0;
    int32_t n = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 1;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (argc > 1 && strcmp(argv[1], kernels[i].name))
            continue;
        found = 1;
        printf("%s %08x\n", kernels[i].name, (unsigned)kernels[i].run(n));
        fflush(stdout);
    }
    if (!found)
        fprintf(stderr, "kernels: no kernel \"%s\"\n", argv[1]);
    return found ? 0 : 2;
}
