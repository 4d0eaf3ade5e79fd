(component (instance $policy) (export "image-policy:host/policy@0.2.0" (instance $policy)))
