/* A poll()-driven TCP server: the loop that the server guests share.
 *
 * Listeners are the descriptors from 3 on, LISTEN_FDS of them (the systemd habit). The loop owns
 * all reading and writing; a guest supplies one handler, which looks at the input queue of a
 * connection and appends to its output queue:
 *
 *     open --(client shuts writing)--> input_ended --(handler)--> closing
 *     open --(handler)---------------------------------------> closing
 *     closing --(output written)--> shut for writing, input discarded --(client closes)--> closed
 *
 * Nothing blocks but poll(). Queues are bounded: while a connection's output holds OUTPUT_LIMIT
 * bytes nothing more is read from it, so a client that does not read slows only itself. */
#ifndef LIMOSA_SERVER_H
#define LIMOSA_SERVER_H

#include "bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Above this many bytes of unsent output a connection is not read, and handlers stop. */
#define OUTPUT_LIMIT ((size_t)64 * 1024)
/* A connection that has this much unhandled input is not read. */
#define INPUT_LIMIT ((size_t)2 * 1024 * 1024)

struct connection {
    int descriptor;
    struct bytes input;
    struct bytes output;
    bool input_ended; /* set by the loop: the client sends no more */
    bool closing;     /* set by the handler: close once the output is written */
    bool unfinished;  /* set by the handler: call again as soon as there is room for output */
    bool shut;        /* kept by the loop: the writing side is shut, input is discarded */
    size_t discarded; /* kept by the loop: input bytes dropped since then */

    /* For the handler alone; zero at first. */
    uint64_t remaining; /* bytes of the current answer that are still to be produced */
    size_t examined;    /* input bytes that were looked at and do not complete anything */
    bool asked;         /* the client was told to go on sending its request */
    bool last_answer;   /* the connection closes after the current answer */
};

/* Room left in the output queue before OUTPUT_LIMIT. */
static inline size_t connection_room(const struct connection *connection) {
    size_t used = connection->output.length;
    return used < OUTPUT_LIMIT ? OUTPUT_LIMIT - used : 0;
}

/* Appends to the output; without memory for it the connection is given up. */
void connection_send(struct connection *connection, const void *data, size_t size);

/* Called after input arrived or ended, and after output was written. Must set `closing` at some
 * time after `input_ended`, or the connection is never closed. */
typedef void connection_handler(struct connection *connection);

/* The server ends once this connection has its output. */
void server_stop_after(struct connection *connection);
/* How many connections were accepted so far. */
uint64_t server_accepted(void);
/* Serves until stopped; returns an exit code: 0, or 1 after a failure that was printed. */
int server_run(const char *name, connection_handler *handler);

#endif
