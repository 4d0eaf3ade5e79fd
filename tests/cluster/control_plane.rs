//! etcd and kube-apiserver on loopback, from kubeadm's own files for a control plane: its PKI, and its static
//! Pod manifest, patched as an administrator does to switch ImagePolicyWebhook on. There is no kubelet: the
//! manifest's own command line is run directly.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::binaries::Kubernetes;
use crate::process::{Process, output, say, tail, wait_until};

/// Time limit of one kubectl. The apiserver gives a backend 30 s; none is as slow here.
const PATIENCE: Duration = Duration::from_secs(20);

/// Prefix of the backend's own reason in a denial.
const DENIED: &str = "image policy webhook backend denied one or more images: ";

/// The keys of the admission configuration that differ between this test's two apiservers.
pub(crate) struct ImagePolicy {
    /// Time for which the apiserver caches an allowed review, in seconds; -1 for not at all.
    pub(crate) allow_ttl: i32,
    /// Time for which the apiserver caches a denied review, likewise.
    pub(crate) deny_ttl: i32,
    /// Whether images are allowed while the backend cannot be reached.
    pub(crate) default_allow: bool,
}

/// A whole control plane. The order of the fields is the order of their end: without etcd an apiserver hangs.
pub(crate) struct ControlPlane {
    apiserver: Option<Process>,
    _etcd: Process,
    bin: PathBuf,
    run: PathBuf,
    policy_webhook: PathBuf,
    port: u16,
}

impl ControlPlane {
    /// Starts etcd and prepares [`Self::start_apiserver`]. `run` is an empty folder. `policy_webhook` is the
    /// folder of the certificates, to which the admission configuration and its kubeconfig are added.
    pub(crate) fn new(
        kubernetes: Kubernetes,
        run: &Path,
        policy_webhook: &Path,
        ports: [u16; 3],
        backend: u16,
    ) -> Result<Self> {
        let [port, etcd_client, etcd_peer] = ports;
        kubeadm(&kubernetes, run, port, etcd_client)?;
        write_json(&policy_webhook.join("kubeconf"), &kubeconfig(policy_webhook, backend))?;
        let etcd = start_etcd(&kubernetes.bin, run, etcd_client, etcd_peer)?;
        let (bin, run, policy_webhook) = (kubernetes.bin, run.to_owned(), policy_webhook.to_owned());
        Ok(Self { apiserver: None, _etcd: etcd, bin, run, policy_webhook, port })
    }

    /// Starts kube-apiserver with `image_policy`, and ends the running one.
    pub(crate) fn start_apiserver(&mut self, image_policy: &ImagePolicy) -> Result<()> {
        self.stop_apiserver();
        let admission = self.policy_webhook.join("admission_config.json");
        write_json(&admission, &self.admission_configuration(image_policy))?;
        let audit = self.run.join("audit-policy.yaml");
        fs::write(&audit, AUDIT_POLICY)?;

        let file = self.run.join("manifests/kube-apiserver.yaml");
        let manifest =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let manifest = switch_plugin_on(
            &manifest,
            &[
                format!("--admission-control-config-file={}", admission.display()),
                format!("--audit-policy-file={}", audit.display()),
                format!("--audit-log-path={}", self.audit_log().display()),
            ],
        )?;
        fs::write(self.run.join("kube-apiserver.yaml"), &manifest)?;

        let log = self.run.join("kube-apiserver.log");
        let mut command = Command::new(self.bin.join("kube-apiserver"));
        command.args(arguments(&manifest)).current_dir(&self.run);
        let apiserver = self.apiserver.insert(Process::start("kube-apiserver", &mut command, &log)?);
        apiserver.wait_for_port(self.port, Duration::from_secs(60))?;
        let ready = wait_until(Duration::from_secs(60), || {
            self.apiserver.as_mut().map_or(Ok(()), Process::check_running)?;
            Ok(self.kubectl(&["get", "--raw", "/readyz"], "")?.success.then_some(()))
        })?;
        ready.with_context(|| format!("kube-apiserver is not ready; its last words:\n{}", tail(&log, 5)))
    }

    /// Kills the apiserver: a graceful shutdown takes seconds, and nothing here depends on one.
    fn stop_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Runs kubectl as a cluster administrator. The output is not printed: see [`Said::show`].
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<Said> {
        let mut command = Command::new(self.bin.join("kubectl"));
        command
            .args(arguments)
            .arg("--request-timeout=15s")
            .env("KUBECONFIG", self.run.join("super-admin.conf"))
            .env("KUBECACHEDIR", self.run.join("kubectl-cache"))
            .env("KUBECTL_KUBERC", "false")
            .current_dir(&self.run);
        let output = output(&mut command, input, PATIENCE)?;
        Ok(Said {
            command: format!("kubectl {}", arguments.join(" ")),
            input: input.to_owned(),
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Returns the audit annotations of the last request with this verb (`create`, `patch`) for this pod.
    pub(crate) fn audit_annotations(&self, verb: &str, pod: &str) -> Result<BTreeMap<String, String>> {
        let log = self.audit_log();
        let found = wait_until(Duration::from_secs(5), || {
            let events = fs::read_to_string(&log).unwrap_or_default();
            Ok(events.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(
                |event| {
                    event["verb"] == verb
                        && event["objectRef"]["resource"] == "pods"
                        && event["objectRef"]["name"] == pod
                },
            ))
        })?;
        let event = found.with_context(|| format!("no {verb} of pod {pod} in {}", log.display()))?;
        Ok(serde_json::from_value(event["annotations"].clone()).unwrap_or_default())
    }

    /// Returns the audit events of pod creations, by pod, once there are at least `least`.
    pub(crate) fn creations(&self, least: usize) -> Result<BTreeMap<String, Value>> {
        let log = self.audit_log();
        let found = wait_until(Duration::from_secs(5), || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let created = events.filter(|event| event["verb"] == "create");
            let by_pod = created
                .filter_map(|event| Some((event["objectRef"]["name"].as_str()?.to_owned(), event.clone())));
            let by_pod: BTreeMap<_, _> = by_pod.collect();
            Ok((by_pod.len() >= least).then_some(by_pod))
        })?;
        found.with_context(|| format!("there are not {least} pods' creations in {}", log.display()))
    }

    fn audit_log(&self) -> PathBuf {
        self.run.join("audit.log")
    }

    fn admission_configuration(&self, image_policy: &ImagePolicy) -> Value {
        let configuration = json!({"imagePolicy": {
            "kubeConfigFile": self.policy_webhook.join("kubeconf"),
            "allowTTL": image_policy.allow_ttl,
            "denyTTL": image_policy.deny_ttl,
            "retryBackoff": 500,
            "defaultAllow": image_policy.default_allow,
        }});
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AdmissionConfiguration",
            "plugins": [{"name": "ImagePolicyWebhook", "configuration": configuration}],
        })
    }
}

/// One kubectl run and its output.
pub(crate) struct Said {
    command: String,
    input: String,
    success: bool,
    stdout: String,
    stderr: String,
}

impl Said {
    /// Prints the command and kubectl's output to the log.
    pub(crate) fn show(self) -> Self {
        let input = if self.input.is_empty() { String::new() } else { format!(" <<< '{}'", self.input) };
        say(format!("$ {}{input}", self.command));
        for line in self.stdout.lines().chain(self.stderr.lines()) {
            say(format!("  {line}"));
        }
        self
    }

    /// Returns whether the output contains these words.
    pub(crate) fn told(&self, words: &str) -> bool {
        self.stdout.contains(words) || self.stderr.contains(words)
    }

    /// Returns the whole output.
    pub(crate) fn words(&self) -> String {
        [self.stdout.trim(), self.stderr.trim()].join("\n")
    }

    /// Returns an error unless the command succeeded.
    pub(crate) fn succeeded(&self) -> Result<()> {
        ensure!(self.success, "`{}` was to succeed, but: {}", self.command, self.stderr.trim());
        Ok(())
    }

    /// Returns None if the pod was admitted, or the backend's reason for a denial. Anything else is an error:
    /// a review that got no verdict.
    pub(crate) fn verdict(&self) -> Result<Option<&str>> {
        if self.success {
            return Ok(None);
        }
        match self.stderr.trim().split_once(DENIED) {
            Some((before, reason)) if before.ends_with("is forbidden: ") => Ok(Some(reason)),
            _ => bail!("`{}` was to get a verdict, but: {}", self.command, self.stderr.trim()),
        }
    }

    /// Returns the backend's reason. Returns an error unless it denied.
    pub(crate) fn denied(&self) -> Result<&str> {
        self.verdict()?.with_context(|| format!("`{}` was to be denied, but was admitted", self.command))
    }

    /// Returns kube-apiserver's message about a backend that gave no verdict. Returns an error unless it
    /// rejected the pod for that.
    pub(crate) fn refused_without_verdict(&self) -> Result<&str> {
        match self.stderr.trim().split_once("is forbidden: ") {
            Some((_, error)) if !self.success && !error.starts_with(DENIED) => Ok(error),
            _ => bail!(
                "`{}` was to be refused for want of a verdict, but: {}{}",
                self.command,
                self.stdout.trim(),
                self.stderr.trim()
            ),
        }
    }
}

/// An audit policy that records the verdicts: pods, without their content.
const AUDIT_POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch]
  resources: [{ group: "", resources: [pods, pods/ephemeralcontainers] }]
- level: None
"#;

/// Makes kubeadm's PKI, administrator and static Pod manifest, for these ports of loopback.
fn kubeadm(kubernetes: &Kubernetes, run: &Path, port: u16, etcd: u16) -> Result<()> {
    // kubeadm rejects loopback as an advertised address. This one is from a range for documentation and need
    // not exist here.
    let init = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": "203.0.113.10", "bindPort": port},
        "nodeRegistration": {"name": "control-plane", "criSocket": "unix:///none"},
    });
    let cluster = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": kubernetes.version,
        "certificatesDir": run.join("pki"),
        "controlPlaneEndpoint": format!("127.0.0.1:{port}"),
        "apiServer": {
            "certSANs": ["127.0.0.1", "localhost"],
            "extraArgs": [
                {"name": "bind-address", "value": "127.0.0.1"},
                {"name": "etcd-servers", "value": format!("https://127.0.0.1:{etcd}")},
            ],
        },
    });
    let config = run.join("kubeadm.yaml");
    fs::write(&config, format!("{init:#}\n---\n{cluster:#}\n"))?;
    let manifests = run.join("manifests");
    fs::create_dir_all(&manifests)?;
    for phase in
        [&["certs", "all"][..], &["kubeconfig", "super-admin"], &["control-plane", "apiserver", "--dry-run"]]
    {
        let mut command = Command::new(kubernetes.bin.join("kubeadm"));
        command.args(["init", "phase"]).args(phase).arg("--config").arg(&config).current_dir(run);
        if phase.contains(&"kubeconfig") {
            command.arg("--kubeconfig-dir").arg(run);
        }
        command.env("KUBEADM_INIT_DRYRUN_DIR", &manifests);
        let output = output(&mut command, "", Duration::from_secs(60))?;
        ensure!(
            output.status.success(),
            "`kubeadm init phase {}` failed: {}",
            phase.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn start_etcd(bin: &Path, run: &Path, client: u16, peer: u16) -> Result<Process> {
    let (client_url, peer_url) = (format!("https://127.0.0.1:{client}"), format!("https://127.0.0.1:{peer}"));
    let pki = run.join("pki/etcd");
    let mut command = Command::new(bin.join("server"));
    command
        .current_dir(run)
        .args(["--log-level=warn", "--unsafe-no-fsync"])
        .arg("--data-dir")
        .arg(run.join("etcd"));
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("default={peer_url}")]);
    command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(pki.join("ca.crt"));
    command.arg("--cert-file").arg(pki.join("server.crt")).arg("--key-file").arg(pki.join("server.key"));
    command.arg("--peer-client-cert-auth").arg("--peer-trusted-ca-file").arg(pki.join("ca.crt"));
    command
        .arg("--peer-cert-file")
        .arg(pki.join("peer.crt"))
        .arg("--peer-key-file")
        .arg(pki.join("peer.key"));
    let mut etcd = Process::start("etcd", &mut command, &run.join("etcd.log"))?;
    etcd.wait_for_port(client, Duration::from_secs(30))?;
    Ok(etcd)
}

/// Returns the kubeconfig by which the plugin finds the backend, in the form of the usual walk-through.
fn kubeconfig(folder: &Path, backend: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "image-checker", "cluster": {
            "certificate-authority": folder.join("external-cert.pem"),
            // The path is another backend's (kube-image-bouncer): this host accepts any.
            "server": format!("https://localhost:{backend}/image_policy"),
        }}],
        "contexts": [
            {"name": "image-checker", "context": {"cluster": "image-checker", "user": "api-server"}},
        ],
        "current-context": "image-checker",
        "users": [{"name": "api-server", "user": {
            "client-certificate": folder.join("apiserver-client-cert.pem"),
            "client-key": folder.join("apiserver-client-key.pem"),
        }}],
    })
}

/// Makes the two edits of kube-apiserver.yaml: adds the plugin's name to the enabled ones, and `more` flags
/// after that line.
fn switch_plugin_on(manifest: &str, more: &[String]) -> Result<String> {
    const PLUGINS: &str = "    - --enable-admission-plugins=NodeRestriction\n";
    ensure!(
        manifest.matches(PLUGINS).count() == 1,
        "kubeadm's manifest has no line `{}`: adapt the patch in control_plane.rs to its new form",
        PLUGINS.trim()
    );
    let mut lines = format!("{},ImagePolicyWebhook\n", PLUGINS.trim_end());
    for flag in more {
        lines += &format!("    - {flag}\n");
    }
    Ok(manifest.replace(PLUGINS, &lines))
}

/// Returns the arguments that a static Pod manifest gives its one container.
fn arguments(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .filter_map(|line| line.strip_prefix("    - "))
        .filter(|argument| argument.starts_with("--"))
}

fn write_json(file: &Path, value: &Value) -> Result<()> {
    fs::write(file, format!("{value:#}\n")).with_context(|| format!("cannot write {}", file.display()))
}
