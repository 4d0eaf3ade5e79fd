//! The last reviews, in memory, for the replay.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::bounds;
use crate::review::Review;

/// The last reviews. Keeping one costs a short lock, and nothing where none are wanted.
#[derive(Default)]
pub struct Recent {
    /// How many are kept.
    wanted: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Oldest first.
    reviews: VecDeque<Arc<Review>>,
    bytes: usize,
}

impl Recent {
    /// Keeps as many from now on, within their bound in bytes.
    pub fn keep(&self, reviews: usize) {
        self.wanted.store(reviews, Ordering::Relaxed);
        let mut kept = self.lock();
        kept.drop_over(reviews);
        kept.reviews.shrink_to_fit();
    }

    /// Keeps a review that was answered.
    pub fn push(&self, review: &Arc<Review>) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        // Nobody denies a review without images.
        if wanted == 0 || review.images.is_empty() {
            return;
        }
        let bytes = bytes(review);
        if bytes > bounds::RECENT_BYTES.size() {
            return;
        }
        let review = Arc::clone(review);
        let gone = {
            let mut kept = self.lock();
            kept.reviews.push_back(review);
            kept.bytes += bytes;
            kept.drop_over(wanted)
        };
        // Not while others wait for the lock.
        drop(gone);
    }

    /// Returns the reviews, the newest first.
    pub fn newest(&self) -> Vec<Arc<Review>> {
        self.lock().reviews.iter().rev().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Takes out what is over the bounds: mostly one review.
    fn drop_over(&mut self, most: usize) -> Vec<Arc<Review>> {
        let mut gone = Vec::new();
        while self.reviews.len() > most || self.bytes > bounds::RECENT_BYTES.size() {
            let Some(review) = self.reviews.pop_front() else { break };
            self.bytes -= bytes(&review);
            gone.push(review);
        }
        gone
    }
}

/// What a review takes in memory, about.
fn bytes(review: &Review) -> usize {
    let Review { namespace, annotations, images } = review;
    let strings = annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
        + images.iter().map(String::len).sum::<usize>();
    size_of::<Review>()
        + namespace.len()
        + strings
        + size_of_val(annotations.as_slice())
        + size_of_val(images.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(image: &str) -> Arc<Review> {
        Arc::new(Review { images: vec![image.to_owned()], ..Review::default() })
    }

    fn images(recent: &Recent) -> Vec<String> {
        recent.newest().iter().flat_map(|review| review.images.clone()).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let recent = Recent::default();
        recent.push(&review("unwanted"));
        assert_eq!(images(&recent), [""; 0]);
        recent.keep(3);
        for image in ["a", "b", "c", "d"] {
            recent.push(&review(image));
        }
        assert_eq!(images(&recent), ["d", "c", "b"]);
        recent.keep(1);
        assert_eq!(images(&recent), ["d"]);
        recent.keep(0);
        assert_eq!(images(&recent), [""; 0]);
    }
}
