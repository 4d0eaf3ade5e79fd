;; --- component
(import "image-policy:host/log@0.1.0" (instance $log
  (type $levels (enum "debug" "info" "warn" "error"))
  (export "level" (type $level (eq $levels)))
  (export "log" (func (param "level" $level) (param "message" string)))))
(core func $log (canon lower (func $log "log") (memory $memory)))
(core instance $host (export "log" (func $log)))
;; --- core
(import "host" "log" (func $log (param i32 i32 i32)))
(func $judge)
(global $free (mut i32) (i32.const 4096))
(func (export "realloc") (param i32 i32 i32 i32) (result i32)
  (call $log (i32.const 1) (i32.const 136) (i32.const 8))
  (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
  (global.get $free)
  (global.set $free (i32.add (global.get $free) (local.get 3))))
;; --- lift
(func $configure (param "settings" string) (result (result (error (list $settings-error))))
  (canon lift (core func $main "configure") (memory $memory) (realloc (core func $main "realloc"))))
(func $evaluate (param "image" $image) (param "context" $context) (result (result $decision (error string)))
  (canon lift (core func $main "evaluate") (memory $memory) (realloc (core func $main "realloc"))))
