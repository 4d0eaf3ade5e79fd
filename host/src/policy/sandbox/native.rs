//! Native code: the only place where bytes become executable.

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::engine::Engine;

/// Native code of a component, as wasmtime serialises it.
///
/// wasmtime executes deserialised code without checking it. The caller of [`NativeCode::trusted`] therefore
/// vouches that the bytes are output of `Engine::precompile_component`, whole and unchanged. They come from
/// this process, from a child of it that runs the same program, or from the cache, a folder that only this
/// user can write, after their digest was compared.
///
/// A component that takes over the compiler through a fault in it can still make the child respond with
/// native code of its choice. Nothing here detects such code: wasmtime compares versions and settings, and
/// the same fault would forge a second response too.
pub(in crate::policy) struct NativeCode(Vec<u8>);

impl NativeCode {
    /// Returns `bytes` as native code. The caller vouches for them as described above.
    pub(in crate::policy) fn trusted(bytes: Vec<u8>) -> NativeCode {
        NativeCode(bytes)
    }

    pub(in crate::policy) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::policy) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    #[expect(
        unsafe_code,
        reason = "wasmtime executes what it deserialises without checking it. A NativeCode is made by \
            `trusted` alone, which is called on three things: the output of `Engine::precompile_component` \
            in this process; the whole answer of a child that runs the program given to `Compiler::new`, \
            which is this one, has executed no code of a component and can make no memory executable \
            (`confine`); and an entry of the cache, whose folder belongs to this user with mode 0700 and \
            whose digest was compared. Bytes of another version or configuration of wasmtime are refused by \
            it: https://docs.rs/wasmtime/48/wasmtime/component/struct.Component.html#method.deserialize"
    )]
    pub(in crate::policy) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: see the reason above.
        unsafe { Component::deserialize(&engine.engine, &self.0) }
    }
}

/// Returns the SHA-256 of `bytes`, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
