//! The programs under test: Kubernetes from the Go module beside this file, and the host from the workspace.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{say, wait_until};

/// The built programs of Kubernetes.
pub(crate) struct Kubernetes {
    /// The folder with [`PROGRAMS`].
    pub(crate) bin: PathBuf,
    /// The version in go.mod, such as `v1.37.2`.
    pub(crate) version: &'static str,
}

/// The programs that `go build` makes of the module's tools. The one of etcd is called `server`.
const PROGRAMS: [&str; 4] = ["kube-apiserver", "kubeadm", "kubectl", "server"];

/// The folder of this package.
const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// Returns cargo's target folder.
pub(crate) fn target() -> Result<&'static Path> {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("Cargo's temporary folder has no parent")
}

/// Returns the folder that holds the workspace.
pub(crate) fn workspace() -> Result<&'static Path> {
    Path::new(PACKAGE).ancestors().nth(2).context("the package is not at tests/cluster of a workspace")
}

/// Returns Kubernetes. Builds it first if a program is missing, or if go.mod, go.sum or the flags have
/// changed.
pub(crate) fn kubernetes() -> Result<Kubernetes> {
    let module = include_str!("go.mod");
    let required = module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    let version = required.and_then(|rest| rest.split_whitespace().next());
    let version = version.context("tests/cluster/go.mod does not require k8s.io/kubernetes")?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = numbers.next().zip(numbers.next()).context("not a version of Kubernetes")?;

    // Without these kubeadm and kubectl misjudge their own version.
    let package = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    );
    let bin = target()?.join("cluster/bin");
    let stamp = bin.join("built-from");
    let recipe = [&flags, module, include_str!("go.sum")].join("\n");
    let present = PROGRAMS.iter().all(|name| bin.join(name).is_file());
    if !present || fs::read_to_string(&stamp).ok().as_ref() != Some(&recipe) {
        fs::create_dir_all(&bin)?;
        go_build(&bin, version, &flags)?;
        fs::write(stamp, recipe)?;
    }
    Ok(Kubernetes { bin, version })
}

fn go_build(bin: &Path, version: &str, flags: &str) -> Result<()> {
    let go = match Command::new("go").arg("version").current_dir(PACKAGE).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("Go 1.26 or later is needed (go not found on PATH): https://go.dev/dl")
        }
        other => String::from_utf8_lossy(&other.context("go does not start")?.stdout).trim().to_owned(),
    };
    say(format!(
        "building kube-apiserver, kubeadm, kubectl {version} and etcd from source into {}\n  \
         with {go}: about eight minutes the first time on two cores, seconds when Go's cache holds them",
        bin.display()
    ));
    let start = Instant::now();
    let mut build = Command::new("go")
        .args(["build", "-ldflags", flags, "-o"])
        .arg(bin)
        .arg("tool")
        .current_dir(PACKAGE)
        .spawn()
        .context("go does not start")?;
    let minute = Duration::from_secs(60);
    let status = loop {
        match wait_until(minute, || Ok(build.try_wait()?))? {
            Some(status) => break status,
            None => say(format!("  still building after {} min", start.elapsed().as_secs() / 60)),
        }
    };
    ensure!(
        status.success(),
        "`go build tool` in tests/cluster failed ({status}); what it says is above. It needs Go 1.26 or \
            later (this is {go}), a Go module proxy or its cache, and 6 GiB of disk"
    );
    say(format!("  built in {:.0?}", start.elapsed()));
    Ok(())
}

/// Returns the host: `HOST_BIN`, or the one built here.
pub(crate) fn host() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HOST_BIN") {
        let path = workspace()?.join(path);
        ensure!(path.is_file(), "HOST_BIN names no file: {}", path.display());
        return Ok(path);
    }
    let target = target()?;
    say("building the host: cargo build -p host");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--package", "host", "--bin", "host", "--target-dir"])
        .arg(target)
        .current_dir(workspace()?)
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "`cargo build -p host` failed ({status}); what it says is above");
    Ok(target.join("debug/host"))
}

/// Reads a delivered policy: `plugins/dist/NAME.wasm`.
pub(crate) fn policy(name: &str) -> Result<Vec<u8>> {
    let file = workspace()?.join("plugins/dist").join(format!("{name}.wasm"));
    fs::read(&file)
        .with_context(|| format!("no policy at {}: build it first with plugins/build", file.display()))
}
