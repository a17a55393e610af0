/* A TCP echo server: every byte comes back, in order, to the connection it came from.
 *
 * A client that shuts its writing side gets the rest of its bytes and then the end. A line that
 * says QUIT is echoed too, and ends the server, which then prints what it has done. */
#include "server.h"

#include <inttypes.h>
#include <stdio.h>

static uint64_t echoed;

/* Finds the end of a line "QUIT" in `count` new bytes. `matched` is how far the line at hand
   agrees with it, kept from call to call: 0 to 4 letters, 5 after a carriage return,
   LINE_DIFFERS when it cannot be the line any more. Returns the bytes up to the line's end, or 0. */
enum { LINE_DIFFERS = 6 };
static size_t find_quit(const char *data, size_t count, size_t *matched) {
    static const char line[] = "QUIT";
    for (size_t i = 0; i < count; i++) {
        char byte = data[i];
        if (byte == '\n') {
            if (*matched == 4 || *matched == 5)
                return i + 1;
            *matched = 0;
        } else if (*matched < 4 && byte == line[*matched]) {
            ++*matched;
        } else if (*matched == 4 && byte == '\r') {
            *matched = 5;
        } else {
            *matched = LINE_DIFFERS;
        }
    }
    return 0;
}

static void echo(struct connection *connection) {
    size_t room = connection_room(connection);
    size_t count = connection->input.length < room ? connection->input.length : room;
    if (count) {
        const char *data = bytes_front(&connection->input);
        size_t last = find_quit(data, count, &connection->examined);
        if (last)
            count = last;
        connection_send(connection, data, count);
        bytes_consume(&connection->input, count);
        echoed += count;
        if (last) {
            server_stop_after(connection);
            return;
        }
    }
    connection->unfinished = connection->input.length > 0;
    if (connection->input_ended && !connection->unfinished)
        connection->closing = true;
}

int main(void) {
    int code = server_run("echo", echo);
    printf("echo: connections %" PRIu64 ", bytes %" PRIu64 "\n", server_accepted(), echoed);
    return code;
}
