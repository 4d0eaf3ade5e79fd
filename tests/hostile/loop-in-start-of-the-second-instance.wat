;; --- component
(core module $beside (func $start (loop (br 0))) (start $start))
(core instance (instantiate $beside))
(core instance $host)
