;; A start function that loops and calls: it runs once, at birth, and can be frozen.
(module
  (import "host" "emit" (func $emit (param i32)))
  (memory (export "memory") 1)
  (global $n (export "n") (mut i32) (i32.const 0))
  (start $start)
  (func $out
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $emit (global.get $n)))
  (func $start (local $i i32)
    (loop $l
      (call $out)
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4)))))
  (func (export "run") (call $start)))
