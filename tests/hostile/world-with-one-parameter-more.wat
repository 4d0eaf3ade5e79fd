;; --- core
(func $judge)
(func (export "more") (param i32) (result i32) (i32.const 64))
;; --- lift
(func $configure (param "settings" string) (result (result (error (list $settings-error))))
  (canon lift (core func $main "configure") (memory $memory) (realloc $realloc)))
(func $evaluate (param "image" $image) (param "context" $context) (param "more" u8) (result (result $decision (error string)))
  (canon lift (core func $main "more") (memory $memory) (realloc $realloc)))
