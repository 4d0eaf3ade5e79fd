;; --- core
(func $judge (local i32)
  ;; REPEAT 700000 (local.set 0 (i32.mul (local.get 0) (i32.const #)))
  )
