;; A passive segment is read after a thaw; an active one is as good as dropped.
(module
  (memory (export "memory") 1)
  (data (i32.const 0) "active")
  (data $p "passive!")
  (func (export "run") (result i32)
    (local $i i32)
    (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 0))
    (loop $l
      (memory.init $p (i32.add (i32.const 16) (local.get $i)) (i32.const 1) (i32.const 6))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 70))))
    (memory.init 0 (i32.const 0) (i32.const 1) (i32.const 1))
    (i32.const 0)))
