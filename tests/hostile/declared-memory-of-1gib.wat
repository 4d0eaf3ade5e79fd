;; --- core
(memory $all 16384)
(func $judge)
