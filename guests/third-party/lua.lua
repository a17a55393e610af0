-- What the Lua guest does: every part in each round, then one line of results.
local size = ...

local function mix(checksum, value)
    return ((checksum ~ value) * 16777619) & 0xffffffff
end

local random_state = 1
local function draw(below)
    random_state = (random_state * 1664525 + 1013904223) & 0xffffffff
    return (random_state >> 8) % below
end

-- Calls and integers.
local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2)
end

-- Floats in tables: two small matrices.
local function matrices(n)
    local function filled(seed)
        local rows = {}
        for i = 1, n do
            rows[i] = {}
            for j = 1, n do rows[i][j] = (i * seed + j) / n end
        end
        return rows
    end
    local a, b, sum = filled(1), filled(3), 0.0
    for i = 1, n do
        for j = 1, n do
            local cell = 0.0
            for k = 1, n do cell = cell + a[i][k] * b[k][j] end
            sum = sum + cell
        end
    end
    return sum
end

-- Strings: made, taken apart, replaced, joined.
local function strings(n)
    local lines = {}
    for i = 1, n do
        lines[#lines + 1] = string.format("%05d %s=%x", draw(100000), ("k"):rep(i % 7 + 1), i)
    end
    local text, letters, checksum = table.concat(lines, "\n"), 0, 0
    for number, key, value in text:gmatch("(%d+) (k+)=(%x+)") do
        letters = letters + #key
        checksum = mix(checksum, tonumber(number) + tonumber(value, 16))
    end
    local upper, count = text:gsub("k+", function(run) return run:upper() .. #run end)
    return mix(checksum, letters + count + #upper + upper:byte(#upper // 2))
end

-- Tables: hashed, sorted by a function, emptied.
local function tables(n)
    local by_name, list = {}, {}
    for i = 1, n do
        local name = "n" .. draw(n)
        by_name[name] = (by_name[name] or 0) + i
    end
    for name, sum in pairs(by_name) do list[#list + 1] = { name = name, sum = sum } end
    table.sort(list, function(a, b)
        if a.sum ~= b.sum then return a.sum < b.sum end
        return a.name < b.name
    end)
    local checksum = 0
    for position, entry in ipairs(list) do
        checksum = mix(checksum, entry.sum * position + #entry.name)
        by_name[entry.name] = nil
    end
    assert(next(by_name) == nil)
    return checksum
end

-- Objects: metatables, inheritance, closures that share a variable.
local Shape = {}
Shape.__index = Shape
function Shape.new(class, side) return setmetatable({ side = side }, class) end
function Shape:area() return self.side * self.side end
local Circle = setmetatable({}, { __index = Shape })
Circle.__index = Circle
Circle.__add = function(a, b) return Shape.new(Circle, a.side + b.side) end
function Circle:area() return 3 * self.side * self.side end

local function objects(n)
    local total = 0
    local function counter()
        return function(by) total = total + by; return total end
    end
    local add, shapes = counter(), {}
    for i = 1, n do
        local shape = Shape.new(i % 3 == 0 and Circle or Shape, i % 17)
        if i % 9 == 0 then shape = shape + Shape.new(Circle, 1) end
        shapes[i % 50] = shape
        add(shape:area())
    end
    return total
end

-- Errors, caught at several depths, and coroutines.
local function errors_and_coroutines(n)
    local checksum = 0
    local function deep(level)
        if level == 0 then error({ code = draw(100) }) end
        return deep(level - 1) + 1
    end
    for i = 1, n do
        local ok, what = pcall(deep, i % 12)
        assert(not ok)
        checksum = mix(checksum, what.code)
        local _, text = pcall(function() local none; return none.field end)
        checksum = mix(checksum, #text)
    end
    local function numbers(from, to)
        return coroutine.wrap(function()
            for i = from, to do coroutine.yield(i) end
            error("the end", 0)
        end)
    end
    local a, b = numbers(1, n), numbers(n, 2 * n - 1)
    for _ = 1, n do checksum = mix(checksum, a() * b()) end
    local ok, text = pcall(a)
    assert(not ok and text == "the end")
    return checksum
end

print(_VERSION)
local checksum = 0
for round = 1, size do
    checksum = mix(checksum, fib(15))
    checksum = mix(checksum, math.floor(matrices(12) * 1000))
    checksum = mix(checksum, strings(60))
    checksum = mix(checksum, tables(80))
    checksum = mix(checksum, objects(400))
    checksum = mix(checksum, errors_and_coroutines(20))
    if round == 1 then print("after one round", checksum) end
end
print("rounds", size, "checksum", checksum)
