;; The package is granted, and has no such interface.
(component (import "wasi:cli/oracle@0.2.0" (instance (export "ask" (func (result u64))))) (instance $policy) (export "image-policy:host/policy@0.1.0" (instance $policy)))
