;; A policy of another host.
(module (memory (export "memory") 1) (func (export "opa_eval_ctx_new") (result i32) i32.const 0))
