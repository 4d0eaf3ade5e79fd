;; A page is there and two are asked for.
;; --- component
(core instance $host)
;; --- core
(func $judge (if (i32.ne (memory.grow (i32.const 2)) (i32.const -1)) (then unreachable)))
