;; --- core
(func $judge
  (drop (memory.grow (i32.const 1022)))
  (loop (memory.fill (i32.const 4096) (i32.const 255) (i32.const 0x3fe0000)) (br 0)))
