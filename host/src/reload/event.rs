//! The events that the reload handles, and the queue through which they come.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::command::Request;
use crate::reload::watch::Watcher;

/// An event.
pub(super) enum Event {
    /// Files may have changed.
    FilesChanged,
    /// An operator sent a command.
    Command(Request),
    /// A compilation has ended for which no candidate waited any more.
    Compiled,
    /// The gate tries a rejected candidate again.
    GateDue,
}

/// The queue of events.
pub(super) struct Events {
    queue: Receiver<Event>,
    sender: EventSender,
}

/// A sender of events.
#[derive(Clone)]
pub(super) struct EventSender {
    queue: Sender<Event>,
    /// Ends the wait for changed files, once files are watched.
    wake: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

impl EventSender {
    /// Sends an event. Returns false if the reload has ended.
    pub(super) fn send(&self, event: Event) -> bool {
        let sent = self.queue.send(event).is_ok();
        if let Some(wake) = self.wake.get() {
            wake();
        }
        sent
    }
}

impl Events {
    /// Returns an empty queue.
    pub(super) fn new() -> Events {
        let (sender, queue) = channel();
        Events { queue, sender: EventSender { queue: sender, wake: Arc::default() } }
    }

    /// Returns a sender of events to this queue.
    pub(super) fn sender(&self) -> EventSender {
        self.sender.clone()
    }

    /// Makes each event end the wait of this watcher.
    pub(super) fn wakes(&self, watcher: &Watcher) {
        // The queue has one watcher for its life.
        let _ = self.sender.wake.set(Box::new(watcher.hinter()));
    }

    /// Returns an event that has already come.
    pub(super) fn pending(&self) -> Option<Event> {
        self.queue.try_recv().ok()
    }

    /// Waits for the next event. Returns None when the watching is to stop.
    pub(super) fn next(&self, watcher: &mut Watcher, gate_due: Option<Instant>) -> Option<Event> {
        // After a panic, events may be left whose wake-up has been used.
        if let Some(event) = self.pending() {
            return Some(event);
        }
        if !watcher.wait(gate_due) {
            return None;
        }
        let due = gate_due.is_some_and(|due| due <= Instant::now());
        Some(self.pending().unwrap_or(if due { Event::GateDue } else { Event::FilesChanged }))
    }
}
