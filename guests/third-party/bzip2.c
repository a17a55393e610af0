/* Drives bzip2: `bzip2 SIZE` makes a text of SIZE kibibytes, compresses it, decompresses that,
 * compares, and prints lengths and checksums. The same argument prints the same text everywhere. */
#include <bzlib.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* bzip2 built with BZ_NO_STDIO calls this when it finds a fault in itself. */
void bz_internal_error(int code) {
    printf("failed: internal error %d\n", code);
    exit(1);
}

static uint32_t checksum(const char *data, unsigned size) {
    uint32_t value = 2166136261u;
    for (unsigned i = 0; i < size; i++)
        value = (value ^ (unsigned char)data[i]) * 16777619u;
    return value;
}

/* Words of a small vocabulary, a number now and then. */
static void make_text(char *text, unsigned size) {
    static const char *const words[] = {
        "godwit", "flight", "wind",  "tide",   "moves",   "over",    "the",  "and",
        "lands",  "mud",    "coast", "winter", "northern", "without", "rest", "again",
    };
    uint32_t random = 1;
    for (unsigned i = 0; i < size;) {
        char word[24];
        random = random * 1664525u + 1013904223u;
        int length = random >> 28 ? snprintf(word, sizeof word, "%s ", words[random >> 12 & 15])
                                  : snprintf(word, sizeof word, "%u.\n", (unsigned)random >> 8);
        for (int k = 0; k < length && i < size; k++)
            text[i++] = word[k];
    }
}

int main(int argc, char **argv) {
    long kibibytes = argc > 1 ? strtol(argv[1], NULL, 10) : 256;
    if (kibibytes < 1 || kibibytes > 262144) {
        printf("usage: bzip2 SIZE; SIZE is 1 to 262144 KiB\n");
        return 2;
    }
    unsigned size = (unsigned)kibibytes * 1024, bound = size + size / 100 + 600;
    char *text = malloc(size), *packed = malloc(bound), *again = malloc(size);
    if (!text || !packed || !again) {
        printf("failed: no memory\n");
        return 1;
    }
    make_text(text, size);
    printf("text %u bytes, checksum %08x\n", size, checksum(text, size));
    unsigned packed_size = bound, again_size = size;
    int code = BZ2_bzBuffToBuffCompress(packed, &packed_size, text, size, 9, 0, 0);
    if (code != BZ_OK) {
        printf("failed: compress: %d\n", code);
        return 1;
    }
    printf("packed %u bytes, checksum %08x\n", packed_size, checksum(packed, packed_size));
    fflush(stdout);
    code = BZ2_bzBuffToBuffDecompress(again, &again_size, packed, packed_size, 0, 0);
    if (code != BZ_OK) {
        printf("failed: decompress: %d\n", code);
        return 1;
    }
    int equal = again_size == size && !memcmp(text, again, size);
    printf("unpacked %u bytes, checksum %08x, %s\n", again_size, checksum(again, again_size),
           equal ? "equal" : "different");
    return equal ? 0 : 1;
}
