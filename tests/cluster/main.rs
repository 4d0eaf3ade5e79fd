//! The whole installation for real: etcd, kube-apiserver with ImagePolicyWebhook switched on, the `host` binary behind
//! it, and kubectl as the one who asks. Everything listens on loopback only and ends with the test.
//!
//! `cargo test -p cluster`: eight minutes the first time, for Kubernetes is built from source (that needs Go 1.26 or
//! later); under a minute from then on. Every kubectl is shown with its own words. What a run leaves behind, for a look
//! at a failure, is under `cluster/` in Cargo's target folder: the logs, the manifest, the audit log, the folder of the host.

#[cfg(test)]
mod binaries;
#[cfg(test)]
mod control_plane;
#[cfg(test)]
mod host;
#[cfg(test)]
mod process;
#[cfg(test)]
mod story;
#[cfg(test)]
mod swaps;
