;; --- core
(func $judge
  (i32.store (i32.const 96) (i32.const 65528))
  (i32.store (i32.const 100) (i32.const 2)))
