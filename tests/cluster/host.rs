//! The host as an administrator installs it: one folder on the control plane, one process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, read_from};

/// The folder of the host, and its process while it runs.
pub(crate) struct Host {
    process: Option<Process>,
    binary: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    /// The state directory. Its path is short, as the control socket in it requires. It is removed with this
    /// value.
    state: TempDir,
    port: u16,
    admin: u16,
}

impl Host {
    /// Fills `folder` with certificates and an empty policy folder. Starts nothing.
    pub(crate) fn new(binary: PathBuf, folder: &Path, log: &Path, [port, admin]: [u16; 2]) -> Result<Self> {
        fs::create_dir_all(folder.join("policies"))?;
        certificates(folder)?;
        let state = tempfile::Builder::new().prefix("host-").tempdir()?;
        Ok(Self { process: None, binary, folder: folder.to_owned(), log: log.to_owned(), state, port, admin })
    }

    /// Starts the host, and waits until it listens.
    pub(crate) fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--config").arg(self.folder.join("host.yaml")).current_dir("/");
        let process = self.process.insert(Process::start("host", &mut command, &self.log)?);
        process.wait_for_port(self.port, Duration::from_secs(30))
    }

    /// Returns the process id. Returns an error with the last log lines if the host does not run.
    pub(crate) fn id(&mut self) -> Result<u32> {
        let process = self.process.as_mut().context("the host has not been started")?;
        process.check_running()?;
        Ok(process.id())
    }

    /// Shuts the host down, and waits for its end.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.take().context("the host has not been started")?.terminate(Duration::from_secs(30))
    }

    /// Writes host.yaml by a rename, with these settings of its one policy.
    pub(crate) fn write_configuration(&self, settings: &Value) -> Result<()> {
        let Self { port, admin, .. } = self;
        let state = Value::from(self.state.path().to_string_lossy());
        let yaml = format!(
            "apiVersion: image-policy-host/v1alpha1
kind: HostConfiguration
listen: 127.0.0.1:{port}
tls:
  certificate: external-cert.pem
  privateKey: external-key.pem
  clientCA: apiserver-client-ca.pem
  clientNames: [kube-apiserver]
admin: {{ listen: 127.0.0.1:{admin} }}
stateDirectory: {state}
policyDirectory: policies/
policies:
- name: trusted-registries
  module: policies/trusted-registries.wasm
  settings: {settings}
"
        );
        self.replace("host.yaml", yaml.as_bytes())
    }

    /// Puts a component into the policy folder, as `policies/NAME.wasm`.
    pub(crate) fn write_policy(&self, name: &str, component: &[u8]) -> Result<()> {
        self.replace(&format!("policies/{name}.wasm"), component)
    }

    /// Removes a policy from the policy folder.
    pub(crate) fn remove_policy(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.folder.join(format!("policies/{name}.wasm")))?)
    }

    /// Returns the policy folder.
    pub(crate) fn policies(&self) -> PathBuf {
        self.folder.join("policies")
    }

    /// Returns the number of the generation in force, from the admin listener.
    pub(crate) fn generation(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("/status has no body")?;
        let status: Value = serde_json::from_str(body)?;
        status["generation"]["number"]
            .as_u64()
            .with_context(|| format!("/status names no generation: {body}"))
    }

    /// Returns the length of the log so far, as a place for [`Self::logged_since`].
    pub(crate) fn logged(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    pub(crate) fn logged_since(&self, place: u64) -> Result<String> {
        read_from(&self.log, place)
    }

    /// Writes a file by a rename, so that no reader sees half of it.
    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let new = self.folder.join(".new");
        fs::write(&new, content)?;
        fs::rename(&new, self.folder.join(name)).with_context(|| format!("cannot replace {name}"))
    }
}

/// Makes `external-cert.pem`, self-signed, which kube-apiserver trusts by itself, and
/// `apiserver-client-cert.pem` from an authority of its own, by which the host recognizes kube-apiserver.
fn certificates(folder: &Path) -> Result<()> {
    let server_key = KeyPair::generate()?;
    let mut server = parameters("image-policy-host", &["localhost", "127.0.0.1"])?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    fs::write(folder.join("external-cert.pem"), server.self_signed(&server_key)?.pem())?;
    write_key(&folder.join("external-key.pem"), &server_key)?;

    let ca_key = KeyPair::generate()?;
    let mut ca = parameters("apiserver-client-ca", &[])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(folder.join("apiserver-client-ca.pem"), ca.self_signed(&ca_key)?.pem())?;

    let client_key = KeyPair::generate()?;
    let mut client = parameters("kube-apiserver", &["kube-apiserver"])?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.use_authority_key_identifier_extension = true;
    let client = client.signed_by(&client_key, &Issuer::new(ca, ca_key))?;
    fs::write(folder.join("apiserver-client-cert.pem"), client.pem())?;
    write_key(&folder.join("apiserver-client-key.pem"), &client_key)
}

fn parameters(common_name: &str, names: &[&str]) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names.iter().copied().map(String::from).collect::<Vec<_>>())?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    Ok(parameters)
}

fn write_key(file: &Path, key: &KeyPair) -> Result<()> {
    fs::write(file, key.serialize_pem())?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
}
