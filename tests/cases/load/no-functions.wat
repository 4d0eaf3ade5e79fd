;; The right name and nothing behind it.
(component (instance $policy) (export "image-policy:host/policy@0.1.0" (instance $policy)))
