/* A client: opens connections as it opens files, /net/tcp/HOST/PORT, and uses them.
 *
 *   dial get PATH NAME                     asks an HTTP server for NAME and prints the body
 *   dial talk PATH ROUNDS BYTES PAUSE_MS   sends BYTES to an echo server and reads them back, ROUNDS
 *                                          times, with pauses; every byte is checked
 *   dial try PATH...                       says of each path how opening it ends
 *   dial wait PATH                         the same of one, opened without blocking: waits until it
 *                                          can be written, and says what a write gives
 *   dial keep PATH                         opens it, says so, reads until its end, says how it ended
 *
 * Exit code 0 if all went as it should. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 32 * 1024 };

static const char *name_of(int error) {
    switch (error) {
    case EACCES: return "EACCES";
    case EAGAIN: return "EAGAIN";
    case ECONNREFUSED: return "ECONNREFUSED";
    case ECONNRESET: return "ECONNRESET";
    case EEXIST: return "EEXIST";
    case EHOSTUNREACH: return "EHOSTUNREACH";
    case ENFILE: return "ENFILE";
    case ENOENT: return "ENOENT";
    case ENOTDIR: return "ENOTDIR";
    case EPIPE: return "EPIPE";
    case ETIMEDOUT: return "ETIMEDOUT";
    default: return strerror(error);
    }
}

static int failed(const char *what) {
    printf("dial: %s: %s\n", what, name_of(errno));
    return 1;
}

/* The byte at a place of an endless pattern that repeats nowhere near. */
static unsigned char pattern(uint64_t place) {
    return (unsigned char)(place * UINT64_C(0x9e3779b97f4a7c15) >> 56);
}

static int get(const char *path, const char *name) {
    int server = open(path, O_RDWR);
    if (server < 0)
        return failed(path);
    char request[512];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n", name);
    if (write(server, request, (size_t)length) != length)
        return failed("write");
    static char answer[1 << 20];
    size_t have = 0;
    for (;;) {
        ssize_t count = read(server, answer + have, sizeof answer - 1 - have);
        if (count < 0)
            return failed("read");
        if (count == 0)
            break;
        have += (size_t)count;
    }
    answer[have] = 0;
    const char *body = strstr(answer, "\r\n\r\n");
    if (strncmp(answer, "HTTP/1.1 200", 12) != 0 || !body) {
        printf("dial: no answer: %s\n", answer);
        return 1;
    }
    fputs(body + 4, stdout);
    close(server);
    return 0;
}

/* Sends bytes `from` to `to` of the pattern and reads them back, both at once. */
static bool exchange(int server, uint64_t from, uint64_t to) {
    static unsigned char buffer[CHUNK];
    uint64_t sent = from, received = from;
    while (received < to) {
        struct pollfd wait = {.fd = server, .events = POLLIN};
        if (sent < to)
            wait.events |= POLLOUT;
        if (poll(&wait, 1, -1) < 0)
            return failed("poll"), false;
        if (sent < to && (wait.revents & POLLOUT)) {
            size_t most = to - sent < CHUNK ? (size_t)(to - sent) : CHUNK;
            for (size_t i = 0; i < most; i++)
                buffer[i] = pattern(sent + i);
            ssize_t count = write(server, buffer, most);
            if (count < 0 && errno != EAGAIN)
                return failed("write"), false;
            sent += count > 0 ? (uint64_t)count : 0;
        }
        if (wait.revents & (POLLIN | POLLHUP)) {
            ssize_t count = read(server, buffer, sizeof buffer);
            if (count == 0 || (count < 0 && errno != EAGAIN)) {
                if (count == 0)
                    printf("dial: the end after %" PRIu64 " bytes\n", received);
                return count ? failed("read"), false : false;
            }
            for (ssize_t i = 0; i < count; i++, received++) {
                if (received >= to || buffer[i] != pattern(received)) {
                    printf("dial: a wrong byte at %" PRIu64 "\n", received);
                    return false;
                }
            }
        }
    }
    return true;
}

static int talk(const char *path, long rounds, uint64_t bytes, long pause_ms) {
    int server = open(path, O_RDWR);
    if (server < 0)
        return failed(path);
    if (fcntl(server, F_SETFL, fcntl(server, F_GETFL) | O_NONBLOCK) < 0)
        return failed("fcntl");
    printf("dial: connected\n");
    fflush(stdout);
    for (long round = 0; round < rounds; round++) {
        if (!exchange(server, (uint64_t)round * bytes, (uint64_t)(round + 1) * bytes))
            return 1;
        if (pause_ms) {
            struct timespec pause = {.tv_sec = pause_ms / 1000,
                                     .tv_nsec = pause_ms % 1000 * 1000000};
            nanosleep(&pause, NULL);
        }
    }
    /* The end comes back too, and nothing before it. */
    if (shutdown(server, SHUT_WR) < 0)
        return failed("shutdown");
    struct pollfd wait = {.fd = server, .events = POLLIN};
    char rest;
    if (poll(&wait, 1, -1) < 0 || read(server, &rest, 1) != 0)
        return failed("the end");
    close(server);
    printf("dial: %ld rounds, %" PRIu64 " bytes\n", rounds, (uint64_t)rounds * bytes);
    return 0;
}

static int try(char **paths) {
    for (; *paths; paths++) {
        int opened = open(*paths, O_RDWR);
        printf("%s: %s\n", *paths, opened < 0 ? name_of(errno) : "open");
        if (opened >= 0)
            close(opened);
    }
    return 0;
}

static int wait_for(const char *path) {
    int opened = open(path, O_RDWR | O_NONBLOCK);
    if (opened < 0)
        return failed(path);
    struct pollfd wait = {.fd = opened, .events = POLLOUT};
    if (poll(&wait, 1, -1) < 0)
        return failed("poll");
    ssize_t count = write(opened, "x", 1);
    printf("%s: %s\n", path, count < 0 ? name_of(errno) : "written");
    return 0;
}

static int keep(const char *path) {
    int opened = open(path, O_RDWR);
    if (opened < 0)
        return failed(path);
    printf("dial: connected\n");
    fflush(stdout);
    char buffer[256];
    ssize_t count;
    while ((count = read(opened, buffer, sizeof buffer)) > 0)
        ;
    printf("dial: %s\n", count < 0 ? name_of(errno) : "the end");
    return 0;
}

int main(int count, char **args) {
    const char *verb = count > 2 ? args[1] : "";
    if (!strcmp(verb, "get") && count == 4)
        return get(args[2], args[3]);
    if (!strcmp(verb, "talk") && count == 6)
        return talk(args[2], atol(args[3]), strtoull(args[4], NULL, 10), atol(args[5]));
    if (!strcmp(verb, "try"))
        return try(args + 2);
    if (!strcmp(verb, "wait") && count == 3)
        return wait_for(args[2]);
    if (!strcmp(verb, "keep") && count == 3)
        return keep(args[2]);
    fprintf(stderr, "dial: usage: see dial.c\n");
    return 2;
}
