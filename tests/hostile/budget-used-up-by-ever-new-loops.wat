;; --- core
(func $start (local $i i32)
  (loop (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if 0 (i32.lt_u (local.get $i) (i32.const 1000000)))))
(start $start)
(func $judge
  (loop (br 0)))
