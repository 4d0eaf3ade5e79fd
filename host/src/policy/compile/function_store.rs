//! Compiled functions of components that an author edits. The compiler takes every function that it has made
//! before from a pack, so a component is compiled again only where it has changed.
//!
//! A pack is input to the compiler. It lies in a folder that only this user can enter, under the digest of
//! its content, and each of its functions under the digest of the intermediate code and of the compiler's
//! settings. The compiling process opens no file: its parent sends the pack and receives the next one.
//!
//! A component that takes over the compiler can put other code into the pack. The same component can respond
//! with native code of its choice, which the author's process then runs, so the pack adds no access. A host
//! that serves uses no packs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

use parking_lot::Mutex;
use wasmparser::{Parser, Payload};
use wasmtime::CacheStore;

use super::cache::Cache;
use crate::policy::sandbox::native::digest;

/// Digest of the intermediate code of a function, and of the settings of the compiler.
type Key = [u8; 32];

/// The functions of one compilation: those of a pack, and those that the compiler has to make.
///
/// A pack is a sequence of functions, each with its key, the length of its code (32 bits, little-endian) and
/// its code.
#[derive(Debug)]
pub(super) struct Functions {
    pack: Vec<u8>,
    /// Places of the code in the pack.
    known: HashMap<Key, Range<usize>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Functions of the pack that the component has.
    used: BTreeSet<Key>,
    /// Functions that were made.
    made: BTreeMap<Key, Vec<u8>>,
}

impl Functions {
    /// Returns the functions of a pack. The end of a pack that is cut off counts as absent.
    pub(super) fn of(pack: Vec<u8>) -> Functions {
        let mut known = HashMap::new();
        let mut at = 0;
        while let Some((key, code)) = first(&pack, at) {
            at = code.end;
            known.insert(key, code);
        }
        Functions { pack, known, state: Mutex::default() }
    }

    /// Returns the pack of the compiled component. Returns an empty pack if no function was made, so the
    /// previous pack has all functions of the component.
    pub(super) fn next_pack(&self) -> Vec<u8> {
        let State { used, made } = &*self.state.lock();
        if made.is_empty() {
            return Vec::new();
        }
        let used = used.iter().filter(|key| !made.contains_key(*key));
        let used = used.filter_map(|key| Some((key, self.known_code(key)?)));
        let made = made.iter().map(|(key, code)| (key, code.as_slice()));
        let mut pack = Vec::new();
        for (key, code) in used.chain(made) {
            let Ok(length) = u32::try_from(code.len()) else { continue };
            pack.extend_from_slice(key);
            pack.extend_from_slice(&length.to_le_bytes());
            pack.extend_from_slice(code);
        }
        pack
    }

    fn known_code(&self, key: &Key) -> Option<&[u8]> {
        self.pack.get(self.known.get(key)?.clone())
    }
}

/// Returns the key of the function that begins at `at`, and the place of its code.
fn first(pack: &[u8], at: usize) -> Option<(Key, Range<usize>)> {
    let (key, rest) = pack.get(at..)?.split_first_chunk::<32>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let begin = at + key.len() + 4;
    (length <= rest.len()).then(|| (*key, begin..begin + length))
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let key = Key::try_from(key).ok()?;
        if let Some(code) = self.known_code(&key) {
            self.state.lock().used.insert(key);
            return Some(Cow::Borrowed(code));
        }
        // A component has equal functions.
        self.state.lock().made.get(&key).cloned().map(Cow::Owned)
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        let Ok(key) = Key::try_from(key) else { return false };
        // The compiler cannot read every function that it has written, and makes those again.
        if self.known_code(&key) != Some(&value) {
            self.state.lock().made.insert(key, value);
        }
        true
    }
}

/// Packs in a folder.
pub(super) struct FunctionStore {
    cache: Cache,
    /// Prefix of the names of packs that this build of the program has made.
    prefix: String,
}

/// A pack that is sent with a component.
pub(super) struct Pack {
    /// Its name in the folder. None if no pack was found.
    name: Option<String>,
    sketch: Sketch,
    /// Its functions; empty if no pack was found.
    pub(super) bytes: Vec<u8>,
}

impl FunctionStore {
    pub(super) fn new(cache: Cache, build: &str) -> FunctionStore {
        let build: String = digest(build.as_bytes()).chars().take(16).collect();
        FunctionStore { cache, prefix: format!("{build}-") }
    }

    /// Returns the pack of the component that has most functions in common with `component`.
    pub(super) fn nearest(&self, component: &[u8]) -> Pack {
        let sketch = Sketch::of(component);
        let packs = self.cache.names().into_iter().filter_map(|name| {
            let other = Sketch::parse(name.strip_prefix(&self.prefix)?)?;
            Some((sketch.in_common(&other), name))
        });
        let nearest = packs.max().filter(|(in_common, _)| *in_common >= ALIKE);
        let found = nearest.and_then(|(_, name)| Some((self.cache.get(&name)?, name)));
        let (bytes, name) = found.map_or_else(Default::default, |(bytes, name)| (bytes, Some(name)));
        Pack { name, sketch, bytes }
    }

    /// Keeps the next pack of a component. The pack replaces the previous one if both are of versions of one
    /// component.
    pub(super) fn keep(&self, previous: &Pack, next: &[u8]) {
        if next.is_empty() {
            return;
        }
        let name = format!("{}{}", self.prefix, previous.sketch.name());
        self.cache.put(&name, next);
        let replaced = previous.name.as_ref().filter(|previous| **previous != name);
        let Some(replaced) = replaced else { return };
        let other = replaced.strip_prefix(&self.prefix).and_then(Sketch::parse);
        if other.is_some_and(|other| previous.sketch.in_common(&other) >= VERSION) {
            self.cache.remove(replaced);
        }
    }
}

/// Share of slots, in percent, from which on a pack is worth reading.
const ALIKE: usize = 25;
/// Share of slots, in percent, from which on two components count as versions of one.
const VERSION: usize = 75;
/// Slots of a sketch.
const SLOTS: usize = 16;

/// Sample of the functions of a component (one-permutation MinHash): functions are divided among the slots by
/// their hash, and each slot has the lowest hash of its functions. Two components have about the share of
/// slots in common that they have of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sketch([u32; SLOTS]);

/// Value of a slot without functions.
const EMPTY: u32 = u32::MAX;

impl Sketch {
    fn of(component: &[u8]) -> Sketch {
        let mut slots = [EMPTY; SLOTS];
        // The compiler reports the errors of a component.
        for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
            let Payload::CodeSectionEntry(body) = payload else { continue };
            let mut hasher = DefaultHasher::new();
            hasher.write(body.as_bytes());
            let bits = hasher.finish();
            let slot = usize::try_from(bits % SLOTS as u64).unwrap_or_default();
            let value = u32::try_from(bits >> 32).unwrap_or(EMPTY);
            if let Some(slot) = slots.get_mut(slot) {
                *slot = value.min(*slot);
            }
        }
        Sketch(slots)
    }

    /// Returns the share of slots, in percent, that are the same in both and not empty in both.
    fn in_common(&self, other: &Sketch) -> usize {
        let pairs = || self.0.iter().zip(&other.0).filter(|pair| *pair != (&EMPTY, &EMPTY));
        let equal = pairs().filter(|(slot, other)| slot == other).count();
        (equal * 100).checked_div(pairs().count()).unwrap_or_default()
    }

    fn name(&self) -> String {
        self.0.iter().map(|slot| format!("{slot:08x}")).collect()
    }

    fn parse(name: &str) -> Option<Sketch> {
        let mut slots = [EMPTY; SLOTS];
        let mut rest = name;
        for slot in &mut slots {
            let (digits, after) = rest.split_at_checked(8)?;
            *slot = u32::from_str_radix(digits, 16).ok()?;
            rest = after;
        }
        rest.is_empty().then_some(Sketch(slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(functions: &[(u8, &[u8])]) -> Vec<u8> {
        let made = Functions::of(Vec::new());
        for (key, code) in functions {
            assert!(made.insert(&[*key; 32], code.to_vec()));
        }
        made.next_pack()
    }

    #[test]
    fn the_next_pack_has_the_functions_of_the_component_alone() {
        let functions = Functions::of(pack(&[(1, b"one"), (2, b"two"), (3, b"")]));
        assert_eq!(functions.get(&[1; 32]).as_deref(), Some(&b"one"[..]));
        assert_eq!(functions.get(&[3; 32]).as_deref(), Some(&b""[..]));
        assert_eq!(functions.get(&[4; 32]), None);
        assert!(functions.next_pack().is_empty(), "no function was made");
        assert!(functions.insert(&[1; 32], b"one".to_vec()));
        assert!(functions.next_pack().is_empty(), "the function is made again as it was");
        functions.insert(&[4; 32], b"four".to_vec());
        assert_eq!(functions.get(&[4; 32]).as_deref(), Some(&b"four"[..]));
        assert_eq!(functions.next_pack(), pack(&[(1, b"one"), (3, b""), (4, b"four")]));
        assert!(!functions.insert(b"short", Vec::new()));
    }

    #[test]
    fn a_pack_that_is_cut_off_has_its_whole_functions() {
        let whole = pack(&[(1, b"one"), (2, b"two")]);
        for length in 0..whole.len() {
            let functions = Functions::of(whole[..length].to_vec());
            assert_eq!(functions.get(&[1; 32]).is_some(), length >= whole.len() / 2, "{length}");
            assert_eq!(functions.get(&[2; 32]), None, "{length}");
        }
    }

    fn module(functions: impl Iterator<Item = u32>) -> Vec<u8> {
        let functions: String = functions.map(|number| format!("(func i32.const {number} drop)")).collect();
        wat::parse_str(format!("(module {functions})")).unwrap()
    }

    #[test]
    fn the_pack_of_the_nearest_component_is_found_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Cache::open(folder.path(), 1 << 20).unwrap();
        let store = FunctionStore::new(open(), "build");
        let (first, edited, other) = (module(0..400), module(1..401), module(1000..1400));
        for component in [&first, &other] {
            let none = store.nearest(component);
            assert!(none.bytes.is_empty());
            store.keep(&none, component);
        }
        let found = store.nearest(&edited);
        assert_eq!(found.bytes, first);
        store.keep(&found, b"");
        assert_eq!(store.nearest(&edited).bytes, first, "nothing was made");
        store.keep(&found, &edited);
        assert_eq!(store.nearest(&first).bytes, edited, "the earlier version is removed");
        assert_eq!(store.nearest(&other).bytes, other);
        assert!(FunctionStore::new(open(), "another build").nearest(&first).bytes.is_empty());
    }
}
