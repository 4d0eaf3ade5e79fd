;; --- component
(import "image-policy:host/log@0.1.0" (instance $log
  (type $levels (enum "debug" "info" "warn" "error"))
  (export "level" (type $level (eq $levels)))
  (export "log" (func (param "level" $level) (param "message" string)))))
(core func $log (canon lower (func $log "log") (memory $memory)))
(core instance $host (export "log" (func $log)))
;; --- core
(import "host" "log" (func $log (param i32 i32 i32)))
(func $judge (call $log (i32.const 4) (i32.const 136) (i32.const 8)))
