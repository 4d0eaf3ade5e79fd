//! Duration of a swap, from the renamed file to the first verdict of the new policy. The program watches its
//! files; one kept connection sends reviews until the generation in a response shows the swap.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Connection, Ports, Server, configure};
use crate::subjects::Subject;
use crate::{Error, Row, milliseconds, runtime};

/// Number of swaps of a policy in Rust, and of one of another toolchain, whose compilation takes seconds.
const SWAPS: usize = 40;
const SLOW_SWAPS: usize = 5;
/// Goal for a swap of a policy in Rust, in milliseconds.
const GOAL: f64 = 100.0;
/// Pause between two swaps, so that the snapshot of the last policy is finished.
const REST: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn rows() -> Result<Vec<Row>, Error> {
    let runtime = runtime()?;
    let mut rows = Vec::new();
    let rust = [Subject::trusted_registries()?, Subject::pinned_images()?];
    let others = Subject::guests().into_iter();
    let subjects =
        rust.map(|subject| (Ok(subject), true)).into_iter().chain(others.map(|other| (other, false)));
    for (subject, rust) in subjects {
        match subject {
            Ok(subject) => rows.extend(runtime.block_on(swaps(&subject, rust))?),
            Err(why) => rows.push(Row::new(why, "")),
        }
    }
    Ok(rows)
}

async fn swaps(subject: &Subject, rust: bool) -> Result<Vec<Row>, Error> {
    let swaps = if rust { SWAPS } else { SLOW_SWAPS };
    let folder = tempfile::tempdir()?;
    let ports = Ports::free().await?;
    host::install::demo::write_installation(folder.path(), ports.webhook)?;
    let policy = json!({ "name": "swapped", "module": "swapped.wasm", "settings": subject.settings });
    configure(folder.path(), &ports, json!({ "policies": [policy] }))?;
    put(folder.path(), &variant(&subject.component.bytes, 0))?;
    let server = Server::host(folder.path())?;
    ports.listening().await?;
    let mut connection = Connection::open(ports.webhook, folder.path()).await?;
    let mut rows = Vec::new();
    // Each variant is compiled the first time, and found in the cache the second time.
    for (how, goal) in [("compiled", GOAL), ("from the cache", GOAL)] {
        let mut times = Vec::new();
        for number in (1..=swaps).map(|number| u32::try_from(number).unwrap_or(u32::MAX)) {
            let next = variant(&subject.component.bytes, number);
            tokio::time::sleep(REST).await;
            times.push(swap(&mut connection, folder.path(), &next).await?);
        }
        times.sort_by(f64::total_cmp);
        let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
        let row =
            |which, time| Row::new(format!("{}: swap, {how}, {which}", subject.name), milliseconds(time));
        let median = row("p50", p50);
        rows.push(if rust { median.goal(format!("≤ {goal} ms"), p50 <= goal) } else { median });
        rows.push(row("p99", p99));
    }
    drop(server);
    Ok(rows)
}

/// Swaps the policy's file and waits for a response of another generation. Returns the duration in
/// milliseconds.
async fn swap(connection: &mut Connection, folder: &Path, component: &[u8]) -> Result<f64, Error> {
    let before = generation(connection).await?;
    fs::write(folder.join(".swapped"), component)?;
    let started = Instant::now();
    fs::rename(folder.join(".swapped"), folder.join("swapped.wasm"))?;
    while generation(connection).await? == before {
        if started.elapsed() > PATIENCE {
            return Err("the host did not swap its policy".into());
        }
        // Constant requests would take the processor from the swap.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

async fn generation(connection: &mut Connection) -> Result<String, Error> {
    let answer: Value = serde_json::from_slice(&connection.ask("default").await?)?;
    let generation = answer.pointer("/status/auditAnnotations/generation").and_then(Value::as_str);
    Ok(generation.ok_or("an answer without a generation")?.to_owned())
}

fn put(folder: &Path, component: &[u8]) -> Result<(), Error> {
    Ok(fs::write(folder.join("swapped.wasm"), component)?)
}

/// Returns the same component with another digest, by an additional custom section.
fn variant(component: &[u8], number: u32) -> Vec<u8> {
    let section = [&[0, 9, 4], b"swap".as_slice(), &number.to_le_bytes()].concat();
    [component, &section].concat()
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
