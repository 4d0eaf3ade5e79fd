;; --- core
(table 4294967295 funcref)
(func $judge)
