;; --- core
(func $judge)
(func $start (call $start))
(start $start)
