;; A page is there and one is asked for.
;; --- component
(core instance $host)
;; --- core
(func $judge (if (i32.ne (memory.grow (i32.const 1)) (i32.const 1)) (then unreachable)))
