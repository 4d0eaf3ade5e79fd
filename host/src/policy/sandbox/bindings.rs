//! The host's side of the contract in `wit/`, generated.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "image-policy",
    // What a policy is asked about is copied into its memory, and nowhere else.
    ownership: Borrowing { duplicate_if_necessary: false },
});
