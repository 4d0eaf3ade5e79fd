;; --- core
(func $judge
  (i32.store8 (i32.const 64) (i32.const 1))
  (drop (memory.grow (i32.const 1023)))
  (i32.store (i32.const 68) (i32.const 0))
  (i32.store (i32.const 72) (i32.const 0x4000000)))
