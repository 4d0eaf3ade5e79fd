;; --- configure
(loop (br 0))
