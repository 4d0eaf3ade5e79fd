//! Conversion of a core module, as compilers make it, to the component that the host loads.

use std::io;
use std::path::Path;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata, metadata};
use wit_parser::{Resolve, SourceMap};

use crate::policy::{Engine, EngineError, LoadError, Purpose, check, check_header};

/// The reason for which a core module makes no policy.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No engine can be made to check with.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file is not WebAssembly, or is a component that is no policy.
    #[error(transparent)]
    NoPolicy(#[from] LoadError),
    /// The module does not fit the world that it carries.
    #[error("it cannot be made a component: {0}; {BINDINGS}")]
    Encode(String),
    /// The module makes a component that is no policy, for instance because it carries another world.
    #[error("the component made of it is no policy: {0}")]
    Made(LoadError),
}

const BINDINGS: &str = "was it compiled with bindings of `wit/` (world image-policy), for \
                        wasm32-unknown-unknown, or for WASI 0.1 as a reactor?";

/// The contract.
pub(super) const WIT: [(&str, &str); 3] = [
    ("log.wit", include_str!("../../../wit/log.wit")),
    ("policy.wit", include_str!("../../../wit/policy.wit")),
    ("types.wit", include_str!("../../../wit/types.wit")),
];

/// Makes a policy component of a core module. Imports of WASI 0.1 become imports of WASI 0.2. A file that is
/// a component already is checked and returned unchanged.
///
/// # Errors
/// Returns an error if the module does not fit its world, or if the host would not load the component.
pub fn component(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    let engine = Engine::new(Purpose::Compile)?;
    match check_header(module) {
        Err(LoadError::CoreModule) => {
            let component = encode(module)?;
            check(&engine, &component).map_err(BuildError::Made)?;
            Ok(component)
        }
        other => {
            other?;
            check(&engine, module)?;
            Ok(module.to_vec())
        }
    }
}

/// Makes a component of a core module, without the check whether the host would load the component. A
/// component is returned unchanged.
pub(super) fn encoded(module: Vec<u8>) -> Result<Vec<u8>, BuildError> {
    match check_header(&module) {
        Err(LoadError::CoreModule) => encode(&module),
        other => Ok(other.map(|()| module)?),
    }
}

/// Writes a component and renames it into place, because a host may be watching. The folder of `path` must
/// exist.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write(path: &Path, component: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
    let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(folder)?;
    io::Write::write_all(&mut file, component)?;
    // A policy is no secret, and the host may run as another user.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(path)?;
    Ok(())
}

/// Encodes the module as a component of the world that it carries, where most wit-bindgen bindings leave one.
/// The linkers of some languages cannot (Go's): a module without a world is taken as one of image-policy.
fn encode(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    let mut module = module.to_vec();
    let (without_world, _) = metadata::decode(&module).map_err(unfit)?;
    if without_world.is_none() {
        let mut sources = SourceMap::new();
        for (name, text) in WIT {
            sources.push_str(name, text);
        }
        let package = sources.parse().map_err(|(_, error)| unfit(error))?;
        let mut resolve = Resolve::default();
        let package = resolve.push_group(package).map_err(unfit)?;
        let world = resolve.select_world(&[package], None).map_err(unfit)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).map_err(unfit)?;
    }
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| {
            encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
        })
        .and_then(|encoder| encoder.encode())
        .map_err(unfit)
}

fn unfit(error: impl std::fmt::Display) -> BuildError {
    let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    BuildError::Encode(line)
}
