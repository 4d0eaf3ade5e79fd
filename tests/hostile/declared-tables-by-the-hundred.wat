;; --- core
;; REPEAT 99 (table 0 funcref)
(func $judge)
