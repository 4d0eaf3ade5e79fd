//! Image references, and the verdict that decisions give.

mod image;
mod verdict;
