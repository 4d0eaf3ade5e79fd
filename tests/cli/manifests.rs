//! Limits of the manifests that `host review -f` reads. Tests of the reviews made of them are in `cases/cli`.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use host::config::HostLimits;
use host::review::manifests::Manifest;

fn read(text: &str) -> Manifest {
    Manifest::read(text.as_bytes(), "default", &HostLimits::default())
}

/// limit: manifest-documents within, manifest-documents breaks
#[test]
fn documents_of_a_manifest_have_a_limit() {
    let service = "--- { kind: Service, apiVersion: v1 }\n";
    let json = "{\"kind\":\"Service\",\"apiVersion\":\"v1\"}\n";
    for document in [service, json] {
        let all = read(&document.repeat(10_000));
        assert_eq!((all.documents, all.problems.len(), all.skipped["Service"]), (10_000, 0, 10_000));
        let more = read(&document.repeat(10_001));
        let [problem] = more.problems.as_slice() else { panic!("{:?}", more.problems) };
        assert!(problem.message.contains("more than 10000 documents"), "{problem}");
    }
}

#[test]
fn hostile_manifests_end_soon() {
    let mebibyte = 1 << 20;
    let nested = format!(
        "{}{}",
        "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[".repeat(100_000),
        "]}".repeat(100_000)
    );
    let texts = [
        "---\n".repeat(mebibyte / 4),
        "...\n".repeat(mebibyte / 4),
        "1 ".repeat(mebibyte / 2),
        "[".repeat(mebibyte),
        "{\"a\":".repeat(mebibyte / 5),
        "--- [\n".repeat(mebibyte / 6),
        "%\n".repeat(mebibyte / 2),
        "# ---\n".repeat(mebibyte / 6),
        nested,
    ];
    for text in texts {
        let start = Instant::now();
        let manifest = read(&text);
        let beginning: String = text.chars().take(20).collect();
        assert!(start.elapsed() < Duration::from_secs(20), "{beginning:?} took {:?}", start.elapsed());
        assert_eq!(manifest.objects, [], "{beginning:?}");
    }
}

/// limit: manifest-file within, manifest-file breaks
#[test]
fn a_file_of_manifests_has_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pods.yaml");
    let limit = 16 << 20;
    let service = "kind: Service\napiVersion: v1\n#";
    for (size, status, expected) in [(limit, 0, "not judged"), (limit + 1, 2, "it is larger than 16 MiB")] {
        fs::write(&path, format!("{service}{}", "x".repeat(size - service.len()))).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_host"))
            .args(["review", "-f"])
            .arg(&path)
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert_eq!(output.status.code(), Some(status), "{told}");
        assert!(told.contains(expected), "{told}");
    }
}
