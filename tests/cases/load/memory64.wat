;; A feature that policies may not use.
(component (core module $m (memory i64 1)) (core instance (instantiate $m)))
