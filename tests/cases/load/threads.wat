;; A feature that policies may not use.
(component (core module $m (memory 1 1 shared)) (core instance (instantiate $m)))
