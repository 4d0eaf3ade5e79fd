//! One target under libFuzzer: `fuzz TARGET ARGUMENTS-OF-LIBFUZZER…`, built and started by `run`.

#[cfg(test)]
mod targets;

use std::ffi::{CString, c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use bolero_libfuzzer as _;

use crate::targets::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

/// Counters that libFuzzer reads beside those of the instrumented code: one for each text that a target
/// returned. An input that brings a library without instrumentation to a new text is kept.
#[expect(unsafe_code, reason = "the section is how libFuzzer finds the counters, which are of no other use")]
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static SAID: [AtomicU8; 4096] = [const { AtomicU8::new(0) }; 4096];

#[expect(unsafe_code, reason = "libFuzzer is C++")]
unsafe extern "C" {
    /// The `main` of libFuzzer.
    fn LLVMFuzzerStartTest(count: c_int, arguments: *const *const c_char) -> c_int;
}

/// The function that libFuzzer calls with every input.
#[expect(unsafe_code, reason = "libFuzzer is C++; it finds this by name and gives `size` bytes at `data`")]
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> c_int {
    // SAFETY: see the reason above. The pointer may be null if the input is empty.
    let input = if size == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, size) } };
    let said = CHOSEN.get().and_then(|target| target(input));
    if let Some(said) = said {
        let mut hasher = DefaultHasher::new();
        said.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SAID.len() as u64).unwrap_or_default();
        SAID.iter().skip(index).take(1).for_each(|counter| counter.store(1, Ordering::Relaxed));
    }
    0
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let named = |(name, _): &&(&str, Target)| arguments.get(1).is_some_and(|argument| argument == name);
    let Some((_, target)) = TARGETS.iter().find(named) else {
        for (name, _) in TARGETS {
            let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{name}\n").as_bytes());
        }
        return ExitCode::from(2);
    };
    CHOSEN.get_or_init(|| *target);
    // A panic that the host catches is a finding too.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::abort();
    }));

    let arguments = arguments.into_iter().enumerate().filter(|(index, _)| *index != 1);
    let arguments: Vec<CString> =
        arguments.filter_map(|(_, argument)| CString::new(argument.into_vec()).ok()).collect();
    let mut pointers: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    pointers.push(std::ptr::null());
    // SAFETY: `count` C strings and a null after them, which outlive the call.
    #[expect(unsafe_code, reason = "libFuzzer is C++")]
    let status = unsafe { LLVMFuzzerStartTest(count, pointers.as_ptr()) };
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}
