;; --- core
(func $judge
  (local $i i32) (drop (memory.grow (i32.const 1023)))
  (loop
    (i32.store (i32.add (i32.const 0x100000) (i32.shl (local.get $i) (i32.const 3))) (i32.const 0x100000))
    (i32.store offset=4 (i32.add (i32.const 0x100000) (i32.shl (local.get $i) (i32.const 3))) (i32.const 65536))
    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20000))))
  (i32.store (i32.const 88) (i32.const 0x100000))
  (i32.store (i32.const 92) (i32.const 10000)))
