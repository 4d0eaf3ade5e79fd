;; --- core
(table $t 1000 funcref)
(elem declare func $judge)
(func $judge
  (local $at i32)
  (drop (table.grow $t (ref.null func) (i32.const 49000)))
  (loop
    (if (i32.eqz (ref.is_null (table.get $t (local.get $at)))) (then unreachable))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $at) (i32.const 50000))))
  (table.fill $t (i32.const 0) (ref.func $judge) (i32.const 50000)))
