//! The interfaces that a policy may import: those without access to anything, and those of capabilities that
//! host.yaml grants.

use super::load::LoadError;
use crate::config::Grants;
use crate::text;

/// Interfaces of the contract that every policy may import. The types hold no function, and the log passes
/// nothing into the policy.
const ALWAYS: [&str; 2] = ["image-policy:host/types@0.1.0", "image-policy:host/log@0.1.0"];
/// Capabilities that host.yaml can grant, each with the interfaces of the contract that it lets a policy
/// import.
///
/// A new capability also needs its interfaces in `wit/`, the check of host.yaml in `config/validate.rs`,
/// which accepts no capability yet, and the functions of the interfaces in the linker of
/// `policy/sandbox/engine.rs`.
const CAPABILITIES: &[(&str, &[&str])] = &[];
/// Packages of WASI 0.2 that the host provides without access to anything.
const INERT: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Returns grants of every capability.
pub(super) fn all() -> Grants {
    CAPABILITIES.iter().map(|(capability, _)| (*capability).to_owned()).collect()
}

/// Returns whether every policy may import the interface, because it gives access to nothing.
pub(super) fn is_inert(name: &str) -> bool {
    ALWAYS.contains(&name) || INERT.iter().any(|package| name.starts_with(package))
}

/// Returns the capability to which an interface belongs.
fn capability_of(name: &str) -> Option<&'static str> {
    let mut capabilities = CAPABILITIES.iter();
    capabilities.find(|(_, interfaces)| interfaces.contains(&name)).map(|(capability, _)| *capability)
}

/// Checks that a policy with these grants may import every interface.
pub(super) fn check_imports<'a>(
    mut imports: impl Iterator<Item = &'a str>,
    grants: &Grants,
) -> Result<(), LoadError> {
    let may = |name: &str| {
        is_inert(name)
            || capability_of(name).is_some_and(|capability| grants.iter().any(|grant| grant == capability))
    };
    match imports.find(|name| !may(name)) {
        Some(name) => Err(LoadError::Import(text::escape_and_truncate(name, 128))),
        None => Ok(()),
    }
}
