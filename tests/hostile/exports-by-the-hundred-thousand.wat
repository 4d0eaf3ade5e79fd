;; --- core
(func $judge)
;; REPEAT 100000 (export "e#" (func $judge))
