;; A recursion whose poll stands behind early exits, within blocks, after calls that can freeze too.
(module
  (import "host" "emit" (func $emit (param i32)))
  (func $count (param $n i32) (result i32)
    (local $sum i32)
    (loop $turn
      (local.set $sum (i32.add (local.get $sum) (local.get $n)))
      (br_if $turn (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum))
  (func $tree (param $n i32) (param $x i64) (result i64)
    (local $left i64)
    (call $emit (local.get $n))
    (block $leaf
      (br_if $leaf (i32.lt_s (local.get $n) (i32.const 2)))
      (if (i32.eq (local.get $n) (i32.const 3))
        (then (local.set $x (i64.extend_i32_u (call $count (i32.const 3)))))
        (else
          (local.set $x (i64.add (local.get $x) (i64.extend_i32_u (call $count (local.get $n)))))
          (local.set $left
            (call $tree (i32.sub (local.get $n) (i32.const 1)) (i64.mul (local.get $x) (i64.const 3))))
          (return
            (i64.add (local.get $left)
              (call $tree (i32.sub (local.get $n) (i32.const 2)) (local.get $x))))))
      (return (i64.sub (local.get $x) (i64.const 1))))
    (local.get $x))
  (func (export "run") (result i64) (call $tree (i32.const 6) (i64.const 1))))
