;; --- core
(func $judge
  (local $x f64) (local.set $x (f64.const 1e308))
  (loop (local.set $x (f64.sqrt (f64.div (local.get $x) (f64.const 3)))) (br 0)))
