;; --- core
(table $t 1 funcref)
(func $judge
  (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1))))
  unreachable)
