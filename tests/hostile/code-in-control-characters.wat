;; --- core
(func $judge
  (i32.store (i32.const 128) (i32.const 0x4a325b1b))
  (i32.store (i32.const 76) (i32.const 4)))
