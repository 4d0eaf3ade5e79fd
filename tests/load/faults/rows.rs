//! The faults, one a row: how the host is run, what is done to it, what it has to say, and how that is mended.

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

/// A row.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// The words that run the host.
    pub(super) under: fn(&Installation) -> Result<Vec<String>>,
    /// What is done. What it answers lasts until the fault is mended.
    pub(super) harm: fn(&Stage) -> Result<Option<Killer>>,
    /// What the host's log says then; empty: it is none of its business.
    pub(super) says: &'static str,
    /// Every change waits while it lasts: a change comes into force whole or not at all.
    pub(super) blocks: bool,
    /// How often the other policy is swapped while it lasts.
    pub(super) swaps: usize,
    /// Mends it: the place of what must be in force then.
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
        says: "no valid component, or not all of it",
        ..BROKEN_FILE
    },
    Fault {
        name: "empty file",
        harm: |stage| {
            // In place, as a shell's redirection does.
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
            // As one: a folder without the file would be a set without the policy.
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
            // Another folder in the place of the one that is watched.
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
        // It is tried again, with nothing to do for it.
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

/// A policy whose `configure` does this first.
fn configured_by(instruction: &str) -> Result<Vec<u8>> {
    template(&[(";; MARK configure\n", &format!("{instruction}\n"))])
}

/// The policy `file` in an edition, with so much code that compiling it takes a while.
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

/// A program of the system, or what brings it.
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

/// As a user to whom the permissions of files apply, whoever we are.
fn unprivileged() -> Result<Vec<String>> {
    need("unshare", "util-linux")?;
    words(["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"])
}

/// After a shell script, as the administrator of a namespace of its own.
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

/// What fills the state directory, as the host's own mounts show it.
fn filler(stage: &Stage) -> PathBuf {
    let state = stage.installation.path("state/filler");
    PathBuf::from(format!("/proc/{}/root{}", stage.host.id(), state.display()))
}

/// With a wall clock that the file `clock` sets, and monotonic time as it is.
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

/// How many watches the host's namespace gives (inotify(7), namespaces(7)).
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

/// Kills every child of the host, until it is dropped.
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
        // It does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The children of a process that still run.
fn children(process: u32) -> Vec<Pid> {
    // Each thread has its own (proc_pid_children(5)).
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids: Vec<String> = children.collect();
    let ids = ids.iter().flat_map(|ids| ids.split_whitespace());
    ids.filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
}
