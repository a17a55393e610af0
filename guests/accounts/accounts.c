/* A bank in memory behind HTTP: the program that `limosa demo` moves while it is asked.
 *
 *   POST /transfer?from=A&to=B&amount=N   moves N units; GET does the same
 *       200 seq=17 from=1 to=2 amount=5 left=995 there=1005
 *       409 refused=funds left=3          (nothing was moved)
 *   GET  /balance/A                       account=1 balance=995
 *   GET  /statement/A                     the last transfers of an account, newest first
 *   GET  /sum                             sum=1024000 accounts=1024
 *   GET  /checksum                        count=17 checksum=00112233aabbccdd
 *   GET  /ping                            pong
 *   GET  /quit                            ends the server, if ALLOW_QUIT is set
 *
 * `id=N` in the query of /transfer and /ping comes back at the end of the answer. The number `seq`
 * counts the transfers that were carried out, from 1. The checksum is FNV-1a over the 8-byte
 * little-endian words seq, from, to, amount of each, in their order: whoever collects all answers
 * can compute it too. So an answer that was lost, repeated or taken from the wrong moment shows.
 *
 * `accounts --bench N` answers N made-up requests without a network and prints the checksum. */
#include "http.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ACCOUNTS = 1024,
    OPENING_BALANCE = 1000,
    /* Of each account that many transfers are kept: 4 MiB in all, so that moving this process
       means moving memory, and transfers write to pages all over it. */
    STATEMENT = 128,
    SHOWN = 8,
};

struct entry {
    uint64_t seq;     /* 0: not used yet */
    uint64_t receipt; /* drawn at the start, so that no page is empty or like another */
    uint32_t from, to;
    uint64_t amount;
};

static struct account {
    uint64_t balance;
    uint64_t transfers; /* the newest is statement[(transfers - 1) % STATEMENT] */
    struct entry statement[STATEMENT];
} accounts[ACCOUNTS];

static uint64_t carried_out;
static uint64_t checksum = 0xcbf29ce484222325u;

static void open_accounts(void) {
    uint64_t state = 1;
    for (int i = 0; i < ACCOUNTS; i++) {
        accounts[i].balance = OPENING_BALANCE;
        for (int k = 0; k < STATEMENT; k++) {
            /* SplitMix64. */
            uint64_t mixed = state += 0x9e3779b97f4a7c15u;
            mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
            mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
            accounts[i].statement[k].receipt = mixed ^ (mixed >> 31);
        }
    }
}

static void add_to_checksum(uint64_t word) {
    for (int i = 0; i < 8; i++) {
        checksum ^= word >> (8 * i) & 255;
        checksum *= 0x100000001b3u;
    }
}

static void record(struct account *account, uint64_t seq, uint32_t from, uint32_t to,
                   uint64_t amount) {
    struct entry *entry = &account->statement[account->transfers++ % STATEMENT];
    entry->seq = seq;
    entry->from = from;
    entry->to = to;
    entry->amount = amount;
}

/* A number in the query; false if it is missing, no number, or above the limit. */
static bool query_number(const struct request *request, const char *name, uint64_t limit,
                         uint64_t *number) {
    struct span value;
    return query_value(request->query, name, &value) && span_number(value, limit, number);
}

/* " id=N" if the query has an id, else nothing. False: it has one that is no number. */
static bool read_id(const struct request *request, char text[32]) {
    struct span value;
    uint64_t id;
    text[0] = 0;
    if (!query_value(request->query, "id", &value))
        return true;
    if (!span_number(value, UINT64_MAX, &id))
        return false;
    snprintf(text, 32, " id=%" PRIu64, id);
    return true;
}

static void transfer(struct connection *connection, const struct request *request,
                     const char *id) {
    uint64_t from, to, amount;
    if (!query_number(request, "from", ACCOUNTS - 1, &from) ||
        !query_number(request, "to", ACCOUNTS - 1, &to) ||
        !query_number(request, "amount", UINT32_MAX, &amount) || from == to || !amount) {
        http_answer_line(connection, request, 400,
                         "give from and to, two accounts from 0 to %d, and an amount above 0",
                         ACCOUNTS - 1);
        return;
    }
    struct account *payer = &accounts[from], *payee = &accounts[to];
    if (payer->balance < amount) {
        http_answer_line(connection, request, 409, "refused=funds left=%" PRIu64 "%s",
                         payer->balance, id);
        return;
    }
    payer->balance -= amount;
    payee->balance += amount;
    uint64_t seq = ++carried_out;
    record(payer, seq, (uint32_t)from, (uint32_t)to, amount);
    record(payee, seq, (uint32_t)from, (uint32_t)to, amount);
    add_to_checksum(seq);
    add_to_checksum(from);
    add_to_checksum(to);
    add_to_checksum(amount);
    http_answer_line(connection, request, 200,
                     "seq=%" PRIu64 " from=%" PRIu64 " to=%" PRIu64 " amount=%" PRIu64
                     " left=%" PRIu64 " there=%" PRIu64 "%s",
                     seq, from, to, amount, payer->balance, payee->balance, id);
}

static void statement(struct connection *connection, const struct request *request,
                      const struct account *account) {
    char text[SHOWN * 96];
    size_t length = 0;
    for (uint64_t k = 0; k < SHOWN && k < account->transfers; k++) {
        const struct entry *entry =
            &account->statement[(account->transfers - 1 - k) % STATEMENT];
        length += (size_t)snprintf(text + length, sizeof text - length,
                                   "seq=%" PRIu64 " from=%" PRIu32 " to=%" PRIu32
                                   " amount=%" PRIu64 "\n",
                                   entry->seq, entry->from, entry->to, entry->amount);
    }
    http_answer(connection, request, 200, text, length);
}

static void respond(struct connection *connection, const struct request *request) {
    struct span path = request->path;
    uint64_t number;
    char id[32];
    bool moves = span_is(path, "/transfer");
    if (!request->get && !(moves && request->post)) {
        http_refuse_method(connection, request, moves ? "GET, POST" : "GET");
    } else if (!read_id(request, id)) {
        http_answer_line(connection, request, 400, "id is a number");
    } else if (moves) {
        transfer(connection, request, id);
    } else if (span_is(path, "/ping")) {
        http_answer_line(connection, request, 200, "pong%s", id);
    } else if (span_is(path, "/sum")) {
        uint64_t sum = 0;
        for (int i = 0; i < ACCOUNTS; i++)
            sum += accounts[i].balance;
        http_answer_line(connection, request, 200, "sum=%" PRIu64 " accounts=%d", sum, ACCOUNTS);
    } else if (span_is(path, "/checksum")) {
        http_answer_line(connection, request, 200, "count=%" PRIu64 " checksum=%016" PRIx64,
                         carried_out, checksum);
    } else if (span_skip(&path, "/balance/")) {
        if (span_number(path, ACCOUNTS - 1, &number))
            http_answer_line(connection, request, 200, "account=%" PRIu64 " balance=%" PRIu64,
                             number, accounts[number].balance);
        else
            http_answer_line(connection, request, 404, "accounts are 0 to %d", ACCOUNTS - 1);
    } else if (span_skip(&path, "/statement/")) {
        if (span_number(path, ACCOUNTS - 1, &number))
            statement(connection, request, &accounts[number]);
        else
            http_answer_line(connection, request, 404, "accounts are 0 to %d", ACCOUNTS - 1);
    } else if (span_is(path, "/quit")) {
        if (getenv("ALLOW_QUIT")) {
            http_answer_line(connection, request, 200, "bye");
            server_stop_after(connection);
        } else {
            http_answer_line(connection, request, 403, "ALLOW_QUIT is not set");
        }
    } else {
        http_answer_line(connection, request, 404, "there is nothing here");
    }
}

static void serve(struct connection *connection) {
    /* A body has no meaning here; a small one is read and dropped. */
    http_serve(connection, 4096, respond, NULL);
}

/* The request loop by itself: what a client would send goes straight to the input queue. */
static int bench(const char *argument) {
    struct span text = {argument, strlen(argument)};
    uint64_t requests, answered = 0, random = 1;
    if (!span_number(text, UINT32_MAX, &requests)) {
        fprintf(stderr, "accounts: --bench N: N is a number\n");
        return 2;
    }
    struct connection connection = {0};
    for (uint64_t i = 0; i < requests; i++) {
        char line[160];
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned from = random >> 54, to = (from + 1 + (random >> 33 & 511)) % ACCOUNTS;
        int size =
            i % 8 == 7
                ? snprintf(line, sizeof line, "GET /balance/%u HTTP/1.1\r\nHost: bank\r\n\r\n", to)
                : snprintf(line, sizeof line,
                           "POST /transfer?from=%u&to=%u&amount=%u&id=%" PRIu64
                           " HTTP/1.1\r\nHost: bank\r\nContent-Length: 0\r\n\r\n",
                           from, to, (unsigned)(random >> 28 & 7) + 1, i);
        if (!bytes_append(&connection.input, line, (size_t)size)) {
            fprintf(stderr, "accounts: out of memory\n");
            return 1;
        }
        serve(&connection);
        answered += connection.output.length;
        bytes_consume(&connection.output, connection.output.length);
    }
    bytes_free(&connection.input);
    bytes_free(&connection.output);
    printf("requests=%" PRIu64 " bytes=%" PRIu64 " count=%" PRIu64 " checksum=%016" PRIx64 "\n",
           requests, answered, carried_out, checksum);
    return 0;
}

int main(int argc, char **argv) {
    open_accounts();
    if (argc == 3 && !strcmp(argv[1], "--bench"))
        return bench(argv[2]);
    if (argc > 1) {
        fprintf(stderr, "usage: accounts [--bench N]\n");
        return 2;
    }
    int code = server_run("accounts", serve);
    printf("accounts: connections %" PRIu64 ", transfers %" PRIu64 ", checksum %016" PRIx64 "\n",
           server_accepted(), carried_out, checksum);
    return code;
}
