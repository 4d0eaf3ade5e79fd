;; No host knows it.
(component (import "acme:secrets/read@1.0.0" (instance)) (instance $policy) (export "image-policy:host/policy@0.1.0" (instance $policy)))
