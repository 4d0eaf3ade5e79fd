;; `configure` and `evaluate` give nothing back.
(component
  (core module $m (memory (export "memory") 1) (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
    (func (export "f") (param i32 i32)))
  (core instance $i (instantiate $m))
  (func $f (param "settings" string) (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $policy (export "configure" (func $f)) (export "evaluate" (func $f)))
  (export "image-policy:host/policy@0.1.0" (instance $policy)))
