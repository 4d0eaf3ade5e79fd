;; --- component
(import "code" (component $code))
(core instance $host)
