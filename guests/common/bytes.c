#include "bytes.h"

#include <stdlib.h>
#include <string.h>

char *bytes_reserve(struct bytes *queue, size_t more) {
    if (queue->capacity - queue->start - queue->length >= more)
        return queue->data + queue->start + queue->length;
    /* Moving the waiting bytes to the front is worth it once they fill half of the space at most;
       so each byte is moved a bounded number of times. */
    if (queue->start >= queue->length && queue->capacity - queue->length >= more) {
        memcpy(queue->data, queue->data + queue->start, queue->length);
        queue->start = 0;
        return queue->data + queue->length;
    }
    size_t capacity = queue->capacity < 512 ? 512 : queue->capacity;
    while (capacity < queue->length + more) {
        if (capacity > (size_t)-1 / 2)
            return NULL;
        capacity *= 2;
    }
    char *data = malloc(capacity);
    if (!data)
        return NULL;
    if (queue->length)
        memcpy(data, queue->data + queue->start, queue->length);
    free(queue->data);
    *queue = (struct bytes){.data = data, .length = queue->length, .capacity = capacity};
    return data + queue->length;
}

bool bytes_append(struct bytes *queue, const void *data, size_t size) {
    if (!size)
        return true;
    char *room = bytes_reserve(queue, size);
    if (!room)
        return false;
    memcpy(room, data, size);
    queue->length += size;
    return true;
}

void bytes_consume(struct bytes *queue, size_t size) {
    queue->start += size;
    queue->length -= size;
    if (!queue->length)
        queue->start = 0;
}

void bytes_free(struct bytes *queue) {
    free(queue->data);
    *queue = (struct bytes){0};
}
