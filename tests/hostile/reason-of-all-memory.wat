;; --- core
(func $judge
  (drop (memory.grow (i32.const 1023)))
  (i32.store (i32.const 80) (i32.const 0))
  (i32.store (i32.const 84) (i32.const 0x4000000)))
