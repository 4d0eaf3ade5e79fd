;; --- component
(import "wasi:random/random@0.2.0" (instance $random
  (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
(core func $bytes (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
(core instance $host (export "bytes" (func $bytes)))
;; --- core
(import "host" "bytes" (func $bytes (param i64 i32)))
(func $judge (call $bytes (i64.const -1) (i32.const 512)))
