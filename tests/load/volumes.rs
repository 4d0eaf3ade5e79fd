//! The volume run: certificates and a policy's file in Kubernetes volumes, each swapped several times in a
//! row under load. The host notices each swap by its event, keeps its connections, and uses the new
//! certificates for new ones.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::time::Instant;

use crate::client::{Client, Protocol, Sent};
use crate::figures::Kind;
use crate::host::{component, say};
use crate::running::Shape;
use crate::stage::Stage;
use crate::volume::Volume;

/// Options of the run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each is swapped
    #[arg(long, default_value_t = 3)]
    pub swaps: u32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the group")]
    pub shape: Shape,
}

/// Time limit of a swap, less than the ten seconds after which the host looks without an event.
const SOON: Duration = Duration::from_secs(9);

/// Runs the swaps and prints a line for each.
///
/// # Errors
/// Returns an error if a swap was not noticed, or if a review failed.
pub async fn run(options: Options) -> Result<()> {
    let (connections, streams) = (options.shape.connections, options.shape.streams);
    // Connections are only opened after the host has closed one, and then it has the new certificates too.
    let stage =
        Stage::set(|installation| installation.start(&[]), Shape { renew: 0, ..options.shape }).await?;
    stage.obeyed(stage.offer_file()?).await?;
    let policies = Volume::new(stage.installation.path("policies"))?;
    for swap in 0..=options.swaps {
        let place = stage.offered_file()?;
        let edition = component(stage.ledger.last().file)?;
        policies.publish(|folder| {
            fs::create_dir(folder)?;
            Ok(fs::write(folder.join("file.wasm"), edition)?)
        })?;
        let taken = stage.obeyed(place).await?;
        ensure!(taken < SOON, "a volume with a policy was looked at only after {taken:?}");
        // At the first swap the links replace the file.
        if swap > 0 {
            say(format!("policies swapped: obeyed after {taken:.0?}"));
        }
    }
    for _ in 0..options.swaps {
        let old = stage.installation.client()?;
        tokio::task::block_in_place(|| stage.installation.renew_certificates())?;
        let begun = Instant::now();
        let new = stage.installation.client()?;
        while let Err(why) = answered(&stage, &new).await {
            ensure!(begun.elapsed() < SOON, "the new certificates are not in force after {SOON:?}: {why}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        say(format!("certificates swapped: whoever connects meets them after {:.0?}", begun.elapsed()));
        ensure!(answered(&stage, &old).await.is_err(), "a certificate of the old authority is still good");
        stage.obeyed(stage.offer_settings()?).await?;
    }
    let figures = stage.load.stop().await?;
    let (swaps, generations) = (options.swaps, stage.ledger.generations());
    // Another authority is no renewal. A client that connects between the swap of the files and that of the
    // host trusts neither, and a connection of the old authority ends at once: a request that begins then
    // gets no response.
    let of = |kind| figures.failures.get(&kind).copied().unwrap_or_default();
    let (between, cut) = (of(Kind::Handshake), of(Kind::Broken));
    let under_way = u64::from(connections) * (1 + u64::from(streams));
    ensure!(figures.failed() == between + cut, "{}: {}", figures.failures(), figures.examples.join("\n"));
    ensure!(cut <= u64::from(swaps) * under_way, "{cut} requests were cut off by {swaps} swaps");
    say(format!(
        "{swaps} swaps of each, {} answers of {generations} generations, none failed but of clients of a \
            retired authority: {between} connected between two authorities, {cut} were cut off",
        figures.answers
    ));
    Ok(())
}

/// Returns an error if a new connection gets no correct response over one of the versions of HTTP.
async fn answered(stage: &Stage, client: &Client) -> Result<(), String> {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let question = stage.ledger.question(0);
        let mut connection = client.connect(protocol).await.map_err(|failure| failure.what)?;
        let body: Bytes = question.body();
        match connection.post(body).await {
            Sent::Answered(status, body) => {
                stage.ledger.judge(&question, status, &body).map_err(|failure| failure.what)?;
            }
            Sent::NotTaken => return Err("the connection was closed at once".to_owned()),
            Sent::Failed(failure) => return Err(failure.what),
        }
    }
    Ok(())
}
