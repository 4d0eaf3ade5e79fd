//! The whole installation for real: etcd, kube-apiserver with ImagePolicyWebhook, the `host` binary behind
//! it, and kubectl as the client. Everything listens on loopback only and ends with the test.
//!
//! `cargo test -p cluster` takes eight minutes the first time, because Kubernetes is built from source (which
//! needs Go 1.26 or later), and under a minute after that. Every kubectl is shown with its output. The files
//! of a run stay under `cluster/` in Cargo's target folder, to find the cause of a failure: the logs, the
//! manifest, the audit log, the folder of the host.

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
