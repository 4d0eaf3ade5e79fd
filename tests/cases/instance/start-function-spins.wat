;; Instantiation itself runs code.
;; --- component
(core instance $host)
;; --- core
(func $judge)
(func $start (loop (br 0)))
(start $start)
