;; --- core
(func $judge
  ;; REPEAT 300000 block
  ;; REPEAT 300000 end
  )
