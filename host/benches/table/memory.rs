//! Resident memory of a host, by the number of policies and of reviews.

use crate::server::{Server, Until, installation, load};
use crate::{Error, Row, runtime};

/// Number of policies of the host under load.
const POLICIES: usize = 100;

pub(crate) fn rows() -> Result<Vec<Row>, Error> {
    runtime()?.block_on(measure())
}

async fn measure() -> Result<Vec<Row>, Error> {
    // All hosts share a folder, so that one finds the compiled policies of another.
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut rows = Vec::new();
    for policies in [1, POLICIES, 1000] {
        let ports = installation(folder, policies).await?;
        Server::host(folder)?.prepared(ports.admin, policies).await?;
        // A host that prepares its policies uses memory for that, so another one is measured.
        let server = Server::host(folder)?;
        server.prepared(ports.admin, policies).await?;
        rows.push(Row::new(format!("resident, {policies} policies"), mib(server.resident()?)));
        if policies != POLICIES {
            continue;
        }
        let namespace = |number: usize| format!("ns-{}", number % POLICIES);
        load(ports.webhook, folder, namespace, Until::Answers(100_000)).await?;
        let before = server.resident()?;
        let bound = 40.0 + POLICIES as f64;
        rows.push(
            Row::new(format!("resident, {POLICIES} policies, after 100,000 reviews"), mib(before))
                .goal(format!("≤ {bound} MiB"), before <= bound),
        );
        load(ports.webhook, folder, namespace, Until::Answers(1_000_000)).await?;
        let after = server.resident()?;
        rows.push(
            Row::new("a million reviews later", mib(after))
                .goal(format!("{:+.1} MiB, ≤ +2", after - before), after - before <= 2.0),
        );
    }
    Ok(rows)
}

fn mib(mib: f64) -> String {
    format!("{mib:.1} MiB")
}
