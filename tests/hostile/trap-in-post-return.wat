;; --- core
(func $judge)
(func (export "post") (param i32) unreachable)
;; --- lift
(func $configure (param "settings" string) (result (result (error (list $settings-error))))
  (canon lift (core func $main "configure") (memory $memory) (realloc $realloc)))
(func $evaluate (param "image" $image) (param "context" $context) (result (result $decision (error string)))
  (canon lift (core func $main "evaluate") (memory $memory) (realloc $realloc)
    (post-return (core func $main "post"))))
