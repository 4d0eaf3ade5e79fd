;; A page of memory, and one more.
;; Its reason has a letter for each kind of thing that is not as it was when the instance started: memory (M) and pages
;; that it grows by (P), table elements (T) and those that it grows by (E), a global (G). It denies when there is any, and
;; leaves secrets of all kinds behind.
;; --- libc
(memory (export "memory") 1)
(global $free (mut i32) (i32.const 4096))
(func (export "realloc") (param i32 i32 i32 i32) (result i32)
  (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
  (global.get $free)
  (global.set $free (i32.add (global.get $free) (local.get 3))))
;; --- core
(func $found (param $at i32) (param $letter i32)
  (i32.store8 (i32.const 68) (i32.const 1))
  (i32.store8 (i32.add (i32.const 136) (local.get $at)) (local.get $letter)))
(func $look (param $at i32) (param $end i32) (param $expected i64) (param $kind i32) (param $letter i32)
  (loop
    (if (i64.ne (i64.load (local.get $at)) (local.get $expected))
      (then (call $found (local.get $kind) (local.get $letter)) (return)))
    (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end)))))
(func $look-in-table (param $at i32) (param $end i32) (param $kind i32) (param $letter i32)
  (loop
    (if (i32.eqz (ref.is_null (table.get $t (local.get $at))))
      (then (call $found (local.get $kind) (local.get $letter)) (return)))
    (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end)))))
(table $t 100 funcref)
(elem declare func $judge)
(global $g (mut i64) (i64.const 0))
(func $judge (local $end i32)
  (i64.store (i32.const 136) (i64.const 0x2d2d2d2d2d2d2d2d))
  (i32.store8 (i32.const 68) (i32.const 0))
  ;; What there is from the beginning.
  (call $look (i32.const 160) (i32.const 4096) (i64.const 0) (i32.const 0) (i32.const 77))
  (call $look (i32.const 8192) (i32.const 65536) (i64.const 0) (i32.const 0) (i32.const 77))
  (call $look-in-table (i32.const 0) (i32.const 100) (i32.const 2) (i32.const 84))
  (if (i64.ne (global.get $g) (i64.const 0)) (then (call $found (i32.const 4) (i32.const 71))))
  (if (i32.ne (memory.size) (i32.const 1)) (then (call $found (i32.const 1) (i32.const 80))))
  (if (i32.ne (table.size $t) (i32.const 100)) (then (call $found (i32.const 3) (i32.const 69))))
  ;; What it can get.
  (drop (memory.grow (i32.const 1)))
  (local.set $end (i32.shl (memory.size) (i32.const 16)))
  (call $look (i32.const 65536) (local.get $end) (i64.const 0) (i32.const 1) (i32.const 80))
  (drop (table.grow $t (ref.null func) (i32.const 100)))
  (call $look-in-table (i32.const 100) (table.size $t) (i32.const 3) (i32.const 69))
  ;; Secrets.
  (memory.fill (i32.const 160) (i32.const 165) (i32.const 3936))
  (memory.fill (i32.const 5120) (i32.const 165) (i32.sub (local.get $end) (i32.const 5120)))
  (table.fill $t (i32.const 0) (ref.func $judge) (table.size $t))
  (global.set $g (i64.const 0x5ec2e7)))
