//! A folder to serve from, and the host that serves it, in this process or as the program.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use host::reload::{self, Reloader};
use host::serve::{self, Host};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::certificates::{Pki, Wanted};
use super::client::Client;
use super::process::{self, Process};
use super::project;

/// Reads the cases in a folder of `tests/`, one for each JSON file, sorted by name.
pub(crate) fn cases<T: serde::de::DeserializeOwned>(folder: &str) -> Vec<(String, T)> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(project("tests").join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |file: PathBuf| {
        let case = serde_json::from_slice(&fs::read(&file).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        (file.file_stem().unwrap().display().to_string(), case)
    };
    files.into_iter().map(read).collect()
}

/// Panics if any case differs from its expectation, with a list of all that do.
pub(crate) fn assert_none(differences: &[String]) {
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

/// A folder with all files of a host, and the authority that signed its certificates.
pub(crate) struct Installation {
    folder: tempfile::TempDir,
    pub(crate) pki: Pki,
}

impl Installation {
    /// Makes an installation with the standard policies; `trusted-registries` trusts `registry.k8s.io/**`.
    /// `changes` are a JSON merge patch of host.yaml.
    pub(crate) fn new(changes: Value) -> Installation {
        Installation::changed([changes])
    }

    fn changed(changes: impl IntoIterator<Item = Value>) -> Installation {
        let installation = Installation { folder: tempfile::tempdir().unwrap(), pki: Pki::new() };
        fs::create_dir(installation.path("policies")).unwrap();
        for (name, component) in host::install::demo::POLICIES {
            installation.write(&format!("policies/{name}.wasm"), component);
        }
        let server = installation.pki.issue(&Wanted::server());
        for (file, content) in [
            ("external-cert.pem", &server.chain),
            ("external-key.pem", &server.key),
            ("apiserver-client-ca.pem", &installation.pki.authority()),
        ] {
            installation.write(file, content.as_bytes());
        }
        let mut host_yaml = json!({
            "apiVersion": "image-policy-host/v1alpha1",
            "kind": "HostConfiguration",
            "listen": "127.0.0.1:0",
            "admin": { "listen": "127.0.0.1:0" },
            "tls": {
                "certificate": "external-cert.pem",
                "privateKey": "external-key.pem",
                "clientCA": "apiserver-client-ca.pem",
            },
            "policies": [{
                "name": "trusted-registries",
                "module": "policies/trusted-registries.wasm",
                "settings": { "allow": ["registry.k8s.io/**"] },
            }],
        });
        for changes in changes {
            merge(&mut host_yaml, changes);
        }
        installation.write("host.yaml", host_yaml.to_string().as_bytes());
        installation
    }

    /// Makes an installation without policies that allows every image. It starts at once, for tests of
    /// everything before the policies.
    pub(crate) fn bare(changes: Value) -> Installation {
        let bare = json!({ "policies": [], "allowEmpty": true, "unjudged": "Allow" });
        Installation::changed([bare, changes])
    }

    /// Makes an installation with one policy that never ends its evaluation, and is cut off after `deadline`.
    pub(crate) fn never_ending(deadline: &str, changes: Value) -> Installation {
        let slow = json!({ "policies": [{
            "name": "never-ending", "module": "never-ending.wasm", "limits": { "deadline": deadline },
        }]});
        let installation = Installation::changed([slow, changes]);
        installation.write("never-ending.wasm", &policy("never-ending"));
        installation
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, content: &[u8]) {
        fs::write(self.path(file), content).unwrap();
    }

    /// Puts a file there by a rename, so that no reader sees half of it.
    pub(crate) fn replace(&self, file: &str, content: &[u8]) {
        self.write(".new", content);
        fs::rename(self.path(".new"), self.path(file)).unwrap();
    }

    /// Returns a client with the certificates of an apiserver.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.pki, Some(&Wanted::client()))
    }

    /// Serves in this process, on a port that the system chooses.
    pub(crate) async fn serve(&self) -> Server {
        let started = reload::start(&self.path("host.yaml"), process::HOST.into()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, admin_address) = (listener.local_addr().unwrap(), admin.local_addr().unwrap());
        let (stop, stopping) = oneshot::channel::<()>();
        let host = Host::new(&started, || 0);
        tokio::spawn(serve::serve_admin(admin, Arc::clone(&host)));
        let serving = tokio::spawn(serve::serve(listener, host, async { _ = stopping.await }));
        Server { address, admin: admin_address, stop, serving, reloader: started.reloader }
    }

    /// Starts the program on the installation.
    pub(crate) fn start(&self) -> Process {
        let mut command = Command::new(process::HOST);
        command.args(["serve", "--log-format", "text", "--config"]).arg(self.path("host.yaml"));
        Process::start(&mut command)
    }
}

/// A host that serves in this process until the test ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<bool>,
    pub(crate) reloader: Reloader,
}

impl Server {
    /// Begins the shutdown. The returned task tells whether every review got its response.
    pub(crate) fn stop(self) -> JoinHandle<bool> {
        self.stop.send(()).unwrap();
        self.serving
    }
}

/// Makes a component of the policy `tests/fixtures/policies/NAME.wat`.
pub(crate) fn policy(name: &str) -> Vec<u8> {
    let mut module = wat::parse_file(project(&format!("tests/fixtures/policies/{name}.wat"))).unwrap();
    let mut wit = wit_parser::Resolve::default();
    let (package, _) = wit.push_dir(project("wit")).unwrap();
    let world = wit.select_world(&[package], Some("image-policy")).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &wit, world, encoding, false).unwrap();
    host::author::build::component(&module).unwrap()
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
