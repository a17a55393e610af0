;; Recursion of three functions through direct calls and a table, with operands below the calls.
(module
  (import "host" "emit" (func $emit (param i32)))
  (type $f (func (param i32) (result f64)))
  (table 2 funcref)
  (elem (i32.const 0) func $even $odd)
  (func $even (type $f)
    (if (result f64) (i32.eqz (local.get 0))
      (then (f64.const 1))
      (else
        (f64.add
          (f64.const 0.25)
          (f64.mul
            (f64.convert_i32_s (local.get 0))
            (call_indirect (type $f) (i32.sub (local.get 0) (i32.const 1)) (i32.const 1)))))))
  (func $odd (type $f)
    (call $emit (local.get 0))
    (f64.sub (f64.const 3) (call $third (local.get 0))))
  (func $third (type $f)
    (if (i32.lt_s (local.get 0) (i32.const 1)) (then (return (f64.const -1))))
    (f64.div (f64.const 2) (call $even (i32.sub (local.get 0) (i32.const 1)))))
  (func (export "run") (result f64)
    (f64.add (call $even (i32.const 15)) (call $odd (i32.const 8)))))
