;; --- core
;; REPEAT 99 (memory 0)
(func $judge)
