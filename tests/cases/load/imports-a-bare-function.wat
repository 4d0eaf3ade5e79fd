;; A function of its own.
(component (import "now" (func (result u64))) (instance $policy) (export "image-policy:host/policy@0.1.0" (instance $policy)))
