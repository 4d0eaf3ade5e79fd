;; --- core
(func $judge
  ;; REPEAT 60000 (local i64)
  )
