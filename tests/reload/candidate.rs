//! From files to the generation in force, by requested reloads: nothing depends on time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use host::install::certificates::{self, Pki};
use host::policy::PolicyReader;
use host::problem::{Problem, Subject};
use host::reload::{Started, StatusReader, start};

use crate::support::evaluation::evaluate;
use crate::support::process::HOST;
use crate::support::{self, logged, version};

/// A folder with host.yaml, certificates and a policy directory.
pub(crate) struct Installation(tempfile::TempDir);

impl Installation {
    /// Makes an installation. `more` are lines of host.yaml.
    pub(crate) fn new(more: &str) -> Installation {
        let installation = Installation(tempfile::tempdir().unwrap());
        fs::create_dir(installation.path("policies")).unwrap();
        installation.certificates(pki());
        installation.host_yaml(more);
        installation
    }

    /// Makes an installation with the policy `a` in its first version.
    pub(crate) fn with_a() -> Installation {
        let installation = Installation::new("policyDirectory: policies");
        installation.policy("a", &version("version1"));
        installation
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn certificates(&self, pki: &Pki) {
        fs::write(self.path("cert.pem"), &pki.server.certificate).unwrap();
        fs::write(self.path("key.pem"), &pki.server.key).unwrap();
        fs::write(self.path("ca.pem"), &pki.authority).unwrap();
    }

    pub(crate) fn host_yaml(&self, more: &str) {
        let text = format!(
            "apiVersion: image-policy-host/v1alpha1\nkind: HostConfiguration\nlisten: 127.0.0.1:0\n\
             admin: {{ listen: 127.0.0.1:0 }}\n\
             tls: {{ certificate: cert.pem, privateKey: key.pem, clientCA: ca.pem }}\n{more}\n"
        );
        fs::write(self.path("host.yaml"), text).unwrap();
    }

    /// Writes a policy, by a rename.
    pub(crate) fn policy(&self, name: &str, component: &[u8]) {
        put(&self.path("policies"), name, component);
    }

    pub(crate) fn start(&self) -> Started {
        start(&self.path("host.yaml"), HOST.into()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns `text` without the path of this folder.
    pub(crate) fn shortened(&self, text: impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    pub(crate) fn problems(&self, started: &Started) -> Vec<String> {
        problems(&started.status).iter().map(|problem| self.shortened(problem)).collect()
    }
}

/// Returns the problems, except that of a process whose address space many hosts share: each reserves 8 TiB
/// of 128.
pub(crate) fn problems(status: &StatusReader) -> Vec<Problem> {
    let current = status.current();
    current.problems.iter().filter(|problem| problem.subject != Subject::Instances).cloned().collect()
}

fn put(folder: &Path, name: &str, component: &[u8]) {
    let beside = folder.join(format!(".{name}"));
    fs::write(&beside, component).unwrap();
    fs::rename(beside, folder.join(format!("{name}.wasm"))).unwrap();
}

fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| certificates::make().unwrap())
}

/// Returns `NAME: reason` of each policy in force, for one image.
pub(crate) fn said(policies: &PolicyReader) -> Vec<String> {
    let verdict = evaluate(&policies.current(), &support::review("default", &["x.io/a"]));
    let said = verdict.images.iter().flat_map(|image| &image.judged.said);
    said.map(|said| format!("{}: {}", said.policy, said.reason())).collect()
}

/// Returns a host.yaml with the scripted policy, whose settings are these lines.
pub(crate) fn scripted_yaml(settings: &str) -> String {
    let module = fs::canonicalize(support::scripted()).unwrap();
    format!("policies:\n- name: s\n  module: {}\n  settings:\n{settings}", module.display())
}

#[test]
fn files_that_come_change_and_go() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    let number = |started: &Started| started.policies.current().number();
    assert_eq!((said(&started.policies), number(&started)), (vec!["a: version1".to_owned()], 1));

    installation.policy("b", &version("version1"));
    assert_eq!(said(&started.policies), ["a: version1"], "nothing happens by itself");
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1", "b: version1"]);

    let before = started.policies.current();
    installation.policy("a", &version("version2"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version2", "b: version1"]);
    let verdict = evaluate(&before, &support::review("default", &["x.io/a"]));
    assert_eq!(
        verdict.images[0].because().collect::<Vec<_>>(),
        ["version1 (policy a)"],
        "a review keeps the set that it began with"
    );

    fs::remove_file(installation.path("policies/b.wasm")).unwrap();
    started.reloader.reload();
    assert_eq!((said(&started.policies), number(&started)), (vec!["a: version2".to_owned()], 4));

    // The same bytes in a new file, a file that is no policy, and no change at all.
    installation.policy("a", &version("version2"));
    fs::write(installation.path("policies/README.md"), "hello").unwrap();
    fs::write(installation.path("policies/.a.wasm"), "half written").unwrap();
    fs::write(installation.path("policies/a.wasm.part"), "half written").unwrap();
    started.reloader.reload();
    started.reloader.reload();
    assert_eq!(number(&started), 4);
    assert_eq!(installation.problems(&started), [""; 0]);

    // The first content again gives the first digest and another number.
    let first = before.digest().to_owned();
    installation.policy("a", &version("version1"));
    installation.policy("b", &version("version1"));
    started.reloader.reload();
    assert_eq!(started.policies.current().generation(), format!("5-{first}"));
}

#[test]
fn a_change_with_a_broken_file_waits_as_a_whole() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    let good = version("version1");
    let broken: [(&[u8], &str); 5] = [
        (b"", "the file is empty: is it still being written?"),
        (b"garbage", "the file is no WebAssembly: it does not begin with `\\0asm`"),
        (&good[..good.len() / 2], "the file is no valid component: it ends early, so it is incomplete; "),
        (b"\0asm\x01\0\0\0", "the file is a WebAssembly core module, not a component: "),
        (b"\0asm\x0d\0\x01\0", "it is a component of another world: "),
    ];
    for (index, (bytes, why)) in broken.into_iter().enumerate() {
        let other = format!("version{index}");
        installation.policy("a", bytes);
        installation.policy("b", &version(&other));
        let log = logged(|| started.reloader.reload());
        assert_eq!(said(&started.policies), ["a: version1"]);
        let problems = installation.problems(&started);
        let [problem, change] = problems.as_slice() else { panic!("{problems:?}") };
        assert_eq!(
            change,
            "change: all stays as it was as long as a cannot be loaded, and these changes wait: b (added) (a \
                change comes into force whole or not at all: mend what is broken, or remove it)"
        );
        assert!(problem.starts_with(&format!("policy a: policies/a.wasm: {why}")), "{problem}");
        assert!(
            problem.ends_with(" (its last good version stays in force, as it was configured)"),
            "{problem}"
        );
        assert!(log.contains("ERROR") && installation.shortened(&log).contains(problem), "{log}");

        // A problem that stays is logged once.
        let generation = started.policies.current().generation();
        let log = logged(|| started.reloader.reload());
        assert_eq!(log, "");
        assert_eq!(installation.problems(&started), problems);
        assert_eq!(started.policies.current().generation(), generation);
    }
    // The rest follows at once when the file is repaired.
    installation.policy("a", &version("version9"));
    let log = logged(|| started.reloader.reload());
    assert!(log.contains("all that is configured is in force again"), "{log}");
    assert_eq!(said(&started.policies), ["a: version9", "b: version4"]);
    assert_eq!(installation.problems(&started), [""; 0]);
}

#[test]
fn a_new_policy_that_cannot_be_loaded_is_not_in_force() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    installation.policy("b", b"garbage");
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    assert_eq!(
        installation.problems(&started),
        ["policy b: policies/b.wasm: the file is no WebAssembly: it does not begin with `\\0asm` (it is \
                not in force)"]
    );
}

#[test]
fn a_removed_file_of_an_entry_leaves_the_entry_in_force() {
    let installation = Installation::new("policies: [{ name: a, module: policies/a.wasm }]");
    installation.policy("a", &version("version1"));
    let mut started = installation.start();
    fs::remove_file(installation.path("policies/a.wasm")).unwrap();
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    assert_eq!(
        installation.problems(&started),
        ["policy a: policies/a.wasm: No such file or directory (os error 2): put it there, or name \
                another file (its last good version stays in force, as it was configured)"]
    );
}

#[test]
fn a_set_does_not_become_empty_by_accident() {
    let installation = Installation::with_a();
    let mut started = installation.start();
    let folder = installation.path("policies");
    fs::rename(&folder, installation.path("elsewhere")).unwrap();
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let problems = installation.problems(&started);
    assert!(problems[0].contains("it cannot be read: No such file or directory"), "{problems:?}");

    fs::create_dir(&folder).unwrap();
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1"]);
    let empty = "host.yaml: no policy is left, and an empty set is put in force only with `allowEmpty: true`";
    assert_eq!(installation.problems(&started), [format!("{empty} (the generation in force stays)")]);
    let denied = installation.start();
    let review = support::review("default", &["x.io/a"]);
    assert_eq!(
        installation.shortened(evaluate(&denied.policies.current(), &review).reason),
        format!("x.io/a: the policy is not loaded: {empty} (policy policies)")
    );

    installation.host_yaml("policyDirectory: policies\nallowEmpty: true");
    started.reloader.reload();
    assert_eq!(said(&started.policies), [""; 0]);
    assert_eq!(installation.problems(&started), [""; 0]);
}

#[test]
fn what_goes_stays_while_what_comes_is_broken() {
    // Another name of the file, with and without `allowEmpty`.
    let installation = Installation::with_a();
    let mut started = installation.start();
    fs::rename(installation.path("policies/a.wasm"), installation.path("policies/b.wasm")).unwrap();
    fs::write(installation.path("policies/b.wasm"), "garbage").unwrap();
    for more in ["", "\nallowEmpty: true"] {
        installation.host_yaml(&format!("policyDirectory: policies\nunjudged: Allow{more}"));
        started.reloader.reload();
        assert_eq!(said(&started.policies), ["a: version1"]);
        let problems = installation.problems(&started);
        assert!(problems[0].contains("policies/b.wasm: the file is no WebAssembly"), "{problems:?}");
        assert!(
            problems[1].starts_with("change: all stays as it was as long as b cannot be loaded"),
            "{problems:?}"
        );
        assert!(problems[1].contains("a (removed)"), "{problems:?}");
    }
    installation.policy("b", &version("version2"));
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["b: version2"]);
    assert_eq!(installation.problems(&started), [""; 0]);

    // Another name of the entry, and settings that the policy rejects.
    installation.host_yaml(&scripted_yaml("    images: {}").replace("name: s", "name: old"));
    started.reloader.reload();
    installation.host_yaml(&scripted_yaml("    imagse: {}").replace("name: s", "name: new"));
    started.reloader.reload();
    let names = |started: &Started| -> Vec<String> {
        started.policies.current().policies.iter().map(|entry| entry.name.to_string()).collect()
    };
    assert_eq!(names(&started), ["old"]);
    assert_eq!(installation.problems(&started).len(), 2);
}

#[test]
fn a_policy_without_a_good_version_takes_other_rules() {
    let installation = Installation::with_a();
    fs::write(installation.path("policies/b.wasm"), "garbage").unwrap();
    let mut started = installation.start();
    let review = support::review("default", &["x.io/a"]);
    assert!(!evaluate(&started.policies.current(), &review).allowed());
    installation.host_yaml(
        "policyDirectory: policies\npolicies: [{ name: b, module: policies/b.wasm, failurePolicy: Ignore }]",
    );
    started.reloader.reload();
    assert!(evaluate(&started.policies.current(), &review).allowed());
}

#[test]
fn a_file_whose_name_is_none_for_a_policy() {
    let installation = Installation::new(
        "policyDirectory: policies\npolicies: [{ name: a, module: elsewhere.wasm }, { name: b, module: \
            policies/c.wasm }]",
    );
    fs::write(installation.path("elsewhere.wasm"), version("version1")).unwrap();
    for name in ["a", "c", "My_Policy", "_"] {
        installation.policy(name, &version("version2"));
    }
    let started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1", "b: version2"], "c.wasm is the module of b");
    let bad = |name: &str, instead: &str| {
        format!(
            "policies/{name}.wasm: `{name}` is no policy name (it is not in force; rename it with lower-case \
                letters, digits and `-`, such as `{instead}.wasm`)"
        )
    };
    assert_eq!(
        installation.problems(&started),
        [
            bad("My_Policy", "my-policy"),
            bad("_", "my-policy"),
            "policies/a.wasm: an entry of `policies` has its name, `a`, and another `module` (it is not in \
                force; rename one of them)"
                .to_owned(),
        ]
    );
}

/// A file system that knows no case, or a rename, must not take a policy out of force silently.
#[test]
fn an_extension_in_upper_case_removes_no_policy() {
    let installation = Installation::with_a();
    installation.policy("b", &version("version2"));
    let mut started = installation.start();
    assert_eq!(said(&started.policies), ["a: version1", "b: version2"]);
    fs::rename(installation.path("policies/b.wasm"), installation.path("policies/b.WASM")).unwrap();
    started.reloader.reload();
    assert_eq!(said(&started.policies), ["a: version1", "b: version2"]);
    let problems = installation.problems(&started);
    assert_eq!(
        problems[0],
        "policies/b.WASM: the name of a policy's file ends in `.wasm`, in lower case (it is not in force; \
            rename it)"
    );
    assert!(problems[1].contains("these changes wait: b (removed)"), "{problems:?}");

    fs::rename(installation.path("policies/b.WASM"), installation.path("policies/b.wasm")).unwrap();
    started.reloader.reload();
    assert_eq!(installation.problems(&started), [""; 0]);
}

#[test]
fn the_digest_is_of_the_content() {
    let more =
        "policyDirectory: policies\npolicies: [{ name: b, module: policies/b.wasm, settings: { x: [1] } }]";
    let make = |more: &str| {
        let installation = Installation::new(more);
        installation.policy("a", &version("version1"));
        installation.policy("b", &version("version2"));
        installation.start().policies.current().generation()
    };
    let first = make(more);
    assert!(first.starts_with("1-") && first.len() == 14, "{first}");
    assert_eq!(first, make(&format!("# Another folder, and a remark.\nstateDirectory: state\n{more}")));
    for changed in [
        more.replace("[1]", "[2]"),
        more.replace("name: b,", "name: b, mode: audit,"),
        more.replace("name: b,", "name: b, failurePolicy: Ignore,"),
        more.replace("name: b,", "name: b, limits: { deadline: 2s },"),
        more.replace("name: b,", "name: b, match: { namespaces: { exclude: [shop] } },"),
        format!("{more}\nunjudged: Allow"),
        format!("{more}\nmode: audit"),
        format!("{more}\nlimits: {{ reviewDeadline: 9s }}"),
    ] {
        assert_ne!(first, make(&changed), "{changed}");
    }
}

#[test]
fn a_review_sees_exactly_one_generation() {
    const SWAPS: usize = 30;
    let installation = Installation::with_a();
    installation.policy("b", &version("version1"));
    let Started { mut reloader, policies, .. } = installation.start();
    let over = AtomicBool::new(false);
    let review = support::review("default", &["x.io/a", "x.io/b", "x.io/c"]);
    let evaluations = std::thread::scope(|scope| {
        let judge = || {
            let (mut evaluations, mut last) = (0_usize, 0);
            while !over.load(Ordering::Relaxed) {
                let set = policies.current();
                let verdict = evaluate(&set, &review);
                // Each generation has both policies in the same version: 2 in even numbers, 1 in odd ones.
                let expected = if set.number() % 2 == 0 { "version2" } else { "version1" };
                for said in verdict.images.iter().flat_map(|image| &image.judged.said) {
                    assert_eq!(said.reason(), expected, "generation {}", set.generation());
                }
                assert_eq!(verdict.generation, set.generation());
                assert!(set.number() >= last, "numbers only grow");
                last = set.number();
                evaluations += 1;
            }
            evaluations
        };
        let judges: Vec<_> = (0..2).map(|_| scope.spawn(judge)).collect();
        for swap in 0..SWAPS {
            let next = version(if swap % 2 == 0 { "version2" } else { "version1" });
            installation.policy("a", &next);
            installation.policy("b", &next);
            reloader.reload();
        }
        over.store(true, Ordering::Relaxed);
        judges.into_iter().map(|judge| judge.join().unwrap()).sum::<usize>()
    });
    assert_eq!(policies.current().number() as usize, SWAPS + 1);
    println!("{evaluations} evaluations during {SWAPS} swaps");
}

/// A file's name is untrusted text: it forges no line, and no colour.
#[test]
fn the_name_of_a_file_forges_nothing() {
    let installation = Installation::with_a();
    let forged = "x\n[+]forged ok\n\u{1b}[31mred\u{202e}\u{2800}";
    installation.policy(forged, b"garbage");
    let mut started = installation.start();
    let log = logged(|| started.reloader.reload());
    let problems = installation.problems(&started);
    assert_eq!(problems.len(), 1);
    let shown = "policies/x\\u{a}[+]forged ok\\u{a}\\u{1b}[31mred\\u{202e}\\u{2800}.wasm: `x\\u{a}";
    assert!(problems[0].starts_with(shown), "{problems:?}");
    assert!(!log.contains(forged), "{log}");
}

/// limit: directory within, directory breaks
#[test]
fn the_number_of_files_in_the_policy_directory_is_limited() {
    let installation = Installation::with_a();
    let file = installation.path("policies/0");
    fs::write(&file, "").unwrap();
    (2..32_768)
        .for_each(|number| fs::hard_link(&file, installation.path(&format!("policies/{number}"))).unwrap());
    let mut started = installation.start();
    assert_eq!(installation.problems(&started), [""; 0]);
    fs::hard_link(&file, installation.path("policies/surplus")).unwrap();
    started.reloader.reload();
    let problems = installation.problems(&started);
    assert!(problems[0].contains("it holds more than 32768 files"), "{problems:?}");
    assert_eq!(said(&started.policies), ["a: version1"]);
}
