/* A queue of bytes that grows at its end and is consumed at its front. */
#ifndef LIMOSA_BYTES_H
#define LIMOSA_BYTES_H

#include <stdbool.h>
#include <stddef.h>

struct bytes {
    char *data;      /* one allocation, or NULL while nothing was ever stored */
    size_t start;    /* where the first byte that was not consumed is */
    size_t length;   /* how many bytes are waiting */
    size_t capacity; /* size of the allocation */
};

/* The first waiting byte. */
static inline char *bytes_front(const struct bytes *queue) { return queue->data + queue->start; }

/* Makes room for `more` bytes behind those waiting and returns where they go; NULL: no memory. */
char *bytes_reserve(struct bytes *queue, size_t more);
/* Copies `size` bytes to the end; false: no memory, and nothing was stored. */
bool bytes_append(struct bytes *queue, const void *data, size_t size);
/* Drops `size` bytes at the front; `size` must not exceed the length. */
void bytes_consume(struct bytes *queue, size_t size);
/* Frees the allocation. */
void bytes_free(struct bytes *queue);

#endif
