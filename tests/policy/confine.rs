//! Confinement of the processes that compile. Each action that a component could try after it took over the
//! compiler is tried in a process that confined itself in the same way. Every attempt succeeds in an
//! unconfined process, so none fails for another reason.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use host::policy::{Profile, confine, deny_access, filter_calls};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::json;

use crate::support::client::{Protocol, get, post, review_in};
use crate::support::process::{HOST, Process};
use crate::support::{Installation, assert_none};

/// Environment variable with which this test binary runs a part of a test in a process of its own.
const PART: &str = "CONFINE_TEST_PART";
/// Exit status of a process whose attempt failed with an error.
const REFUSED: u8 = 11;
/// Exit status of a process whose attempt succeeded.
const SUCCEEDED: u8 = 12;

/// Returns the command that runs the test `name` of this binary in the part `part`.
fn again(name: &str, part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([&format!("policy::confine::{name}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part);
    command
}

/// State that an attempt needs, from before the confinement.
struct Before {
    file: File,
    folder: tempfile::TempDir,
    listener: TcpListener,
    /// Another process of the same user.
    other: Child,
    /// Memory of this process.
    page: usize,
}

impl Before {
    fn new() -> Before {
        let other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Before {
            file: File::open("/etc/passwd").unwrap(),
            folder: tempfile::tempdir().unwrap(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            other: other.unwrap(),
            page: map(libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).unwrap(),
        }
    }

    fn other(&self) -> usize {
        self.other.id() as usize
    }
}

#[expect(unsafe_code, reason = "these are what code that has taken over a process calls")]
fn call(number: i64, arguments: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every attempt gives the kernel only memory of its own to write.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

const PAGE: usize = 4096;

fn map(protection: i32, flags: i32, file: i32) -> io::Result<usize> {
    call(libc::SYS_mmap, [0, PAGE, protection as usize, flags as usize, file as usize, 0])
}

/// Starts a process with clone(2) or clone3(2) that ends at once.
fn forked(number: i64, arguments: [usize; 6]) -> io::Result<()> {
    match call(number, arguments)? {
        0 => std::process::abort(),
        _ => Ok(()),
    }
}

struct Attempt {
    name: &'static str,
    act: fn(&Before) -> io::Result<()>,
    /// Whether Landlock alone rejects the attempt.
    landlock: bool,
    /// Whether a process that takes a snapshot may do it.
    snapshot_may: bool,
}

const fn attempt(name: &'static str, act: fn(&Before) -> io::Result<()>) -> Attempt {
    Attempt { name, act, landlock: false, snapshot_may: false }
}

const fn denied(name: &'static str, act: fn(&Before) -> io::Result<()>) -> Attempt {
    Attempt { name, act, landlock: true, snapshot_may: false }
}

const fn executable(name: &'static str, act: fn(&Before) -> io::Result<()>) -> Attempt {
    Attempt { name, act, landlock: false, snapshot_may: true }
}

const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

const ATTEMPTS: &[Attempt] = &[
    denied("read a file", |_| File::open("/etc/passwd").map(drop)),
    denied("list a folder", |_| fs::read_dir("/").map(drop)),
    denied("write a file", |before| File::create(before.folder.path().join("file")).map(drop)),
    denied("remove a folder", |before| fs::remove_dir(before.folder.path())),
    attempt("read an open descriptor", |before| (&before.file).read(&mut [0]).map(drop)),
    attempt("map an open descriptor", |before| {
        map(libc::PROT_READ, libc::MAP_PRIVATE, before.file.as_raw_fd()).map(drop)
    }),
    attempt("copy a descriptor", |_| call(libc::SYS_dup, [0; 6]).map(drop)),
    attempt("change an open descriptor", |before| before.listener.set_nonblocking(true)),
    attempt("make a socket", |_| UnixDatagram::unbound().map(drop)),
    denied("listen", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    denied("connect", |before| TcpStream::connect(before.listener.local_addr()?).map(drop)),
    denied("execute a program", |_| Err(Command::new("/bin/sh").args(["-c", "exit 12"]).exec())),
    attempt("start a process", |_| forked(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])),
    attempt("start a process by clone3", |_| {
        let arguments: [u64; 8] = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        forked(libc::SYS_clone3, [arguments.as_ptr() as usize, size_of_val(&arguments), 0, 0, 0, 0])
    }),
    denied("trace a process", |before| {
        call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, before.other(), 0, 0, 0, 0]).map(drop)
    }),
    denied("read the memory of a process", |before| {
        let mut byte = 0_u8;
        let to = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        // The address does not exist there: the access to the process is the attempt.
        let from = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
        let (to, from) = (&raw const to as usize, &raw const from as usize);
        match call(libc::SYS_process_vm_readv, [before.other(), to, 1, from, 1, 0]) {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
            other => other.map(drop),
        }
    }),
    denied("signal a process", |before| {
        call(libc::SYS_kill, [before.other(), libc::SIGCONT as usize, 0, 0, 0, 0]).map(drop)
    }),
    denied("signal a thread of a process", |before| {
        let (other, signal) = (before.other(), libc::SIGCONT as usize);
        call(libc::SYS_tgkill, [other, other, signal, 0, 0, 0]).map(drop)
    }),
    attempt("read the limits of a process", |before| {
        let mut limit = [0_u64; 2];
        let to = limit.as_mut_ptr() as usize;
        call(libc::SYS_prlimit64, [before.other(), libc::RLIMIT_CPU as usize, 0, to, 0, 0]).map(drop)
    }),
    attempt("change a limit", |_| {
        let limit = [0_u64; 2];
        let core = libc::RLIMIT_CORE as usize;
        call(libc::SYS_prlimit64, [0, core, limit.as_ptr() as usize, 0, 0, 0]).map(drop)
    }),
    attempt("outlive the host", |_| {
        call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, 0, 0, 0, 0, 0]).map(drop)
    }),
    attempt("leave a namespace", |_| {
        call(libc::SYS_unshare, [libc::CLONE_FILES as usize, 0, 0, 0, 0, 0]).map(drop)
    }),
    attempt("make a file in memory", |_| {
        let name = c"file".as_ptr() as usize;
        call(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0]).map(drop)
    }),
    attempt("make all memory executable", |_| {
        const READ_IMPLIES_EXEC: usize = 0x0040_0000;
        call(libc::SYS_personality, [READ_IMPLIES_EXEC, 0, 0, 0, 0, 0]).map(drop)
    }),
    attempt("share memory", |_| {
        map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1).map(drop)
    }),
    executable("map executable memory", |_| map(libc::PROT_READ | libc::PROT_EXEC, ANONYMOUS, -1).map(drop)),
    executable("make memory executable", |before| {
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as usize;
        call(libc::SYS_mprotect, [before.page, PAGE, protection, 0, 0, 0]).map(drop)
    }),
];

/// The confinements under which attempts are made.
const CONFINEMENTS: [&str; 6] =
    ["nothing", "Landlock", "the filter", "the filter of a snapshot", "compiling", "a snapshot"];

fn confined(by: &str) {
    let both = |profile| {
        let reached = confine(profile).unwrap();
        assert_eq!(reached.problem(), None, "this test needs a kernel with Landlock and seccomp");
    };
    match by {
        "nothing" => {}
        "Landlock" => deny_access().unwrap(),
        "the filter" => filter_calls(Profile::Compile).unwrap(),
        "the filter of a snapshot" => filter_calls(Profile::Snapshot).unwrap(),
        "compiling" => both(Profile::Compile),
        "a snapshot" => both(Profile::Snapshot),
        other => panic!("{other}"),
    }
}

/// Returns whether the attempt must succeed.
fn may(attempt: &Attempt, confinement: &str) -> bool {
    match confinement {
        "nothing" => true,
        "Landlock" => !attempt.landlock,
        "the filter of a snapshot" | "a snapshot" => attempt.snapshot_may,
        _ => false,
    }
}

#[test]
#[expect(clippy::exit, reason = "a confined process can do little else to say how its attempt ended")]
fn a_process_that_compiles_is_refused_all_else() {
    if let Ok(part) = std::env::var(PART) {
        let (confinement, name) = part.split_once(": ").unwrap();
        let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).unwrap();
        let before = Before::new();
        confined(confinement);
        let code = match (attempt.act)(&before) {
            Ok(()) => SUCCEEDED,
            Err(_) => REFUSED,
        };
        std::process::exit(code.into());
    }
    let tried: Vec<_> = CONFINEMENTS
        .iter()
        .flat_map(|confinement| ATTEMPTS.iter().map(move |attempt| (*confinement, attempt)))
        .collect();
    let differences = Mutex::new(Vec::new());
    let differ = &|difference: String| differences.lock().unwrap().push(difference);
    std::thread::scope(|scope| {
        for part in tried.chunks(tried.len().div_ceil(4)) {
            scope.spawn(move || {
                for (confinement, attempt) in part {
                    let name = "a_process_that_compiles_is_refused_all_else";
                    let output = again(name, &format!("{confinement}: {}", attempt.name)).output().unwrap();
                    let may = may(attempt, confinement);
                    if outcome(&output) != Some(may) {
                        differ(format!(
                            "under {confinement}, to {}: expected {}, but {output:?}",
                            attempt.name,
                            if may { "success" } else { "a refusal" }
                        ));
                    }
                }
            });
        }
    });
    assert_none(&differences.into_inner().unwrap());
}

/// Returns whether the attempt of a process succeeded. Returns None if the process made no attempt.
fn outcome(Output { status, .. }: &Output) -> Option<bool> {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(SUCCEEDED) => Some(true),
        (Some(code), _) if code == i32::from(REFUSED) => Some(false),
        // seccomp(2) ends a process with this signal.
        (_, Some(libc::SIGSYS)) => Some(false),
        _ => None,
    }
}

const LANDLOCK: [i64; 3] =
    [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
const SECCOMP: [i64; 1] = [libc::SYS_seccomp];

/// The same confinement as of systemd 252 with `SystemCallFilter=@system-service` alone.
#[tokio::test]
async fn a_host_that_cannot_confine_its_compiler_serves_and_says_so() {
    let name = "a_host_that_cannot_confine_its_compiler_serves_and_says_so";
    if let Ok(part) = std::env::var(PART) {
        let (missing, config) = part.split_once(": ").unwrap();
        let calls = match missing {
            "landlock" => LANDLOCK.to_vec(),
            "seccomp" => SECCOMP.to_vec(),
            _ => [&LANDLOCK[..], &SECCOMP].concat(),
        };
        let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
        let eperm = SeccompAction::Errno(libc::EPERM as u32);
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, eperm, architecture).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
        let serve = ["serve", "--log-format", "text", "--config", config];
        panic!("{}", Command::new(HOST).args(serve).exec());
    }
    for (missing, said) in [
        ("landlock", "compiling failed: Landlock is not in force ("),
        ("seccomp", "compiling failed: the filter of system calls is not in force ("),
        ("both", "compiling failed: neither Landlock ("),
    ] {
        let installation = Installation::new(json!({}));
        let config = installation.path("host.yaml").display().to_string();
        let mut process = Process::start(&mut again(name, &format!("{missing}: {config}")));
        let (webhook, admin) = process.addresses();
        let (_, ready) = get(admin, "/readyz?verbose").await.unwrap();
        assert!(ready.contains(said), "{missing}: {ready}");
        let mut connection = installation.client().connect(webhook, Protocol::Http2).await.unwrap();
        let answer = connection.send(post(review_in("default", "registry.k8s.io/pause:3.10"))).await.unwrap();
        assert_eq!(answer.json()["status"]["allowed"], true, "{missing}");
    }
    let installation = Installation::new(json!({}));
    let mut process = installation.start();
    let (_, admin) = process.addresses();
    let (_, ready) = get(admin, "/readyz?verbose").await.unwrap();
    assert!(!ready.contains("compiling"), "{ready}");
}
