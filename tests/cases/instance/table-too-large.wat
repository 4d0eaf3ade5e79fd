;; 100 000 elements are the bound.
;; --- component
(core instance $host)
;; --- core
(table 100001 funcref)
(func $judge)
