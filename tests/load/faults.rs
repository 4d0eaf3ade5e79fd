//! The fault run: while policies are swapped under load, something breaks and is mended. Meanwhile no review
//! fails, the generation in force is not weakened, and the host reports the fault. After it is mended
//! everything is as configured again.

mod rows;
mod killed;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;

use self::rows::{FAULTS, Fault};
use crate::figures::Figures;
use crate::host::{PATIENCE, say};
use crate::running::Shape;
use crate::stage::Stage;

/// Options of the run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only the faults with this in their name
    #[arg(long)]
    pub only: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the group")]
    pub shape: Shape,
}

/// Figures of a fault that the host survived.
struct Told {
    fault: &'static str,
    served: String,
    said: String,
    recovered: Duration,
}

/// Runs all faults and prints a table.
///
/// # Errors
/// Returns an error if the host did not survive a fault as required. The other faults are tried all the same.
pub async fn run(options: Options) -> Result<()> {
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut told = Vec::new();
    let mut failed = Vec::new();
    let mut note = |name: &str, result: Result<Told>| match result {
        Ok(row) => {
            say(format!("{name}: got through"));
            told.push(row);
        }
        Err(error) => {
            say(format!("{name}: {error:#}"));
            failed.push(name.to_owned());
        }
    };
    for fault in FAULTS.iter().filter(|fault| wanted(fault.name)) {
        note(fault.name, get_through(fault, options.shape.clone()).await);
    }
    if wanted(killed::NAME) {
        note(killed::NAME, killed::get_through(options.shape.clone()).await);
    }

    say("");
    let line = |fault: &str, served: &str, recovered: &str, said: &str| {
        say(format!("{fault:<20}| {served:<50}| {recovered:<10}| {said}"));
    };
    line("fault", "what was served", "recovered", "what was said");
    for row in &told {
        line(row.fault, &row.served, &format!("{:.2} s", row.recovered.as_secs_f64()), &row.said);
    }
    ensure!(failed.is_empty(), "not as it must be: {}", failed.join(", "));
    ensure!(!told.is_empty(), "no fault has {} in its name", options.only.unwrap_or_default());
    Ok(())
}

async fn get_through(fault: &Fault, shape: Shape) -> Result<Told> {
    let stage = Stage::set(|installation| installation.start(&(fault.under)(installation)?), shape).await?;
    // Both editions deny, so that a weaker generation would show.
    stage.obeyed(stage.offer_file()?).await?;
    stage.obeyed(stage.offer_settings()?).await?;
    // Time for the requests of the previous generation to get their responses.
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.sound("before", &stage.load.take())?;

    let place = stage.host.lines();
    let lasting = (fault.harm)(&stage)?;
    let said = match fault.says {
        "" => "nothing: none of its business".to_owned(),
        says => message(&stage.host.hears(place, says).await?, &stage),
    };
    if fault.blocks {
        stage.offer_settings()?;
        // Long enough for the change to come into force, if it could.
        tokio::time::sleep(Duration::from_millis(500)).await;
    } else {
        for _ in 0..fault.swaps {
            stage.obeyed(stage.offer_settings()?).await?;
        }
    }
    let figures = stage.load.take();
    stage.sound("during the fault", &figures)?;
    let (first, last) = figures.generations.context("no generation has answered")?;
    ensure!(!fault.blocks || first == last, "generation {last} has come though nothing could be read");

    let begun = Instant::now();
    let place = (fault.mend)(&stage)?;
    drop(lasting);
    stage.obeyed(place).await?;
    let recovered = begun.elapsed();
    without_problems(&stage).await?;
    stage.obeyed(stage.offer_settings()?).await?;
    stage.obeyed(stage.offer_file()?).await?;
    stage.sound("after", &stage.load.take())?;
    Ok(Told { fault: fault.name, served: served(&figures), said, recovered })
}

fn served(figures: &Figures) -> String {
    let generations = match figures.generations {
        Some((first, last)) if first == last => format!("generation {first}"),
        Some((first, last)) => format!("generations {first} to {last}"),
        None => "no generation".to_owned(),
    };
    format!("{} answers of {generations}, {}", figures.answers, figures.failures())
}

/// Waits until the host has no problems: everything is as configured.
async fn without_problems(stage: &Stage) -> Result<()> {
    let begun = Instant::now();
    loop {
        let problems = stage.installation.problems().await?;
        if problems.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "mended, and /status still tells of {}", problems.join(" and "));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns a line of the log without its time and other parts that differ from run to run.
fn message(line: &str, stage: &Stage) -> String {
    let folder = stage.installation.path("host.yaml");
    let folder = folder.parent().map(|folder| format!("{}/", folder.display())).unwrap_or_default();
    let line = line.split_once("ERROR ").or(line.split_once("WARN ")).map_or(line, |(_, rest)| rest);
    line.trim().replace(&folder, "")
}
