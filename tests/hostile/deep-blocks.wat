;; --- core
(func $judge
  ;; REPEAT 400000 block
  ;; REPEAT 400000 end
  )
