;; --- core
(func $judge)
(func (export "bool")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 1))
;; --- lift
(func $configure (param "settings" string) (result (result (error (list $settings-error))))
  (canon lift (core func $main "configure") (memory $memory) (realloc $realloc)))
(func $evaluate (param "image" $image) (param "context" $context) (result bool)
  (canon lift (core func $main "bool") (memory $memory) (realloc $realloc)))
