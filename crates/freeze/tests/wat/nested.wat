;; Loops in loops, with a loop that makes a host call and operands below it.
(module
  (import "host" "emit" (func $emit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "limosa")
  (func (export "run") (result i32)
    (local $i i32) (local $j i32) (local $sum i32)
    (loop $outer
      (local.set $j (i32.const 0))
      (local.set $sum
        (i32.add
          (local.get $sum)
          (block (result i32)
            (i32.const 1000)
            (loop $inner (result i32)
              (i32.store8 offset=100 (local.get $i) (i32.add (local.get $j) (i32.load8_u (i32.const 16))))
              (local.set $j (i32.add (local.get $j) (i32.const 1)))
              (br_if $inner (i32.lt_u (local.get $j) (i32.const 5)))
              (local.get $j))
            (i32.add))))
      (call $emit (local.get $sum))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $outer (i32.lt_u (local.get $i) (i32.const 4))))
    (local.get $sum)))
