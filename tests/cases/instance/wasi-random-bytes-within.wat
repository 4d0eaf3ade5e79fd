;; At the bound, and what it takes to hold them.
;; --- component
(import "wasi:random/random@0.2.0" (instance $random
  (export "get-random-u64" (func (result u64)))
  (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
(core func $number (canon lower (func $random "get-random-u64")))
(core func $bytes (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
(core instance $host (export "number" (func $number)) (export "bytes" (func $bytes)))
;; --- core
(import "host" "number" (func $number (result i64)))
(import "host" "bytes" (func $bytes (param i64 i32)))
(func $judge (drop (memory.grow (i32.const 2))) (call $bytes (i64.const 65536) (i32.const 512)))
