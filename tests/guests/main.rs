//! One policy in C, Go, JavaScript and Python, and one suite (`conformance.yaml`) that each of them passes.
//!
//! `cargo test -p guests` builds them first (`toolchains`, which names what it lacks): three minutes the
//! first time.

#[cfg(test)]
mod suite;

#[cfg(test)]
mod guest;
