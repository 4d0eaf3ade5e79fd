;; --- component
(type $own (resource (rep i32)))
(core func $new (canon resource.new $own))
(core func $drop (canon resource.drop $own))
(core instance $host (export "new" (func $new)) (export "drop" (func $drop)))
;; --- core
(import "host" "new" (func $new (param i32) (result i32)))
(import "host" "drop" (func $drop (param i32)))
(func $judge (local $h i32) (local.set $h (call $new (i32.const 1)))
  (call $drop (local.get $h)) (call $drop (local.get $h)))
