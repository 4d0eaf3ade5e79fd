;; The log takes a level too.
(component (import "image-policy:host/log@0.1.0" (instance (export "log" (func (param "message" string))))) (instance $policy) (export "image-policy:host/policy@0.1.0" (instance $policy)))
