;; --- core
(func $judge
  (i32.store8 (i32.const 64) (i32.const 2)))
