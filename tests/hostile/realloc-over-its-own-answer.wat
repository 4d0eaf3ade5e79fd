;; --- libc
(memory (export "memory") 1)
(global $free (mut i32) (i32.const 4096))
(func (export "realloc") (param i32 i32 i32 i32) (result i32)
  (i32.const 64))
;; --- core
(data (i32.const 256) "wat\00\00\00\00\00judged..")
(func $judge
  (i64.store (i32.const 64) (i64.const 0))
  (i32.store (i32.const 72) (i32.const 128)) (i32.store (i32.const 76) (i32.const 3))
  (i32.store (i32.const 80) (i32.const 136)) (i32.store (i32.const 84) (i32.const 8))
  (i64.store (i32.const 88) (i64.const 0)) (i64.store (i32.const 96) (i64.const 0))
  (memory.copy (i32.const 128) (i32.const 256) (i32.const 16)))
