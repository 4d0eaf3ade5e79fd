//! The webhook for ImageReview over mutual TLS, and the admin listener.

pub mod run;
mod host;
pub mod listeners;
mod connections;
mod body;
mod webhook;
mod observe;
pub mod rejections;
pub mod metrics;
pub mod status;
mod admin;
mod pages;
mod scrape;
mod admin_client;
pub mod control;
pub mod systemd;

pub use self::admin::serve_admin;
pub use self::connections::serve;
pub use self::host::Host;
