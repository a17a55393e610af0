/* An HTTP/1.1 server with keep-alive and pipelining, which exercises a process in several ways:
 *
 *   GET  /count    one more than the last time: state in memory
 *   GET  /hash/N   N rounds of FNV-1a: time on the processor
 *   GET  /time     seconds since 1970: the clock
 *   GET  /big/N    N bytes, in the pattern of `pattern`, made as the client reads them: back-pressure
 *   POST /echo     the body, up to 1 MiB
 *   GET  /quit     ends the server */
#include "http.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define BODY_LIMIT ((size_t)1024 * 1024)
#define BIG_LIMIT ((uint64_t)1 << 40)
#define HASH_LIMIT ((uint64_t)1 << 40)

static uint64_t count, requests;

/* The pattern of /big: counted from the end of the body, 63 letters and a line feed, so that a
   byte which is lost, repeated or moved shows. */
static char pattern(uint64_t from_end) {
    static const char letters[] =
        "\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    /* The letter moves on by one from line to line. */
    uint64_t column = from_end % 64, line = from_end / 64;
    return column ? letters[1 + (column + line) % 63] : letters[0];
}

/* Sends more of a /big body. */
static void produce(struct connection *connection) {
    char block[4096];
    while (connection->remaining) {
        size_t size = connection_room(connection);
        if (!size)
            return;
        if (size > sizeof block)
            size = sizeof block;
        if (size > connection->remaining)
            size = (size_t)connection->remaining;
        for (size_t i = 0; i < size; i++)
            block[i] = pattern(connection->remaining - 1 - i);
        connection_send(connection, block, size);
        connection->remaining -= size;
    }
}

static uint32_t hash(uint64_t rounds) {
    uint32_t value = 2166136261u;
    for (uint64_t i = 0; i < rounds; i++) {
        value ^= (uint32_t)(i & 255);
        value *= 16777619u;
    }
    return value;
}

static void respond(struct connection *connection, const struct request *request) {
    struct span path = request->path;
    uint64_t number;
    requests++;
    bool echo = span_is(path, "/echo");
    bool known = echo || span_is(path, "/count") || span_is(path, "/time") ||
                 span_is(path, "/quit") || span_skip(&path, "/hash/") || span_skip(&path, "/big/");
    if (!known) {
        http_answer_line(connection, request, 404, "there is nothing here");
    } else if (echo ? !request->post : !request->get) {
        http_refuse_method(connection, request, echo ? "POST" : "GET");
    } else if (echo) {
        http_answer(connection, request, 200, request->body.data, request->body.length);
    } else if (span_is(path, "/count")) {
        http_answer_line(connection, request, 200, "%" PRIu64, ++count);
    } else if (span_is(path, "/time")) {
        http_answer_line(connection, request, 200, "%lld", (long long)time(NULL));
    } else if (span_is(path, "/quit")) {
        http_answer_line(connection, request, 200, "bye");
        server_stop_after(connection);
    } else if (request->path.data[1] == 'h') {
        if (span_number(path, HASH_LIMIT, &number))
            http_answer_line(connection, request, 200, "%08" PRIx32, hash(number));
        else
            http_answer_line(connection, request, 400, "/hash/N: N is 0 to 2^40");
    } else if (!span_number(path, BIG_LIMIT, &number)) {
        http_answer_line(connection, request, 400, "/big/N: N is 0 to 2^40");
    } else {
        http_answer_head(connection, request, 200, number);
        connection->remaining = number;
    }
}

static void serve(struct connection *connection) {
    http_serve(connection, BODY_LIMIT, respond, produce);
}

int main(void) {
    int code = server_run("httpd", serve);
    printf("httpd: connections %" PRIu64 ", requests %" PRIu64 "\n", server_accepted(), requests);
    return code;
}
