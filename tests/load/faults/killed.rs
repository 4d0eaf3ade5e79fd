//! The fault during which the host does not serve: the host itself is killed, at many moments of a swap.
//! After its restart the old or the new content is in force as a whole, under a higher number.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use super::{Told, served};
use crate::figures::{Figures, Kind};
use crate::running::Shape;
use crate::stage::Stage;

pub(super) const NAME: &str = "SIGKILL of the host";

/// Times between the rename of a file and the kill, in milliseconds, and whether another file changes while
/// no host runs.
const MOMENTS: [(u64, bool); 8] =
    [(0, false), (20, false), (45, true), (55, false), (60, true), (65, false), (80, true), (150, false)];

pub(super) async fn get_through(shape: Shape) -> Result<Told> {
    let mut stage = Stage::set(|installation| installation.start(&[]), shape).await?;
    stage.obeyed(stage.offer_file()?).await?;
    stage.obeyed(stage.offer_settings()?).await?;
    stage.sound("before", &stage.load.take())?;

    let mut figures = Figures::default();
    let mut slowest = Duration::ZERO;
    for (milliseconds, meanwhile) in MOMENTS {
        let mut place = if milliseconds % 2 == 0 { stage.offer_file()? } else { stage.offer_settings()? };
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        let begun = Instant::now();
        stage.kill()?;
        if meanwhile {
            place = stage.offer_settings()?;
        }
        stage.restart()?;
        stage.obeyed(place).await?;
        slowest = slowest.max(begun.elapsed());
        let down = stage.load.take();
        let gone = |kind: &Kind| matches!(kind, Kind::Connect | Kind::Handshake | Kind::Broken);
        ensure!(
            down.failures.keys().all(gone),
            "killed {milliseconds} ms after a change: {}\n{}",
            down.failures(),
            down.examples.join("\n")
        );
        figures = figures.and(down);
        stage.obeyed(stage.offer_settings()?).await?;
        stage.sound("started again", &stage.load.take())?;
    }
    let said = format!(
        "{} times, {} problems at the end",
        MOMENTS.len(),
        stage.installation.problems().await?.len()
    );
    Ok(Told { fault: NAME, served: served(&figures), said, recovered: slowest })
}
