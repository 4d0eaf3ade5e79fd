//! The demo: a folder with a small installation, so that one command is enough to try the host.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::install::certificates;
use crate::review::API_VERSION;
use crate::text;

/// The standard policies of `plugins/dist`.
pub const POLICIES: [(&str, &[u8]); 2] = [
    ("trusted-registries", include_bytes!("../../../plugins/dist/trusted-registries.wasm")),
    ("pinned-images", include_bytes!("../../../plugins/dist/pinned-images.wasm")),
];

/// The review that the demo's `curl` line sends.
pub const REVIEW: &str = "nginx.json";

/// Writes the policies into `directory/policies` and a host.yaml that configures them.
///
/// # Errors
/// Returns an error if the folder cannot be written, or if one of the files exists already.
pub fn write_policies(directory: &Path, listen: SocketAddr) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join("policies"))?;
    for (name, component) in POLICIES {
        write(&directory.join("policies").join(format!("{name}.wasm")), component)?;
    }
    write(&directory.join("host.yaml"), host_yaml(listen).as_bytes())
}

/// Writes a whole installation into `directory`: policies, host.yaml, certificates and a review to send.
///
/// # Errors
/// Returns an error under the conditions of [`write_policies`].
pub fn write_installation(directory: &Path, listen: SocketAddr) -> io::Result<()> {
    write_policies(directory, listen)?;
    let pki = certificates::make().map_err(io::Error::other)?;
    let review = format!(
        "{{\"kind\":\"ImageReview\",\"apiVersion\":\"{API_VERSION}\",\"metadata\":{{}},\
         \"spec\":{{\"containers\":[{{\"image\":\"nginx\"}}],\"namespace\":\"default\"}},\
         \"status\":{{\"allowed\":false}}}}\n"
    );
    for (file, content) in [
        ("external-ca.pem", &pki.authority),
        ("external-cert.pem", &pki.server.certificate),
        ("external-key.pem", &pki.server.key),
        ("apiserver-client-ca.pem", &pki.authority),
        ("apiserver-client-cert.pem", &pki.client.certificate),
        ("apiserver-client-key.pem", &pki.client.key),
        (REVIEW, &review),
    ] {
        write(&directory.join(file), content.as_bytes())?;
    }
    Ok(())
}

/// Writes a new file. Never overwrites one: it may be the user's own.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let open = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    open()
        .and_then(|mut file| file.write_all(content))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", text::path(path))))
}

fn host_yaml(listen: SocketAddr) -> String {
    format!(
        r#"# A small installation to try things out: change a policy, its settings or this file while the host
# runs, and the next review obeys. `host schema` describes all keys.
apiVersion: image-policy-host/v1alpha1
kind: HostConfiguration
listen: {listen}
admin: {{ listen: 127.0.0.1:0 }}
tls:
  certificate: external-cert.pem
  privateKey: external-key.pem
  clientCA: apiserver-client-ca.pem
  clientNames: [kube-apiserver]
policyDirectory: policies/
policies:
# Only images from these registries may run.
- name: trusted-registries
  module: policies/trusted-registries.wasm
  settings:
    allow: ["registry.k8s.io/**"]
# A tag that moves is no version.
- name: pinned-images
  module: policies/pinned-images.wasm
  settings:
    requireDigest: false
    forbiddenTags: [latest]
"#
    )
}
