//! Confinement with Landlock and seccomp.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

use super::{ConfineError, Confinement, Profile};

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
pub fn deny_access() -> Result<(), ConfineError> {
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
        Ok(RulesetStatus::NotEnforced) => Err(ConfineError::Absent),
        Ok(_) => Ok(()),
        Err(error) => Err(ConfineError::system(error)),
    }
}

/// Restricts this thread and the threads that it starts to the system calls that `profile` needs,
/// permanently. Any other call ends the process.
///
/// # Errors
/// Returns the reason if the filter is not in force.
pub fn filter_calls(profile: Profile) -> Result<(), ConfineError> {
    // The calls differ on other processors and have not been traced there.
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return Err(ConfineError::Processor(std::env::consts::ARCH.to_owned()));
    }
    let absent = program(
        ABSENT.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
    );
    let allowed =
        allowed(profile).and_then(|rules| program(rules, SeccompAction::KillProcess, SeccompAction::Allow));
    // The kernel takes the stricter action of the two filters, so the second filter must allow the calls that
    // the first one fails.
    for program in [absent, allowed] {
        program.and_then(|program| apply_filter(&program)).map_err(ConfineError::system)?;
    }
    Ok(())
}

/// Permitted calls, each with the rules of which its arguments must satisfy one. A call without rules may
/// have any arguments.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn program(
    calls: Calls,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> seccompiler::Result<seccompiler::BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(calls, otherwise, matched, architecture)?.try_into()?)
}

/// Calls that C libraries make in passing. They fail as on a kernel that lacks them. Without clone3(2), whose
/// flags a filter cannot see, glibc makes a thread with clone(2).
const ABSENT: &[i64] = &[
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
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// Calls that compiling needs, with any arguments.
const PLAIN: &[i64] = &[
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

/// Flags with which glibc and musl make a thread. CLONE_DETACHED, which musl adds, has no effect.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// Condition on one argument of a call: the argument's number, the comparison and the value.
#[derive(Clone, Copy)]
enum Argument {
    /// All 64 bits are this value.
    Is(u8, u64),
    /// The argument is an `int` in C, whose upper half of the register is undefined, and has this value.
    IntIs(u8, i32),
    /// An `int` that has this value in the bits of the mask.
    IntMasked(u8, i32, i32),
    /// 64 bits that have this value in the bits of the mask.
    Masked(u8, u64, u64),
}

impl Argument {
    fn condition(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        use SeccompCmpArgLen::{Dword, Qword};
        use SeccompCmpOp::{Eq, MaskedEq};
        match self {
            Argument::Is(number, value) => SeccompCondition::new(number, Qword, Eq, value),
            Argument::IntIs(number, value) => SeccompCondition::new(number, Dword, Eq, bits(value)),
            Argument::IntMasked(number, mask, value) => {
                SeccompCondition::new(number, Dword, MaskedEq(bits(mask)), bits(value))
            }
            Argument::Masked(number, mask, value) => {
                SeccompCondition::new(number, Qword, MaskedEq(mask), value)
            }
        }
    }
}

/// Returns the bits of an `int`, without its sign.
fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Returns the calls that compiling needs, and those of [`ABSENT`].
fn allowed(profile: Profile) -> seccompiler::Result<Calls> {
    use Argument::{IntIs, IntMasked, Is, Masked};

    let unexecutable = Masked(2, bits(libc::PROT_EXEC), 0);
    // Only private, anonymous memory: RLIMIT_DATA does not count shared memory, and a descriptor may be one
    // that the host was started with.
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let private = IntMasked(3, libc::MAP_TYPE | libc::MAP_ANONYMOUS, private);
    let mut plain: Vec<i64> = PLAIN.iter().chain(ABSENT).copied().collect();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let output = || vec![vec![IntIs(0, 1)], vec![IntIs(0, 2)]];
    let mut limited = vec![
        (libc::SYS_read, vec![vec![IntIs(0, 0)]]),
        (libc::SYS_write, output()),
        (libc::SYS_writev, output()),
        (libc::SYS_clone, vec![vec![Masked(0, !bits(libc::CLONE_DETACHED), bits(THREAD))]]),
        (libc::SYS_tgkill, vec![vec![IntIs(0, own)]]),
        // Only of this process, and only to read limits.
        (libc::SYS_prlimit64, vec![vec![IntIs(0, 0), Is(2, 0)]]),
        (libc::SYS_prctl, vec![vec![IntIs(0, libc::PR_SET_NAME)], vec![IntIs(0, libc::PR_SET_VMA)]]),
    ];
    match profile {
        Profile::Compile => limited.extend([
            (libc::SYS_mmap, vec![vec![private, unexecutable]]),
            (libc::SYS_mprotect, vec![vec![unexecutable]]),
        ]),
        Profile::Snapshot => {
            limited.push((libc::SYS_mmap, vec![vec![private]]));
            // Other processors need a barrier before they run new code.
            plain.extend([libc::SYS_mprotect, libc::SYS_membarrier]);
        }
    }

    let rule = |arguments: Vec<Argument>| -> seccompiler::Result<SeccompRule> {
        let conditions: Result<_, _> = arguments.into_iter().map(Argument::condition).collect();
        Ok(SeccompRule::new(conditions?)?)
    };
    let mut calls: Calls = plain.into_iter().map(|call| (call, Vec::new())).collect();
    for (call, rules) in limited {
        calls.insert(call, rules.into_iter().map(rule).collect::<seccompiler::Result<_>>()?);
    }
    Ok(calls)
}
