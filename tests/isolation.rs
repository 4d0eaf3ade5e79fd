//! That nothing of one instance is seen by another, and nothing of one review by the next.
