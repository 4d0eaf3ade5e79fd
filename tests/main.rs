//! The one integration test: each module says what belongs in it.

#[cfg(test)]
mod support;

mod config;
#[cfg(test)]
mod door;
mod image;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod tls;
