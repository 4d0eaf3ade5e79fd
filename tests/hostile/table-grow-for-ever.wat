;; --- core
(table $t 1 funcref)
(func $judge
  (loop (drop (table.grow $t (ref.null func) (i32.const 100))) (br 0)))
