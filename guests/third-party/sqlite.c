/* Drives SQLite through a fixed mix of work and prints rows and sums.
 *
 * `sqlite SCALE [FILE]`: SCALE is how many hundred customers there are; without FILE the database
 * is in memory. The same arguments print the same text everywhere. */
#include <sqlite3.h>

#include <stdio.h>
#include <stdlib.h>

static sqlite3 *database;

static void fail(const char *what) {
    printf("failed: %s: %s\n", what, database ? sqlite3_errmsg(database) : "no database");
    exit(1);
}

static void run(const char *sql) {
    if (sqlite3_exec(database, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail(sql);
}

static sqlite3_stmt *prepare(const char *sql) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(database, sql, -1, &statement, NULL) != SQLITE_OK)
        fail(sql);
    return statement;
}

/* Prints every row of a query, columns separated by bars. */
static void show(const char *title, const char *sql) {
    sqlite3_stmt *statement = prepare(sql);
    int code;
    printf("-- %s\n", title);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(statement); i++) {
            const unsigned char *text = sqlite3_column_text(statement, i);
            printf("%s%s", i ? "|" : "", text ? (const char *)text : "NULL");
        }
        printf("\n");
    }
    if (code != SQLITE_DONE)
        fail(sql);
    sqlite3_finalize(statement);
}

static unsigned random_state = 1;

static unsigned draw(unsigned below) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % below;
}

static void step(sqlite3_stmt *statement) {
    if (sqlite3_step(statement) != SQLITE_DONE)
        fail("insert");
    sqlite3_reset(statement);
}

static void fill(int customers) {
    run("CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);"
        "CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER NOT NULL,"
        " amount INTEGER NOT NULL, day INTEGER NOT NULL, note TEXT);"
        "CREATE INDEX purchase_customer ON purchase(customer);"
        "BEGIN");
    static const char *const cities[] = {"Alkmaar", "Bergen", "Cadiz", "Dakar", "Esbjerg"};
    sqlite3_stmt *insert = prepare("INSERT INTO customer VALUES(?1, ?2, ?3)");
    for (int i = 1; i <= customers; i++) {
        char name[64];
        snprintf(name, sizeof name, "customer %05u of %d", draw(100000), i);
        sqlite3_bind_int(insert, 1, i);
        sqlite3_bind_text(insert, 2, name, -1, SQLITE_TRANSIENT);
        sqlite3_bind_text(insert, 3, cities[draw(5)], -1, SQLITE_STATIC);
        step(insert);
    }
    sqlite3_finalize(insert);
    insert = prepare("INSERT INTO purchase VALUES(?1, ?2, ?3, ?4, ?5)");
    for (int i = 1; i <= customers * 20; i++) {
        char note[96];
        snprintf(note, sizeof note, "%s order %x for %u", draw(2) ? "web" : "shop", i * 2654435761u,
                 draw(1000));
        sqlite3_bind_int(insert, 1, i);
        sqlite3_bind_int(insert, 2, 1 + (int)draw((unsigned)customers));
        sqlite3_bind_int(insert, 3, (int)draw(10000));
        sqlite3_bind_int(insert, 4, (int)draw(365));
        if (draw(7))
            sqlite3_bind_text(insert, 5, note, -1, SQLITE_TRANSIENT);
        else
            sqlite3_bind_null(insert, 5);
        step(insert);
    }
    sqlite3_finalize(insert);
    run("COMMIT");
}

int main(int argc, char **argv) {
    int scale = argc > 1 ? atoi(argv[1]) : 1;
    if (scale < 1 || scale > 10000) {
        printf("usage: sqlite SCALE [FILE]; SCALE is 1 to 10000\n");
        return 2;
    }
    /* "unix-none" is SQLite's own way of doing without file locks. */
    const char *file = argc > 2 ? argv[2] : ":memory:";
    if (sqlite3_open_v2(file, &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                        "unix-none") != SQLITE_OK)
        fail("open");
    run("DROP TABLE IF EXISTS customer; DROP TABLE IF EXISTS purchase");
    fill(scale * 100);
    show("rows", "SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM purchase)");
    show("sums by city",
         "SELECT city, count(*), sum(amount), min(day), max(day) FROM purchase JOIN customer"
         " ON customer.id = customer GROUP BY city ORDER BY city");
    show("best customers",
         "SELECT name, sum(amount) AS total FROM customer JOIN purchase ON customer.id = customer"
         " GROUP BY customer.id ORDER BY total DESC, name LIMIT 10");
    show("notes", "SELECT substr(note, 1, 3) AS kind, count(*), sum(length(note)) FROM purchase"
                  " GROUP BY kind ORDER BY kind");
    show("sorted text", "SELECT note FROM purchase WHERE note LIKE '%7%3%' ORDER BY note DESC,"
                        " id LIMIT 5");
    show("running sum", "SELECT day, sum(sum(amount)) OVER (ORDER BY day) FROM purchase"
                        " GROUP BY day ORDER BY day LIMIT 5 OFFSET 180");
    show("steps", "WITH RECURSIVE steps(n, x) AS (VALUES(1, 1) UNION ALL SELECT n + 1,"
                  " (x * 48271) % 2147483647 FROM steps WHERE n < 20000)"
                  " SELECT count(*), sum(x % 1000) FROM steps");
    run("BEGIN; UPDATE purchase SET amount = amount + 1 WHERE day % 3 = 0;"
        "DELETE FROM purchase WHERE id % 5 = 0; COMMIT;"
        "BEGIN; DELETE FROM customer; ROLLBACK");
    show("after changes", "SELECT count(*), sum(amount), avg(amount) FROM purchase");
    show("check", "PRAGMA integrity_check");
    if (sqlite3_close(database) != SQLITE_OK)
        fail("close");
    return 0;
}
