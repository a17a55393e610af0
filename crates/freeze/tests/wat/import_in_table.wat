;; An import called through a table, exported, and taken a reference of: none of these calls has a
;; frame of the guest's own around it.
(module
  (type $emit (func (param i32 i64) (result i32)))
  (import "host" "emit" (func $emit (type $emit)))
  (table 2 funcref)
  (elem (i32.const 1) func $emit)
  (elem declare func $emit)
  (export "emit" (func $emit))
  (func (export "run") (result i32)
    (local $i i32) (local $sum i32)
    (drop (ref.is_null (ref.func $emit)))
    (loop $l
      (local.set $sum
        (i32.add
          (local.get $sum)
          (call_indirect (type $emit) (local.get $i) (i64.const 5) (i32.const 1))))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 12))))
    (local.get $sum)))
