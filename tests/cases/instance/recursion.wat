;; Without any memory: the stack of the host is what it would use up.
;; --- component
(core instance $host)
;; --- core
(func $judge (call $judge))
