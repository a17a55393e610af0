/* What the drivers of compressors work on: a text of any length, equal everywhere, and a checksum
 * (FNV-1a). */
#ifndef LIMOSA_TEXT_H
#define LIMOSA_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

static uint32_t checksum(const char *data, size_t size) {
    uint32_t value = 2166136261u;
    for (size_t i = 0; i < size; i++)
        value = (value ^ (unsigned char)data[i]) * 16777619u;
    return value;
}

/* Words of a small vocabulary, a number now and then. */
static void make_text(char *text, size_t size) {
    static const char *const words[] = {
        "godwit", "flight", "wind",  "tide",   "moves",   "over",    "the",  "and",
        "lands",  "mud",    "coast", "winter", "northern", "without", "rest", "again",
    };
    uint32_t random = 1;
    for (size_t i = 0; i < size;) {
        char word[24];
        random = random * 1664525u + 1013904223u;
        int length = random >> 28 ? snprintf(word, sizeof word, "%s ", words[random >> 12 & 15])
                                  : snprintf(word, sizeof word, "%u.\n", (unsigned)random >> 8);
        for (int k = 0; k < length && i < size; k++)
            text[i++] = word[k];
    }
}

#endif
