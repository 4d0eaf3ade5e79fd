//! The table of faults: how the host is run, the harm, the message that the host must log, and the repair.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::host::{Installation, signal, template};
use crate::stage::Stage;

/// A fault.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// The words that run the host.
    pub(super) under: fn(&Installation) -> Result<Vec<String>>,
    /// The harm. A returned killer lives until the fault is mended.
    pub(super) harm: fn(&Stage) -> Result<Option<Killer>>,
    /// Part of the host's log message during the fault. Empty if the host has nothing to report.
    pub(super) says: &'static str,
    /// Whether every change waits during the fault: a change comes into force whole or not at all.
    pub(super) blocks: bool,
    /// Number of swaps of the other policy during the fault.
    pub(super) swaps: usize,
    /// The repair. Returns the place of the content that must be in force then.
    pub(super) mend: fn(&Stage) -> Result<usize>,
}

const BROKEN_FILE: Fault = Fault {
    name: "",
    under: plainly,
    harm: |_| Ok(None),
    says: "",
    blocks: true,
    swaps: 3,
    mend: Stage::offer_file,
};

pub(super) const FAULTS: [Fault; 12] = [
    Fault {
        name: "truncated file",
        harm: |stage| {
            let whole = crate::host::component(stage.ledger.last().file + 1)?;
            file_is(stage, whole.get(..whole.len() / 2).unwrap_or_default())
        },
        says: "it ends early, so it is incomplete",
        ..BROKEN_FILE
    },
    Fault {
        name: "empty file",
        harm: |stage| {
            // Written in place, as by a shell's redirection.
            fs::File::create(stage.installation.file())?;
            Ok(None)
        },
        says: "the file is empty",
        ..BROKEN_FILE
    },
    Fault {
        name: "wrong world",
        harm: |stage| file_is(stage, &wat::parse_str("(component)")?),
        says: "it is a component of another world",
        ..BROKEN_FILE
    },
    Fault {
        name: "configure traps",
        harm: |stage| file_is(stage, &configured_by("unreachable")?),
        says: "it cannot be configured: ",
        ..BROKEN_FILE
    },
    Fault {
        name: "configure spins",
        harm: |stage| file_is(stage, &configured_by("(loop $for-ever (br $for-ever))")?),
        says: "it cannot be configured: ",
        ..BROKEN_FILE
    },
    Fault {
        name: "host.yaml truncated",
        blocks: false,
        harm: |stage| {
            let whole = fs::read(stage.installation.path("host.yaml"))?;
            stage.installation.replace("host.yaml", whole.get(..whole.len() / 2).unwrap_or_default())?;
            Ok(None)
        },
        says: "(the generation in force stays)",
        mend: |stage| stage.offer_settings(),
        swaps: 0,
        ..BROKEN_FILE
    },
    Fault {
        name: "directory removed",
        harm: |stage| {
            fs::rename(stage.installation.path("policies"), stage.installation.path("gone"))?;
            Ok(None)
        },
        says: "cannot be read: No such file or directory",
        blocks: true,
        mend: |stage| {
            // Swapped at once: a folder without the file would be a set without the policy.
            fs::create_dir(stage.installation.path("policies.new"))?;
            let place = stage.offered_file()?;
            fs::write(
                stage.installation.path("policies.new/file.wasm"),
                crate::host::component(stage.ledger.last().file)?,
            )?;
            fs::rename(stage.installation.path("policies.new"), stage.installation.path("policies"))?;
            Ok(place)
        },
        ..BROKEN_FILE
    },
    Fault {
        name: "permissions lost",
        under: |_| unprivileged(),
        harm: |stage| {
            fs::set_permissions(stage.installation.file(), fs::Permissions::from_mode(0o000))?;
            Ok(None)
        },
        says: "Permission denied",
        ..BROKEN_FILE
    },
    Fault {
        name: "disk full",
        blocks: false,
        under: |installation| with_small_state(&installation.path("state")),
        harm: |stage| {
            let mut file = fs::File::create(filler(stage))?;
            let written = (0..1 << 20).try_for_each(|_| file.write_all(&[0; 4096]));
            ensure!(written.is_err(), "the file system of the state directory has no end");
            stage.offer_file()?;
            Ok(None)
        },
        says: "No space left on device",
        mend: |stage| {
            fs::remove_file(filler(stage))?;
            stage.offer_file()
        },
        ..BROKEN_FILE
    },
    Fault {
        name: "clock set back",
        blocks: false,
        under: with_clock,
        harm: |stage| {
            stage.installation.replace("clock", b"-45m")?;
            stage.offer_file()?;
            Ok(None)
        },
        mend: |stage| {
            stage.installation.replace("clock", b"+0")?;
            stage.offer_file()
        },
        ..BROKEN_FILE
    },
    Fault {
        name: "watch limit reached",
        blocks: false,
        under: |_| in_user_namespace("exec \"$@\""),
        harm: |stage| {
            watches(stage, 0)?;
            // Another folder replaces the watched one.
            let (old, new) = (stage.installation.path("policies"), stage.installation.path("policies.new"));
            fs::create_dir(&new)?;
            fs::copy(stage.installation.file(), new.join("file.wasm"))?;
            fs::rename(&old, stage.installation.path("policies.old"))?;
            fs::rename(&new, &old)?;
            Ok(None)
        },
        says: "max_user_watches",
        swaps: 1,
        mend: |stage| {
            watches(stage, 1000)?;
            stage.offer_file()
        },
    },
    Fault {
        name: "child killed",
        harm: |stage| {
            let killer = Killer::start(stage);
            file_is(stage, &slow(stage.ledger.last().file + 1)?)?;
            Ok(Some(killer))
        },
        says: "the process that compiled it was killed",
        // The host tries again by itself; nothing has to be mended.
        mend: Stage::offered_file,
        ..BROKEN_FILE
    },
];

fn plainly(_: &Installation) -> Result<Vec<String>> {
    Ok(Vec::new())
}

fn file_is(stage: &Stage, bytes: &[u8]) -> Result<Option<Killer>> {
    stage.installation.replace("policies/file.wasm", bytes)?;
    Ok(None)
}

/// Returns a policy whose `configure` begins with this instruction.
fn configured_by(instruction: &str) -> Result<Vec<u8>> {
    template(&[(";; MARK configure\n", &format!("{instruction}\n"))])
}

/// Returns the policy `file` in an edition, with enough code to take a while to compile.
fn slow(edition: u32) -> Result<Vec<u8>> {
    let mut functions = String::new();
    for number in 0..4000 {
        functions.push_str("(func (param i32) (result i32) local.get 0 ");
        for step in 0..60 {
            functions.push_str(&format!(
                "i32.const {} i32.add local.tee 0 i32.const {step} i32.rotl ",
                number * 64 + step
            ));
        }
        functions.push_str(")\n");
    }
    crate::host::edition(edition, &[(";; MARK core\n", &functions)])
}

/// Returns an error that names the package if a program of the system is missing.
fn need(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return Ok(());
    }
    bail!("{program} is not on the path: apt-get install {package}")
}

fn words<const COUNT: usize>(words: [&str; COUNT]) -> Result<Vec<String>> {
    Ok(words.map(str::to_owned).to_vec())
}

/// Returns the words that run a program as a user to whom file permissions apply, even if this process is
/// root.
fn unprivileged() -> Result<Vec<String>> {
    need("unshare", "util-linux")?;
    words(["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"])
}

/// Returns the words that run a program after a shell script, as root of a new user namespace.
fn in_user_namespace(script: &str) -> Result<Vec<String>> {
    need("unshare", "util-linux")?;
    words(["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-euc", script, "sh"])
}

fn with_small_state(state: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(state)?;
    in_user_namespace(&format!(
        "mount -t tmpfs -o size=16m,mode=0700 state '{}'; exec \"$@\"",
        state.display()
    ))
}

/// Returns the path of the file that fills the state directory, as seen in the host's own mounts.
fn filler(stage: &Stage) -> PathBuf {
    let state = stage.installation.path("state/filler");
    PathBuf::from(format!("/proc/{}/root{}", stage.host.id(), state.display()))
}

/// Returns the words that run a program with a wall clock set by the file `clock`, and monotonic time
/// unchanged.
fn with_clock(installation: &Installation) -> Result<Vec<String>> {
    installation.replace("clock", b"+0")?;
    let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library =
        libraries.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|file| file.is_file());
    let library = library.context("there is no libfaketime.so.1 in /usr/lib: apt-get install libfaketime")?;
    Ok(vec![
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", installation.path("clock").display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ])
}

/// Sets the number of inotify watches in the host's namespace (inotify(7), namespaces(7)).
fn watches(stage: &Stage, limit: u32) -> Result<()> {
    need("nsenter", "util-linux")?;
    let status = Command::new("nsenter")
        .args([
            "--user",
            "--preserve-credentials",
            "--target",
            &stage.host.id().to_string(),
            "--",
            "sh",
            "-euc",
        ])
        .arg(format!("echo {limit} > /proc/sys/user/max_inotify_watches"))
        .status()?;
    ensure!(status.success(), "the limit of watches cannot be set ({status}); what nsenter says is above");
    Ok(())
}

/// A thread that kills every child of the host, until it is dropped.
pub(super) struct Killer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Killer {
    fn start(stage: &Stage) -> Killer {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, host) = (Arc::clone(&stop), stage.host.id());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                children(host).into_iter().for_each(|child| signal(child, Signal::KILL));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Killer { stop, thread: Some(thread) }
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The thread does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Returns the running children of a process.
fn children(process: u32) -> Vec<Pid> {
    // Each thread has a list of its own (proc_pid_children(5)).
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids: Vec<String> = children.collect();
    let ids = ids.iter().flat_map(|ids| ids.split_whitespace());
    ids.filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
}
