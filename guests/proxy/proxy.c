/* A proxy: connects each client of its listener to PATH, as /svc/NAME or /net/tcp/HOST/PORT.
 *
 *   proxy PATH
 *
 * Bytes go both ways as they come; an end of one direction is passed on, and the connection is
 * closed when both have ended. Where PATH cannot be opened the client is closed at once. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENER = 3, MAX_PAIRS = 64, ROOM = 64 * 1024 };

/* One direction: what was read and is not written yet. */
struct way {
    int from, to;
    char *data;
    size_t start, length;
    bool ended, passed_on;
};

struct pair {
    struct way ways[2];
};

static struct pair *pairs[MAX_PAIRS];
static size_t used;

static void dispose(size_t index) {
    struct pair *pair = pairs[index];
    close(pair->ways[0].from);
    close(pair->ways[1].from);
    free(pair->ways[0].data);
    free(pair->ways[1].data);
    free(pair);
    pairs[index] = pairs[--used];
}

static bool nonblocking(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    return flags >= 0 && fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0;
}

static void take(const char *path) {
    int client = accept(LISTENER, NULL, NULL);
    if (client < 0)
        return;
    int server = used < MAX_PAIRS ? open(path, O_RDWR) : -1;
    struct pair *pair = server >= 0 ? calloc(1, sizeof *pair) : NULL;
    if (pair) {
        pair->ways[0] = (struct way){.from = client, .to = server, .data = malloc(ROOM)};
        pair->ways[1] = (struct way){.from = server, .to = client, .data = malloc(ROOM)};
    }
    if (!pair || !pair->ways[0].data || !pair->ways[1].data || !nonblocking(client) ||
        !nonblocking(server)) {
        printf("proxy: %s: %s\n", path, strerror(errno));
        fflush(stdout);
        close(client);
        if (server >= 0)
            close(server);
        return;
    }
    pairs[used++] = pair;
}

/* Moves what can be moved. False: the connection is broken. */
static bool move(struct way *way) {
    if (!way->ended && !way->length) {
        ssize_t count = read(way->from, way->data, ROOM);
        if (count < 0 && errno != EAGAIN)
            return false;
        way->ended = count == 0;
        way->start = 0;
        way->length = count > 0 ? (size_t)count : 0;
    }
    while (way->length) {
        ssize_t count = write(way->to, way->data + way->start, way->length);
        if (count < 0)
            return errno == EAGAIN;
        way->start += (size_t)count;
        way->length -= (size_t)count;
    }
    if (way->ended && !way->passed_on) {
        way->passed_on = true;
        return shutdown(way->to, SHUT_WR) == 0;
    }
    return true;
}

int main(int count, char **args) {
    if (count != 2) {
        fprintf(stderr, "proxy: usage: proxy PATH\n");
        return 2;
    }
    for (;;) {
        struct pollfd polls[1 + 2 * MAX_PAIRS];
        polls[0] = (struct pollfd){.fd = LISTENER, .events = POLLIN};
        for (size_t i = 0; i < used; i++) {
            for (int side = 0; side < 2; side++) {
                /* Of this descriptor: what is read from it goes one way, what is written the other. */
                const struct way *in = &pairs[i]->ways[side], *out = &pairs[i]->ways[1 - side];
                short events = !in->ended && !in->length ? POLLIN : 0;
                if (out->length)
                    events |= POLLOUT;
                polls[1 + 2 * i + (size_t)side] =
                    (struct pollfd){.fd = events ? in->from : -1, .events = events};
            }
        }
        if (poll(polls, 1 + 2 * used, -1) < 0) {
            printf("proxy: poll: %s\n", strerror(errno));
            return 1;
        }
        for (size_t i = used; i-- > 0;) {
            struct way *ways = pairs[i]->ways;
            bool broken = !move(&ways[0]) || !move(&ways[1]);
            if (broken || (ways[0].passed_on && ways[1].passed_on))
                dispose(i);
        }
        if (polls[0].revents)
            take(args[1]);
    }
}
