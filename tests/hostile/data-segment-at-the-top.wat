;; --- core
(memory $high 1000)
(data (memory $high) (i32.const 65535999) "x")
(func $judge)
