;; --- core
(table $t funcref (elem $nothing))
(func $nothing)
(func $judge
  (loop (call_indirect $t (i32.const 0)) (br 0)))
