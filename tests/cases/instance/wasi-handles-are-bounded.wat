;; A handle is a piece of the host's memory.
;; --- component
(import "wasi:io/poll@0.2.0" (instance $poll
  (export "pollable" (type $pollable (sub resource)))
  (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
(alias export $poll "pollable" (type $pollable))
(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
  (alias outer 1 $pollable (type $outer))
  (export "pollable" (type $pollable (eq $outer)))
  (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))
  (export "subscribe-instant" (func (param "when" u64) (result (own $pollable))))))
(core func $block (canon lower (func $poll "[method]pollable.block")))
(core func $duration (canon lower (func $clock "subscribe-duration")))
(core func $instant (canon lower (func $clock "subscribe-instant")))
(core instance $host
  (export "block" (func $block)) (export "duration" (func $duration)) (export "instant" (func $instant)))
;; --- core
(import "host" "block" (func $block (param i32)))
(import "host" "duration" (func $duration (param i64) (result i32)))
(import "host" "instant" (func $instant (param i64) (result i32)))
(func $judge (loop (drop (call $duration (i64.const 1))) (br 0)))
