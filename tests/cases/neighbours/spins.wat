;; Never ends.
;; --- component
(core instance $host)
;; --- core
(func $judge (loop $ever (br $ever)))
