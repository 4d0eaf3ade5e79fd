;; --- core
(func $judge
  (call $judge))
