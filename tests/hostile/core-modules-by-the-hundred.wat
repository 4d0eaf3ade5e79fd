;; --- component
;; REPEAT 900 (core module $m# (func (export "f")))
;; REPEAT 900 (core instance (instantiate $m#))
(core instance $host)
