//! Policies swapped while pods are created: each pod has the verdict of the generation that its audit event
//! names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::binaries;
use crate::control_plane::ControlPlane;
use crate::host::Host;
use crate::process::{say, wait_until};

/// The policy that is swapped.
const POLICY: &str = "trusted-registries";
/// Number of pods that one kubectl creates, of the registries in turn.
const PODS: usize = 20;
/// The registries, of which one is trusted in turn.
const REGISTRIES: [&str; 2] = ["registry.k8s.io", "quay.io"];
/// Number of swaps: three of host.yaml and three of the volume in turn.
const SWAPS: usize = 12;
/// Time limit of a swap, less than the ten seconds after which the host looks without an event.
const SWAPPED: Duration = Duration::from_secs(9);

/// Swaps `host`'s policy under a stream of pods. At the end the earlier policy is in force again, as a
/// Kubernetes volume.
pub(crate) fn under_a_stream_of_pods(cluster: &ControlPlane, host: &mut Host) -> Result<()> {
    let volume = Volume { folder: host.policies(), component: binaries::policy(POLICY)? };
    let trust = |host: &Host, registry: usize| {
        host.write_configuration(&json!({"allow": [format!("{}/**", REGISTRIES[registry])]}))
    };
    volume.publish(0)?;
    swapped(host, |_| volume.link())?;
    // The trusted registry of each generation, by its number.
    let mut trusted = BTreeMap::from([(swapped(host, |host| trust(host, 0))?, 0)]);

    let over = AtomicBool::new(false);
    let (swaps, made) = std::thread::scope(|scope| {
        let streams = [0, 1].map(|stream| {
            let over = &over;
            scope.spawn(move || stream_of_pods(cluster, stream, over))
        });
        let swaps = (1..=SWAPS).try_for_each(|swap| {
            let registry = trusted.last_key_value().map_or(0, |(_, registry)| *registry);
            let generation = host.generation()? + 1;
            let (what, registry, obeyed) = if swap % 6 >= 3 {
                trusted.insert(generation, registry);
                ("`..data` swapped", registry, swapped(host, |_| volume.publish(swap)))
            } else {
                trusted.insert(generation, 1 - registry);
                ("host.yaml replaced", 1 - registry, swapped(host, |host| trust(host, 1 - registry)))
            };
            ensure!(obeyed? == generation, "one swap, and more than one generation");
            say(format!("  {what}: generation {generation} trusts {}", REGISTRIES[registry]));
            // Time for pods to be created under each generation.
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        let made: Result<Vec<_>> =
            streams.into_iter().map(|stream| stream.join().expect("a stream does not panic")).collect();
        (swaps, made)
    });
    swaps?;
    let made = made?.concat();
    check(cluster, &made, &trusted)?;
    trust(host, 0)
}

/// Makes a change, and waits until it is in force. Returns the number of the new generation.
fn swapped(host: &mut Host, change: impl FnOnce(&Host) -> Result<()>) -> Result<u64> {
    let before = host.generation()?;
    change(host)?;
    let number = wait_until(SWAPPED, || {
        host.id()?;
        let number = host.generation()?;
        Ok((number > before).then_some(number))
    })?;
    number.with_context(|| format!("a change is not in force {SWAPPED:?} after it was made"))
}

/// A folder as the kubelet fills it from a ConfigMap: its files are links through `..data`, which a rename
/// swaps.
struct Volume {
    folder: PathBuf,
    component: Vec<u8>,
}

impl Volume {
    fn publish(&self, version: usize) -> Result<()> {
        let version = format!("..{version}");
        let new = self.folder.join(&version);
        fs::create_dir(&new)?;
        fs::write(new.join(Self::file()), self.version(&version))?;
        symlink(&version, self.folder.join("..data_tmp"))?;
        let data = self.folder.join("..data");
        let old = fs::read_link(&data).ok();
        fs::rename(self.folder.join("..data_tmp"), data)?;
        old.map_or(Ok(()), |old| Ok(fs::remove_dir_all(self.folder.join(old))?))
    }

    /// Replaces the file by the link.
    fn link(&self) -> Result<()> {
        let beside = self.folder.join("link");
        symlink(Path::new("..data").join(Self::file()), &beside)?;
        Ok(fs::rename(beside, self.folder.join(Self::file()))?)
    }

    fn file() -> String {
        format!("{POLICY}.wasm")
    }

    /// Returns the component with another custom section: another file, and the same policy.
    fn version(&self, version: &str) -> Vec<u8> {
        let name = [b"version", version.as_bytes()].concat();
        let length = u8::try_from(name.len()).expect("a short name");
        [self.component.as_slice(), &[0, length + 1, length], &name].concat()
    }
}

/// The result of kubectl for a pod.
#[derive(Clone)]
struct Made {
    pod: String,
    registry: usize,
    created: bool,
}

/// Creates pods until `over`, several with one kubectl.
fn stream_of_pods(cluster: &ControlPlane, stream: usize, over: &AtomicBool) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    for batch in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let pods: Vec<(String, usize)> =
            (0..PODS).map(|number| (format!("stream-{stream}-{batch}-{number}"), number % 2)).collect();
        let items: Vec<Value> = pods.iter().map(|(pod, registry)| manifest(pod, *registry)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let said = cluster.kubectl(&["create", "-f", "-"], &list.to_string())?;
        for (pod, registry) in pods {
            let created = said.told(&format!("pod/{pod} created"));
            let denied =
                said.told(&format!("pods \"{pod}\" is forbidden: image policy webhook backend denied"));
            ensure!(created != denied, "pod {pod} has no verdict: {}", said.words());
            made.push(Made { pod, registry, created });
        }
    }
    Ok(made)
}

fn manifest(pod: &str, registry: usize) -> Value {
    let image = format!("{}/team/{pod}:1", REGISTRIES[registry]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod},
        "spec": {"containers": [{"name": "app", "image": image}]},
    })
}

/// Checks every pod against the generation of its audit event, and the events against each other: after a
/// response of a generation there is none of an older one.
fn check(cluster: &ControlPlane, made: &[Made], trusted: &BTreeMap<u64, usize>) -> Result<()> {
    let mut by_generation: BTreeMap<u64, [usize; 2]> = BTreeMap::new();
    let mut spans = Vec::new();
    let events = cluster.creations(made.len())?;
    for Made { pod, registry, created } in made {
        let event = events.get(pod).with_context(|| format!("no audit event of pod {pod}"))?;
        let generation = &event["annotations"]["imagepolicywebhook.image-policy.k8s.io/generation"];
        let number = generation.as_str().and_then(|text| text.split_once('-')?.0.parse::<u64>().ok());
        let number = number.with_context(|| format!("pod {pod} was judged by no generation: {event}"))?;
        let trusted = trusted.get(&number).with_context(|| format!("generation {number} came of no swap"))?;
        let code = if registry == trusted { 201 } else { 403 };
        ensure!(
            event["responseStatus"]["code"] == code && *created == (code == 201),
            "generation {number} trusts {}, and yet: {event}",
            REGISTRIES[*trusted]
        );
        by_generation.entry(number).or_default()[usize::from(!created)] += 1;
        let time = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        spans.push((time("requestReceivedTimestamp"), time("stageTimestamp"), number));
    }
    spans.sort();
    for (began, _, number) in &spans {
        let before = spans.iter().filter(|(_, ended, _)| ended < began).map(|(_, _, number)| *number).max();
        ensure!(before.is_none_or(|before| before <= *number), "after {before:?} came generation {number}");
    }
    for (number, [admitted, denied]) in &by_generation {
        say(format!("  generation {number}: {admitted} pods admitted, {denied} denied"));
    }
    ensure!(by_generation.len() > SWAPS / 2, "too few generations were asked");
    say(format!("  {} pods, {} generations, none wrong, none failed", made.len(), by_generation.len()));
    Ok(())
}
