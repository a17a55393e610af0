;; Calls in place of returns: endless chains poll, imports are called through a wrapper, handlers
;; do not see what a tail call throws, arguments of many kinds change places.
(module
  (type $step (func (param i32 i64) (result i64)))
  (import "host" "emit" (func $emit (param i32) (result i32)))
  (tag $e (param i32))
  (table $t 4 funcref)
  (elem (i32.const 0) func $even $odd $emit)

  (func $even (type $step)
    (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
    (return_call $odd (i32.sub (local.get 0) (i32.const 1)) (i64.add (local.get 1) (i64.const 3))))
  (func $odd (type $step)
    (return_call_indirect $t (type $step)
      (i32.sub (local.get 0) (i32.const 1)) (i64.mul (local.get 1) (i64.const 5)) (i32.const 0)))
  (func (export "chain") (result i64)
    (i64.add (i64.const 1) (call $even (i32.const 20) (i64.const 2))))

  (func $say (param i32) (result i32)
    (return_call $emit (i32.add (local.get 0) (i32.const 1))))
  (func $say_through (param i32) (result i32)
    (return_call_indirect $t (param i32) (result i32) (local.get 0) (i32.const 2)))
  (func (export "host") (result i32) (local $n i32)
    (local.set $n (i32.const 3))
    (i32.add (call $say (i32.const 4))
      (i32.mul (i32.const 100) (call $say_through (local.get $n)))))

  (func $thrower (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (throw $e (i32.const 5)))
  (func $leaves
    (block $h (result i32)
      (try_table (catch $e $h) (return_call $thrower (i32.const 3)))
      (unreachable))
    (unreachable))
  (func (export "handler") (result i32)
    (block $h (result i32)
      (try_table (catch $e $h) (call $leaves))
      (unreachable)))

  ;; More arguments than registers, in another order at every turn.
  (func $shuffle (param i32 i64 f32 f64 i32 i32 i32 i32 i32 i32) (result f64)
    (if (i32.eqz (local.get 0)) (then (return (f64.add (local.get 3) (f64.convert_i32_s (local.get 9))))))
    (return_call $shuffle (i32.sub (local.get 0) (i32.const 1)) (i64.add (local.get 1) (i64.const 1))
      (f32.convert_i64_s (local.get 1)) (f64.add (local.get 3) (f64.promote_f32 (local.get 2)))
      (local.get 5) (local.get 6) (local.get 7) (local.get 8) (local.get 9) (local.get 4)))
  (func (export "shuffle") (result f64)
    (call $shuffle (i32.const 9) (i64.const 1) (f32.const 2) (f64.const 3)
      (i32.const 4) (i32.const 5) (i32.const 6) (i32.const 7) (i32.const 8) (i32.const 9))))
