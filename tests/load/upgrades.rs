//! The upgrade run: one host after the other takes the place of the one before (`host serve --take-over`), under load and
//! with connections that are idle meanwhile. No request is lost, and no generation comes twice.

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::client::{Client, Connection, Protocol, Sent};
use crate::figures::{Figures, Latency};
use crate::host::say;
use crate::running::Shape;
use crate::stage::Stage;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often another process takes over
    #[arg(long, default_value_t = 20)]
    pub upgrades: u32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the group")]
    pub shape: Shape,
}

/// Idle connections of each version of HTTP.
const IDLE: usize = 4;

/// Runs it, and prints a table.
///
/// # Errors
/// A request was lost, or a host did not end as it should.
pub async fn run(options: Options) -> Result<()> {
    let mut stage = Stage::set(|_| Ok(Vec::new()), options.shape.clone()).await?;
    let client = stage.installation.client()?;
    stage.obeyed(stage.offer_file()?).await?;
    stage.sound("before", &stage.load.take())?;

    let mut figures = Figures::default();
    let (mut took, mut kept, mut closed) = (Vec::new(), 0, 0);
    for upgrade in 1..=options.upgrades {
        let mut idle = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Http2].into_iter().cycle().take(2 * IDLE) {
            let mut connection = reach(&client, protocol).await?;
            ensure!(answered(&stage, &mut connection).await?, "a new connection is closed at once");
            idle.push((protocol, connection));
        }
        let begun = Instant::now();
        let old = stage.upgrade()?;
        took.push(u32::try_from(begun.elapsed().as_micros())?);
        for (protocol, mut connection) in idle {
            if answered(&stage, &mut connection).await? {
                kept += 1;
                continue;
            }
            // Closed in good order: whoever asks connects again.
            closed += 1;
            let mut connection = reach(&client, protocol).await?;
            ensure!(answered(&stage, &mut connection).await?, "a new connection is closed at once");
        }
        old.ends_well().await?;
        let place = if upgrade % 2 == 0 { stage.offer_file()? } else { stage.offer_settings()? };
        stage.obeyed(place).await?;
        figures = figures.and(stage.load.take());
        stage.sound(&format!("after {upgrade} upgrades"), &figures)?;
    }
    let row = |name: &str, value: String| say(format!("{name:<26}{value}"));
    row("upgrades", format!("{}, now {}", options.upgrades, stage.ledger.newest()));
    row("answers", format!("{} ({} allowed), {}", figures.answers, figures.allowed, figures.failures()));
    row("latency", figures.latency().to_string());
    row("idle connections", format!("{kept} answered, {closed} closed in good order before they were used"));
    row("start -> serving", Latency::of(took).to_string());
    Ok(())
}

async fn reach(client: &Client, protocol: Protocol) -> Result<Connection> {
    client.connect(protocol).await.map_err(|failure| anyhow::anyhow!("{}: {}", failure.kind, failure.what))
}

/// Whether a connection answers rightly; not where the server had closed it before it was asked.
///
/// # Errors
/// It answers wrongly, or the question is lost.
async fn answered(stage: &Stage, connection: &mut Connection) -> Result<bool> {
    let question = stage.ledger.question(0);
    let failed = |failure: crate::figures::Failure| {
        anyhow::anyhow!("an idle connection: {}: {}", failure.kind, failure.what)
    };
    match connection.post(question.body()).await {
        Sent::Answered(status, body) => {
            stage.ledger.judge(&question, status, &body).map(|_| true).map_err(failed)
        }
        Sent::NotTaken => Ok(false),
        Sent::Failed(failure) => Err(failed(failure)),
    }
}
