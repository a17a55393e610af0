/* HTTP/1.0 and 1.1 for small servers: request heads, bodies by Content-Length, keep-alive and
 * pipelining. Chunked requests are refused (501), as every Transfer-Encoding is. */
#ifndef LIMOSA_HTTP_H
#define LIMOSA_HTTP_H

#include "server.h"

/* A head larger than this is refused with 431. */
#define HTTP_HEAD_LIMIT ((size_t)8 * 1024)

/* A piece of the input queue; not terminated by a zero. */
struct span {
    const char *data;
    size_t length;
};

struct request {
    struct span method;
    struct span path;  /* the target up to the question mark */
    struct span query; /* what follows it; empty if there is none */
    struct span body;
    bool keep_alive;
    bool post, get;
};

/* Answers one complete request with the http_answer functions below. */
typedef void http_responder(struct connection *connection, const struct request *request);

/* Sends more of the current answer: as much of `connection->remaining` as there is room for. */
typedef void http_producer(struct connection *connection);

/* Handles all requests that are complete in the input, in order, until the output is full.
 * Requests with a body above `body_limit` are refused with 413. `produce` goes on with an answer
 * that did not fit; NULL if the responder never leaves anything in `connection->remaining`. */
void http_serve(struct connection *connection, size_t body_limit, http_responder *respond,
                http_producer *produce);

/* A whole answer. */
void http_answer(struct connection *connection, const struct request *request, int status,
                 const void *body, size_t size);
/* A whole answer whose body is a printed line. */
void http_answer_line(struct connection *connection, const struct request *request, int status,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Status 405; `allowed` lists the methods that the path answers, such as "GET, POST". */
void http_refuse_method(struct connection *connection, const struct request *request,
                        const char *allowed);
/* The head of an answer with `size` bytes of body; the caller sets `connection->remaining`. */
void http_answer_head(struct connection *connection, const struct request *request, int status,
                      uint64_t size);

bool span_is(struct span span, const char *text);
/* If `span` starts with `prefix`, removes it. */
bool span_skip(struct span *span, const char *prefix);
/* A decimal number that fills the whole span and does not exceed `limit`. */
bool span_number(struct span span, uint64_t limit, uint64_t *number);
/* The value of `name` in a query "a=1&b=2"; false if it is missing or given twice. */
bool query_value(struct span query, const char *name, struct span *value);

#endif
