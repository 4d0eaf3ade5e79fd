//! The build script: the stack of the component.

/// Bytes of the stack. The parser and the interpreter recurse, so the 16 KiB of other policies are too few:
/// `DEPTH` in `source.rs` is the depth that fits.
const STACK: u32 = 64 * 1024;

/// Asks the linker of the component for the stack. Of two such arguments the linker takes the last one, and
/// those of a build script come after those of `plugins/build`.
fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size={STACK}");
    }
}
