;; --- core
(func $judge (i32.store (i32.const 76) (i32.const 1)) (i32.store16 (i32.const 128) (i32.const 97))
  (i32.store (i32.const 84) (i32.const 0)))
;; --- configure

;; --- lift
(func $configure (param "settings" string) (result (result (error (list $settings-error))))
  (canon lift (core func $main "configure") (memory $memory) (realloc $realloc) string-encoding=utf16))
(func $evaluate (param "image" $image) (param "context" $context) (result (result $decision (error string)))
  (canon lift (core func $main "evaluate") (memory $memory) (realloc $realloc) string-encoding=utf16))
