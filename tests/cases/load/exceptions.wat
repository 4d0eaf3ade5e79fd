;; A feature that policies may not use.
(component (core module $m (tag)) (core instance (instantiate $m)) (instance $i) (export "image-policy:host/policy@0.1.0" (instance $i)))
