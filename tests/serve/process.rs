//! `host serve` as a whole process: start, refusal to start, overload, shutdown, health and status.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::Request;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{Connection, Protocol, full, get, post, review_of};
use crate::support::process::{HOST, Process};
use crate::support::{Installation, project};

async fn stops_cleanly(signal: Signal, name: &str) {
    let installation = Installation::new(json!({}));
    let mut process = installation.start();
    let (address, _) = process.addresses();
    let client = installation.client();
    let allowed = "registry.k8s.io/pause";

    let mut idle1 = client.connect(address, Protocol::Http1).await.unwrap();
    let mut idle2 = client.connect(address, Protocol::Http2).await.unwrap();
    for idle in [&mut idle1, &mut idle2] {
        assert_eq!(idle.review(allowed).await.unwrap().status, 200);
    }
    let mut silent = client.handshake(address, &["h2"]).await.unwrap();

    // A review under way over HTTP/1.1: the host has sent that it waits for the body.
    let body = review_of(allowed);
    let mut busy1 = client.handshake(address, &["http/1.1"]).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    busy1.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    let read = busy1.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100"));
    // And over HTTP/2: a later request has a response, so this one has arrived.
    let mut busy2 = client.connect(address, Protocol::Http2).await.unwrap();
    let (mut sender, channel) = Channel::<Bytes>::new(1);
    let under_way =
        busy2.another().send_request(Request::post("https://localhost/").body(channel.boxed()).unwrap());
    let under_way = tokio::spawn(under_way);
    sender.send_data(Bytes::copy_from_slice(&body.as_bytes()[..10])).await.unwrap();
    assert_eq!(busy2.review(allowed).await.unwrap().status, 200);

    process.signal(signal);
    process.wait_for(&format!("{name}: finishing the reviews under way"));
    idle1.closed().await;
    idle2.closed().await;
    // Closed with or without a TLS close_notify.
    let mut farewell = Vec::new();
    let _ = silent.read_to_end(&mut farewell).await;
    assert!(
        farewell.is_empty() || farewell.starts_with(&[0, 0]),
        "no more than HTTP/2's settings: {farewell:?}"
    );
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");

    busy1.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    busy1.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true"), "{answer}");
    sender.send_data(Bytes::copy_from_slice(&body.as_bytes()[10..])).await.unwrap();
    drop(sender);
    let answer = under_way.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["status"]["allowed"], true);
    busy2.closed().await;

    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("stopped: every review under way was answered"), "{said}");
}

/// limit: stop-time within
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains() {
    stops_cleanly(Signal::TERM, "SIGTERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_drains() {
    stops_cleanly(Signal::INT, "Ctrl-C").await;
}

/// Notifications to the service manager wait in its socket, which has a limited size.
#[tokio::test]
async fn a_service_manager_that_does_not_listen_holds_nobody_up() {
    let installation = Installation::bare(json!({}));
    let socket = installation.path("notify");
    let _manager = UnixDatagram::bind(&socket).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"STATUS=others fill it", &socket).is_ok() {}
    let mut command = Command::new(HOST);
    command.args(["serve", "--config"]).arg(installation.path("host.yaml")).env("NOTIFY_SOCKET", socket);
    let mut process = Process::start(&mut command);
    let (webhook, _) = process.addresses();
    process.wait_for("the service manager cannot be told: ");
    let asked = async {
        let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
        assert_eq!(connection.review("nginx").await.unwrap().status, 200);
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it does not serve");
    process.signal(Signal::TERM);
    assert_eq!(process.end().0.code(), Some(0));
}

/// Background threads have a lower priority than reviews.
#[test]
fn reviews_come_first() {
    let installation = Installation::new(json!({}));
    let mut process = installation.start();
    process.addresses();
    // Threads by name (proc_pid_stat(5)); the 19th field is the niceness.
    let how_nice = || -> BTreeMap<String, BTreeSet<i32>> {
        let mut nice: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", process.id())).unwrap() {
            // A thread may have ended meanwhile.
            let Ok(stat) = fs::read_to_string(thread.unwrap().path().join("stat")) else { continue };
            let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
            nice.entry(name.to_owned())
                .or_default()
                .insert(fields.split(' ').nth(17).unwrap().parse().unwrap());
        }
        nice
    };
    let began = Instant::now();
    let only = |nice: i32| Some(BTreeSet::from([nice]));
    loop {
        let nice = how_nice();
        let of = |name: &str| nice.get(name).cloned();
        if (of("compile"), of("reload")) == (only(10), only(5)) {
            assert_eq!(of("tokio-rt-worker"), only(0), "{nice:?}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{nice:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A silent connection, such as a port probe's, delays no review.
#[tokio::test]
async fn stopping_does_not_wait_for_handshakes() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    assert_eq!(connection.review("nginx").await.unwrap().status, 200, "connections are accepted in order");
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert!(server.stop().await.unwrap());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_start_that_is_refused_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (what, changes, expected) in [
        (
            "the webhook's port is taken",
            json!({ "listen": taken }),
            format!("host: cannot listen on {taken} (`listen`): another program listens there"),
        ),
        (
            "the port for health and status is taken",
            json!({ "admin": { "listen": taken } }),
            format!("host: cannot listen on {taken} (`admin.listen`): another program listens there"),
        ),
        (
            "an address of another machine",
            json!({ "listen": "192.0.2.1:1234" }),
            "host: cannot listen on 192.0.2.1:1234 (`listen`): this machine does not have that address"
                .to_owned(),
        ),
        (
            "a key that is unknown",
            json!({ "lisen": "" }),
            "unknown key `lisen`: did you mean `listen`?".to_owned(),
        ),
        ("no certificates", json!({ "tls": null }), "`tls` is missing".to_owned()),
    ] {
        let installation = Installation::bare(changes);
        let (status, said) = installation.start().end();
        assert_eq!(status.code(), Some(2), "{what}: {said}");
        assert!(said.contains(&expected), "{what}: {said}");
        let told: Vec<_> = said.lines().filter(|line| line.starts_with("host: ")).collect();
        assert_eq!(told.len(), 1, "{what}: {said}");
    }
}

#[test]
fn a_host_yaml_that_cannot_be_read_is_named() {
    let installation = Installation::bare(json!({}));
    installation.write("host.yaml", b"listen: [\n");
    installation.write("two.yaml", b"lisen: a\npolicis: []\n");
    for (file, expected) in [
        ("host.yaml", "host.yaml:"),
        ("missing.yaml", "missing.yaml: No such file or directory"),
        ("policies", "policies: not a regular file"),
        ("two.yaml", "two.yaml:2:1: unknown key `policis`: did you mean `policies`?"),
    ] {
        let path = installation.path(file);
        let mut process = Process::start(Command::new(HOST).arg("serve").arg("--config").arg(&path));
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(2), "{file}: {said}");
        assert!(said.contains(expected), "{file}: {said}");
        assert!(
            said.lines().all(|line| line.starts_with(&format!("host: {}", path.display()))),
            "{file}: {said}"
        );
    }
}

/// limit: queue breaks
#[tokio::test]
async fn overload_is_429_without_retry_after() {
    let changes = json!({ "limits": { "queue": 0, "concurrentReviews": 1 } });
    let installation = Installation::never_ending("3s", changes);
    let server = installation.serve().await;
    let client = installation.client();
    // One slot: of several concurrent reviews one is evaluated, until its policy is cut off.
    let reviews: Vec<_> = (0..3)
        .map(|number| {
            let (client, address) = (client.clone(), server.address);
            let protocol = if number == 0 { Protocol::Http1 } else { Protocol::Http2 };
            tokio::spawn(async move {
                client.connect(address, protocol).await.unwrap().review("nginx").await.unwrap()
            })
        })
        .collect();
    let mut denied = 0;
    for review in reviews {
        let answer = review.await.unwrap();
        let json = answer.json();
        if answer.status == 200 {
            denied += 1;
            assert_eq!(json["status"]["allowed"], false);
            let reason = json["status"]["reason"].as_str().unwrap();
            assert!(reason.contains("(policy never-ending)"), "{reason}");
            continue;
        }
        assert_eq!(answer.status, 429);
        assert_eq!(answer.headers.get("retry-after"), None);
        assert_eq!(answer.headers["content-type"], "application/json");
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "message": "this image policy host has too many reviews waiting",
            "reason": "TooManyRequests",
            "code": 429,
        });
        assert_eq!(json, expected);
    }
    assert_eq!(denied, 1);
    let after = client.connect(server.address, Protocol::Http2).await.unwrap().review("nginx").await.unwrap();
    assert_eq!(after.status, 200, "the place was not given back");
}

/// A body that arrives slowly is judged by the generation in force at its end.
#[tokio::test]
async fn a_slow_body_is_judged_by_the_newest_set() {
    let installation = Installation::bare(json!({}));
    let mut server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let request = Request::post("https://localhost/").body(body.boxed()).unwrap();
    let answer = tokio::spawn(connection.another().send_request(request));
    let review = review_of("nginx");
    sender.send_data(Bytes::copy_from_slice(&review.as_bytes()[..10])).await.unwrap();
    arrived(&mut connection).await;

    let host_yaml = fs::read_to_string(installation.path("host.yaml")).unwrap();
    let changed = host_yaml.replace(r#""unjudged":"Allow""#, r#""unjudged":"Deny""#);
    installation.write("host.yaml", changed.as_bytes());
    server.reloader.reload();
    sender.send_data(Bytes::copy_from_slice(&review.as_bytes()[10..])).await.unwrap();
    drop(sender);
    let answer = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["status"]["allowed"], false, "{answer}");
    let generation = answer["status"]["auditAnnotations"]["generation"].as_str().unwrap();
    assert!(generation.starts_with("2-"), "{generation}");
}

/// A review that began under the limits of an older generation counts among those of the newer one.
/// limit: queue within
#[tokio::test]
async fn limits_hold_across_a_reload() {
    let changes = json!({ "limits": { "queue": 0, "concurrentReviews": 1 } });
    let installation = Installation::never_ending("2s", changes);
    let mut server = installation.serve().await;
    let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
    let mut begun = Vec::new();
    for _ in 0..2 {
        let (sender, body) = Channel::<Bytes>::new(1);
        let request = Request::post("https://localhost/").body(body.boxed()).unwrap();
        begun.push((sender, tokio::spawn(connection.another().send_request(request))));
    }
    arrived(&mut connection).await;

    let host_yaml = std::fs::read_to_string(installation.path("host.yaml")).unwrap();
    installation.write("host.yaml", host_yaml.replace(r#""queue":0"#, r#""queue":1"#).as_bytes());
    server.reloader.reload();

    // One is evaluated and one waits, which leaves no place for the earlier reviews.
    let newer = [(); 2].map(|()| tokio::spawn(connection.another().send_request(post(review_of("nginx")))));
    arrived(&mut connection).await;
    for (mut sender, answer) in begun {
        sender.send_data(review_of("nginx").into()).await.unwrap();
        drop(sender);
        assert_eq!(answer.await.unwrap().unwrap().status(), 429);
    }
    for answer in newer {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

/// Two reviews of three seconds each run one after the other with one slot, and at the same time with three,
/// of which slow reviews may take two.
///
/// limit: concurrent-reviews within, concurrent-reviews breaks, queue within
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_reviews_run_at_once() {
    for concurrent in [1, 3] {
        let changes = json!({ "limits": { "queue": 1, "concurrentReviews": concurrent } });
        let installation = Installation::never_ending("3s", changes);
        let server = installation.serve().await;
        let mut connection = installation.client().connect(server.address, Protocol::Http2).await.unwrap();
        arrived(&mut connection).await;
        let answered = [(); 2].map(|()| {
            let answer = connection.another().send_request(post(review_of("nginx")));
            tokio::spawn(async move {
                assert_eq!(answer.await.unwrap().status(), 200);
                std::time::Instant::now()
            })
        });
        let [first, second] = answered;
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        let between = first.max(second).duration_since(first.min(second));
        // On a loaded machine both may be late, but not one of them by the whole duration of the other.
        assert_eq!(
            between > Duration::from_millis(2500),
            concurrent == 1,
            "{concurrent} at once: {between:?}"
        );
    }
}

/// Waits until the host has read everything sent before on this connection: a later request gets its
/// response.
async fn arrived(connection: &mut Connection) {
    for _ in 0..3 {
        connection.send(Request::get("https://localhost/").body(full("")).unwrap()).await.unwrap();
    }
}

#[test]
fn the_demo_can_be_tried_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("demo");
    let serve = || {
        let mut command = Command::new(HOST);
        command.args(["serve", "--listen", "127.0.0.1:0", "--directory"]).arg(&directory);
        Process::start(&mut command)
    };
    let mut process = serve();
    let line = process.wait_for("curl ");
    let output = Command::new("sh")
        .args(["-c", &format!("{} --silent --show-error --noproxy '*'", line.trim())])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(127), "this test needs the program `curl`: {complaint}");
    assert!(output.status.success(), "{line}\n{complaint}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["kind"], "ImageReview");
    assert_eq!(answer["status"]["allowed"], false);
    let reason = answer["status"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("nginx: ") && reason.contains("(policy trusted-registries)"), "{reason}");
    let generation = format!("\"generation\":{}", answer["status"]["auditAnnotations"]["generation"]);
    let readme = std::fs::read_to_string(project("README.md")).unwrap();
    assert!(readme.contains(&generation), "the README shows another one than {generation}");

    // Nothing in a used folder is overwritten.
    let (status, said) = serve().end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("the demo overwrites nothing"), "{said}");

    process.signal(Signal::TERM);
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// Otherwise a page in a browser whose domain resolves to this machine could read namespaces and images.
#[tokio::test]
async fn the_admin_listener_answers_under_its_own_names_only() {
    let installation = Installation::bare(json!({}));
    let server = installation.serve().await;
    for (request, status) in [
        ("GET /status HTTP/1.1\r\nhost: localhost:9234\r\n", "200"),
        ("GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\n", "200"),
        ("GET /status HTTP/1.0\r\n", "200"),
        ("GET /status HTTP/1.1\r\nhost: rebound.example:9234\r\n", "421"),
        ("GET /metrics HTTP/1.1\r\nhost: node.example:9234\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nhost: node.example\r\n", "200"),
        ("GET /readyz?verbose HTTP/1.1\r\nhost: 10.1.2.3\r\n", "421"),
        ("GET /nothing HTTP/1.1\r\nhost: rebound.example\r\n", "404"),
        ("GET http://rebound.example/status HTTP/1.1\r\nhost: localhost\r\n", "421"),
    ] {
        let mut stream = TcpStream::connect(server.admin).await.unwrap();
        stream.write_all(format!("{request}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}: {answer}");
        assert_eq!(status == "421", answer.contains("ask it as localhost"), "{answer}");
    }
}

/// Any user of the machine can request pages as fast as possible. The pages are rendered one at a time and
/// seldom, by a thread with a lower priority than reviews.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_pages_without_end_holds_up_no_review() {
    let installation = Installation::bare(json!({}));
    let mut process = installation.start();
    let (webhook, admin) = process.addresses();
    let tasks = std::path::PathBuf::from(format!("/proc/{}/task", process.id()));
    let nice = || {
        std::fs::read_dir(&tasks).unwrap().find_map(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            // proc_pid_stat(5): `(name)`, and the niceness is the 17th field after it.
            let (name, rest) = stat.split_once(") ")?;
            name.ends_with("(admin").then(|| rest.split(' ').nth(16).unwrap().parse::<i32>().unwrap())
        })
    };
    // A page is the work of that thread, which has its priority by then.
    get(admin, "/livez").await.unwrap();
    assert_eq!(nice(), Some(10));

    let mut connection = installation.client().connect(webhook, Protocol::Http1).await.unwrap();
    let mut pages = std::collections::BTreeSet::new();
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(1) {
        // Each review changes the page.
        assert_eq!(connection.review("nginx").await.unwrap().status, 200);
        pages.insert(get(admin, "/metrics").await.unwrap().1);
        asked += 1;
    }
    let most = began.elapsed().as_millis() / 100 + 1;
    assert!(asked > 30, "the machine is too slow to show anything: {asked}");
    assert!(pages.len() > 2 && pages.len() as u128 <= most, "{} pages of {asked}", pages.len());
}
