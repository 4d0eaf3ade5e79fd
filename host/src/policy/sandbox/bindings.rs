//! Host side of the contract in `wit/`, generated.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "image-policy",
    // Arguments of a call are copied into the policy's memory, and nowhere else.
    ownership: Borrowing { duplicate_if_necessary: false },
});
