;; A policy that breaks the contract: it allows the first image that an instance is asked about, and denies the others.
(component
  (import "image-policy:host/types@0.1.0" (instance $types
    (type $image (record (field "original" string) (field "registry" string) (field "repository" string)
      (field "tag" (option string)) (field "digest" (option string))))
    (export "image" (type (eq $image)))
    (type $context (record (field "namespace" string) (field "annotations" (list (tuple string string)))))
    (export "context" (type (eq $context)))
    (type $outcome (enum "allow" "deny" "abstain"))
    (export "outcome" (type $outcome-named (eq $outcome)))
    (type $decision (record (field "outcome" $outcome-named) (field "code" string) (field "reason" string)
      (field "audit-annotations" (list (tuple string string))) (field "warnings" (list string))))
    (export "decision" (type (eq $decision)))
    (type $settings-error (record (field "pointer" string) (field "message" string)))
    (export "settings-error" (type (eq $settings-error)))))
  (alias export $types "image" (type $image))
  (alias export $types "context" (type $context))
  (alias export $types "decision" (type $decision))
  (alias export $types "settings-error" (type $settings-error))

  (core module $module
    (memory (export "memory") 16)
    (global $free (mut i32) (i32.const 4096))
    (global $asked (mut i32) (i32.const 0))
    (data (i32.const 256) "first-come")
    ;; Gives memory and never takes any back.
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $given i32)
      (local.set $given (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $given) (local.get $size)))
      (local.get $given))
    ;; Takes any settings: zeros are `ok`.
    (func (export "configure") (param i32 i32) (result i32) (i32.const 0))
    ;; Twelve parameters are the image, four the context.
    (func (export "evaluate")
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      ;; At 64: ok, and the decision. Its outcome is 0 (allow) for the first image and 1 (deny) then; no reason.
      (i32.store (i32.const 68) (global.get $asked))
      (i32.store (i32.const 72) (i32.const 256))
      (i32.store (i32.const 76) (i32.const 10))
      (global.set $asked (i32.const 1))
      (i32.const 64)))
  (core instance $instance (instantiate $module))
  (func $configure (param "settings" string) (result (result (error (list $settings-error))))
    (canon lift (core func $instance "configure") (memory (core memory $instance "memory")) (realloc (core func $instance "realloc"))))
  (func $evaluate (param "image" $image) (param "context" $context) (result (result $decision (error string)))
    (canon lift (core func $instance "evaluate") (memory (core memory $instance "memory")) (realloc (core func $instance "realloc"))))
  (instance $policy (export "configure" (func $configure)) (export "evaluate" (func $evaluate)))
  (export "image-policy:host/policy@0.1.0" (instance $policy)))
