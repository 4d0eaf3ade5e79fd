;; A component of nothing.
(component)
