// A C++ program: containers, strings, sorting, virtual calls, closures, smart pointers, global
// objects with constructors and destructors. `cxx ROUNDS` does each part in every round and prints
// what it comes to; the same argument prints the same text everywhere.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

namespace {

class Checksum {
  public:
    void add(std::uint32_t value) { value_ = (value_ ^ value) * 16777619u; }
    void add(const std::string &text) {
        for (unsigned char letter : text)
            add(letter);
    }
    std::uint32_t value() const { return value_; }

  private:
    std::uint32_t value_ = 2166136261u;
};

class Random {
  public:
    std::uint32_t draw(std::uint32_t below) {
        state_ = state_ * 1664525u + 1013904223u;
        return (state_ >> 8) % below;
    }

  private:
    std::uint32_t state_ = 1;
};

// Made before main, and gone after it.
struct Farewell {
    std::vector<std::string> words{"constructed"};
    ~Farewell() {
        words.push_back("destroyed");
        for (const std::string &word : words)
            std::printf("global object: %s\n", word.c_str());
    }
} farewell;

// Maps, sets and strings.
void count_words(Random &random, Checksum &checksum) {
    static constexpr std::array names{"godwit", "tide", "wind", "mudflat", "estuary", "northward"};
    std::map<std::string, std::vector<int>> ordered;
    std::unordered_map<std::string, int> hashed;
    for (int i = 0; i < 300; i++) {
        std::string word = names[random.draw(names.size())];
        word += "-" + std::to_string(random.draw(20));
        ordered[word].push_back(i);
        hashed[word] += i;
    }
    for (const auto &[word, places] : ordered) {
        checksum.add(word);
        checksum.add(std::accumulate(places.begin(), places.end(), 0u));
        if (hashed[word] % 3 == 0)
            hashed.erase(word);
    }
    std::set<int> sums;
    for (const auto &[word, sum] : hashed)
        sums.insert(sum);
    for (int sum : sums)
        checksum.add(static_cast<std::uint32_t>(sum));
}

// Objects behind a base class, and visitors of a variant.
struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
};
struct Square : Shape {
    explicit Square(double side) : side(side) {}
    double area() const override { return side * side; }
    double side;
};
struct Circle final : Square {
    using Square::Square;
    double area() const override { return 3.0 * Square::area(); }
};

void measure_shapes(Random &random, Checksum &checksum) {
    std::vector<std::unique_ptr<Shape>> shapes;
    for (int i = 0; i < 200; i++) {
        double side = 1.0 + random.draw(16) / 4.0;
        if (random.draw(2))
            shapes.push_back(std::make_unique<Square>(side));
        else
            shapes.push_back(std::make_unique<Circle>(side));
    }
    std::stable_sort(shapes.begin(), shapes.end(), [](const auto &a, const auto &b) {
        return a->area() < b->area();
    });
    double total = 0;
    for (std::size_t i = 0; i < shapes.size(); i++)
        total += shapes[i]->area() * static_cast<double>(i);
    checksum.add(static_cast<std::uint32_t>(total));

    std::vector<std::variant<int, std::string, std::optional<double>>> values;
    for (int i = 0; i < 60; i++) {
        switch (random.draw(3)) {
        case 0: values.emplace_back(i); break;
        case 1: values.emplace_back(std::string(static_cast<std::size_t>(i), 'x')); break;
        default: values.emplace_back(i % 2 ? std::optional(i / 2.0) : std::nullopt);
        }
    }
    struct {
        std::uint32_t operator()(int value) { return static_cast<std::uint32_t>(value); }
        std::uint32_t operator()(const std::string &value) { return 1000u + value.size(); }
        std::uint32_t operator()(std::optional<double> value) {
            return static_cast<std::uint32_t>(value.value_or(7.5) * 2);
        }
    } number;
    for (const auto &value : values)
        checksum.add(std::visit(number, value));
}

// Closures kept in a queue, and recursion through them.
void run_jobs(Random &random, Checksum &checksum) {
    std::priority_queue<std::pair<std::uint32_t, int>> order;
    std::vector<std::function<std::uint32_t(std::uint32_t)>> jobs;
    for (int i = 0; i < 80; i++) {
        std::uint32_t factor = random.draw(100) + 1;
        jobs.emplace_back([factor, calls = 0u](std::uint32_t x) mutable {
            return x * factor + ++calls;
        });
        order.emplace(random.draw(1000), i);
    }
    std::uint32_t value = 1;
    for (; !order.empty(); order.pop())
        value = jobs[static_cast<std::size_t>(order.top().second)](value);
    checksum.add(value);

    std::function<std::uint32_t(std::uint32_t)> steps = [&](std::uint32_t n) -> std::uint32_t {
        return n == 1 ? 0 : 1 + steps(n % 2 ? 3 * n + 1 : n / 2);
    };
    for (std::uint32_t n = 1; n < 30; n++)
        checksum.add(steps(n));

    std::deque<std::shared_ptr<std::string>> window;
    for (int i = 0; i < 100; i++) {
        auto shared = std::make_shared<std::string>(std::to_string(random.draw(5000)));
        window.push_back(shared);
        if (window.size() > 10)
            window.pop_front();
        checksum.add(*window.front());
        checksum.add(static_cast<std::uint32_t>(shared.use_count()));
    }
}

} // namespace

int main(int argc, char **argv) {
    long rounds = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 1;
    if (rounds < 1 || rounds > 1000000) {
        std::printf("usage: cxx ROUNDS; ROUNDS is 1 to 1000000\n");
        return 2;
    }
    Random random;
    Checksum checksum;
    for (long round = 1; round <= rounds; round++) {
        count_words(random, checksum);
        measure_shapes(random, checksum);
        run_jobs(random, checksum);
        if (round == 1)
            std::printf("after one round: %08x\n", static_cast<unsigned>(checksum.value()));
    }
    std::printf("rounds %ld, checksum %08x\n", rounds, static_cast<unsigned>(checksum.value()));
    farewell.words.push_back("used");
    return 0;
}
