;; --- core
(func $judge
  (local $i i32) (drop (memory.grow (i32.const 1023)))
  (loop
    (i32.store (i32.add (i32.const 0x100000) (i32.shl (local.get $i) (i32.const 3))) (i32.const 0x80000))
    (i32.store offset=4 (i32.add (i32.const 0x100000) (i32.shl (local.get $i) (i32.const 3))) (i32.const 4096))
    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))
  (i32.store (i32.const 96) (i32.const 0x100000))
  (i32.store (i32.const 100) (i32.const 1000000)))
