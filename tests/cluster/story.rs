//! The demonstrations, in their order.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::binaries::{self, Kubernetes};
use crate::control_plane::{ControlPlane, ImagePolicy, Said};
use crate::host::Host;
use crate::process::{free_ports, say, tail, wait_until};
use crate::swaps;

/// The policy that host.yaml names.
const POLICY: &str = "trusted-registries";
/// The policy that is put into the policy folder later. Without settings it denies images without a digest.
const DROPPED: &str = "pinned-images";
/// An image that [`POLICY`] trusts.
const TRUSTED: &str = "registry.k8s.io/pause:3.10";

/// Time limit from a change of a file to a change of verdicts.
const RELOAD: Duration = Duration::from_secs(10);

#[test]
fn kube_apiserver_asks_and_obeys() {
    let start = Instant::now();
    let run = run_folder().expect("a folder for this run");
    let told = tell(&run);
    // These folders are large, and no help in finding the cause of a failure.
    for folder in ["etcd", "kubectl-cache"] {
        drop(fs::remove_dir_all(run.join(folder)));
    }
    if let Err(error) = told {
        for log in ["etcd.log", "kube-apiserver.log", "host.log"] {
            if run.join(log).exists() {
                say(format!("--- the end of {log}\n{}", tail(&run.join(log), 20)));
            }
        }
        panic!("{error:#}\nThe logs of this run are in {}", run.display());
    }
    say(format!("\nall as it should be, in {:.0?}; the logs are in {}", start.elapsed(), run.display()));
}

type Scene = fn(&mut Stage) -> Result<()>;

fn tell(run: &Path) -> Result<()> {
    let mut stage = Stage::set(run, binaries::kubernetes()?, binaries::host()?)?;
    let scenes: [(&str, Scene); 9] = [
        ("the walk-through: an untrusted image is forbidden, a trusted one runs", walk_through),
        ("every kind of container is judged", every_kind_of_container),
        ("the audit log holds each verdict's generation", audit_log),
        ("new settings take effect without a restart", new_settings),
        ("a policy dropped into the folder takes effect, and goes with its file", dropped_policy),
        ("policies swapped under a stream of pods: each has the verdict of one generation", swapped_policies),
        ("a broken policy file changes no verdict, a whole one does", replaced_policy),
        ("with the host gone, nothing runs", host_gone),
        ("with defaultAllow: true everything does, and the audit log tells", failed_open),
    ];
    for (title, scene) in scenes {
        say(format!("\n=== {title}"));
        scene(&mut stage).with_context(|| format!("not so: {title}"))?;
    }
    Ok(())
}

fn walk_through(stage: &mut Stage) -> Result<()> {
    let said = stage.run("nginx", "nginx")?;
    denied_by(&said, POLICY, "nginx")?;
    stage.run("trusted", TRUSTED)?.succeeded()?;
    // Any update of a pod is a review of it.
    stage.kubectl(&["label", "pod", "trusted", "team=a"], "")?.succeeded()
}

fn every_kind_of_container(stage: &mut Stage) -> Result<()> {
    let good = |name: &str| json!({"name": name, "image": TRUSTED});
    let bad = |name: &str| json!({"name": name, "image": format!("evil.example/{name}:1")});
    let mut sidecar = bad("sidecar");
    sidecar["restartPolicy"] = json!("Always");

    let said = stage.create("bad-init", &[good("app")], &[bad("init")])?;
    denied_by(&said, POLICY, "evil.example/init:1")?;
    let said = stage.create("bad-sidecar", &[good("app")], &[sidecar])?;
    denied_by(&said, POLICY, "evil.example/sidecar:1")?;
    let said = stage.create("one-bad-of-three", &[good("first"), bad("second"), good("third")], &[])?;
    let reason = denied_by(&said, POLICY, "evil.example/second:1")?;
    ensure!(!reason.contains(TRUSTED), "an allowed image is named among the denied: {reason}");

    let mut sidecar = good("sidecar");
    sidecar["restartPolicy"] = json!("Always");
    stage.create("all-good", &[good("app"), good("second")], &[good("init"), sidecar])?.succeeded()?;

    stage.debug("trusted", "registry.k8s.io/e2e-test-images/busybox:1.29")?.succeeded()?;
    let said = stage.debug("trusted", "evil.example/debug:1")?;
    denied_by(&said, POLICY, "evil.example/debug:1").map(drop)
}

fn audit_log(stage: &mut Stage) -> Result<()> {
    let allowed = stage.generation("create", "trusted")?;
    for (verb, pod) in [("create", "nginx"), ("patch", "trusted")] {
        let other = stage.generation(verb, pod)?;
        ensure!(other == allowed, "one policy set, two generations: {allowed} and {other}");
    }
    Ok(())
}

fn new_settings(stage: &mut Stage) -> Result<()> {
    denied_by(&stage.run("early", "quay.io/team/early:1")?, POLICY, "quay.io/team/early:1")?;
    let id = stage.host.id()?;
    let before = stage.generation("create", "early")?;

    stage.host.write_configuration(&json!({"allow": ["registry.k8s.io/**", "quay.io/**"]}))?;
    let pod = stage.soon(|number| format!("quay.io/team/late:{number}"), |reason| reason.is_none())?;

    let after = stage.generation("create", &pod)?;
    ensure!(before != after, "other settings, yet the same generation: {after}");
    same_process(stage, id)
}

fn dropped_policy(stage: &mut Stage) -> Result<()> {
    let id = stage.host.id()?;
    let tagged = |number| format!("registry.k8s.io/tagged:{number}");
    stage.host.write_policy(DROPPED, &stage.dropped)?;
    stage.soon(tagged, |reason| reason.is_some_and(|reason| reason.contains(DROPPED)))?;
    stage.run("pinned", &format!("registry.k8s.io/pause@{}", digest(0)))?.succeeded()?;
    // Both policies are in force, and one denial is enough.
    let untrusted = format!("evil.example/pinned@{}", digest(0));
    denied_by(&stage.run("untrusted-pinned", &untrusted)?, POLICY, &untrusted)?;

    stage.host.remove_policy(DROPPED)?;
    stage.soon(tagged, |reason| reason.is_none())?;
    same_process(stage, id)
}

fn swapped_policies(stage: &mut Stage) -> Result<()> {
    let id = stage.host.id()?;
    swaps::under_a_stream_of_pods(&stage.cluster, &mut stage.host)?;
    stage.soon(|number| format!("registry.k8s.io/after:{number}"), |reason| reason.is_none())?;
    denied_by(&stage.run("after", "quay.io/team/after:1")?, POLICY, "quay.io/team/after:1")?;
    same_process(stage, id)
}

fn replaced_policy(stage: &mut Stage) -> Result<()> {
    let id = stage.host.id()?;
    let logged = stage.host.logged()?;
    stage.host.write_policy(POLICY, b"no component at all")?;
    let noticed = wait_until(RELOAD, || {
        stage.host.id()?;
        Ok(stage.host.logged_since(logged)?.contains(POLICY).then_some(()))
    })?;
    noticed.with_context(|| format!("the host logs nothing of a broken {POLICY}.wasm within {RELOAD:?}"))?;
    denied_by(&stage.run("still-denied", "evil.example/a:1")?, POLICY, "evil.example/a:1")?;
    stage.run("still-allowed", "registry.k8s.io/a:1")?.succeeded()?;

    // Another component under the same name: it allows pinned images from anywhere, where any images from
    // some registries were allowed.
    stage.host.write_configuration(&json!({}))?;
    stage.host.write_policy(POLICY, &stage.dropped)?;
    stage.soon(|number| format!("evil.example/late@{}", digest(number)), |reason| reason.is_none())?;
    denied_by(&stage.run("unpinned", "registry.k8s.io/b:1")?, POLICY, "registry.k8s.io/b:1")?;
    same_process(stage, id)
}

fn host_gone(stage: &mut Stage) -> Result<()> {
    let status = stage.host.terminate()?;
    ensure!(status.success(), "the host was asked to end (SIGTERM) and did not end well: {status}");
    let said = stage.run("unjudged", &format!("registry.k8s.io/pause@{}", digest(0)))?;
    let error = said.refused_without_verdict()?;
    ensure!(error.contains("connection refused"), "refused, but not for want of a connection: {error}");
    Ok(())
}

fn failed_open(stage: &mut Stage) -> Result<()> {
    // The cache times of the usual walk-through. A failure is never cached, whatever they are.
    stage.cluster.start_apiserver(&ImagePolicy { allow_ttl: 100, deny_ttl: 50, default_allow: true })?;
    stage.run("let-in", "evil.example/let-in:1")?.succeeded()?;
    let annotations = stage.audit_annotations("create", "let-in")?;
    let failed_open = annotations.get("imagepolicywebhook.image-policy.k8s.io/failed-open");
    ensure!(
        failed_open.is_some_and(|value| value == "true"),
        "admitted unjudged, and the audit log does not tell"
    );

    // After its restart the host judges as before.
    stage.host.start()?;
    denied_by(&stage.run("kept-out", "evil.example/let-in:1")?, POLICY, "evil.example/let-in:1").map(drop)
}

/// Returns the reason of a denial by `policy` that names `image`, or an error.
fn denied_by<'a>(said: &'a Said, policy: &str, image: &str) -> Result<&'a str> {
    let reason = said.denied()?;
    for part in [policy, image] {
        ensure!(reason.contains(part), "denied, but the reason does not name {part}: {reason}");
    }
    Ok(reason)
}

fn digest(number: u32) -> String {
    format!("sha256:{number:064x}")
}

fn same_process(stage: &mut Stage, id: u32) -> Result<()> {
    let now = stage.host.id()?;
    ensure!(now == id, "the host was process {id} and is now process {now}");
    say(format!("  the host is process {id} still"));
    Ok(())
}

/// The control plane, and the host behind it.
struct Stage {
    cluster: ControlPlane,
    host: Host,
    /// Number of images tried while waiting for another verdict: none is tried twice.
    tried: Cell<u32>,
    /// The component of [`DROPPED`].
    dropped: Vec<u8>,
}

impl Stage {
    fn set(run: &Path, kubernetes: Kubernetes, host: PathBuf) -> Result<Self> {
        let start = Instant::now();
        let folder = run.join("policywebhook");
        let dropped = binaries::policy(DROPPED)?;
        let [port, admin, apiserver, etcd_client, etcd_peer] = free_ports()?;

        let mut host = Host::new(host, &folder, &run.join("host.log"), [port, admin])?;
        host.write_policy(POLICY, &binaries::policy(POLICY)?)?;
        host.write_configuration(&json!({"allow": ["registry.k8s.io/**"]}))?;
        host.start()?;

        let ports = [apiserver, etcd_client, etcd_peer];
        let mut cluster = ControlPlane::new(kubernetes, run, &folder, ports, port)?;
        // Nothing is cached, so that each verdict is the host's own.
        cluster.start_apiserver(&ImagePolicy { allow_ttl: -1, deny_ttl: -1, default_allow: false })?;

        // No controller-manager runs to make it, and without it every pod is rejected.
        let account = wait_until(Duration::from_secs(20), || {
            let said = cluster.kubectl(&["create", "serviceaccount", "default"], "")?;
            Ok(said.succeeded().is_ok().then_some(said))
        })?;
        account.context("the service account `default` cannot be made")?.show();
        say(format!("the control plane and the host are up after {:.1?}", start.elapsed()));
        Ok(Self { cluster, host, tried: Cell::new(0), dropped })
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<Said> {
        Ok(self.cluster.kubectl(arguments, input)?.show())
    }

    fn run(&self, pod: &str, image: &str) -> Result<Said> {
        self.kubectl(&["run", pod, &format!("--image={image}")], "")
    }

    fn debug(&self, pod: &str, image: &str) -> Result<Said> {
        self.kubectl(&["debug", pod, &format!("--image={image}")], "")
    }

    fn create(&self, pod: &str, containers: &[Value], init_containers: &[Value]) -> Result<Said> {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod},
            "spec": {"containers": containers, "initContainers": init_containers},
        });
        self.kubectl(&["create", "-f", "-"], &manifest.to_string())
    }

    /// Runs one new image after the other until the verdict (the reason of a denial, or None) is `wanted`,
    /// within [`RELOAD`]. Returns the pod's name. Each must get a verdict: a change of policies loses no
    /// review.
    fn soon(&self, image: impl Fn(u32) -> String, wanted: impl Fn(Option<&str>) -> bool) -> Result<String> {
        let start = Instant::now();
        let mut last = None;
        let changed = wait_until(RELOAD, || {
            let number = self.tried.replace(self.tried.get() + 1);
            let pod = format!("new-{number}");
            let said = self.cluster.kubectl(&["run", &pod, &format!("--image={}", image(number))], "")?;
            if wanted(said.verdict()?) {
                said.show();
                return Ok(Some(pod));
            }
            last = Some(said);
            Ok(None)
        })?;
        match (changed, last) {
            (Some(pod), _) => {
                say(format!("  another verdict {} ms after the change", start.elapsed().as_millis()));
                Ok(pod)
            }
            (None, last) => {
                last.map(Said::show);
                bail!("no other verdict {RELOAD:?} after the change; the last one is above")
            }
        }
    }

    /// Returns the generation that judged a request, from the audit log.
    fn generation(&self, verb: &str, pod: &str) -> Result<String> {
        let key = "imagepolicywebhook.image-policy.k8s.io/generation";
        let generation = self.audit_annotations(verb, pod)?.remove(key);
        generation.with_context(|| format!("the audit event of {verb} {pod} has no annotation {key}"))
    }

    /// Returns the audit annotations of a request, and prints the backend's own.
    fn audit_annotations(&self, verb: &str, pod: &str) -> Result<BTreeMap<String, String>> {
        let annotations = self.cluster.audit_annotations(verb, pod)?;
        say(format!("audit log, {verb} {pod}:"));
        for (key, value) in annotations.iter().filter(|(key, _)| key.contains(".image-policy.k8s.io/")) {
            say(format!("  {key}: {value}"));
        }
        Ok(annotations)
    }
}

/// Makes a new folder for the files of this run.
fn run_folder() -> Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let run = binaries::target()?.join(format!("cluster/run-{seconds}-{}", std::process::id()));
    fs::create_dir_all(&run)?;
    Ok(run)
}
