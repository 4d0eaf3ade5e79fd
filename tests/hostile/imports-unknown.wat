;; --- component
(import "wasi:nn/inference@0.2.0" (instance))
(core instance $host)
