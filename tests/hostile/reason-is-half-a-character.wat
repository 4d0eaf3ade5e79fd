;; --- core
(func $judge
  (i32.store8 (i32.const 143) (i32.const 0xf0)))
