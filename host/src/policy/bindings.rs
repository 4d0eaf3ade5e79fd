//! The host's side of the contract in `wit/`, generated.

wasmtime::component::bindgen!({ path: "../wit", world: "image-policy" });
