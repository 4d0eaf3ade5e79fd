//! A load: many connections that send reviews continuously, or at a rate, until they are stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Connection, Protocol, Sent};
use crate::figures::{Failure, Figures};
use crate::ledger::Ledger;

/// How a load asks.
#[derive(Clone, Debug, clap::Args)]
pub struct Shape {
    /// Connections of each version of HTTP
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// The versions of HTTP
    #[arg(long, value_delimiter = ',', default_values_t = [Protocol::Http1, Protocol::Http2], value_enum)]
    pub protocols: Vec<Protocol>,
    /// Requests under way at once on a connection of HTTP/2
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub streams: u16,
    /// Reviews a second of all connections together, whether answers come or not (an open loop); 0: each asks
    /// again when it has its answer (a closed loop)
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Reviews after which a connection is closed and another opened; 0: never
    #[arg(long, default_value_t = 1000)]
    pub renew: u64,
}

/// The state that all connections share.
struct Shared {
    client: Client,
    ledger: Arc<Ledger>,
    shape: Shape,
    figures: Mutex<Figures>,
    stop: AtomicBool,
    /// The number of the next review.
    asked: AtomicU64,
    began: Instant,
}

/// A running load. It ends when dropped.
pub struct Running {
    shared: Arc<Shared>,
    users: JoinSet<()>,
}

impl Running {
    /// Starts the load.
    pub fn start(client: Client, ledger: Arc<Ledger>, shape: Shape) -> Running {
        let shared = Arc::new(Shared {
            client,
            ledger,
            shape: shape.clone(),
            figures: Mutex::default(),
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            began: Instant::now(),
        });
        let mut users = JoinSet::new();
        for protocol in shape.protocols {
            let streams = match protocol {
                Protocol::Http1 => 1,
                Protocol::Http2 => shape.streams,
            };
            for _ in 0..shape.connections {
                let line = Arc::new(Line { protocol, connection: tokio::sync::Mutex::new(None) });
                for _ in 0..streams {
                    users.spawn(ask(Arc::clone(&shared), Arc::clone(&line)));
                }
            }
        }
        Running { shared, users }
    }

    /// Returns the figures since the last call.
    pub fn take(&self) -> Figures {
        std::mem::take(&mut self.shared.figures())
    }

    /// Returns the figures of the next `time`.
    pub async fn during(&self, time: Duration) -> Figures {
        self.take();
        tokio::time::sleep(time).await;
        self.take()
    }

    /// Waits until no review is overdue, after a time without responses.
    ///
    /// # Errors
    /// Returns an error if the host responds more slowly than reviews become due.
    pub async fn caught_up(&self) -> Result<()> {
        let next = || self.shared.due(self.shared.asked.load(Ordering::Relaxed));
        let waiting = async {
            while next().is_some_and(|due| due < Instant::now()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(crate::host::PATIENCE, waiting).await;
        waited.context("the host answers fewer reviews than become due: lower the rate")
    }

    /// Waits for the outstanding responses. Returns the figures since the last call of `take`.
    ///
    /// # Errors
    /// Returns an error if the load itself has failed.
    pub async fn stop(mut self) -> Result<Figures> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.users.join_next().await {
            ended?;
        }
        Ok(self.take())
    }
}

impl Shared {
    fn figures(&self) -> std::sync::MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the number of the next review, and waits until it is due. Its latency counts from that time;
    /// after a wait here, from the end of the wait, because a late timer is not the host's fault.
    async fn next(&self) -> (u64, Instant) {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let Some(due) = self.due(number) else { return (number, Instant::now()) };
        if due <= Instant::now() {
            return (number, due);
        }
        tokio::time::sleep_until(due).await;
        (number, Instant::now())
    }

    /// Returns when a review is due, or None in a closed loop.
    fn due(&self, number: u64) -> Option<Instant> {
        let pause = 1_000_000_000_u64.checked_div(self.shape.rate.into())?;
        Some(self.began + Duration::from_nanos(number.saturating_mul(pause)))
    }
}

/// A connection that is opened when needed, and shared by its users.
struct Line {
    protocol: Protocol,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Line {
    /// Returns the connection, opened first if there is no open one. A connection that cannot be shared is
    /// taken.
    async fn connection(&self, client: &Client) -> Result<Connection, Failure> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) =
            kept.take_if(|connection| connection.is_closed() || connection.share().is_none())
            && !connection.is_closed()
        {
            return Ok(connection);
        }
        if let Some(shared) = kept.as_ref().and_then(Connection::share) {
            return Ok(shared);
        }
        let connection = client.connect(self.protocol).await?;
        *kept = connection.share();
        Ok(connection)
    }

    /// Returns a taken connection.
    async fn give_back(&self, connection: Connection) {
        if connection.share().is_none() {
            *self.connection.lock().await = Some(connection);
        }
    }

    /// Ends the use of the connection for new requests.
    async fn renew(&self) {
        self.connection.lock().await.take();
    }
}

async fn ask(shared: Arc<Shared>, line: Arc<Line>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let (number, due) = shared.next().await;
        let question = shared.ledger.question(number);
        let outcome = loop {
            let mut connection = match line.connection(&shared.client).await {
                Ok(connection) => connection,
                Err(failure) => break Err(failure),
            };
            match connection.post(question.body()).await {
                Sent::Answered(status, body) => {
                    line.give_back(connection).await;
                    break shared.ledger.judge(&question, status, &body);
                }
                // Repeated on another connection, but no longer than a client would wait.
                Sent::NotTaken if due.elapsed() < crate::client::PATIENCE => line.renew().await,
                Sent::NotTaken => {
                    break Err(Failure { kind: crate::figures::Kind::Late, what: "never taken".to_owned() });
                }
                Sent::Failed(failure) => {
                    line.renew().await;
                    break Err(failure);
                }
            }
        };
        let failed = outcome.is_err();
        shared.figures().count(outcome, due.elapsed());
        if shared.shape.renew > 0 && number % shared.shape.renew == 0 {
            line.renew().await;
        }
        if failed {
            // No busy loop while the host cannot be reached.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
