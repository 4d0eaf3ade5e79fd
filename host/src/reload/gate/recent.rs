//! The last reviews, in memory, for the replay.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;
use crate::review::Review;
use crate::telemetry::answered::ReviewId;
use parking_lot::Mutex;

/// The last reviews. Keeping one takes a lock for a short time, or nothing if no reviews are wanted.
#[derive(Default)]
pub struct Recent {
    /// Number of reviews to keep.
    wanted: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Oldest first.
    reviews: VecDeque<(ReviewId, Arc<Review>)>,
    bytes: usize,
}

impl Recent {
    /// Sets the number of reviews to keep. The limit on their total size applies as well.
    pub fn keep(&self, reviews: usize) {
        self.wanted.store(reviews, Ordering::Relaxed);
        let mut kept = self.kept.lock();
        kept.drop_over(reviews);
        kept.reviews.shrink_to_fit();
    }

    /// Keeps a review that has been judged.
    pub fn push(&self, id: ReviewId, review: &Arc<Review>) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        // A review without images is never denied.
        if wanted == 0 || review.images.is_empty() {
            return;
        }
        let bytes = review.memory();
        if bytes > limits::RECENT_BYTES.size() {
            return;
        }
        let review = Arc::clone(review);
        let gone = {
            let mut kept = self.kept.lock();
            kept.reviews.push_back((id, review));
            kept.bytes += bytes;
            kept.drop_over(wanted)
        };
        // The reviews are freed after the lock is released.
        drop(gone);
    }

    /// Returns the reviews, newest first.
    pub fn newest(&self) -> Vec<Arc<Review>> {
        self.kept.lock().reviews.iter().rev().map(|(_, review)| Arc::clone(review)).collect()
    }

    /// Adds older reviews, given newest first, each once and while there is room.
    pub fn fill(&self, older: impl IntoIterator<Item = (ReviewId, Arc<Review>)>) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let mut kept = self.kept.lock();
        let mut known: HashSet<ReviewId> = kept.reviews.iter().map(|(id, _)| *id).collect();
        for (id, review) in older.into_iter().filter(|(id, _)| known.insert(*id)) {
            let bytes = kept.bytes + review.memory();
            if kept.reviews.len() >= wanted || bytes > limits::RECENT_BYTES.size() {
                break;
            }
            kept.reviews.push_front((id, review));
            kept.bytes = bytes;
        }
    }
}

impl Kept {
    /// Removes the oldest reviews over the limits, in most calls one, and returns them.
    fn drop_over(&mut self, most: usize) -> Vec<Arc<Review>> {
        let mut gone = Vec::new();
        while self.reviews.len() > most || self.bytes > limits::RECENT_BYTES.size() {
            let Some((_, review)) = self.reviews.pop_front() else { break };
            self.bytes -= review.memory();
            gone.push(review);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::answered::Ids;

    fn images(recent: &Recent) -> Vec<String> {
        recent.newest().iter().flat_map(|review| review.images.clone()).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let (recent, ids) = (Recent::default(), Ids::default());
        let review = |image: &str| {
            let review = Review { images: vec![image.to_owned()], ..Review::default() };
            (ids.next(SystemTime::now()), Arc::new(review))
        };
        let push = |(id, review): (ReviewId, Arc<Review>)| recent.push(id, &review);
        push(review("unwanted"));
        assert_eq!(images(&recent), [""; 0]);
        recent.keep(3);
        let older = ["x", "y", "z"].map(review);
        ["a", "b", "c", "d"].map(review).into_iter().for_each(push);
        assert_eq!(images(&recent), ["d", "c", "b"]);
        recent.fill(older.clone());
        assert_eq!(images(&recent), ["d", "c", "b"], "there is no room");
        recent.keep(1);
        assert_eq!(images(&recent), ["d"]);
        recent.keep(0);
        assert_eq!(images(&recent), [""; 0]);

        recent.keep(3);
        let last = review("e");
        push(last.clone());
        let [x, y, z] = older;
        recent.fill([last, x.clone(), x, y, z]);
        assert_eq!(images(&recent), ["e", "x", "y"], "each once");
        push(review("f"));
        assert_eq!(images(&recent), ["f", "e", "x"], "the oldest goes first");
    }
}
