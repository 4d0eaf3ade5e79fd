//! From a core module, which compilers make, to the component that the host loads.

use wit_component::ComponentEncoder;

use crate::policy::{Engine, EngineError, LoadError, Purpose, check, check_header};

/// Why a core module gives no policy.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nothing can be checked here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It is no WebAssembly, or a component that is no policy.
    #[error(transparent)]
    NoPolicy(#[from] LoadError),
    /// The module does not fit the world that it carries.
    #[error("it cannot be made a component: {0}; {BINDINGS}")]
    Encode(String),
    /// The module makes a component that is no policy, for instance because it carries no world.
    #[error("the component made of it is no policy: {0}")]
    Made(LoadError),
}

const BINDINGS: &str =
    "was it compiled with bindings of `wit/` (world image-policy), for wasm32-unknown-unknown?";

/// Makes a policy of a core module that carries its world, as the bindings of wit-bindgen do. A component is checked,
/// and given back as it is.
///
/// # Errors
/// The module carries no world, does not fit it, or what comes out is no policy that the host would load.
pub fn component(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    let engine = Engine::new(Purpose::Prepare)?;
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

fn encode(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    let encoded =
        ComponentEncoder::default().validate(true).module(module).and_then(|encoder| encoder.encode());
    encoded.map_err(|error| {
        let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        BuildError::Encode(line)
    })
}
