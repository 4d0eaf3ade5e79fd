//! Compiled code: the one place where bytes become something that runs.

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::engine::Engine;

/// The native code of a component, as wasmtime serialises it.
///
/// wasmtime executes what it deserialises without checking it, so whoever makes one vouches that these are bytes which
/// `Engine::precompile_component` gave, whole and unchanged: this process, a child of it that runs the same program, or
/// the cache, a folder that only this user can write, after it compared their digest.
///
/// A component that takes over the compiler, by a fault in it, can still have the child answer with native code of its
/// choice. Nothing here sees that: wasmtime compares versions and settings, and the same fault forges a second answer too.
pub(in crate::policy) struct Compiled(Vec<u8>);

impl Compiled {
    /// Vouches for `bytes`, as above.
    pub(in crate::policy) fn vouched(bytes: Vec<u8>) -> Compiled {
        Compiled(bytes)
    }

    pub(in crate::policy) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::policy) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    #[expect(
        unsafe_code,
        reason = "wasmtime executes what it deserialises without checking it. A Compiled is made by `vouched` alone, which \
                  is called on three things: the output of `Engine::precompile_component` in this process; the whole answer \
                  of a child that runs the program given to `Preparer::new`, which is this one, has executed no code of a \
                  component and can make no memory executable (`confine`); and an entry of the cache, whose folder belongs to this user with mode 0700 and whose digest was compared. Bytes of another version or configuration of wasmtime are \
                  refused by it: https://docs.rs/wasmtime/48/wasmtime/component/struct.Component.html#method.deserialize"
    )]
    pub(in crate::policy) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: see the reason above.
        unsafe { Component::deserialize(&engine.engine, &self.0) }
    }
}

/// SHA-256 of `bytes`, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
