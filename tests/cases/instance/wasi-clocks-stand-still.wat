;; The beginning of 2026, always.
;; --- component
(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock (export "now" (func (result u64)))))
(import "wasi:clocks/wall-clock@0.2.0" (instance $wall
  (type $datetime (record (field "seconds" u64) (field "nanoseconds" u32)))
  (export "datetime" (type $named (eq $datetime)))
  (export "now" (func (result $named)))))
(core func $now (canon lower (func $clock "now")))
(core func $wall-now (canon lower (func $wall "now") (memory $memory)))
(core instance $host (export "now" (func $now)) (export "wall-now" (func $wall-now)))
;; --- core
(import "host" "now" (func $now (result i64)))
(import "host" "wall-now" (func $wall-now (param i32)))
(func $judge
  (if (i64.ne (call $now) (i64.const 1000000000)) (then unreachable))
  (call $wall-now (i32.const 512))
  (if (i64.ne (i64.load (i32.const 512)) (i64.const 1767225600)) (then unreachable))
  (if (i32.ne (i32.load (i32.const 520)) (i32.const 0)) (then unreachable)))
