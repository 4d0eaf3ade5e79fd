;; --- core
(func $judge (return_call $other))
(func $other (return_call $judge))
