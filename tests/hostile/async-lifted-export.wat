;; --- core
(func $judge)
(func (export "task") (param i32) (result i32) (i32.const 0))
;; --- lift
(func $configure (param "settings" string) (result (result (error (list $settings-error))))
  (canon lift (core func $main "configure") (memory $memory) (realloc $realloc)))
(func $evaluate async (param "image" $image) (param "context" $context) (result (result $decision (error string)))
  (canon lift (core func $main "task") async (memory $memory) (realloc $realloc)))
