/* Drives bzip2: `bzip2 SIZE` makes a text of SIZE kibibytes, compresses it, decompresses that,
 * compares, and prints lengths and checksums. The same argument prints the same text everywhere. */
#include "text.h"

#include <bzlib.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* bzip2 built with BZ_NO_STDIO calls this when it finds a fault in itself. */
void bz_internal_error(int code) {
    printf("failed: internal error %d\n", code);
    exit(1);
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
