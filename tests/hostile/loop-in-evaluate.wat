;; --- core
(func $judge
  (loop (br 0)))
