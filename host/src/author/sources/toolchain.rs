//! The commands of each language's toolchain.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Language, Sources, SourcesError};
use crate::author::build::WIT;
use crate::text;

const TRIPLE: &str = "wasm32-unknown-unknown";
/// Name of the world in `wit/`.
const WORLD: &str = "image-policy";
/// Name of the core module in the target folder.
const CORE: &str = "core.wasm";
/// Limit on a core module, in bytes: far above that of any real policy.
const MODULE_BYTES: u64 = 256 << 20;
/// End of a tool's output that is shown, in bytes.
const OUTPUT_BYTES: usize = 16 << 10;
/// Version of componentize-qjs that is known to work.
const COMPONENTIZE_QJS: &str = "componentize-qjs@0.4.5";

const NO_RUST_TARGET: &str = "run `rustup target add wasm32-unknown-unknown`, or on Debian `apt-get install \
                              rustc-web cargo-web rust-web-src rust-web-llvm lld-22`";
const NO_CARGO: &str = "install Rust: https://rustup.rs";
const NO_CLANG: &str = "run `apt-get install clang lld wasi-libc libclang-rt-dev-wasm32`, or install \
                        https://github.com/WebAssembly/wasi-sdk";
const NO_WIT_BINDGEN: &str = "run `cargo install wit-bindgen-cli@0.63.0`, or put its bindings of `wit/` \
                              beside the sources";
const NO_GO: &str = "install Go 1.25 or later: https://go.dev/dl";
const NO_NODE: &str = "install Node.js 20 or later: https://nodejs.org";
const NO_COMPONENTIZE_PY: &str = "run `python3 -m venv .venv && .venv/bin/pip install \
                                  componentize-py==0.25.1` in the folder";

/// Builds sources to a core module or a component, and returns its bytes.
pub(super) fn build(sources: &Sources) -> Result<Vec<u8>, SourcesError> {
    let module = match sources.language {
        Language::Rust => rust(sources)?,
        Language::Go => go(sources)?,
        Language::JavaScript => javascript(sources)?,
        Language::Python => python(sources)?,
        Language::C => c(sources)?,
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(&module).map_err(SourcesError::io(&module))?;
    file.take(MODULE_BYTES).read_to_end(&mut bytes).map_err(SourcesError::io(&module))?;
    Ok(bytes)
}

/// Returns the files outside of the folder that the last build has read.
pub(super) fn other_files(sources: &Sources) -> Vec<PathBuf> {
    if sources.language != Language::Rust {
        return Vec::new();
    }
    // Cargo writes `MODULE: FILE…` beside the module, with a backslash before a space.
    let folder = sources.target().join(TRIPLE).join("release");
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let lists = names.filter(|path| path.extension().is_some_and(|extension| extension == "d"));
    let texts = lists.filter_map(|path| fs::read_to_string(path).ok());
    let files = texts.flat_map(|text| {
        let files = text.split_once(": ").map_or("", |(_, files)| files).replace("\\ ", "\0");
        files.split_whitespace().map(|file| PathBuf::from(file.replace('\0', " "))).collect::<Vec<_>>()
    });
    files.collect()
}

fn rust(sources: &Sources) -> Result<PathBuf, SourcesError> {
    let mut cargo = match rust_compiler(sources)? {
        Compiler::Rustup => Command::new("cargo"),
        Compiler::Debian => {
            let mut cargo = Command::new("/usr/bin/cargo");
            // RUSTC_BOOTSTRAP lets a stable cargo build the standard library.
            cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
            cargo.args(["-Z", "build-std=std,panic_abort"]);
            cargo
        }
    };
    cargo.args(["build", "--release", "--target", TRIPLE, "--message-format", "json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(absolute(&sources.target()));
    let messages = run(sources, &mut cargo, NO_CARGO)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut module = messages.filter_map(|message| {
        let files = message.get("filenames")?.as_array()?;
        files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    });
    let remedy = "write `crate-type = [\"cdylib\"]` in `[lib]` of Cargo.toml";
    module.next_back().ok_or_else(|| SourcesError::NoModule { folder: sources.folder.clone(), remedy })
}

/// Compiler that has the standard library for WebAssembly, or its sources.
enum Compiler {
    Rustup,
    Debian,
}

fn rust_compiler(sources: &Sources) -> Result<Compiler, SourcesError> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TRIPLE]);
    let library = run(sources, &mut rustc, NO_CARGO)?;
    if Path::new(library.trim_end()).is_dir() {
        return Ok(Compiler::Rustup);
    }
    let debian = Path::new("/usr/bin/rustc");
    if debian.is_file() && Path::new("/usr/bin/cargo").is_file() {
        let mut rustc = Command::new(debian);
        let sysroot = run(sources, rustc.args(["--print", "sysroot"]), NO_CARGO)?;
        if Path::new(sysroot.trim_end()).join("lib/rustlib/src/rust/library").is_dir() {
            return Ok(Compiler::Debian);
        }
    }
    let program = format!("rustc for {TRIPLE}");
    Err(SourcesError::Missing { folder: sources.folder.clone(), program, remedy: NO_RUST_TARGET })
}

/// Compiles as freestanding code but for wasi-libc's memory and strings. The stack lies below the data, so a
/// stack that overflows traps.
fn c(sources: &Sources) -> Result<PathBuf, SourcesError> {
    let names = ["clang".to_owned()].into_iter().chain((14..=24).rev().map(|major| format!("clang-{major}")));
    let clang = names.into_iter().find(|name| on_the_path(name)).unwrap_or_else(|| "clang".to_owned());
    let bindings = match sources.files_with("o")?.is_empty() {
        true => Some(bindings(sources, "c")?),
        false => None,
    };
    let module = sources.target().join(CORE);
    let mut command = Command::new(clang);
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-std=c17", "-Oz"]);
    command.args(["-Wl,--strip-all", "-Wl,--stack-first", "-Wl,-z,stack-size=65536"]);
    command.args(sources.files_with("c")?).args(sources.files_with("o")?);
    if let Some(bindings) = &bindings {
        command.arg("-I").arg(bindings);
        for entry in fs::read_dir(bindings).map_err(SourcesError::io(bindings))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "c" || extension == "o") {
                command.arg(entry.path());
            }
        }
    }
    run(sources, command.arg("-o").arg(absolute(&module)), NO_CLANG)?;
    Ok(module)
}

/// Compiles with bindings that lie in the target folder, and that the compiler sees among the sources.
fn go(sources: &Sources) -> Result<PathBuf, SourcesError> {
    let module = sources.target().join(CORE);
    let mut command = Command::new("go");
    command.args(["build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false"]);
    // The bindings' allocator takes functions of Go's runtime, which the linker refuses otherwise.
    command.arg("-ldflags=-s -w -checklinkname=0");
    if !sources.folder.join("wit_exports").is_dir() {
        let bindings = bindings(sources, "go")?;
        let (folder, overlay) = (absolute(&sources.folder), sources.target().join("overlay.json"));
        let mut replaced = serde_json::Map::new();
        overlay_of(&bindings, &folder, &mut replaced).map_err(SourcesError::io(&bindings))?;
        let document = json!({ "Replace": replaced }).to_string();
        fs::write(&overlay, document).map_err(SourcesError::io(&overlay))?;
        command.arg("-overlay").arg(absolute(&overlay));
    }
    command.env("GOOS", "wasip1").env("GOARCH", "wasm");
    run(sources, command.arg("-o").arg(absolute(&module)).arg("."), NO_GO)?;
    Ok(module)
}

/// Adds the path that each file of the bindings has among the sources. A file of the sources comes first. The
/// assembler is for other targets than WebAssembly, and sees no overlay.
fn overlay_of(
    bindings: &Path,
    sources: &Path,
    replaced: &mut serde_json::Map<String, Value>,
) -> io::Result<()> {
    for entry in fs::read_dir(bindings)? {
        let entry = entry?;
        let among = sources.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            overlay_of(&entry.path(), &among, replaced)?;
        } else if !among.exists() && among.extension().is_none_or(|extension| extension != "s") {
            replaced.insert(among.display().to_string(), entry.path().display().to_string().into());
        }
    }
    Ok(())
}

fn javascript(sources: &Sources) -> Result<PathBuf, SourcesError> {
    let expected = "policy.js or index.js";
    let entry = match main_of_package(sources) {
        Some(main) => main,
        None => sources.entry(&["policy.js", "index.js"], "js", expected)?,
    };
    let installed = absolute(&sources.folder);
    let installed = installed.ancestors().map(|folder| folder.join("node_modules/.bin/componentize-qjs"));
    let mut command = match installed.into_iter().find(|program| program.is_file()) {
        Some(program) => Command::new(program),
        None if on_the_path("componentize-qjs") => Command::new("componentize-qjs"),
        None => {
            let mut npx = Command::new("npx");
            npx.args(["--yes", COMPONENTIZE_QJS]);
            npx
        }
    };
    let component = sources.target().join("javascript.wasm");
    // Of the two runtimes the one for hosts without the component model's async.
    command.args(["--sync", "-n", WORLD, "-j", entry.as_str()]);
    command.arg("-w").arg(wit(sources)?).arg("-o").arg(absolute(&component));
    run(sources, &mut command, NO_NODE)?;
    Ok(component)
}

/// Returns `main` of package.json.
fn main_of_package(sources: &Sources) -> Option<String> {
    let package = fs::read(sources.folder.join("package.json")).ok()?;
    let package: Value = serde_json::from_slice(&package).ok()?;
    package.get("main")?.as_str().map(str::to_owned)
}

fn python(sources: &Sources) -> Result<PathBuf, SourcesError> {
    let entry = sources.entry(&["app.py", "policy.py"], "py", "app.py or policy.py")?;
    let own = sources.folder.join(".venv/bin/componentize-py");
    let mut command = match own.is_file() {
        true => Command::new(absolute(&own)),
        false => Command::new("componentize-py"),
    };
    // Otherwise the packages of the tool's own environment would be in the component.
    let none = sources.target().join("none");
    let packages = none.join("lib/site-packages");
    fs::create_dir_all(&packages).map_err(SourcesError::io(&packages))?;
    let component = sources.target().join("python.wasm");
    command.env("VIRTUAL_ENV", absolute(&none));
    command.arg("-d").arg(wit(sources)?).args(["-w", WORLD, "componentize", "-p", "."]);
    command.arg(entry.trim_end_matches(".py")).arg("-o").arg(absolute(&component));
    run(sources, &mut command, NO_COMPONENTIZE_PY)?;
    Ok(component)
}

/// Writes the contract into the target folder, and returns its folder.
fn wit(sources: &Sources) -> Result<PathBuf, SourcesError> {
    let folder = absolute(&sources.target().join("wit"));
    fs::create_dir_all(&folder).map_err(SourcesError::io(&folder))?;
    for (name, text) in WIT {
        let path = folder.join(name);
        fs::write(&path, text).map_err(SourcesError::io(&path))?;
    }
    Ok(folder)
}

/// Returns the folder with wit-bindgen's bindings of the contract, which are written once for each contract.
fn bindings(sources: &Sources, language: &str) -> Result<PathBuf, SourcesError> {
    let folder = absolute(&sources.target().join(format!("bindings-{language}")));
    let stamp = sources.target().join(format!("bindings-{language}.wit"));
    let contract = WIT.map(|(_, text)| text).concat();
    if folder.is_dir() && fs::read_to_string(&stamp).is_ok_and(|before| before == contract) {
        return Ok(folder);
    }
    let mut command = Command::new("wit-bindgen");
    command.arg(language).arg(wit(sources)?).arg("--out-dir").arg(&folder);
    run(sources, &mut command, NO_WIT_BINDGEN)?;
    fs::write(&stamp, contract).map_err(SourcesError::io(&stamp))?;
    Ok(folder)
}

/// Runs a tool in the folder of the sources, and returns its standard output.
fn run(sources: &Sources, command: &mut Command, remedy: &'static str) -> Result<String, SourcesError> {
    let folder = || sources.folder.clone();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    command.current_dir(&sources.folder).stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            SourcesError::Missing { folder: folder(), program: program.clone(), remedy }
        }
        _ => SourcesError::Io { path: command.get_program().into(), error },
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let first = command.get_args().next().unwrap_or_default().to_string_lossy();
    let said = match output.stderr.is_empty() {
        true => stdout,
        false => String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    Err(SourcesError::Failed {
        folder: folder(),
        command: text::escape(&format!("{program} {first}")),
        status: output.status,
        output: indented_end(&said),
    })
}

/// Returns the last lines of an output, escaped and indented.
fn indented_end(output: &str) -> String {
    let mut lines = Vec::new();
    let mut bytes = 0;
    for line in output.trim_end().lines().rev() {
        bytes += line.len() + 1;
        if bytes > OUTPUT_BYTES {
            lines.push("  …".to_owned());
            break;
        }
        lines.push(format!("  {}", text::escape(line)));
    }
    lines.reverse();
    lines.join("\n")
}

fn on_the_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
