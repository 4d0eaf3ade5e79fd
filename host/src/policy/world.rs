//! World of a component: the format of its file, and the names of its imports and exports.

use super::capabilities::{self, check_imports, is_inert};
use super::compile::scan::{Names, scan};
use super::load::LoadError;
use crate::text;

/// Interface that a policy exports.
pub(super) const POLICY: &str = "image-policy:host/policy@0.1.0";
/// Checks that bytes begin like a component.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    // Preamble: magic, version and layer (component-model/design/mvp/Binary.md). Version 1 in layer 0 is a
    // module.
    match bytes {
        [] => Err(LoadError::Empty),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(LoadError::NotWebAssembly),
    }
}

/// Returns the host for which a core module is a policy, by function names that occur in its bytes. Returns
/// None for any other module.
pub(super) fn other_host(module: &[u8]) -> Option<&'static str> {
    let hosts = [
        ("__guest_call", "a waPC host such as Kubewarden"),
        ("opa_eval_ctx_new", "Open Policy Agent"),
        ("proxy_abi_version_0", "Envoy (proxy-wasm)"),
    ];
    let has = |name: &str| module.windows(name.len()).any(|window| window == name.as_bytes());
    hosts.into_iter().find(|(name, _)| has(name)).map(|(_, host)| host)
}

/// Names of a component's imports and exports, whatever world it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Names of its imports.
    pub imports: Vec<String>,
    /// Names of its exports.
    pub exports: Vec<String>,
}

impl World {
    /// Reads the names from a component's bytes, without compiling it.
    ///
    /// # Errors
    /// Returns an error if the bytes are no component, or if the component is over a limit.
    pub fn of(component: &[u8]) -> Result<World, LoadError> {
        check_header(component)?;
        let names = scan(component)?;
        let shown =
            |names: Vec<&str>| names.into_iter().map(|name| text::escape_and_truncate(name, 128)).collect();
        Ok(World { imports: shown(names.imports), exports: shown(names.exports) })
    }

    /// Returns true if the component imports only `log`, the types, and WASI without access to anything. Its
    /// decisions then depend on image, context and settings alone.
    pub fn is_pure(&self) -> bool {
        self.imports.iter().all(|name| is_inert(name))
    }
}

/// Checks that a component is a policy, and imports nothing that no policy can be granted.
pub(super) fn check_world(world: &Names<'_>) -> Result<(), LoadError> {
    if !world.exports.contains(&POLICY) {
        let exported = match world.exports.as_slice() {
            [] => "nothing".to_owned(),
            names => {
                let shown =
                    names.iter().take(8).map(|name| format!("`{}`", text::escape_and_truncate(name, 128)));
                shown.collect::<Vec<_>>().join(", ")
            }
        };
        return Err(LoadError::World(exported));
    }
    check_imports(world.imports.iter().copied(), &capabilities::all())
}
