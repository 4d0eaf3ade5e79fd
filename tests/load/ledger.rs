//! The expected responses of each generation, and the responses so far. Every response is checked against
//! both.
//!
//! Two policies are the content of a generation: `file` changes with its file, `settings` with host.yaml.
//! Each has an edition, names it in its reason and in an audit annotation, and denies when it is odd. So
//! every response shows the content that judged it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::figures::{Answer, Failure, Kind};

/// The content of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The edition of the policy `file`.
    pub file: u32,
    /// The edition of the policy `settings`.
    pub settings: u32,
}

impl Content {
    /// Returns the parts, as policy and edition.
    fn parts(self) -> [(&'static str, u32); 2] {
        [("file", self.file), ("settings", self.settings)]
    }

    /// Returns the denials of `images`, in any order. The content allows if there are none.
    fn denials(self, images: &[&str]) -> Vec<String> {
        let odd = self.parts().into_iter().filter(|(_, edition)| edition % 2 == 1);
        let denials = odd.flat_map(|(policy, edition)| {
            images.iter().map(move |image| format!("{image}: {edition:08} (policy {policy})"))
        });
        let mut denials: Vec<_> = denials.collect();
        denials.sort();
        denials
    }
}

/// The images of the reviews: in turn one image, and three.
const REVIEWS: [&[&str]; 2] = [
    &["registry.k8s.io/pause:3.10"],
    &["ghcr.io/acme/web:1", "docker.io/library/nginx:1.27", "quay.io/acme/sidecar:2"],
];

/// A review, with the state needed to judge its response.
pub struct Question {
    images: &'static [&'static str],
    /// The newest generation that had responded before the request.
    floor: u64,
}

impl Question {
    /// Returns the ImageReview, as an apiserver sends it.
    pub fn body(&self) -> Bytes {
        let containers: Vec<_> = self.images.iter().map(|image| json!({ "image": image })).collect();
        let review = json!({
            "kind": "ImageReview",
            "apiVersion": "imagepolicy.k8s.io/v1alpha1",
            "metadata": {},
            "spec": { "containers": containers, "namespace": "default" },
            "status": { "allowed": false },
        });
        format!("{review}\n").into()
    }
}

/// The contents offered to the host, and its responses.
pub struct Ledger {
    books: Mutex<Books>,
    /// The newest generation that has responded.
    floor: AtomicU64,
    /// The place of the newest content that has responded.
    newest: watch::Sender<usize>,
}

#[derive(Default)]
struct Books {
    /// The offered contents, in order. Each generation has one of these, and no two are the same.
    offered: Vec<Content>,
    /// The digest and the place in `offered` of each generation that has responded, by its number.
    seen: BTreeMap<u64, (String, usize)>,
}

impl Ledger {
    /// Returns a ledger in which `first` is in force.
    pub fn new(first: Content) -> Ledger {
        let books = Books { offered: vec![first], seen: BTreeMap::new() };
        Ledger { books: Mutex::new(books), floor: AtomicU64::new(0), newest: watch::Sender::new(0) }
    }

    /// Records that from now on `content` may be in force. Returns its place.
    pub fn offer(&self, content: Content) -> usize {
        let mut books = self.books();
        books.offered.push(content);
        books.offered.len() - 1
    }

    /// Returns the content that was offered last.
    pub fn last(&self) -> Content {
        self.books().offered.last().copied().unwrap_or_default()
    }

    /// Waits for a response of the content at `place`, or of a later one.
    pub async fn in_force(&self, place: usize) {
        // The sender is in `self`.
        let _ = self.newest.subscribe().wait_for(|newest| *newest >= place).await;
    }

    /// Returns the number of generations that have responded.
    pub fn generations(&self) -> usize {
        self.books().seen.len()
    }

    /// Returns the newest generation that has responded, as `NUMBER-DIGEST`.
    pub fn newest(&self) -> String {
        let books = self.books();
        let newest = books.seen.last_key_value();
        newest.map_or("none".to_owned(), |(number, (digest, _))| format!("{number}-{digest}"))
    }

    /// Returns the review `number`.
    pub fn question(&self, number: u64) -> Question {
        let images = if number.is_multiple_of(2) { REVIEWS[0] } else { REVIEWS[1] };
        Question { images, floor: self.floor.load(Ordering::SeqCst) }
    }

    /// Checks a response.
    ///
    /// # Errors
    /// Returns a failure if the response is not correct.
    pub fn judge(&self, question: &Question, status: u16, body: &[u8]) -> Result<Answer, Failure> {
        let shown = || String::from_utf8_lossy(body).trim().to_owned();
        if status != 200 {
            return Err(Failure { kind: Kind::Status(status), what: shown() });
        }
        let wrong = |why: anyhow::Error| Failure { kind: Kind::Wrong, what: format!("{why}: {}", shown()) };
        let told = Told::read(question, body).map_err(wrong)?;
        let place = self.books().enter(&told).map_err(wrong)?;
        if told.number < question.floor {
            let what = format!("generation {} had answered before: {}", question.floor, shown());
            return Err(Failure { kind: Kind::WentBack, what });
        }
        self.floor.fetch_max(told.number, Ordering::SeqCst);
        self.newest.send_if_modified(|newest| {
            let newer = place > *newest;
            *newest = place.max(*newest);
            newer
        });
        Ok(Answer { generation: told.number, allowed: told.allowed })
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Books {
    /// Checks the generation of a response against the earlier ones. Returns the place of its content.
    fn enter(&mut self, told: &Told) -> Result<usize> {
        if let Some((digest, place)) = self.seen.get(&told.number) {
            let content = self.offered.get(*place);
            if *digest != told.digest || content != Some(&told.content) {
                bail!("generation {} was {digest} with {content:?}", told.number);
            }
            return Ok(*place);
        }
        let Some(place) = self.offered.iter().rposition(|offered| *offered == told.content) else {
            bail!("{:?} was never offered", told.content);
        };
        let older = self.seen.range(..told.number).next_back();
        let newer = self.seen.range(told.number..).next();
        if older.is_some_and(|(_, (_, older))| *older >= place)
            || newer.is_some_and(|(_, (_, newer))| *newer <= place)
        {
            bail!(
                "{:?} is in force again, or out of turn (before: {older:?}, after: {newer:?})",
                told.content
            );
        }
        self.seen.insert(told.number, (told.digest.clone(), place));
        Ok(place)
    }
}

/// The parts of a response.
struct Told {
    number: u64,
    digest: String,
    content: Content,
    allowed: bool,
}

impl Told {
    /// Reads the response to `question`. Returns an error if its parts contradict each other.
    fn read(question: &Question, body: &[u8]) -> Result<Told> {
        let answer: Value = serde_json::from_slice(body)?;
        let text = |path: &str| answer.pointer(path).and_then(Value::as_str);
        let annotation = |key: &str| text(&format!("/status/auditAnnotations/{key}"));
        let edition = |key: &str| annotation(key).and_then(|edition| edition.parse().ok());

        let generation = annotation("generation").and_then(|generation| generation.split_once('-'));
        let Some((number, digest)) = generation else { bail!("it names no generation") };
        let (Some(file), Some(settings)) = (edition("file.version"), edition("settings.version")) else {
            bail!("it does not tell which editions judged");
        };
        let content = Content { file, settings };
        if text("/kind") != Some("ImageReview") {
            bail!("it is no ImageReview");
        }
        let expected = content.denials(question.images);
        let mut denials: Vec<&str> =
            text("/status/reason").unwrap_or_default().split("; ").filter(|part| !part.is_empty()).collect();
        denials.sort_unstable();
        let allowed = answer.pointer("/status/allowed").and_then(Value::as_bool);
        if denials != expected || allowed != Some(expected.is_empty()) {
            bail!("{content:?} has other denials: {expected:?}");
        }
        Ok(Told { number: number.parse()?, digest: digest.to_owned(), content, allowed: expected.is_empty() })
    }
}
