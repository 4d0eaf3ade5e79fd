;; --- core
;; REPEAT 14 (memory $m# 1)
(func $judge
  ;; REPEAT 14 (drop (memory.grow $m# (i32.const 71))) (memory.fill $m# (i32.const 0) (i32.const 255) (i32.const 0x480000))
  (drop (memory.grow $m0 (i32.const 1024)))
  unreachable)
