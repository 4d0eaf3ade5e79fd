;; --- core
(func $judge)
(func $start (loop (br 0)))
(start $start)
