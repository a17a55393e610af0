;; An interpreter: a loop around a switch as compilers write it, with loops and calls in its cases.
(module
  (import "host" "emit" (func $emit (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\00\01\02\03\04\02\01\00\03\03\02\05")
  (func (export "run") (result i32)
    (local $pc i32) (local $acc i32) (local $n i32) (local $f f64)
    (local.set $f (f64.const 0.5))
    (loop $next
      (block $halt (block $four (block $three (block $two (block $one (block $zero
        (br_table $zero $one $two $three $four $halt (i32.load8_u (local.get $pc))))
        ;; zero
        (local.set $acc (i32.add (local.get $acc) (i32.const 7)))
        (br $four))
        ;; one: a call
        (local.set $acc (i32.add (local.get $acc) (call $emit (local.get $acc))))
        (br $four))
        ;; two: a loop
        (local.set $n (i32.const 10))
        (loop $spin
          (local.set $acc (i32.mul (i32.add (local.get $acc) (local.get $n)) (i32.const 3)))
          (br_if $spin (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (br $four))
        ;; three: a loop with a call, and floats
        (local.set $n (i32.const 3))
        (loop $talk
          (local.set $f (f64.mul (local.get $f) (f64.convert_i32_s (call $emit (local.get $n)))))
          (br_if $talk (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.set $acc (i32.xor (local.get $acc) (i32.trunc_sat_f64_s (local.get $f))))
        )
        ;; four
        (local.set $pc (i32.add (local.get $pc) (i32.const 1)))
        (br $next)))
    (local.get $acc)))
