//! What each generation must answer, and what has been answered: every answer is held against both.
//!
//! Two policies make up the content of a generation: `file` changes with its file, `settings` with host.yaml. Each has an
//! edition, tells it in its reason and in an audit annotation, and denies when it is odd. So every answer tells which
//! content judged it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::figures::{Answer, Failure, Kind};

/// What a generation is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The edition of the policy `file`.
    pub file: u32,
    /// The edition of the policy `settings`.
    pub settings: u32,
}

impl Content {
    /// The parts, as policy and edition.
    fn parts(self) -> [(&'static str, u32); 2] {
        [("file", self.file), ("settings", self.settings)]
    }

    /// The denials of `images`, in any order; none: it allows.
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

/// What is asked: in turn one image, and three.
const REVIEWS: [&[&str]; 2] = [
    &["registry.k8s.io/pause:3.10"],
    &["ghcr.io/acme/web:1", "docker.io/library/nginx:1.27", "quay.io/acme/sidecar:2"],
];

/// A question, with what it needs to judge the answer.
pub struct Question {
    images: &'static [&'static str],
    /// The newest generation that had answered when it was asked.
    floor: u64,
}

impl Question {
    /// The ImageReview, as an apiserver sends it.
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

/// What was offered to the host, and what it answered.
pub struct Ledger {
    books: Mutex<Books>,
    /// The newest generation that has answered.
    floor: AtomicU64,
    /// The place of the newest content that has answered.
    newest: watch::Sender<usize>,
}

#[derive(Default)]
struct Books {
    /// What was offered, in order. A generation has one of these, none twice.
    offered: Vec<Content>,
    /// Of each generation that has answered, by its number: digest and place in `offered`.
    seen: BTreeMap<u64, (String, usize)>,
}

impl Ledger {
    /// A ledger in which `first` is in force.
    pub fn new(first: Content) -> Ledger {
        let books = Books { offered: vec![first], seen: BTreeMap::new() };
        Ledger { books: Mutex::new(books), floor: AtomicU64::new(0), newest: watch::Sender::new(0) }
    }

    /// Says that from now on `content` may be in force, and answers its place.
    pub fn offer(&self, content: Content) -> usize {
        let mut books = self.books();
        books.offered.push(content);
        books.offered.len() - 1
    }

    /// The content that was offered last.
    pub fn last(&self) -> Content {
        self.books().offered.last().copied().unwrap_or_default()
    }

    /// Waits until what was offered at `place`, or later, has answered.
    pub async fn in_force(&self, place: usize) {
        // The sender is in `self`.
        let _ = self.newest.subscribe().wait_for(|newest| *newest >= place).await;
    }

    /// How many generations have answered.
    pub fn generations(&self) -> usize {
        self.books().seen.len()
    }

    /// The newest generation that has answered: `NUMBER-DIGEST`.
    pub fn newest(&self) -> String {
        let books = self.books();
        let newest = books.seen.last_key_value();
        newest.map_or("none".to_owned(), |(number, (digest, _))| format!("{number}-{digest}"))
    }

    /// The question `number`.
    pub fn question(&self, number: u64) -> Question {
        let images = if number.is_multiple_of(2) { REVIEWS[0] } else { REVIEWS[1] };
        Question { images, floor: self.floor.load(Ordering::SeqCst) }
    }

    /// Holds an answer against what it must be.
    ///
    /// # Errors
    /// It is not right.
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
    /// Holds the generation that an answer tells of against those before, and answers the place of its content.
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

/// What an answer tells.
struct Told {
    number: u64,
    digest: String,
    content: Content,
    allowed: bool,
}

impl Told {
    /// Reads an answer to `question`; an error where its parts contradict each other.
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
