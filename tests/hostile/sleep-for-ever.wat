;; --- component
(import "wasi:io/poll@0.2.0" (instance $poll
  (export "pollable" (type $pollable (sub resource)))
  (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
(alias export $poll "pollable" (type $pollable))
(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
  (alias outer 1 $pollable (type $outer))
  (export "pollable" (type $pollable (eq $outer)))
  (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
(core func $block (canon lower (func $poll "[method]pollable.block")))
(core func $subscribe (canon lower (func $clock "subscribe-duration")))
(core func $drop (canon resource.drop $pollable))
(core instance $host (export "block" (func $block)) (export "subscribe" (func $subscribe)) (export "drop" (func $drop)))
;; --- core
(import "host" "block" (func $block (param i32)))
(import "host" "subscribe" (func $subscribe (param i64) (result i32)))
(import "host" "drop" (func $drop (param i32)))
(func $judge (local $h i32)
  (loop
    (local.set $h (call $subscribe (i64.const -1)))
    (call $block (local.get $h))
    (call $drop (local.get $h))
    (br 0)))
