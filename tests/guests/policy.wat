;; A policy of a few lines. A case replaces the parts between MARK and END that it names; usually `$judge` does what is
;; tested. It allows unless it traps; the eight letters at 136 are its reason.
(component
  (import "image-policy:host/types@0.1.0" (instance $types
    (type $image (record (field "original" string) (field "registry" string) (field "repository" string)
      (field "tag" (option string)) (field "digest" (option string))))
    (export "image" (type (eq $image)))
    (type $context (record (field "namespace" string) (field "annotations" (list (tuple string string)))))
    (export "context" (type (eq $context)))
    (type $outcome (enum "allow" "deny" "abstain"))
    (export "outcome" (type $named-outcome (eq $outcome)))
    (type $decision (record (field "outcome" $named-outcome) (field "code" string) (field "reason" string)
      (field "audit-annotations" (list (tuple string string))) (field "warnings" (list string))))
    (export "decision" (type (eq $decision)))
    (type $text-position (record (field "line" u32) (field "column" u32)))
    (export "text-position" (type $named-text-position (eq $text-position)))
    (type $settings-error (record (field "pointer" string) (field "message" string)
      (field "position" (option $named-text-position))))
    (export "settings-error" (type (eq $settings-error)))))
  (alias export $types "image" (type $image))
  (alias export $types "context" (type $context))
  (alias export $types "decision" (type $decision))
  (alias export $types "settings-error" (type $settings-error))

  (core module $libc
    ;; MARK libc
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.get $free)
      (global.set $free (i32.add (global.get $free) (local.get 3))))
    ;; END libc
    )
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))

  ;; MARK component
  (core instance $host)
  ;; END component

  (core module $main
    (import "libc" "memory" (memory 1))
    ;; MARK core
    (func $judge)
    ;; END core
    ;; `ok`, with `allow`, code `wat` and the reason.
    (data (i32.const 64) "\00\00\00\00" "\00\00\00\00" "\80\00\00\00\03\00\00\00" "\88\00\00\00\08\00\00\00")
    (data (i32.const 128) "wat")
    (data (i32.const 136) "judged..")
    (func (export "configure") (param i32 i32) (result i32)
      ;; MARK configure
      ;; END configure
      (i32.const 16))
    (func (export "evaluate")
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (call $judge)
      ;; MARK answer
      (i32.const 64)
      ;; END answer
      ))
  (core instance $main (instantiate $main (with "libc" (instance $libc)) (with "host" (instance $host))))

  ;; MARK lift
  (func $configure (param "settings" string) (result (result (error (list $settings-error))))
    (canon lift (core func $main "configure") (memory $memory) (realloc $realloc)))
  (func $evaluate (param "image" $image) (param "context" $context) (result (result $decision (error string)))
    (canon lift (core func $main "evaluate") (memory $memory) (realloc $realloc)))
  ;; END lift
  (instance $policy (export "configure" (func $configure)) (export "evaluate" (func $evaluate)))
  (export "image-policy:host/policy@0.1.0" (instance $policy)))
