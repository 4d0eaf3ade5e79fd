;; Up to the bound of 100 000 elements and no further.
;; --- component
(core instance $host)
;; --- core
(table $t 99000 funcref)
(func $judge
  (if (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const 99000)) (then unreachable))
  (if (i32.ne (table.grow $t (ref.null func) (i32.const 1)) (i32.const -1)) (then unreachable)))
