//! The program under test on an installation of its own, used as by an administrator.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::client::Client;
use crate::ledger::Content;
use crate::volume::Volume;

/// Time limit of events that must happen but may take long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The file of the policy that is swapped. The policy has the same name.
const FILE: &str = "policies/file.wasm";
/// The folder of the certificates.
const CERTIFICATES: &str = "certificates";

/// Returns the path of the program: `HOST_BIN`, or the program built here.
///
/// # Errors
/// Returns an error if there is no program and it cannot be built.
pub fn program() -> Result<PathBuf> {
    let workspace = workspace()?;
    if let Some(path) = std::env::var_os("HOST_BIN") {
        let path = workspace.join(path);
        ensure!(path.is_file(), "HOST_BIN names no file: {}", path.display());
        return Ok(path);
    }
    // `cargo run` and `cargo test` set the variables of cargo and its target folder.
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let target = std::env::current_exe()?;
    let profile = target.ancestors().find(|folder| folder.join("deps").is_dir() && !folder.ends_with("deps"));
    let profile =
        profile.context("this program is in no target folder of cargo: name the host in HOST_BIN")?;
    let release = profile.ends_with("release");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "host", "--bin", "host", "--target-dir"])
        .arg(profile.parent().unwrap_or(profile))
        .args(release.then_some("--release"))
        .current_dir(&workspace)
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "`cargo build -p host` failed ({status}); what it says is above");
    Ok(profile.join("host"))
}

/// Returns the folder that holds the workspace.
pub(crate) fn workspace() -> Result<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    Ok(above.context("the package is not at tests/load of a workspace")?.to_owned())
}

/// A folder with all files of a host: certificates, host.yaml, and the two policies of a [`Content`].
pub struct Installation {
    folder: tempfile::TempDir,
    certificates: Volume,
    program: PathBuf,
    /// The ports of the webhook and of the admin listener, the same for every process.
    ports: [u16; 2],
}

impl Installation {
    /// Makes an installation with `content`, for `program`.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started, or the folder cannot be written.
    pub fn new(program: PathBuf, content: Content) -> Result<Installation> {
        let folder = tempfile::Builder::new().prefix("load-").tempdir()?;
        let certificates = Volume::new(folder.path().join(CERTIFICATES))?;
        let installation = Installation { folder, certificates, program, ports: free_ports()? };
        installation.renew_certificates()?;
        fs::create_dir(installation.path("policies"))?;
        let scripted = workspace()?.join("tests/guests/dist/scripted.wasm");
        fs::copy(scripted, installation.path("settings.wasm"))?;
        installation.put_file(content.file)?;
        installation.put_settings(content.settings)?;
        Ok(installation)
    }

    /// Swaps the certificates of both sides, and the authority that signed them.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started, or the folder cannot be written.
    pub fn renew_certificates(&self) -> Result<()> {
        self.certificates.publish(|folder| {
            // The demo makes certificates.
            let mut demo = Command::new(&self.program);
            demo.args(["serve", "--listen", "127.0.0.1:0", "--directory"]).arg(folder);
            drop(Process::serving(demo.stdin(Stdio::null()))?);
            // The other files of the demo are not needed.
            fs::remove_dir_all(folder.join("policies"))?;
            Ok(fs::remove_file(folder.join("host.yaml"))?)
        })
    }

    /// Returns the path of a file in the installation.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Returns the path of the policy `file`.
    pub fn file(&self) -> PathBuf {
        self.path(FILE)
    }

    /// Swaps the policy `file` for another edition, by a rename.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written.
    pub fn put_file(&self, edition: u32) -> Result<()> {
        self.replace(FILE, &component(edition)?)
    }

    /// Swaps the policy `settings` for another edition, by a rename of host.yaml.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written.
    pub fn put_settings(&self, edition: u32) -> Result<()> {
        let [webhook, admin] = self.ports;
        let outcome = if edition % 2 == 1 { "deny" } else { "allow" };
        let edition = format!("{edition:08}");
        let script = json!({ "outcome": outcome, "reason": edition, "annotations": [["version", edition]] });
        let host_yaml = json!({
            "apiVersion": "image-policy-host/v1alpha1",
            "kind": "HostConfiguration",
            "listen": SocketAddr::from((Ipv4Addr::LOCALHOST, webhook)),
            "admin": { "listen": SocketAddr::from((Ipv4Addr::LOCALHOST, admin)) },
            "stateDirectory": "state",
            "tls": {
                "certificate": "certificates/external-cert.pem",
                "privateKey": "certificates/external-key.pem",
                "clientCA": "certificates/apiserver-client-ca.pem",
                "clientNames": ["kube-apiserver"],
            },
            "policyDirectory": "policies",
            "policies": [{
                "name": "settings",
                "module": "settings.wasm",
                "settings": { "images": { "*": script } },
            }],
        });
        // JSON is YAML.
        self.replace("host.yaml", host_yaml.to_string().as_bytes())
    }

    /// Writes a whole file by a rename.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written.
    pub fn replace(&self, file: &str, content: &[u8]) -> Result<()> {
        let path = self.path(file);
        // No policy has this extension.
        let beside = path.with_extension("new");
        fs::write(&beside, content).with_context(|| format!("cannot write {}", beside.display()))?;
        fs::rename(&beside, &path).with_context(|| format!("cannot replace {}", path.display()))
    }

    /// Returns the command that serves the installation. The words of `under` (`env`, `unshare`, …), if any,
    /// run it.
    pub fn command(&self, under: &[String]) -> Command {
        let mut words = under.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("serve").arg("--config").arg(self.path("host.yaml")).stdin(Stdio::null());
        command
    }

    /// Starts the program, and waits until it serves.
    ///
    /// # Errors
    /// Returns an error if the program does not serve.
    pub fn start(&self, under: &[String]) -> Result<Process> {
        Process::serving(&mut self.command(under))
    }

    /// Listens on the webhook's port, as systemd does for a socket unit.
    ///
    /// # Errors
    /// Returns an error if another process listens there.
    pub fn listen(&self) -> Result<TcpListener> {
        Ok(TcpListener::bind(self.webhook())?)
    }

    /// Starts the program on an existing socket, as systemd starts the service of a socket unit, and waits
    /// until it serves.
    ///
    /// # Errors
    /// Returns an error if the program does not serve.
    pub fn activate(&self, webhook: &TcpListener) -> Result<Process> {
        let mut command = self.command(&ACTIVATED.map(str::to_owned));
        Process::serving(command.stdin(OwnedFd::from(webhook.try_clone()?)))
    }

    /// Returns a client with the identity of this installation's apiserver.
    ///
    /// # Errors
    /// Returns an error if the certificates cannot be read.
    pub fn client(&self) -> Result<Client> {
        let [authority, certificate, key] = self.identity();
        Client::new(self.webhook(), &authority, &certificate, &key)
    }

    /// Returns the same client, following its certificates.
    pub fn following_client(&self) -> Client {
        let [authority, certificate, key] = self.identity();
        Client::following(self.webhook(), authority, certificate, key)
    }

    fn identity(&self) -> [PathBuf; 3] {
        ["external-ca.pem", "apiserver-client-cert.pem", "apiserver-client-key.pem"]
            .map(|file| self.path(CERTIFICATES).join(file))
    }

    fn webhook(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]))
    }

    /// Returns the problems in `/status`: everything that is not as configured.
    ///
    /// # Errors
    /// Returns an error if the host does not respond.
    pub async fn problems(&self) -> Result<Vec<String>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[1])).await?;
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("/status has no body")?;
        let status: Value = serde_json::from_str(body)?;
        let problems =
            status.get("problems").and_then(Value::as_array).context("/status has no `problems`")?;
        Ok(problems.iter().map(|problem| problem.to_string()).collect())
    }
}

/// Runs a program with its standard input as the passed socket (sd_listen_fds(3)). `systemd-socket-activate`
/// does not do: it becomes the program, so that the socket goes with the first process.
const ACTIVATED: [&str; 3] =
    ["sh", "-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=webhook exec "$0" "$@" 3<&0 0</dev/null"#];

fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let mut ports = [0; COUNT];
    let mut taken = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        taken.push(listener);
    }
    Ok(ports)
}

/// Returns the policy `file` in an edition: see [`Content`].
///
/// # Errors
/// Returns an error if the template has changed, or if the result is no component.
pub fn component(number: u32) -> Result<Vec<u8>> {
    edition(number, &[])
}

/// Returns the policy `file` in an edition, with more changes to the template.
///
/// # Errors
/// Returns an error if the template has changed, or if the result is no component.
pub(crate) fn edition(edition: u32, changes: &[(&str, &str)]) -> Result<Vec<u8>> {
    // The decision is at 64, with its outcome at 68 and its annotations at 88; the reason at 136.
    let data = r#"(data (i32.const 88) "\a0\00\00\00\01\00\00\00")
        (data (i32.const 160) "\c0\00\00\00\07\00\00\00\88\00\00\00\08\00\00\00") 
        (data (i32.const 192) "version")"#;
    let outcome = format!(r#"(data (i32.const 68) "\0{}")"#, edition % 2);
    // Segments are written in order, so these follow the one that they overwrite.
    let reason = format!(r#"(data (i32.const 136) "{edition:08}") {data} {outcome}"#);
    template(&[changes, &[(r#"(data (i32.const 136) "judged..")"#, &reason)]].concat())
}

/// Returns `tests/guests/policy.wat` as a component, with some of its text replaced.
///
/// # Errors
/// Returns an error if a text does not occur exactly once, or if the result is no component.
pub(crate) fn template(changes: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut text = include_str!("../guests/policy.wat").to_owned();
    for (before, after) in changes {
        ensure!(text.matches(before).count() == 1, "tests/guests/policy.wat does not have {before} once");
        text = text.replace(before, after);
    }
    Ok(wat::parse_str(text)?)
}

/// A running program and its output. Dropping it kills it.
pub struct Process {
    child: Child,
    /// The lines so far.
    said: watch::Receiver<Vec<Arc<str>>>,
}

impl Process {
    /// Starts `command`, with the standard input that it names.
    ///
    /// # Errors
    /// Returns an error if the program does not exist.
    pub fn start(command: &mut Command) -> Result<Process> {
        let name = command.get_program().display().to_string();
        command.env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{name} does not start"))?;
        let (sender, said) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as Box<_>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<_>),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = Arc::clone(&sender);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    sender.send_modify(|lines| lines.push(line.into()));
                }
            });
        }
        Ok(Process { child, said })
    }

    /// Starts `command`, a host, and waits until it serves.
    ///
    /// # Errors
    /// Returns an error if the host does not serve.
    pub fn serving(command: &mut Command) -> Result<Process> {
        let mut process = Process::start(command)?;
        process.wait_for("serving ImageReview at ")?;
        Ok(process)
    }

    /// Stops the program as systemd does (SIGTERM), and waits for its end with every review under way
    /// finished.
    ///
    /// # Errors
    /// Returns an error if the program does not end within [`PATIENCE`], or ends with another exit status
    /// than 0.
    pub async fn stop(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let begun = tokio::time::Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the host still runs; its last words:\n{}",
                self.last_words()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        ensure!(status.success(), "the host ended with {status}; its last words:\n{}", self.last_words());
        Ok(())
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the number of lines so far, as a place for [`Self::hears`].
    pub fn lines(&self) -> usize {
        self.said.borrow().len()
    }

    /// Waits for the first line after `place` that contains `part`.
    ///
    /// # Errors
    /// Returns an error if there is no such line within [`PATIENCE`].
    pub async fn hears(&self, place: usize, part: &str) -> Result<Arc<str>> {
        let mut said = self.said.clone();
        let found =
            |lines: &Vec<Arc<str>>| lines.iter().skip(place).find(|line| line.contains(part)).cloned();
        let mut line = None;
        let heard = said.wait_for(|lines| {
            line = found(lines);
            line.is_some()
        });
        let heard = tokio::time::timeout(PATIENCE, heard).await.map(|heard| heard.is_ok());
        match line {
            Some(line) if heard == Ok(true) => Ok(line),
            _ => bail!("the host never said {part:?}; its last words:\n{}", self.last_words()),
        }
    }

    /// Waits like [`Self::hears`], from the beginning, for synchronous callers.
    fn wait_for(&mut self, part: &str) -> Result<()> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.said.borrow().iter().any(|line| line.contains(part)) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the host ended ({status}); its last words:\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the host never said {part:?}; its last words:\n{}", self.last_words())
    }

    /// Returns the end of the output.
    pub fn last_words(&self) -> String {
        let lines = self.said.borrow();
        let last: Vec<&str> = lines.iter().skip(lines.len().saturating_sub(20)).map(AsRef::as_ref).collect();
        last.join("\n")
    }

    /// Kills the program as the kernel does when memory is short (SIGKILL), and waits for its end.
    ///
    /// # Errors
    /// Returns an error if the program has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Returns the resources of the process.
    ///
    /// # Errors
    /// Returns an error if the program has ended.
    pub fn footprint(&self) -> Result<Footprint> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
            number.with_context(|| format!("/proc/{}/status has no {name}", self.id()))
        };
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.id()))?.count();
        Ok(Footprint { resident: field("VmRSS")? * 1024, threads: field("Threads")?, descriptors })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail only if the program has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resources of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    /// Resident memory, in bytes (proc_pid_status(5)).
    pub resident: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: usize,
}

/// Sends a signal to a process of this user.
pub(crate) fn signal(process: Pid, signal: Signal) {
    // An error means that the process is gone already.
    let _ = kill_process(process, signal);
}

/// Writes a line to standard error, past the test harness' capture, so that the log of a continuous build
/// shows it at once.
pub fn say(line: impl AsRef<str>) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{}", line.as_ref());
}
