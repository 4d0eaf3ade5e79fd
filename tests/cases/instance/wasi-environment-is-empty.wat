;; No variable, no argument, no folder.
;; --- component
(import "wasi:cli/environment@0.2.0" (instance $environment
  (export "get-environment" (func (result (list (tuple string string)))))
  (export "get-arguments" (func (result (list string))))
  (export "initial-cwd" (func (result (option string))))))
(core func $variables (canon lower (func $environment "get-environment") (memory $memory) (realloc $realloc)))
(core func $arguments (canon lower (func $environment "get-arguments") (memory $memory) (realloc $realloc)))
(core func $folder (canon lower (func $environment "initial-cwd") (memory $memory) (realloc $realloc)))
(core instance $host
  (export "variables" (func $variables)) (export "arguments" (func $arguments)) (export "folder" (func $folder)))
;; --- core
(import "host" "variables" (func $variables (param i32)))
(import "host" "arguments" (func $arguments (param i32)))
(import "host" "folder" (func $folder (param i32)))
(func $judge
  (call $variables (i32.const 512))
  (if (i32.load (i32.const 516)) (then unreachable))
  (call $arguments (i32.const 512))
  (if (i32.load (i32.const 516)) (then unreachable))
  (call $folder (i32.const 512))
  (if (i32.load8_u (i32.const 512)) (then unreachable)))
