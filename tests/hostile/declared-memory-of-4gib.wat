;; --- core
(memory $all 65536)
(func $judge)
