;; Takes some milliseconds, and allows.
;; --- component
(core instance $host)
;; --- core
(func $judge (local $count i32)
  (loop $more
    (local.set $count (i32.add (local.get $count) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $count) (i32.const 6000000)))))
