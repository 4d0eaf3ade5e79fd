//! Duration of loads: cold, from the cache, and of a host that starts with a hundred policies.

use std::time::Instant;

use crate::server::{Server, installation};
use crate::subjects::{Subject, compiler};
use crate::{Error, Row, median, milliseconds, runtime};

const ROUNDS: usize = 7;
/// Number of policies of the started host.
pub(crate) const POLICIES: usize = 100;

pub(crate) fn rows() -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for subject in [Subject::trusted_registries()?, Subject::pinned_images()?] {
        let (mut cold, mut cached, mut of_snapshot) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Each round has a cache of its own.
            let compiler = compiler()?;
            for times in [&mut cold, &mut cached] {
                let started = Instant::now();
                subject.load(&compiler)?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
            subject.load_snapshot(&compiler)??;
            let started = Instant::now();
            subject.load(&compiler)?;
            of_snapshot.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let (cold, cached, of_snapshot) = (median(cold), median(cached), median(of_snapshot));
        let row = |how: &str, time| Row::new(format!("{}: {how}", subject.name), milliseconds(time));
        rows.push(row("load, compiled in a child", cold));
        rows.push(row("load from the cache, configured", cached).ratio(cached / cold, "compiled"));
        rows.push(row("load its snapshot from the cache", of_snapshot).ratio(of_snapshot / cold, "compiled"));
    }
    rows.push(runtime()?.block_on(start())?);
    Ok(rows)
}

/// Measures the time from the start of the program to listening, with a hundred cached policies of distinct
/// settings.
async fn start() -> Result<Row, Error> {
    let folder = tempfile::tempdir()?;
    let port = installation(folder.path(), POLICIES).await?;
    Server::host(folder.path())?.prepared(port.admin, POLICIES).await?;
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let server = Server::host(folder.path())?;
        port.listening().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        cpu.push(server.cpu_seconds()? * 1e3);
    }
    let (time, cpu) = (median(times), median(cpu));
    let what = format!("start with {POLICIES} cached policies ({cpu:.0} ms of CPU)");
    Ok(Row::new(what, milliseconds(time)).goal("≤ 200 ms", time <= 200.0))
}
