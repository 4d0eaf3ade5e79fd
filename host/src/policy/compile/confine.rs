//! Confinement of a process that compiles. Before the process reads a component, it drops every right that it
//! does not need, so a component that takes over the compiler finds no file, no network and no other process.
//!
//! Landlock (landlock(7)) and the system call filter (seccomp(2)) each suffice against files and the network.
//! Some kernels and service managers lack one of the two, so [`Confinement`] says which are in force.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};
use serde::{Deserialize, Serialize};

/// Set of rights that a confined process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Compiling. No memory can be made executable.
    Compile,
    /// Compiling and running `configure`, which needs executable memory.
    Snapshot,
}

/// State of the two kernel mechanisms, each with the reason if it is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Landlock, against access to files, TCP and other processes.
    pub landlock: Result<(), String>,
    /// Filter of system calls.
    pub seccomp: Result<(), String>,
}

impl Confinement {
    /// Describes the missing mechanisms and the consequence. Returns None if both are in force.
    pub fn problem(&self) -> Option<String> {
        let cure = "use a kernel with both, Linux 5.13 or later, and allow the system calls landlock_create_ruleset, \
                    landlock_restrict_self and seccomp (`SystemCallFilter=` of systemd)";
        match (&self.landlock, &self.seccomp) {
            (Ok(()), Ok(())) => None,
            (Err(landlock), Ok(())) => Some(format!(
                "Landlock is not in force ({landlock}): the filter of system calls alone keeps a component that takes over \
                 the compiler from files and the network; {cure}"
            )),
            (Ok(()), Err(seccomp)) => Some(format!(
                "the filter of system calls is not in force ({seccomp}): a component that takes over the compiler can open \
                 no file, but can start processes and make memory executable; {cure}"
            )),
            (Err(landlock), Err(seccomp)) => Some(format!(
                "neither Landlock ({landlock}) nor the filter of system calls ({seccomp}) is in force: a component that \
                 takes over the compiler can read files and signal processes with the rights of this host; {cure}"
            )),
        }
    }
}

/// Confines this process permanently. The process must have one thread.
///
/// # Errors
/// Returns an error if the process cannot be made undumpable or its resources cannot be limited. Every kernel
/// allows both.
pub fn confine(profile: Profile) -> io::Result<Confinement> {
    // No process of the same user can attach to this one.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let landlock = deny_access();
    // Standard input, output and error are the only descriptors left.
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: Some(3) })?;
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(Confinement { landlock, seccomp: filter_calls(profile) })
}

/// Drops permanently every right that Landlock controls.
///
/// # Errors
/// Returns the reason if no right was dropped.
pub fn deny_access() -> Result<(), String> {
    // Newest tested version. A kernel with an older version denies the rights that its version knows.
    let abi = ABI::V7;
    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?;
        Ok(ruleset.create()?.restrict_self()?.ruleset)
    };
    match restrict() {
        Ok(RulesetStatus::NotEnforced) => {
            Err("the kernel has none, or a filter of system calls refuses it".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Restricts this thread and the threads that it starts to the system calls that `profile` needs,
/// permanently. Any other call ends the process.
///
/// # Errors
/// Returns the reason if the filter is not in force.
pub fn filter_calls(profile: Profile) -> Result<(), String> {
    // The calls differ on other processors and have not been traced there.
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return Err(format!("there is no filter for {}", std::env::consts::ARCH));
    }
    let absent = absent().into_iter().map(|call| (call, Vec::new())).collect();
    let absent = program(absent, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()));
    let allowed = allowed(profile).and_then(|allowed| {
        program(allowed.into_iter().collect(), SeccompAction::KillProcess, SeccompAction::Allow)
    });
    // The kernel takes the stricter action of the two filters, so the second filter must allow the calls that
    // the first one fails.
    for program in [absent, allowed] {
        program.and_then(|program| apply_filter(&program)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

type Rules = Vec<SeccompRule>;

fn program(
    rules: BTreeMap<i64, Rules>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> seccompiler::Result<seccompiler::BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()?)
}

/// Returns the calls that C libraries make in passing. They fail as on a kernel that lacks them. Without
/// clone3(2), whose flags a filter cannot see, glibc makes a thread with clone(2).
fn absent() -> Vec<i64> {
    let mut calls = vec![
        libc::SYS_clone3,
        libc::SYS_openat,
        libc::SYS_faccessat,
        libc::SYS_readlinkat,
        libc::SYS_newfstatat,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_lseek,
        libc::SYS_fcntl,
        libc::SYS_ioctl,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_tkill,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_open, libc::SYS_access, libc::SYS_readlink, libc::SYS_stat]);
    calls.sort_unstable();
    calls
}

/// Returns the calls that compiling needs, each with its permitted arguments. A call without rules may have
/// any.
fn allowed(profile: Profile) -> seccompiler::Result<Vec<(i64, Rules)>> {
    use SeccompCmpOp::{Eq, MaskedEq};

    let whole = |argument, comparison, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, comparison, value)
    };
    // For an argument that is an `int` in C: the upper half of its register is undefined.
    let int = |argument, comparison, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, u64::from(value.cast_unsigned()))
    };
    let mask = |bits: i32| u64::from(bits.cast_unsigned());

    let executable = MaskedEq(mask(libc::PROT_EXEC));
    // Only private, anonymous memory: RLIMIT_DATA does not count shared memory, and a descriptor may be one
    // that the host was started with.
    let private = int(
        3,
        MaskedEq(mask(libc::MAP_TYPE | libc::MAP_ANONYMOUS)),
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    )?;
    let (map, protect) = match profile {
        Profile::Compile => (
            vec![SeccompRule::new(vec![private, whole(2, executable.clone(), 0)?])?],
            vec![SeccompRule::new(vec![whole(2, executable, 0)?])?],
        ),
        Profile::Snapshot => (vec![SeccompRule::new(vec![private])?], Vec::new()),
    };
    let written = || -> seccompiler::Result<Rules> {
        Ok(vec![SeccompRule::new(vec![int(0, Eq, 1)?])?, SeccompRule::new(vec![int(0, Eq, 2)?])?])
    };
    // Flags with which glibc and musl make a thread. CLONE_DETACHED, which musl adds, has no effect.
    let thread = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    let thread = whole(0, MaskedEq(!mask(libc::CLONE_DETACHED)), mask(thread))?;
    let own = rustix::process::getpid().as_raw_nonzero().get();

    let mut allowed = vec![
        (libc::SYS_read, vec![SeccompRule::new(vec![int(0, Eq, 0)?])?]),
        (libc::SYS_write, written()?),
        (libc::SYS_writev, written()?),
        (libc::SYS_mmap, map),
        (libc::SYS_mprotect, protect),
        (libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]),
        (libc::SYS_tgkill, vec![SeccompRule::new(vec![int(0, Eq, own)?])?]),
        // Only of this process, and only to read limits.
        (libc::SYS_prlimit64, vec![SeccompRule::new(vec![int(0, Eq, 0)?, whole(2, Eq, 0)?])?]),
        (
            libc::SYS_prctl,
            vec![
                SeccompRule::new(vec![int(0, Eq, libc::PR_SET_NAME)?])?,
                SeccompRule::new(vec![int(0, Eq, libc::PR_SET_VMA)?])?,
            ],
        ),
    ];
    let plain = [
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_close,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        // For machines whose clock cannot be read without a system call.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    allowed.extend(plain.into_iter().chain(absent()).map(|call| (call, Vec::new())));
    if profile == Profile::Snapshot {
        // Other processors need a barrier before they run new code.
        allowed.push((libc::SYS_membarrier, Vec::new()));
    }
    Ok(allowed)
}
