//! From a core module, which compilers make, to the component that the host loads.

use wit_component::ComponentEncoder;

/// Why a core module gives no policy.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The module was not compiled against the contract.
    #[error(
        "it cannot be made a component: {0}; was it compiled with bindings of `wit/` (world image-policy), for \
         wasm32-unknown-unknown?"
    )]
    Encode(String),
}

/// Makes a component of a core module that carries its world, as the bindings of wit-bindgen do. A component is given
/// back as it is.
///
/// # Errors
/// The module carries no world, or does not fit it.
pub fn component(module: &[u8]) -> Result<Vec<u8>, BuildError> {
    const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
    if module.starts_with(&COMPONENT) {
        return Ok(module.to_vec());
    }
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| BuildError::Encode(format!("{error:#}")))
}
