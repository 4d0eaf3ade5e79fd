//! The upgrade run: the host is restarted on a socket that stays, as systemd restarts the service of a socket
//! unit, under load and with idle connections. No request is lost, and no generation number is used twice.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Connection, Protocol, Sent};
use crate::figures::{Failure, Figures, Latency};
use crate::host::{Installation, say};
use crate::ledger::Ledger;
use crate::running::Shape;
use crate::stage::Stage;

/// Options of the run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often the host is restarted
    #[arg(long, default_value_t = 20)]
    pub upgrades: u32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the group")]
    pub shape: Shape,
}

const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];
/// Number of connections of each version of HTTP that are idle during an upgrade, and of those opened while
/// no process runs.
const CONNECTIONS: usize = 4;

/// Runs the upgrades and prints a table.
///
/// # Errors
/// Returns an error if a request was lost, or if a host did not end properly.
pub async fn run(options: Options) -> Result<()> {
    let mut socket: Option<TcpListener> = None;
    let start = |installation: &Installation| installation.activate(socket.insert(installation.listen()?));
    let mut stage = Stage::set(start, options.shape.clone()).await?;
    let socket = socket.context("the host has no socket")?;
    let client = stage.installation.client()?;
    stage.obeyed(stage.offer_file()?).await?;
    stage.sound("before", &stage.load.take())?;

    let mut figures = Figures::default();
    let (mut stopping, mut starting, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let mut closed = 0;
    for upgrade in 1..=options.upgrades {
        let mut idle = Vec::new();
        for protocol in BOTH.repeat(CONNECTIONS) {
            // The host keeps idle HTTP/1.1 connections for a while, so every other upgrade has none.
            if protocol == Protocol::Http1 && upgrade % 2 == 1 {
                continue;
            }
            let mut connection = reach(&client, protocol).await?;
            ensure!(answered(&stage.ledger, &mut connection).await?, "a new connection is closed at once");
            idle.push((protocol, connection));
        }

        let begun = Instant::now();
        stage.host.stop().await?;
        stopping.push(begun.elapsed());
        // No process runs.
        let mut asked = JoinSet::new();
        for protocol in BOTH.repeat(CONNECTIONS) {
            asked.spawn(ask_anew(client.clone(), Arc::clone(&stage.ledger), protocol));
        }
        let begun = Instant::now();
        stage.host = tokio::task::block_in_place(|| stage.installation.activate(&socket))?;
        starting.push(begun.elapsed());
        while let Some(answered) = asked.join_next().await {
            waiting.push(answered??);
        }

        for (protocol, mut connection) in idle {
            // The connection was closed gracefully: the client knows, and connects again.
            ensure!(!answered(&stage.ledger, &mut connection).await?, "a connection outlived its host");
            closed += 1;
            ask_anew(client.clone(), Arc::clone(&stage.ledger), protocol).await?;
        }
        let place = if upgrade % 2 == 0 { stage.offer_file()? } else { stage.offer_settings()? };
        stage.obeyed(place).await?;
        stage.load.caught_up().await?;
        figures = figures.and(stage.load.take());
        stage.sound(&format!("after {upgrade} upgrades"), &figures)?;
    }
    let last = stage.load.stop().await?;
    ensure!(last.failed() == 0, "at the end, {}: {}", last.failures(), last.examples.join("\n"));
    figures = figures.and(last);

    let row = |name: &str, value: String| say(format!("{name:<26}{value}"));
    say("");
    row("upgrades", format!("{}, now {}", options.upgrades, stage.ledger.newest()));
    row("answers", format!("{} ({} allowed), {}", figures.answers, figures.allowed, figures.failures()));
    row("latency", figures.latency().to_string());
    row("idle connections", format!("{closed}, closed in good order and opened again"));
    row("asked while none ran", latency(&waiting)?);
    row("SIGTERM -> end", latency(&stopping)?);
    row("start -> serving", latency(&starting)?);
    Ok(())
}

fn latency(times: &[Duration]) -> Result<String> {
    let times: Result<Vec<u32>, _> = times.iter().map(|time| u32::try_from(time.as_micros())).collect();
    Ok(Latency::of(times?).to_string())
}

async fn reach(client: &Client, protocol: Protocol) -> Result<Connection> {
    client.connect(protocol).await.map_err(|failure| failed("a new connection", &failure))
}

fn failed(what: &str, failure: &Failure) -> anyhow::Error {
    anyhow!("{what}: {}: {}", failure.kind, failure.what)
}

/// Sends a review on a new connection. Returns the duration.
async fn ask_anew(client: Client, ledger: Arc<Ledger>, protocol: Protocol) -> Result<Duration> {
    let begun = Instant::now();
    let mut connection = reach(&client, protocol).await?;
    ensure!(answered(&ledger, &mut connection).await?, "a new connection is closed at once");
    Ok(begun.elapsed())
}

/// Returns whether a connection gets a correct response. Returns false if the server had closed it before the
/// request.
///
/// # Errors
/// Returns an error if the response is wrong, or the request is lost.
async fn answered(ledger: &Ledger, connection: &mut Connection) -> Result<bool> {
    let question = ledger.question(0);
    match connection.post(question.body()).await {
        Sent::Answered(status, body) => {
            ledger.judge(&question, status, &body).map_err(|failure| failed("an answer", &failure))?;
            Ok(true)
        }
        Sent::NotTaken => Ok(false),
        Sent::Failed(failure) => Err(failed("a question", &failure)),
    }
}
