// A program in AssemblyScript: classes, its garbage collector, maps, strings, arrays, closures of
// its kind. Prints what it comes to; the same everywhere.

class Node {
  left: Node | null = null;
  right: Node | null = null;
  constructor(public value: i32) {}

  insert(value: i32): void {
    if (value < this.value) {
      const left = this.left;
      if (left) left.insert(value);
      else this.left = new Node(value);
    } else {
      const right = this.right;
      if (right) right.insert(value);
      else this.right = new Node(value);
    }
  }

  sum(depth: i32): i64 {
    let sum = <i64>this.value * depth;
    const left = this.left;
    if (left) sum += left.sum(depth + 1);
    const right = this.right;
    if (right) sum += right.sum(depth + 1);
    return sum;
  }
}

let state: u32 = 1;
function draw(below: u32): u32 {
  state = state * 1664525 + 1013904223;
  return (state >> 8) % below;
}

let checksum: u32 = 2166136261;
function mix(value: u32): void {
  checksum = (checksum ^ value) * 16777619;
}

for (let round = 0; round < 20; round++) {
  const tree = new Node(500);
  for (let i = 0; i < 200; i++) tree.insert(draw(1000));
  mix(<u32>tree.sum(1));
  const names = new Map<string, i32>();
  for (let i = 0; i < 100; i++) {
    const name = "n" + draw(30).toString();
    names.set(name, (names.has(name) ? names.get(name) : 0) + i);
  }
  const keys = names.keys();
  keys.sort();
  for (let i = 0; i < keys.length; i++) mix(names.get(keys[i]) + keys[i].length);
  const parts = keys.join(",").split(",").map<i32>((key) => key.length);
  mix(parts.reduce<i32>((sum, length) => sum * 3 + length, 0));
}
console.log("checksum " + checksum.toString(16));
