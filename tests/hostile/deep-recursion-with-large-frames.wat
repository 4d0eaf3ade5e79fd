;; --- core
(func $judge (drop (call $deeper (i64.const 1))))
(func $deeper (param i64) (result i64)
  ;; REPEAT 400 (local $l# i64)
  ;; REPEAT 400 (local.set $l# (i64.mul (local.get 0) (i64.const #)))
  (call $deeper (i64.add (local.get 0) (i64.const 1)))
  ;; REPEAT 400 (i64.xor (local.get $l#))
  )
