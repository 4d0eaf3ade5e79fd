;; --- configure
(drop (memory.grow (i32.const 1000)))
      (i32.store8 (i32.const 16) (i32.const 1))
      (i32.store (i32.const 20) (i32.const 0x100000))
      (i32.store (i32.const 24) (i32.const 1000000))
