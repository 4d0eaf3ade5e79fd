;; --- core
(func $judge
  (local $zero f64) (local $a i64)
  (local.set $a (i64.reinterpret_f64 (f64.div (local.get $zero) (local.get $zero))))
  (if (i64.ne (local.get $a) (i64.const 0x7ff8000000000000)) (then unreachable))
  (local.set $a (i64.reinterpret_f64 (f64.add (f64.reinterpret_i64 (i64.const 0xfff123456789abcd)) (f64.const 1))))
  (if (i64.ne (local.get $a) (i64.const 0x7ff8000000000000)) (then unreachable)))
