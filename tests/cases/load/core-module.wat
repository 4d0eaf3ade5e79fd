;; What compilers make.
(module (func (export "evaluate")))
