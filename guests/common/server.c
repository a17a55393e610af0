#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FIRST_LISTENER = 3,
    MAX_LISTENERS = 64,
    /* poll() of wasi-libc puts 160 bytes per entry on the stack. */
    MAX_CONNECTIONS = 4096,
    READ_SIZE = 16 * 1024,
    /* How much a client may still send to a connection that is closing before it is cut off. */
    DISCARD_LIMIT = 1024 * 1024,
};

/* Entries 0..listeners of `polls` are listeners; entry i behind them belongs to connections[i]
   (whose first `listeners` slots stay empty). A closed connection's place is taken by the last. */
static struct pollfd *polls;
static struct connection **connections;
static size_t listeners, used, allocated;
static const struct connection *last_connection;
static bool stopped;
/* accept() ran out of descriptors: wait until a connection has been closed. */
static bool full;
static uint64_t accepted;

void connection_send(struct connection *connection, const void *data, size_t size) {
    if (!bytes_append(&connection->output, data, size)) {
        bytes_free(&connection->output);
        connection->closing = true;
    }
}

void server_stop_after(struct connection *connection) {
    connection->closing = true;
    last_connection = connection;
}

uint64_t server_accepted(void) { return accepted; }

static bool grow(void) {
    size_t larger = allocated ? allocated * 2 : 64;
    struct pollfd *more_polls = realloc(polls, larger * sizeof *polls);
    if (!more_polls)
        return false;
    polls = more_polls;
    struct connection **more = realloc(connections, larger * sizeof *connections);
    if (!more)
        return false;
    connections = more;
    allocated = larger;
    return true;
}

static bool wants_input(const struct connection *connection) {
    if (connection->input_ended || connection->shut)
        return !connection->input_ended;
    return !connection->closing && connection_room(connection) &&
           connection->input.length < INPUT_LIMIT;
}

/* What to wait for. An entry that waits for nothing gets a negative descriptor, which poll()
   skips: wasi-libc refuses entries without events. */
static void update_interest(size_t index) {
    const struct connection *connection = connections[index];
    short events = wants_input(connection) ? POLLIN : 0;
    if (connection->output.length || connection->unfinished)
        events |= POLLOUT;
    polls[index].fd = events ? connection->descriptor : -1;
    polls[index].events = events;
}

static void close_connection(size_t index) {
    struct connection *connection = connections[index];
    close(connection->descriptor);
    bytes_free(&connection->input);
    bytes_free(&connection->output);
    free(connection);
    used--;
    polls[index] = polls[used];
    connections[index] = connections[used];
    full = false;
}

/* Takes all waiting connections of a listener. */
static bool accept_waiting(const char *name, int listener) {
    while (used - listeners < MAX_CONNECTIONS) {
        struct sockaddr address;
        socklen_t size = sizeof address;
        int descriptor = accept4(listener, &address, &size, SOCK_NONBLOCK);
        if (descriptor < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                return true;
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                break;
            fprintf(stderr, "%s: accept on descriptor %d: %s\n", name, listener, strerror(errno));
            return false;
        }
        struct connection *connection = NULL;
        if (used < allocated || grow())
            connection = calloc(1, sizeof *connection);
        if (!connection) {
            close(descriptor);
            break;
        }
        accepted++;
        connection->descriptor = descriptor;
        polls[used] = (struct pollfd){.fd = descriptor, .events = POLLIN};
        connections[used++] = connection;
    }
    if (used == listeners) {
        fprintf(stderr, "%s: no descriptor or memory for a first connection\n", name);
        return false;
    }
    full = true;
    return true;
}

/* Reads once. False: the connection is broken. */
static bool read_input(struct connection *connection) {
    char scratch[READ_SIZE];
    char *room = connection->shut ? scratch : bytes_reserve(&connection->input, READ_SIZE);
    if (!room)
        return false;
    ssize_t count = recv(connection->descriptor, room, READ_SIZE, 0);
    if (count < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (count == 0)
        connection->input_ended = true;
    else if (!connection->shut)
        connection->input.length += (size_t)count;
    else
        connection->discarded += (size_t)count;
    return true;
}

/* Writes what the socket takes. False: the connection is broken. */
static bool write_output(struct connection *connection) {
    struct bytes *output = &connection->output;
    while (output->length) {
        ssize_t count = send(connection->descriptor, bytes_front(output), output->length, 0);
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN || errno == EWOULDBLOCK;
        }
        bytes_consume(output, (size_t)count);
    }
    return true;
}

/* Handles an event of one connection. False: it is finished, or broken, and must be closed. */
static bool advance(struct connection *connection, connection_handler *handler) {
    if (wants_input(connection) && !read_input(connection))
        return false;
    if (connection->shut)
        return !connection->input_ended && connection->discarded < DISCARD_LIMIT;
    if (!connection->closing)
        handler(connection);
    if (!write_output(connection))
        return false;
    if (!connection->closing || connection->output.length)
        return true;
    if (connection->input_ended || connection == last_connection)
        return false;
    /* Closing a socket with unread input would reset it and lose the answer on its way: say the
       end, then wait for the client's. */
    if (shutdown(connection->descriptor, SHUT_WR) < 0)
        return false;
    bytes_free(&connection->input);
    connection->unfinished = false;
    connection->shut = true;
    return true;
}

/* Registers the listeners. False: there is none, or a failure; printed. */
static bool open_listeners(const char *name) {
    const char *text = getenv("LISTEN_FDS");
    long count = text ? strtol(text, NULL, 10) : 0;
    if (count < 1 || count > MAX_LISTENERS) {
        fprintf(stderr, "%s: no listener: LISTEN_FDS must be 1 to %d\n", name, MAX_LISTENERS);
        return false;
    }
    for (long i = 0; i < count; i++) {
        int descriptor = FIRST_LISTENER + (int)i;
        int flags = fcntl(descriptor, F_GETFL);
        if (flags < 0 || fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) < 0) {
            fprintf(stderr, "%s: listener on descriptor %d: %s\n", name, descriptor,
                    strerror(errno));
            return false;
        }
        if (used == allocated && !grow()) {
            fprintf(stderr, "%s: out of memory\n", name);
            return false;
        }
        polls[used] = (struct pollfd){.fd = descriptor, .events = POLLIN};
        connections[used++] = NULL;
    }
    listeners = used;
    return true;
}

int server_run(const char *name, connection_handler *handler) {
    if (!open_listeners(name))
        return 1;
    while (!stopped) {
        for (size_t i = 0; i < listeners; i++)
            polls[i].fd = full ? -1 : FIRST_LISTENER + (int)i;
        if (poll(polls, used, -1) < 0) {
            if (errno == EINTR)
                continue;
            fprintf(stderr, "%s: poll: %s\n", name, strerror(errno));
            return 1;
        }
        /* From the end to the front: a closed connection is replaced by one that was seen, and
           connections accepted now are looked at in the next round. */
        for (size_t i = used; i-- > listeners;) {
            if (!polls[i].revents || polls[i].fd < 0)
                continue;
            struct connection *connection = connections[i];
            if (advance(connection, handler)) {
                update_interest(i);
            } else {
                stopped |= connection == last_connection;
                close_connection(i);
            }
        }
        for (size_t i = 0; i < listeners; i++)
            if (!full && polls[i].revents && !accept_waiting(name, FIRST_LISTENER + (int)i))
                return 1;
    }
    return 0;
}
