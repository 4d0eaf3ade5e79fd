;; --- core
(func $judge
  (i32.store (i32.const 136) (i32.const 0xfffefdfc)))
