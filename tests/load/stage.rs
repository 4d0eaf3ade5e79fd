//! A host under load, with the ledger of its offered contents.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::figures::Figures;
use crate::host::{Installation, PATIENCE, Process, program};
use crate::ledger::{Content, Ledger};
use crate::running::{Running, Shape};

/// The installation, the process, the ledger and the load.
pub struct Stage {
    /// The files.
    pub installation: Installation,
    /// The program.
    pub host: Process,
    /// The offered contents and the responses.
    pub ledger: Arc<Ledger>,
    /// The load.
    pub load: Running,
}

impl Stage {
    /// Starts a host with `start`, and the load on it.
    ///
    /// # Errors
    /// Returns an error if the host does not serve.
    pub async fn set(start: impl FnOnce(&Installation) -> Result<Process>, shape: Shape) -> Result<Stage> {
        let first = Content::default();
        // Both block this thread.
        let (installation, host) = tokio::task::block_in_place(|| -> Result<_> {
            let installation = Installation::new(program()?, first)?;
            let host = start(&installation)?;
            Ok((installation, host))
        })?;
        let ledger = Arc::new(Ledger::new(first));
        let load = Running::start(installation.following_client(), Arc::clone(&ledger), shape);
        Ok(Stage { installation, host, ledger, load })
    }

    /// Offers the next edition of the policy `file`. Returns its place.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written.
    pub fn offer_file(&self) -> Result<usize> {
        let place = self.offered_file()?;
        self.installation.put_file(self.ledger.last().file)?;
        Ok(place)
    }

    /// Records that the next edition of the policy `file` may be in force from now on, written by another
    /// process. Returns its place.
    ///
    /// # Errors
    /// Never returns an error; the type is that of `Fault::mend`.
    pub fn offered_file(&self) -> Result<usize> {
        let last = self.ledger.last();
        Ok(self.ledger.offer(Content { file: last.file + 1, ..last }))
    }

    /// Offers the next edition of the policy `settings`. Returns its place.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written.
    pub fn offer_settings(&self) -> Result<usize> {
        let last = self.ledger.last();
        let place = self.ledger.offer(Content { settings: last.settings + 1, ..last });
        self.installation.put_settings(last.settings + 1)?;
        Ok(place)
    }

    /// Waits for a response of the content at `place`. Returns the duration.
    ///
    /// # Errors
    /// Returns an error if there is none in time.
    pub async fn obeyed(&self, place: usize) -> Result<Duration> {
        let begun = Instant::now();
        let waited = tokio::time::timeout(PATIENCE, self.ledger.in_force(place)).await;
        ensure!(
            waited.is_ok(),
            "what was offered is not in force after {PATIENCE:?}: {:?} ({}); the host's last words:\n{}",
            self.ledger.last(),
            self.load.take().failures(),
            self.host.last_words()
        );
        Ok(begun.elapsed())
    }

    /// Kills the host as the kernel does when memory is short (SIGKILL).
    ///
    /// # Errors
    /// Returns an error if the host has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.host.kill()
    }

    /// Starts the host again. Generation numbers continue: none is used twice.
    ///
    /// # Errors
    /// Returns an error if the host does not serve.
    pub fn restart(&mut self) -> Result<()> {
        self.host = tokio::task::block_in_place(|| self.installation.start(&[]))?;
        Ok(())
    }

    /// Checks that no review failed.
    ///
    /// # Errors
    /// Returns an error if a review failed.
    pub fn sound(&self, when: &str, figures: &Figures) -> Result<()> {
        ensure!(
            figures.failed() == 0,
            "{when}, {} of {} reviews failed: {}\n{}\nthe host's last words:\n{}",
            figures.failed(),
            figures.failed() + figures.answers,
            figures.failures(),
            figures.examples.join("\n"),
            self.host.last_words()
        );
        ensure!(figures.answers > 0, "{when}, nothing was answered");
        Ok(())
    }
}
