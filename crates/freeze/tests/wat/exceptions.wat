;; Handlers of every kind around calls that freeze, loops and host calls; references to exceptions
;; kept over all of them and thrown again.
(module
  (import "host" "emit" (func $emit (param i32) (result i32)))
  (tag $plain)
  (tag $number (param i32))
  (tag $pair (param i64 f64))
  (tag $vector (param v128 i32))
  (memory (export "memory") 1)
  (global $count (export "count") (mut i32) (i32.const 0))

  (func $spin (param $n i32)
    (loop $l
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (br_if $l (i32.gt_s (local.get $n) (i32.const 0)))))

  ;; Throws one of four exceptions, after a while.
  (func $throw (param $which i32)
    (call $spin (i32.const 2))
    (block $d (block $c (block $b (block $a
      (br_table $a $b $c $d (local.get $which)))
      (throw $plain))
      (throw $number (i32.add (call $emit (local.get $which)) (i32.const 70))))
      (throw $pair (i64.const 0x123456789abc) (f64.const 2.5)))
    (throw $vector (v128.const i32x4 1 2 3 4) (i32.const 9)))

  ;; The payload by `catch`, with operands below the block and locals that only the handler reads.
  (func $caught (param $which i32) (result i64)
    (local $only i64) (local $pair f64)
    (local.set $only (i64.const 1000))
    (i64.add (i64.extend_i32_u (call $emit (i32.const 1)))
      (block $end (result i64)
        (block $vector (result v128 i32)
          (block $pair (result i64 f64)
            (block $number (result i32)
              (block $plain
                (try_table (catch $plain $plain) (catch $number $number) (catch $pair $pair)
                    (catch $vector $vector)
                  (call $throw (local.get $which)))
                (br $end (i64.const 5)))
              (br $end (i64.add (local.get $only) (i64.const 1))))
            (i64.extend_i32_u)
            (br $end (i64.add (local.get $only))))
          (local.set $pair)
          (br $end (i64.add (i64.trunc_f64_s (local.get $pair)))))
        (local.set $which)
        (i64.add (i64x2.extract_lane 1) (i64.extend_i32_u (local.get $which))))))

  ;; References to exceptions, kept over a loop, a call and a host call, in locals and operands, and
  ;; then thrown again from below the operands.
  (func $kept (param $which i32) (result i32) (local $e exnref) (local $null exnref)
    (block $done
      (block $first (result exnref)
        (try_table (catch_all_ref $first) (call $throw (local.get $which)))
        (br $done))
      (local.set $e)
      (call $spin (i32.const 2))
      (local.get $e)
      (drop (call $emit (i32.const 2)))
      (block $again (param exnref) (result exnref)
        (local.set $null (ref.null exn))
        (drop (call $emit (i32.const 3)))
        (call $spin (i32.const 1))
        (local.set $which (i32.add (local.get $which) (ref.is_null (local.get $null))))
        (try_table (param exnref) (catch_all_ref $again) (throw_ref))
        (unreachable))
      (local.set $e)
      (call $spin (i32.const 1))
      (return
        (block $number (result i32)
          (block $pair (result i64 f64 exnref)
            (try_table (catch $number $number) (catch_ref $pair $pair)
              (block $other
                (try_table (catch $plain $other) (throw_ref (local.get $e)))
                (unreachable))
              (call $spin (i32.const 1))
              (br $number (i32.const 1234)))
            (unreachable))
          (local.set $e)
          (call $spin (i32.const 2))
          (drop (drop))
          (i32.add (local.get $which) (ref.is_null (local.get $e))))))
    (i32.const -1))

  ;; A handler that leads to a loop head, with the payload as the loop's parameter.
  (func $retry (param $n i32) (result i32) (local $sum i32)
    (i32.const 3)
    (loop $again (param i32) (result i32)
      (local.set $sum (i32.add (local.get $sum)))
      (if (i32.ge_s (local.get $n) (i32.const 4)) (then (return (local.get $sum))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (try_table (result i32) (catch $number $again)
        (call $throw (i32.const 1))
        (local.get $sum))))

  ;; Thrown through frames that have handlers for others, in a recursion.
  (func $deep (param $n i32) (result i32)
    (block $other
      (return
        (block $number (result i32)
          (try_table (result i32) (catch $number $number) (catch $plain $other)
            (if (i32.eqz (local.get $n))
              (then (throw $pair (i64.const 7) (f64.const 8))))
            (if (i32.eq (local.get $n) (i32.const 4))
              (then
                (drop (block $pair (result i64 f64)
                  (try_table (catch $pair $pair)
                    (drop (call $deep (i32.sub (local.get $n) (i32.const 1)))))
                  (unreachable)))
                (i32.wrap_i64)
                (throw $number)))
            (i32.add (i32.const 10) (call $deep (i32.sub (local.get $n) (i32.const 1))))))))
    (i32.const 77))

  (func (export "caught") (result i64)
    (i64.add (i64.add (call $caught (i32.const 0)) (call $caught (i32.const 1)))
             (i64.add (call $caught (i32.const 2)) (call $caught (i32.const 3)))))
  (func (export "kept 1") (result i32) (call $kept (i32.const 1)))
  (func (export "kept 2") (result i32) (call $kept (i32.const 2)))
  (func (export "kept 0") (result i32) (call $kept (i32.const 0)))
  (func (export "retry") (result i32) (call $retry (i32.const 0)))
  (func (export "deep") (result i32) (call $deep (i32.const 6)))
  ;; Nothing catches this one.
  (func (export "z uncaught") (drop (call $kept (i32.const 3)))))
