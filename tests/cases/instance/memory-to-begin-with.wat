;; An instance begins with a page in each of two memories: 128 KiB.
;; --- component
(core module $more (memory 1))
(core instance (instantiate $more))
(core instance $host)
;; --- core
(func $judge)
