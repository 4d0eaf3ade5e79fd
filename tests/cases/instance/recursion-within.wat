;; A thousand calls deep.
;; --- component
(core instance $host)
;; --- core
(func $deeper (param i32)
  (if (local.get 0) (then (call $deeper (i32.sub (local.get 0) (i32.const 1))))))
(func $judge (call $deeper (i32.const 1000)))
