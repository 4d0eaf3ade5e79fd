;; Takes memory until it is refused, touches every page of it, and traps as an allocator does.
;; --- component
(core instance $host)
;; --- core
(func $judge (local $at i32) (local $end i32)
  (loop $more
    (local.set $at (memory.grow (i32.const 1)))
    (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
    (local.set $at (i32.mul (local.get $at) (i32.const 65536)))
    ;; To the end of the page, in steps of those of the machine.
    (local.set $end (i32.add (local.get $at) (i32.const 65536)))
    (loop $touch
      (i32.store (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $touch (i32.lt_u (local.get $at) (local.get $end))))
    (br $more)))
