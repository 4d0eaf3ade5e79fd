;; A line at each newline, whatever the pieces.
;; --- component
(import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
(alias export $error "error" (type $io-error))
(import "wasi:io/streams@0.2.0" (instance $streams
  (export "output-stream" (type $output-stream (sub resource)))
  (alias outer 1 $io-error (type $outer-error))
  (export "error" (type $error (eq $outer-error)))
  (type $stream-error (variant (case "last-operation-failed" (own $error)) (case "closed")))
  (export "stream-error" (type $named-error (eq $stream-error)))
  (export "[method]output-stream.blocking-write-and-flush"
    (func (param "self" (borrow $output-stream)) (param "contents" (list u8)) (result (result (error $named-error)))))))
(alias export $streams "output-stream" (type $output-stream))
(import "wasi:cli/stdout@0.2.0" (instance $stdout
  (alias outer 1 $output-stream (type $outer))
  (export "output-stream" (type $output-stream (eq $outer)))
  (export "get-stdout" (func (result (own $output-stream))))))
(core func $write
  (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))
(core func $stdout (canon lower (func $stdout "get-stdout")))
(core instance $host (export "write" (func $write)) (export "stdout" (func $stdout)))
;; --- core
(import "host" "write" (func $write (param i32 i32 i32 i32)))
(import "host" "stdout" (func $stdout (result i32)))
(data (i32.const 256) "one\ntwo and")
(data (i32.const 272) " a half\n\nlast")
(func $judge
  (call $write (call $stdout) (i32.const 256) (i32.const 11) (i32.const 512))
  (call $write (call $stdout) (i32.const 272) (i32.const 13) (i32.const 512)))
