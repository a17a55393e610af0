"use strict";
// What the QuickJS guest does: every part in each round, then one line of results.

const mix = (checksum, value) => Math.imul(checksum ^ value, 16777619) >>> 0;

let randomState = 1;
const draw = (below) => {
    randomState = (Math.imul(randomState, 1664525) + 1013904223) >>> 0;
    return (randomState >>> 8) % below;
};

// Calls and integers.
const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));

// Typed arrays: a sieve.
function primes(limit) {
    const composite = new Uint8Array(limit);
    let count = 0;
    for (let p = 2; p < limit; p++) {
        if (composite[p]) continue;
        count++;
        for (let m = p * p; m < limit; m += p) composite[m] = 1;
    }
    return count;
}

// Strings and regular expressions.
function strings(n) {
    const lines = [];
    for (let i = 1; i <= n; i++) {
        lines.push(`${String(draw(100000)).padStart(5, "0")} ${"k".repeat((i % 7) + 1)}=${i.toString(16)}`);
    }
    const text = lines.join("\n");
    let checksum = 0;
    for (const [, number, key, value] of text.matchAll(/(\d+) (k+)=([0-9a-f]+)/g)) {
        checksum = mix(checksum, Number(number) + key.length + parseInt(value, 16));
    }
    const upper = text.replace(/k+/g, (run) => run.toUpperCase() + run.length);
    return mix(checksum, upper.length + upper.charCodeAt(upper.length >> 1));
}

// Objects: JSON, maps, sorting with a function, destructuring.
function objects(n) {
    const byName = new Map();
    for (let i = 1; i <= n; i++) {
        const name = `n${draw(n)}`;
        byName.set(name, (byName.get(name) ?? 0) + i);
    }
    const list = [...byName].map(([name, sum]) => ({ name, sum, parts: [sum, { half: sum / 2 }] }));
    list.sort((a, b) => a.sum - b.sum || (a.name < b.name ? -1 : 1));
    const again = JSON.parse(JSON.stringify(list));
    return again.reduce((sum, { name, parts: [whole, { half }] }, at) =>
        mix(sum, whole * at + half * 2 + name.length), 0);
}

// Classes, private fields, getters, inheritance.
class Shape {
    #side;
    constructor(side) { this.#side = side; }
    get side() { return this.#side; }
    area() { return this.side * this.side; }
}
class Circle extends Shape {
    area() { return 3 * super.area(); }
}
function classes(n) {
    let total = 0;
    for (let i = 1; i <= n; i++) total += (i % 3 === 0 ? new Circle(i % 17) : new Shape(i % 17)).area();
    return total;
}

// Exceptions through several frames, generators, big integers.
function exceptionsAndGenerators(n) {
    let checksum = 0;
    const deep = (level) => {
        if (level === 0) throw new RangeError(`code ${draw(100)}`);
        try { return deep(level - 1) + 1; } finally { checksum = mix(checksum, level); }
    };
    for (let i = 1; i <= n; i++) {
        try { deep(i % 12); } catch (error) { checksum = mix(checksum, Number(error.message.slice(5))); }
    }
    function* numbers(from, to) { for (let i = from; i <= to; i++) yield i; }
    for (const number of numbers(1, n)) checksum = mix(checksum, number * number);
    let factorial = 1n;
    for (const number of numbers(1, n)) factorial *= BigInt(number);
    return mix(checksum, Number(factorial % 1000003n));
}

let checksum = 0;
for (let round = 1; round <= size; round++) {
    checksum = mix(checksum, fib(13));
    checksum = mix(checksum, primes(3000));
    checksum = mix(checksum, strings(40));
    checksum = mix(checksum, objects(60));
    checksum = mix(checksum, classes(300));
    checksum = mix(checksum, exceptionsAndGenerators(20));
    if (round === 1) print("after one round", checksum);
}
print("rounds", size, "checksum", checksum);

const later = (value) => new Promise((resolve) => resolve(value));
(async () => {
    let sum = 0;
    for (let i = 0; i < 20; i++) sum += await later(i);
    print("awaited", sum);
})();
