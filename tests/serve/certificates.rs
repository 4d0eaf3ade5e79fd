//! Certificates that are swapped, that expire, and that are not valid.

use std::time::Duration;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::support::Installation;
use crate::support::certificates::{Identity, Pki, Signer, Validity, Wanted, lone_authority};
use crate::support::client::{Client, Connection, Protocol, get};

/// Writes files into a folder as the kubelet writes those of a Secret: into a new folder, to which a replaced
/// symbolic link leads.
fn swap(installation: &Installation, version: usize, files: &[(&str, &str)]) {
    let volume = installation.path("secret");
    std::fs::create_dir_all(volume.join(format!("..{version}"))).unwrap();
    for (file, content) in files {
        std::fs::write(volume.join(format!("..{version}/{file}")), content).unwrap();
    }
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, volume.join(at));
    link(&format!("..{version}"), "..data_tmp").unwrap();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for (file, _) in files {
        // The links exist after the first time.
        let _ = link(&format!("..data/{file}"), file);
    }
    if let Some(before) = version.checked_sub(1) {
        // The kubelet removes the previous folder.
        std::fs::remove_dir_all(volume.join(format!("..{before}"))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_swap_of_a_secret_is_picked_up() {
    let tls = json!({
        "certificate": "secret/tls.crt", "privateKey": "secret/tls.key", "clientCA": "secret/ca.crt",
    });
    let installation = Installation::bare(json!({ "tls": tls }));
    let authority = installation.pki.authority();
    let identity = || installation.pki.issue(&Wanted::server());
    let put = |version, identity: &Identity, authority: &str| {
        let files = [("tls.crt", identity.chain.as_str()), ("tls.key", &identity.key), ("ca.crt", authority)];
        swap(&installation, version, &files);
    };
    put(0, &identity(), &authority);
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let client = installation.client();
    let mut kept = client.connect(address, Protocol::Http2).await.unwrap();

    let shown = async || {
        let stream = client.handshake(address, &["h2"]).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let mut in_force = identity();
    for version in 1..=3 {
        in_force = identity();
        put(version, &in_force, &authority);
        process.wait_for("new TLS material in force");
        assert_eq!(shown().await, CertificateDer::from_pem_slice(in_force.chain.as_bytes()).unwrap());
        // Earlier connections are closed, and their clients reconnect.
        kept.closed().await;
        kept = client.connect(address, Protocol::Http2).await.unwrap();
        assert_eq!(kept.review("nginx").await.unwrap().status, 200);
    }

    // Broken certificates change nothing, and correct ones after that are used.
    put(4, &Identity { key: identity().key, chain: identity().chain }, &authority);
    let line = process.wait_for("this key does not belong to the certificate");
    assert!(line.contains("ERROR") && line.contains("(the generation in force stays)"), "{line}");
    assert_eq!(shown().await, CertificateDer::from_pem_slice(in_force.chain.as_bytes()).unwrap());
    let others = Installation::bare(json!({}));
    put(5, &in_force, &others.pki.authority());
    process.wait_for("new TLS material in force");
    let refused = client.connect(address, Protocol::Http2).await;
    assert!(refused.is_err() || refused.unwrap().review("nginx").await.is_err(), "its authority is gone");
    process.wait_for("TLS handshake refused: ");
    kept.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expires_is_told_of_in_time() {
    let installation = Installation::bare(json!({}));
    let identity = installation.pki.issue(&Wanted { valid: Validity::Expiring, ..Wanted::server() });
    installation.write("external-cert.pem", identity.chain.as_bytes());
    installation.write("external-key.pem", identity.key.as_bytes());
    let mut process = installation.start();
    let (_, admin) = process.addresses();
    let line = process.wait_for("the serving certificate of CN=image-policy-host expires on ");
    assert!(line.contains("WARN") && line.contains("Z, in less than a day: replace the file"), "{line}");
    let (status, ready) = get(admin, "/readyz?verbose").await.unwrap();
    let check = "[-]certificate/serving failed: the serving certificate of CN=image-policy-host expires on ";
    assert!(status == 200 && ready.contains(check), "{ready}");
    assert!(ready.contains("[+]certificate/client-ca ok\n"), "{ready}");
    let status: Value = serde_json::from_str(&get(admin, "/status").await.unwrap().1).unwrap();
    assert_eq!(status["degraded"], true);
    let certificate = &status["certificates"][0];
    assert_eq!(
        (&certificate["role"], &certificate["subject"]),
        (&json!("serving"), &json!("CN=image-policy-host"))
    );
    process.signal(Signal::TERM);
    let (_, said) = process.end();
    assert_eq!(said.matches("expires on").count(), 1, "it is said once: {said}");
}

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// Returns whether a client is served on a new HTTP/1.1 connection.
async fn is_served(client: &Client, address: std::net::SocketAddr) -> bool {
    match client.connect(address, Protocol::Http1).await {
        Ok(mut connection) => connection.review("nginx").await.is_ok_and(|answer| answer.status == 200),
        Err(_) => false,
    }
}

/// An expired or not yet valid authority accepts no client, and the message is correct.
#[tokio::test]
async fn an_authority_that_is_not_valid_lets_no_client_in() {
    let installation = Installation::bare(json!({}));
    let mut server = installation.serve().await;
    for (valid, words) in [
        (Validity::Expired, "the client-ca certificate of CN=authority has EXPIRED on "),
        (Validity::NotYet, "the client-ca certificate of CN=authority is NOT VALID before "),
    ] {
        let check = format!("[-]certificate/client-ca failed: {words}");
        let others = Pki::valid(valid);
        installation.write("apiserver-client-ca.pem", others.authority().as_bytes());
        server.reloader.reload();
        for signer in [Signer::Authority, Signer::Intermediate] {
            let identity = others.issue(&Wanted { signer, ..Wanted::client() });
            for version in VERSIONS {
                let client = Client::showing(&installation.pki, Some(&identity), &[version]);
                assert!(!is_served(&client, server.address).await, "{valid:?}, {signer:?}, {version:?}");
            }
        }
        for path in ["/readyz", "/readyz?verbose", "/readyz?exclude=certificate/serving"] {
            let (status, ready) = get(server.admin, path).await.unwrap();
            assert!(status == 500 && ready.contains(&check), "{path}: {ready}");
            assert!(ready.ends_with("readyz check failed\n"), "{path}: {ready}");
        }
        let (status, ready) =
            get(server.admin, "/readyz?verbose&exclude=certificate/client-ca&exclude=nothing").await.unwrap();
        assert!(status == 200 && ready.contains("[+]certificate/client-ca excluded: ok\n"), "{ready}");
        assert!(
            ready.contains("warn: some health checks cannot be excluded: no matches for \"nothing\"\n"),
            "{ready}"
        );
        assert_eq!(get(server.admin, "/livez").await.unwrap().0, 200);

        // A valid authority beside it accepts its own clients, and one renewed with the same key accepts all
        // of its clients.
        let identity = others.issue(&Wanted::client());
        let client = Client::showing(&installation.pki, Some(&identity), &VERSIONS);
        let (own, renewed) = (installation.pki.authority(), others.renewed(Validity::Now));
        for (authorities, served) in [
            (others.authority() + &own, false),
            (others.authority() + &renewed, true),
            (renewed + &others.authority(), true),
        ] {
            installation.write("apiserver-client-ca.pem", authorities.as_bytes());
            server.reloader.reload();
            let (status, ready) = get(server.admin, "/readyz?verbose").await.unwrap();
            assert!(status == 200 && ready.contains(&check), "{ready}");
            assert_eq!(is_served(&client, server.address).await, served, "{valid:?}");
            assert_ne!(is_served(&installation.client(), server.address).await, served, "{valid:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_authority_that_is_not_valid() {
    for (valid, words) in [
        (Validity::Expired, "signed by CN=authority, an authority of tls.clientCA that has EXPIRED"),
        (Validity::NotYet, "signed by CN=authority, an authority of tls.clientCA that is not valid yet"),
    ] {
        let installation = Installation::bare(json!({}));
        let others = Pki::valid(valid);
        installation.write("apiserver-client-ca.pem", others.authority().as_bytes());
        let mut process = installation.start();
        let (address, _) = process.addresses();
        let identity = others.issue(&Wanted::client());
        assert!(!is_served(&Client::showing(&installation.pki, Some(&identity), &VERSIONS), address).await);
        let line = process.wait_for("TLS handshake refused: ");
        assert!(line.contains(words), "{line}");
    }
}

/// Clients that can build a chain without the expired certificate do not mind.
#[tokio::test]
async fn what_has_expired_beside_the_serving_certificate_is_told_and_the_host_stays_ready() {
    let installation = Installation::bare(json!({}));
    let old = Pki::valid(Validity::Expired).authority();
    let chain = std::fs::read_to_string(installation.path("external-cert.pem")).unwrap() + &old;
    installation.write("external-cert.pem", chain.as_bytes());
    let server = installation.serve().await;
    assert!(is_served(&installation.client(), server.address).await);
    let (status, ready) = get(server.admin, "/readyz?verbose").await.unwrap();
    let words =
        "[-]certificate/serving-chain failed: the serving-chain certificate of CN=authority has EXPIRED on ";
    assert!(status == 200 && ready.contains(words), "{ready}");
    assert!(ready.contains("so clients that need it on the way to an authority of theirs refuse"), "{ready}");
    assert!(ready.contains("[+]certificate/serving ok\n"), "{ready}");
    let status: Value = serde_json::from_str(&get(server.admin, "/status").await.unwrap().1).unwrap();
    assert_eq!(status["degraded"], true);
}

/// A resumed session would be served without a check of the client's certificate.
#[tokio::test]
async fn no_session_is_resumed() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for version in VERSIONS {
        // The client keeps sessions and tickets from one connection to the next.
        let client = Client::speaking(&installation.pki, Some(&Wanted::client()), &[version]);
        for number in 0..3 {
            let stream = client.handshake(server.address, &["http/1.1"]).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{version:?}, {number}");
            // A ticket would come with the response.
            let mut connection = Connection::over(stream, Protocol::Http1).await.unwrap();
            assert_eq!(connection.review("nginx").await.unwrap().status, 200);
        }

        let short = Wanted { valid: Validity::Seconds(3), ..Wanted::client() };
        let client = Client::speaking(&installation.pki, Some(&short), &[version]);
        assert!(is_served(&client, server.address).await, "{version:?}");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!is_served(&client, server.address).await, "{version:?}: its certificate has expired");
    }
}

/// limit: authority-names within
/// limit: authority-names breaks
#[tokio::test]
async fn clients_connect_however_many_authorities_there_are() {
    let installation = Installation::bare(json!({}));
    let mut server = installation.serve().await;
    for (count, named) in [(100, true), (1100, false)] {
        let name = |number| format!("an authority with a name of the usual length, number {number}");
        let mut authorities: String = (1..count).map(|number| lone_authority(&name(number))).collect();
        authorities.push_str(&installation.pki.authority());
        installation.write("apiserver-client-ca.pem", authorities.as_bytes());
        server.reloader.reload();
        for version in VERSIONS {
            let client = Client::speaking(&installation.pki, Some(&Wanted::client()), &[version]);
            let (client, hints) = client.counting_hints();
            assert!(is_served(&client, server.address).await, "{count} authorities, {version:?}");
            let hints = hints.load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(hints, if named { count } else { 0 }, "{version:?}");
        }
    }
}
