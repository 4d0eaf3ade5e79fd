;; One memory has a page, the other two: 192 KiB.
;; --- component
(core module $more (memory 2))
(core instance (instantiate $more))
(core instance $host)
;; --- core
(func $judge)
