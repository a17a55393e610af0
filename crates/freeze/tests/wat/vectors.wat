;; Vectors as locals, operands, parameters and results, across calls and polls.
(module
  (import "host" "mix" (func $mix (param v128 i32) (result v128)))
  (func $twice (param v128) (result v128)
    (local $i i32)
    (loop $l
      (local.set 0 (call $mix (i16x8.add (local.get 0) (local.get 0)) (local.get $i)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
    (local.get 0))
  (func (export "run") (result v128)
    (local $v v128) (local $w v128)
    (local.set $v (v128.const i32x4 1 2 3 4))
    (i32x4.add
      (local.get $v)
      (i64x2.add
        (call $twice (local.get $v))
        (block (result v128)
          (local.set $w (call $mix (local.get $v) (i32.const 9)))
          (call $twice (v128.xor (local.get $v) (local.get $w))))))))
