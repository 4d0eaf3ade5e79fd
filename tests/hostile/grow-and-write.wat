;; --- core
(func $judge
  (local $at i32)
  (loop
    (if (i32.eq (local.tee $at (memory.grow (i32.const 16))) (i32.const -1)) (then unreachable))
    (memory.fill (i32.shl (local.get $at) (i32.const 16)) (i32.const 255) (i32.const 0x100000))
    (br 0)))
