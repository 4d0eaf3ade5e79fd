//! The swap run: a number of swaps under load. Each must come into force, and no review may be affected.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::figures::{Figures, Latency};
use crate::host::{Footprint, say};
use crate::running::Shape;
use crate::stage::Stage;

/// Options of the run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often to swap: a policy's file and host.yaml in turn
    #[arg(long, default_value_t = 500)]
    pub swaps: u32,
    /// Seconds at rest, before and after, that the swaps are compared with
    #[arg(long, default_value_t = 5)]
    pub rest: u64,
    /// Fail where p99 during swaps is over twice p99 at rest. For a machine that does nothing else
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the group")]
    pub shape: Shape,
}

/// Maximum growth of resident memory between the first fifth of the swaps and the end, in bytes. The memory
/// kept by the allocator varies from moment to moment; generations that are not freed would be far more.
const GROWTH: u64 = 16 << 20;

/// Runs the swaps and prints a table.
///
/// # Errors
/// Returns an error if a review failed, a swap did not come into force, or the host's memory grew.
pub async fn run(options: Options) -> Result<()> {
    let rest = Duration::from_secs(options.rest);
    let stage = Stage::set(|installation| installation.start(&[]), options.shape.clone()).await?;
    // One-time work is done first: compilations, snapshots, connections.
    for _ in 0..4 {
        stage.obeyed(stage.offer_file()?).await?;
        stage.obeyed(stage.offer_settings()?).await?;
    }
    let warm = stage.load.during(Duration::from_secs(2)).await;
    stage.sound("warming up", &warm)?;
    let mut at_rest = stage.load.during(rest).await;
    let generations_before = stage.ledger.generations();

    let begun = Instant::now();
    let mut swapping = Figures::default();
    let mut obeyed_after = Vec::new();
    let mut footprints = vec![stage.host.footprint()?];
    for swap in 0..options.swaps {
        let offered = Instant::now();
        let place = if swap % 2 == 0 { stage.offer_file()? } else { stage.offer_settings()? };
        stage.obeyed(place).await?;
        obeyed_after.push(u32::try_from(offered.elapsed().as_micros())?);
        if (swap + 1) % (options.swaps / 50).max(1) == 0 {
            footprints.push(stage.host.footprint()?);
            swapping = swapping.and(stage.load.take());
            stage.sound(&format!("after {} swaps", swap + 1), &swapping)?;
        }
    }
    swapping = swapping.and(stage.load.take());
    let took = begun.elapsed();
    stage.sound("during the swaps", &swapping)?;
    let generations = stage.ledger.generations() - generations_before;
    at_rest = at_rest.and(stage.load.during(rest).await);
    stage.sound("at rest", &at_rest)?;
    let last = stage.load.stop().await?;
    ensure!(last.failed() == 0, "at the end, {}: {}", last.failures(), last.examples.join("\n"));

    let (quiet, busy) = (at_rest.latency(), swapping.latency());
    let ratio = busy.p99.as_secs_f64() / quiet.p99.as_secs_f64();
    let memory = Memory::of(&footprints);
    let row = |name: &str, value: String| say(format!("{name:<26}{value}"));
    say("");
    row("swaps", format!("{} in {:.1} s, each obeyed", options.swaps, took.as_secs_f64()));
    row("generations that answered", format!("{generations}, now {}", stage.ledger.newest()));
    row(
        "answers during swaps",
        format!("{} ({} allowed), {}", swapping.answers, swapping.allowed, swapping.failures()),
    );
    row("latency at rest", quiet.to_string());
    row("latency during swaps", format!("{busy}: p99 {ratio:.2} x"));
    row("renamed -> first verdict", Latency::of(obeyed_after).to_string());
    row("resident memory", memory.to_string());

    ensure!(
        generations == options.swaps as usize,
        "{} swaps, and {generations} generations have answered",
        options.swaps
    );
    memory.check()?;
    ensure!(
        !options.strict || ratio <= 2.0,
        "p99 during swaps is {ratio:.2} times that at rest; 2 are allowed"
    );
    Ok(())
}

/// The resources of the host over time.
struct Memory {
    /// Before the first swap.
    before: Footprint,
    /// After the first fifth of the swaps, and at the end: each is the median of a fifth of all measurements.
    settled: Footprint,
    end: Footprint,
}

impl Memory {
    fn of(footprints: &[Footprint]) -> Memory {
        let middle = |part: &[Footprint]| {
            let mut part = part.to_vec();
            part.sort_by_key(|footprint| footprint.resident);
            part.get(part.len() / 2).copied().unwrap_or_default()
        };
        let fifth = footprints.len() / 5;
        let (_, later) = footprints.split_at(fifth);
        let (settled, _) = later.split_at(fifth.max(1).min(later.len()));
        let (_, end) = footprints.split_at(footprints.len() - fifth.max(1));
        let before = footprints.first().copied().unwrap_or_default();
        Memory { before, settled: middle(settled), end: middle(end) }
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.end.resident <= self.settled.resident + GROWTH,
            "resident memory has grown by more than {} MiB",
            GROWTH >> 20
        );
        ensure!(
            self.end.descriptors <= self.settled.descriptors + 32
                && self.end.threads <= self.settled.threads + 32,
            "descriptors or threads have become more: {:?}, then {:?}",
            self.settled,
            self.end
        );
        Ok(())
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |footprint: Footprint| footprint.resident as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.1} MiB before, {:.1} MiB after a fifth, {:.1} MiB at the end ({} threads, {} descriptors)",
            mib(self.before),
            mib(self.settled),
            mib(self.end),
            self.end.threads,
            self.end.descriptors
        )
    }
}
