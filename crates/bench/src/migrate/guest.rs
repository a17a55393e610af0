//! A program with so much memory, which it writes all through once and then at a certain rate.

use crate::harness::Error;

/// How often it wakes up to write, per second.
const WAKES: u64 = 1000;
const PAGE: u64 = 4096;

/// The program. It prints a line when it has written all of its memory.
pub(super) fn module(memory_mib: u64, dirty_mib_per_s: u64) -> Result<Vec<u8>, Error> {
    let (wasm_pages, pages) = (memory_mib * 16, (memory_mib << 20) / PAGE);
    // Thousandths of a page for each time it wakes, so that slow rates are met too.
    let share = (dirty_mib_per_s << 20) * 1000 / PAGE / WAKES;
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") {wasm_pages} {wasm_pages})
  ;; What it prints; a wait of 1 ms.
  (data (i32.const 0) "\10\00\00\00\06\00\00\00")
  (data (i32.const 16) "ready\n")
  (data (i32.const 80) "\01\00\00\00\00\00\00\00\40\42\0f\00\00\00\00\00")
  (func (export "_start")
    (local $page i32) (local $at i32) (local $word i64) (local $owed i32)
    ;; Nothing on a page is like anything else, so that nothing can be left out.
    (local.set $word (i64.const 0x9e3779b97f4a7c15))
    (local.set $at (i32.const 4096))
    (loop $fill
      (local.set $word (i64.mul
        (i64.xor (local.get $word) (i64.shr_u (local.get $word) (i64.const 29)))
        (i64.const 0xbf58476d1ce4e5b9)))
      (i64.store (local.get $at) (local.get $word))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $fill (i32.lt_u (i32.shr_u (local.get $at) (i32.const 12)) (i32.const {pages}))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 200)))
    (local.set $page (i32.const 1))
    (loop $live
      (drop (call $poll (i32.const 64) (i32.const 160) (i32.const 1) (i32.const 192)))
      (local.set $owed (i32.add (local.get $owed) (i32.const {share})))
      (loop $write_pages
        (if (i32.ge_u (local.get $owed) (i32.const 1000))
          (then
            (local.set $owed (i32.sub (local.get $owed) (i32.const 1000)))
            (local.set $at (i32.shl (local.get $page) (i32.const 12)))
            (i64.store (local.get $at) (i64.add (i64.load (local.get $at)) (i64.const 1)))
            (local.set $page (i32.add (local.get $page) (i32.const 1)))
            (if (i32.ge_u (local.get $page) (i32.const {pages}))
              (then (local.set $page (i32.const 1))))
            (br $write_pages))))
      (br $live))))"#
    );
    wat::parse_str(text).map_err(|error| Error::System {
        doing: "cannot make the program",
        error: std::io::Error::other(error),
    })
}
