/* Drives zstd: `zstd SIZE` makes a text of SIZE kibibytes, compresses it at a fast, a usual and a
 * thorough level, in one piece and as a stream, decompresses each, compares, and prints lengths
 * and checksums. The same argument prints the same text everywhere. */
#include "text.h"

#include <zstd.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *text, *packed, *again;
static size_t size, bound;

static void fail(const char *what, const char *why) {
    printf("failed: %s: %s\n", what, why);
    exit(1);
}

static size_t checked(const char *what, size_t result) {
    if (ZSTD_isError(result))
        fail(what, ZSTD_getErrorName(result));
    return result;
}

static void show(const char *what, size_t packed_size, size_t again_size) {
    if (again_size != size || memcmp(text, again, size))
        fail(what, "what comes back is different");
    printf("%s: packed %zu bytes, checksum %08x, unpacked equal\n", what, packed_size,
           checksum(packed, packed_size));
    fflush(stdout);
}

static void in_one_piece(int level) {
    char what[32];
    snprintf(what, sizeof what, "level %d", level);
    size_t packed_size = checked(what, ZSTD_compress(packed, bound, text, size, level));
    memset(again, 0, size);
    show(what, packed_size, checked(what, ZSTD_decompress(again, size, packed, packed_size)));
}

/* With a checksum in the frame, and odd portions in both directions. */
static void as_a_stream(void) {
    const char *what = "stream";
    ZSTD_CCtx *writer = ZSTD_createCCtx();
    ZSTD_DCtx *reader = ZSTD_createDCtx();
    if (!writer || !reader)
        fail(what, "no memory");
    checked(what, ZSTD_CCtx_setParameter(writer, ZSTD_c_compressionLevel, 5));
    checked(what, ZSTD_CCtx_setParameter(writer, ZSTD_c_checksumFlag, 1));
    ZSTD_outBuffer out = {packed, bound, 0};
    for (size_t done = 0, rest = 1; done < size || rest;) {
        size_t portion = size - done < 9973 ? size - done : 9973;
        ZSTD_inBuffer in = {text + done, portion, 0};
        ZSTD_EndDirective end = done + portion == size ? ZSTD_e_end : ZSTD_e_continue;
        rest = checked(what, ZSTD_compressStream2(writer, &out, &in, end));
        done += in.pos;
    }
    memset(again, 0, size);
    ZSTD_outBuffer back = {again, size, 0};
    for (size_t done = 0; done < out.pos;) {
        size_t portion = out.pos - done < 4001 ? out.pos - done : 4001;
        ZSTD_inBuffer in = {packed + done, portion, 0};
        checked(what, ZSTD_decompressStream(reader, &back, &in));
        done += in.pos;
    }
    show(what, out.pos, back.pos);
    ZSTD_freeCCtx(writer);
    ZSTD_freeDCtx(reader);
}

int main(int argc, char **argv) {
    long kibibytes = argc > 1 ? strtol(argv[1], NULL, 10) : 256;
    if (kibibytes < 1 || kibibytes > 262144) {
        printf("usage: zstd SIZE; SIZE is 1 to 262144 KiB\n");
        return 2;
    }
    size = (size_t)kibibytes * 1024;
    bound = ZSTD_compressBound(size);
    text = malloc(size);
    packed = malloc(bound);
    again = malloc(size);
    if (!text || !packed || !again)
        fail("start", "no memory");
    make_text(text, size);
    printf("text %zu bytes, checksum %08x\n", size, checksum(text, size));
    in_one_piece(1);
    in_one_piece(3);
    in_one_piece(9);
    as_a_stream();
    return 0;
}
