;; 64 memories besides the first.
;; --- component
(core module $more (memory 0))
;; REPEAT 64 (core instance (instantiate $more))
(core instance $host)
;; --- core
(func $judge)
