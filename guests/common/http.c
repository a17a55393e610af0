#define _GNU_SOURCE
#include "http.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

bool span_is(struct span span, const char *text) {
    return span.length == strlen(text) && !memcmp(span.data, text, span.length);
}

static bool span_is_ignoring_case(struct span span, const char *text) {
    return span.length == strlen(text) && !strncasecmp(span.data, text, span.length);
}

bool span_skip(struct span *span, const char *prefix) {
    size_t length = strlen(prefix);
    if (span->length < length || memcmp(span->data, prefix, length))
        return false;
    span->data += length;
    span->length -= length;
    return true;
}

bool span_number(struct span span, uint64_t limit, uint64_t *number) {
    uint64_t value = 0;
    if (!span.length)
        return false;
    for (size_t i = 0; i < span.length; i++) {
        unsigned digit = (unsigned char)span.data[i] - '0';
        if (digit > 9 || digit > limit || value > (limit - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *number = value;
    return true;
}

/* Cuts `span` at the first `separator`; returns what precedes it, and leaves what follows. */
static struct span span_cut(struct span *span, char separator) {
    const char *found = span->length ? memchr(span->data, separator, span->length) : NULL;
    struct span before = {span->data, found ? (size_t)(found - span->data) : span->length};
    size_t taken = before.length + (found ? 1 : 0);
    span->data += taken;
    span->length -= taken;
    return before;
}

static struct span span_trim(struct span span) {
    while (span.length && (*span.data == ' ' || *span.data == '\t')) {
        span.data++;
        span.length--;
    }
    while (span.length &&
           (span.data[span.length - 1] == ' ' || span.data[span.length - 1] == '\t'))
        span.length--;
    return span;
}

bool query_value(struct span query, const char *name, struct span *value) {
    bool found = false;
    while (query.length) {
        struct span pair = span_cut(&query, '&');
        struct span key = span_cut(&pair, '=');
        if (!span_is(key, name))
            continue;
        if (found)
            return false;
        *value = pair;
        found = true;
    }
    return found;
}

static const char *reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 505: return "HTTP Version Not Supported";
    default: return "Answer";
    }
}

static void send_head(struct connection *connection, const struct request *request, int status,
                      const char *allow, uint64_t size) {
    char head[256];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\n%s%s"
                          "Content-Length: %" PRIu64 "\r\n\r\n",
                          status, reason(status), allow,
                          request->keep_alive ? "" : "Connection: close\r\n", size);
    connection_send(connection, head, (size_t)length);
    connection->last_answer = !request->keep_alive;
}

void http_answer_head(struct connection *connection, const struct request *request, int status,
                      uint64_t size) {
    send_head(connection, request, status, "", size);
}

void http_refuse_method(struct connection *connection, const struct request *request,
                        const char *allowed) {
    char allow[64], text[64];
    snprintf(allow, sizeof allow, "Allow: %s\r\n", allowed);
    int size = snprintf(text, sizeof text, "this path answers %s\n", allowed);
    send_head(connection, request, 405, allow, (uint64_t)size);
    connection_send(connection, text, (size_t)size);
}

void http_answer(struct connection *connection, const struct request *request, int status,
                 const void *body, size_t size) {
    http_answer_head(connection, request, status, size);
    connection_send(connection, body, size);
}

void http_answer_line(struct connection *connection, const struct request *request, int status,
                      const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0)
        length = 0;
    if ((size_t)length > sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    http_answer(connection, request, status, line, (size_t)length);
}

/* An answer after which the rest of the input has no meaning. */
static void refuse(struct connection *connection, int status, const char *why) {
    struct request request = {.keep_alive = false};
    http_answer_line(connection, &request, status, "%s", why);
}

/* What the head says beside the request line. */
struct head {
    uint64_t content_length;
    bool has_length, transfer_encoding, expect_continue, close, keep_alive;
};

/* Characters of a method or of a field name (RFC 9110, "token"). */
static bool is_token(struct span span) {
    for (size_t i = 0; i < span.length; i++) {
        unsigned char byte = (unsigned char)span.data[i];
        bool letter = (byte | 32) >= 'a' && (byte | 32) <= 'z';
        bool digit = byte >= '0' && byte <= '9';
        if (!letter && !digit && (!byte || !strchr("!#$%&'*+-.^_`|~", byte)))
            return false;
    }
    return span.length > 0;
}

/* Takes one line without its CR LF. False: a line feed without a carriage return. */
static bool take_line(struct span *text, struct span *line) {
    *line = span_cut(text, '\n');
    if (!line->length || line->data[line->length - 1] != '\r')
        return false;
    line->length--;
    return !memchr(line->data, '\r', line->length) && !memchr(line->data, 0, line->length);
}

/* Reads the fields of a head. Returns 0 or a status to refuse with. */
static int read_fields(struct span text, struct head *head) {
    while (text.length) {
        struct span line, name;
        if (!take_line(&text, &line))
            return 400;
        if (!line.length)
            continue; /* the empty line that ends the head */
        if (!memchr(line.data, ':', line.length))
            return 400;
        name = span_cut(&line, ':');
        struct span value = span_trim(line);
        if (!is_token(name))
            return 400;
        if (span_is_ignoring_case(name, "content-length")) {
            uint64_t length;
            if (!span_number(value, UINT64_MAX, &length))
                return 400;
            if (head->has_length && head->content_length != length)
                return 400;
            head->has_length = true;
            head->content_length = length;
        } else if (span_is_ignoring_case(name, "transfer-encoding")) {
            head->transfer_encoding = true;
        } else if (span_is_ignoring_case(name, "expect")) {
            head->expect_continue |= span_is_ignoring_case(value, "100-continue");
        } else if (span_is_ignoring_case(name, "connection")) {
            while (value.length) {
                struct span option = span_trim(span_cut(&value, ','));
                head->close |= span_is_ignoring_case(option, "close");
                head->keep_alive |= span_is_ignoring_case(option, "keep-alive");
            }
        }
    }
    if (head->transfer_encoding)
        return head->has_length ? 400 : 501;
    return 0;
}

/* Reads "METHOD /path?query HTTP/1.x". Returns 0 or a status to refuse with. */
static int read_request_line(struct span line, struct request *request) {
    request->method = span_cut(&line, ' ');
    struct span target = span_cut(&line, ' ');
    if (!is_token(request->method) || !target.length || *target.data != '/')
        return 400;
    if (line.length != 8 || !span_skip(&line, "HTTP/"))
        return 400;
    if (!span_is(line, "1.1") && !span_is(line, "1.0"))
        return 505;
    request->keep_alive = span_is(line, "1.1");
    request->path = span_cut(&target, '?');
    request->query = target;
    request->get = span_is(request->method, "GET");
    request->post = span_is(request->method, "POST");
    return 0;
}

/* Answers or refuses one request. False: it is not complete yet. */
static bool serve_one(struct connection *connection, size_t body_limit, http_responder *respond) {
    const struct bytes *input = &connection->input;
    /* Empty lines before a request are skipped, as RFC 9112 asks of a robust server. */
    while (input->length >= 2 && !memcmp(bytes_front(input), "\r\n", 2)) {
        bytes_consume(&connection->input, 2);
        connection->examined = 0;
    }
    if (!input->length)
        return false;
    const char *data = bytes_front(input);
    /* Where the search for the end of the head goes on; so each byte is looked at once. */
    size_t seen = connection->examined;
    const char *end = memmem(data + seen, input->length - seen, "\r\n\r\n", 4);
    size_t size = end ? (size_t)(end - data) + 4 : input->length;
    if (size > HTTP_HEAD_LIMIT) {
        refuse(connection, 431, "the head is larger than 8192 bytes");
        return true;
    }
    if (!end) {
        connection->examined = size > 3 ? size - 3 : 0;
        return false;
    }

    struct request request = {0};
    struct head head = {0};
    struct span text = {data, size}, line;
    int status = take_line(&text, &line) ? read_request_line(line, &request) : 400;
    if (!status)
        status = read_fields(text, &head);
    if (status) {
        refuse(connection, status,
               status == 400   ? "this is not an HTTP request"
               : status == 501 ? "send a Content-Length, not a Transfer-Encoding"
                               : "speak HTTP/1.1 or HTTP/1.0");
        return true;
    }
    if (head.content_length > body_limit) {
        refuse(connection, 413, "the body is too large");
        return true;
    }
    size_t whole = size + (size_t)head.content_length;
    if (input->length < whole) {
        /* While nothing of the body is there the client may be waiting to be asked for it. */
        if (head.expect_continue && input->length == size && !connection->asked) {
            static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
            connection_send(connection, go_on, sizeof go_on - 1);
            connection->asked = true;
        }
        connection->examined = size - 4;
        return false;
    }
    request.body = (struct span){data + size, (size_t)head.content_length};
    if (head.close)
        request.keep_alive = false;
    else if (head.keep_alive)
        request.keep_alive = true;
    respond(connection, &request);
    bytes_consume(&connection->input, whole);
    connection->examined = 0;
    connection->asked = false;
    return true;
}

void http_serve(struct connection *connection, size_t body_limit, http_responder *respond,
                http_producer *produce) {
    connection->unfinished = false;
    for (;;) {
        if (connection->remaining)
            produce(connection);
        if (!connection->remaining && connection->last_answer)
            connection->closing = true;
        if (connection->closing)
            return;
        if (connection->remaining || !connection_room(connection)) {
            connection->unfinished = true;
            return;
        }
        if (!serve_one(connection, body_limit, respond)) {
            connection->closing = connection->input_ended;
            return;
        }
    }
}
