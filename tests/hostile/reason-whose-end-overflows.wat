;; --- core
(func $judge
  (i32.store (i32.const 80) (i32.const -8))
  (i32.store (i32.const 84) (i32.const 16)))
