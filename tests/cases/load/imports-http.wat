;; The network is no one's by default.
(component (import "wasi:http/outgoing-handler@0.2.0" (instance)) (instance $policy) (export "image-policy:host/policy@0.1.0" (instance $policy)))
