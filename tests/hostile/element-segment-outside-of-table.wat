;; --- core
(table $t 1 funcref)
(elem (table $t) (i32.const 1) func $judge)
(func $judge)
