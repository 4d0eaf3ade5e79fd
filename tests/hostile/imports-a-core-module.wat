;; --- component
(import "code" (core module $code))
(core instance $host)
