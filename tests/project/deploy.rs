//! The files of `host/deploy`: everything that they name exists, and the host starts with their commands.

use std::collections::BTreeMap;
use std::process::Command;

use host::config::yaml::Document;
use serde_json::{Value, json};

use crate::support::client::get;
use crate::support::process::{HOST, Process};
use crate::support::{Installation, project};

const CONFIG: &str = "/etc/kubernetes/policywebhook/host.yaml";
const PROGRAM: &str = "/usr/local/bin/host";

fn deployed(file: &str) -> String {
    std::fs::read_to_string(project("host/deploy").join(file)).unwrap()
}

/// Reads the settings of a systemd unit.
fn unit(file: &str) -> BTreeMap<String, String> {
    let text = deployed(file);
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    let settings = lines.filter_map(|line| line.split_once('='));
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Starts the host by `command` on an installation in a folder.
fn start(command: &[&str]) -> (Installation, Process) {
    let installation = Installation::bare(json!({}));
    assert_eq!(command[0], PROGRAM);
    assert!(command.contains(&CONFIG), "{command:?}");
    let config = installation.path("host.yaml").display().to_string();
    let arguments = command[1..].iter().map(|&argument| if argument == CONFIG { &config } else { argument });
    let process = Process::start(Command::new(HOST).args(arguments));
    (installation, process)
}

fn readme() -> String {
    std::fs::read_to_string(project("README.md")).unwrap()
}

#[test]
fn the_units_start_the_host_that_the_readme_sets_up() {
    let (service, socket) = (unit("image-policy-host.service"), unit("image-policy-host.socket"));
    let (_installation, mut process) = start(&service["ExecStart"].split(' ').collect::<Vec<_>>());
    process.addresses();
    assert_eq!(service["Type"], "notify");
    assert_eq!(socket["FileDescriptorName"], "webhook");
    // A service that reaches its limit of starts takes the socket down with it.
    assert_eq!(service["StartLimitIntervalSec"], "0");
    for call in ["landlock_create_ruleset", "landlock_restrict_self", "seccomp"] {
        assert!(service["SystemCallFilter"].split(' ').any(|allowed| allowed == call), "{call}");
    }
    let readme = readme();
    for written in [
        format!("listen: {}", socket["ListenStream"]),
        format!("stateDirectory: /var/lib/{}", service["StateDirectory"]),
        format!("install target/release/host {}", PROGRAM.trim_end_matches("host")),
        "cp host/deploy/image-policy-host.* /etc/systemd/system/".to_owned(),
    ] {
        assert!(readme.contains(&written), "the README does not have: {written}");
    }
    let seconds = |key: &str| service[key].trim_end_matches('s').parse::<u64>().unwrap();
    let limits = host::limits::ALL.iter().flat_map(|group| group.limits);
    let stopping = limits.filter(|limit| ["linger", "stop-time"].contains(&limit.name));
    let longest = stopping.map(|limit| limit.default).sum::<u64>() / 1000;
    assert!(seconds("TimeoutStopSec") > longest, "it is killed before {longest} s are over");
}

/// systemd itself accepts the units.
#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["image-policy-host.service", "image-policy-host.socket"] {
        // The program has to exist.
        std::fs::write(folder.path().join(file), deployed(file).replace(PROGRAM, "/bin/true")).unwrap();
    }
    let files =
        ["image-policy-host.service", "image-policy-host.socket"].map(|file| folder.path().join(file));
    let output = Command::new("systemd-analyze").arg("verify").args(&files).output();
    let output = output.expect("this test needs the program `systemd-analyze` (package systemd)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("image-policy-host"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_static_pod_starts_the_host() {
    let pod = Document::parse(deployed("static-pod.yaml").as_bytes()).unwrap().value;
    let spec = &pod["spec"];
    let container = &spec["containers"][0];
    let command: Vec<&str> =
        container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let (_installation, mut process) = start(&command);
    let (_, admin) = process.addresses();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = &container[probe]["httpGet"];
        // The default of `admin.listen`.
        assert_eq!((&probe["host"], &probe["port"]), (&json!("127.0.0.1"), &json!(9234)));
        assert_eq!(get(admin, probe["path"].as_str().unwrap()).await.unwrap().0, 200);
    }
    let names = |list: &Value| -> Vec<String> {
        let mut names: Vec<_> =
            list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&container["volumeMounts"]), names(&spec["volumes"]));
}
