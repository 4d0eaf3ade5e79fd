//! `host review`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, Format, OnePolicy, exit, load, named, read, say, tell};
use crate::author::manifests::{Manifest, Object, Skipped};
use crate::config::{Config, Mode};
use crate::evaluate::evaluate;
use crate::install::demo;
use crate::limits;
use crate::policy::PolicySet;
use crate::review::Review;
use crate::review::verdict::{Decision, Disposition, ImageVerdict, Said, Verdict};
use crate::text;

const DENIED: u8 = 1;
const BROKEN: u8 = 2;
/// Maximum length of a namespace in a line, in bytes. Kubernetes has no longer ones.
const SHOWN: usize = 63;

/// Judge images, or the manifests of a repository, and tell what each policy said
///
/// A file holds YAML documents or JSON: Pods, Deployments and every other built-in workload, Lists, ImageReviews and
/// AdmissionReviews. Kinds without pods are skipped.
///
/// Exit status: 0 allowed, 1 denied, 2 broken (usage, a file, a policy that does not load).
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(false)))]
pub(super) struct Arguments {
    /// Image references
    #[arg(value_name = "IMAGE", group = "what")]
    images: Vec<String>,
    /// Manifests, as YAML or JSON; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE", group = "what", num_args = 1..)]
    files: Vec<PathBuf>,
    /// The namespace, where the file names none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// An annotation of the pod, for IMAGE arguments
    #[arg(short, long = "annotation", value_name = "KEY=VALUE", requires = "images")]
    annotations: Vec<String>,
    /// The host.yaml to judge by [default: the policies of the demo]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    policy: OnePolicy,
    /// `json` carries the same for scripts, with each image's parsed fields
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(review(arguments))
}

fn review(arguments: Arguments) -> Result<ExitCode, Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::new(BROKEN, error);
    let set;
    let config;
    match (&arguments.config, arguments.policy.config(BROKEN)?) {
        (Some(path), _) => {
            config = Config::read(path).map_err(|error| broken(&error))?;
            set = load(&config, BROKEN)?;
        }
        (None, Some(policy)) => {
            config = policy;
            set = load(&config, BROKEN)?;
        }
        (None, None) => {
            tell("judged by the policies of the demo; --config host.yaml judges by yours");
            let folder = tempfile::tempdir().map_err(|error| broken(&error))?;
            demo::write_policies(folder.path(), ([127, 0, 0, 1], 1234).into())
                .map_err(|error| broken(&error))?;
            config = Config::read(&folder.path().join("host.yaml")).map_err(|error| broken(&error))?;
            set = load(&config, BROKEN)?;
        }
    }
    if arguments.files.is_empty() {
        let verdict = evaluate(&set, &of_images(&arguments)?);
        match arguments.format {
            Format::Text => say(in_text(&set, &verdict))?,
            Format::Json => say(format_args!("{:#}", to_json(&verdict)))?,
        }
        return Ok(status(verdict.allowed()));
    }
    of_files(&arguments, &config, &set)
}

fn status(allowed: bool) -> ExitCode {
    if allowed { ExitCode::SUCCESS } else { ExitCode::from(DENIED) }
}

fn of_images(arguments: &Arguments) -> Result<Review, Failure> {
    let pair = |annotation: &String| match annotation.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::new(BROKEN, format!("--annotation {annotation:?}: write KEY=VALUE"))),
    };
    let mut annotations = arguments.annotations.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    annotations.sort();
    Ok(Review { namespace: arguments.namespace.clone(), annotations, images: arguments.images.clone() })
}

/// An object of a file, and the verdict on it.
struct Judged<'a> {
    file: &'a Path,
    object: Object,
    /// Whether its file holds more than one document.
    is_one_of_many: bool,
    verdict: Verdict,
}

/// Evaluates all objects of all files. A broken file is reported with all its problems, and hides no verdict.
fn of_files(arguments: &Arguments, config: &Config, set: &PolicySet) -> Result<ExitCode, Failure> {
    let (mut judged, mut problems) = (Vec::new(), Vec::new());
    let mut skipped = Skipped::default();
    let mut is_stdin_read = false;
    for file in &arguments.files {
        if file.as_path() == Path::new("-") && std::mem::replace(&mut is_stdin_read, true) {
            problems.push("standard input: it is named twice, and can be read once".to_owned());
            continue;
        }
        if file.is_dir() {
            let file = file.display();
            problems.push(format!("{file}: it is a folder: name its files, such as `-f {file}/*.yaml`"));
            continue;
        }
        let bytes = match read(file, limits::MANIFEST_FILE.default) {
            Ok(bytes) => bytes,
            Err(failure) => {
                problems.push(failure.message);
                continue;
            }
        };
        let manifest = Manifest::read(&bytes, &arguments.namespace, &config.limits);
        if manifest.documents == 0 && manifest.problems.is_empty() {
            problems.push(format!("{}: it is empty", named(file)));
        }
        problems.extend(manifest.problems.iter().map(|problem| format!("{}:{problem}", named(file))));
        for (kind, count) in manifest.skipped {
            *skipped.0.entry(kind).or_default() += count;
        }
        let is_one_of_many = manifest.documents > 1;
        judged.extend(manifest.objects.into_iter().map(|object| {
            let verdict = match &object.review {
                Ok(review) => evaluate(set, review),
                Err(reason) => Verdict::refuse(&set.rules, &set.generation(), reason),
            };
            Judged { file, object, is_one_of_many, verdict }
        }));
    }
    let allowed = judged.iter().all(|judged| judged.verdict.allowed());
    match arguments.format {
        Format::Text => {
            let is_alone = judged.len() == 1;
            for judged in &judged {
                say(object_in_text(set, judged, is_alone))?;
            }
            if !judged.is_empty() || problems.is_empty() {
                say(summary(&judged, &skipped, is_alone))?;
            }
        }
        Format::Json => {
            let objects: Vec<_> = judged.iter().map(object_json).collect();
            let document = json!({
                "allowed": allowed && problems.is_empty(),
                "objects": objects,
                "skipped": skipped,
                "problems": problems,
            });
            say(format_args!("{document:#}"))?;
        }
    }
    tell(&problems.join("\n"));
    Ok(if problems.is_empty() { status(allowed) } else { ExitCode::from(BROKEN) })
}

fn in_text(set: &PolicySet, verdict: &Verdict) -> String {
    let mut lines = images_in_text(set, verdict);
    lines.push(String::new());
    lines.push(format!("verdict: {}", outcome(verdict)));
    lines.extend(reason_in_text(verdict));
    lines.join("\n")
}

/// Returns a line for the object. The decisions follow if it is denied, or would be, or is the only object.
fn object_in_text(set: &PolicySet, judged: &Judged<'_>, is_alone: bool) -> String {
    let Judged { file, object, is_one_of_many, verdict } = judged;
    let mut place = Vec::new();
    place.extend(is_one_of_many.then(|| format!("document {}", object.document)));
    let namespace = object.review.as_ref().ok().map(|review| review.namespace.as_str());
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    place.extend(namespace.map(|namespace| format!("namespace {}", text::shown(namespace, SHOWN))));
    let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
    let outcome = outcome(verdict);
    let mut lines = vec![format!("{}:{}: {object}{place}: {outcome}", named(file), object.at.line)];
    let reason = reason_in_text(verdict);
    if is_alone || reason.is_some() {
        lines.extend(images_in_text(set, verdict).iter().map(|line| format!("  {line}")));
        lines.extend(reason.map(|reason| format!("  {reason}")));
    }
    lines.join("\n")
}

fn summary(judged: &[Judged<'_>], skipped: &Skipped, is_alone: bool) -> String {
    let denied = judged.iter().filter(|judged| !judged.verdict.allowed()).count();
    let mut line = if judged.is_empty() { String::new() } else { "\n".to_owned() };
    line.push_str(&match judged.len() {
        0 => "nothing to judge".to_owned(),
        _ if is_alone && denied == 0 => "1 object: allowed".to_owned(),
        _ if is_alone => "1 object: denied".to_owned(),
        all => format!("{all} objects: {denied} denied, {} allowed", all - denied),
    });
    if !skipped.0.is_empty() {
        line.push_str(&format!("; not judged (without pods, or of a kind that is not built in): {skipped}"));
    }
    line
}

/// Describes the decision of each policy on each image.
fn images_in_text(set: &PolicySet, verdict: &Verdict) -> Vec<String> {
    let width = set.policies.iter().map(|entry| entry.name.as_str().len()).max().unwrap_or_default();
    let mut lines = Vec::new();
    for image in &verdict.images {
        lines.push(title(image));
        for said in &image.judged.said {
            lines.push(format!("  {:width$}  {}", said.policy, in_words(said)));
            lines.extend(said.log.iter().map(|line| format!("  {:width$}  wrote: {}", "", line.message)));
        }
        let word = if image.allowed { "allowed" } else { "denied" };
        let because: Vec<_> = image.because().collect();
        match because.as_slice() {
            [because] => lines.push(format!("  -> {word}: {because}")),
            many => {
                lines.push(format!("  -> {word}:"));
                lines.extend(many.iter().map(|because| format!("     {because}")));
            }
        }
    }
    if verdict.images.is_empty() {
        lines.push("no image was judged".to_owned());
    }
    lines
}

/// Describes the verdict and its basis in a few words.
fn outcome(verdict: &Verdict) -> String {
    let by = verdict.disposition.decided_by();
    match verdict.disposition {
        Disposition::Allowed(_) => format!("allowed (decided by {by})"),
        Disposition::WouldDeny(_) => "allowed".to_owned(),
        Disposition::Denied(_) | Disposition::Refused => format!("denied (decided by {by})"),
    }
}

/// Returns the reason of a denial, or of a review that would be denied. Returns None if the review is
/// allowed.
fn reason_in_text(verdict: &Verdict) -> Option<String> {
    let (by, reason) = (verdict.disposition.decided_by(), &verdict.reason);
    match verdict.disposition {
        Disposition::Allowed(_) => None,
        Disposition::WouldDeny(_) => {
            Some(format!("would be denied if `mode` were enforce (decided by {by}): {reason}"))
        }
        Disposition::Denied(_) | Disposition::Refused => Some(format!("reason: {reason}")),
    }
}

/// Returns the reference as given, and its canonical form where it differs.
fn title(image: &ImageVerdict) -> String {
    let given = text::image(&image.judged.original);
    match &image.judged.image {
        Ok(parsed) if parsed.to_string() != image.judged.original => format!("{given}  ({parsed})"),
        _ => given,
    }
}

fn in_words(said: &Said) -> String {
    let mode = match said.mode {
        Mode::Enforce => "",
        Mode::Audit => " (audit: it denies nothing)",
    };
    // The message of an enforcing policy follows in the verdict.
    let message = said.message_of_denial().filter(|_| said.mode == Mode::Audit);
    let message = message.map_or(String::new(), |message| format!(": {message}"));
    match &said.judgement {
        Ok(decision) if decision.reason.is_empty() => {
            format!("{}  {}{message}{mode}", decision.outcome, decision.code)
        }
        Ok(Decision { outcome, code, reason, .. }) => format!("{outcome}  {code}: {reason}{message}{mode}"),
        Err(_) => format!("malfunction, counts as {}: {}{message}{mode}", said.outcome(), said.reason()),
    }
}

fn object_json(judged: &Judged<'_>) -> Value {
    let Judged { file, object, verdict, .. } = judged;
    let place = json!({
        "file": named(file),
        "line": object.at.line,
        "column": object.at.column,
        "document": object.document,
        "kind": object.kind,
        "name": object.name,
        "namespace": object.review.as_ref().ok().map(|review| &review.namespace),
    });
    joined(place, to_json(verdict))
}

fn to_json(verdict: &Verdict) -> Value {
    json!({
        "allowed": verdict.allowed(),
        "verdict": verdict.disposition.name(),
        "decidedBy": verdict.disposition.decided_by(),
        "reason": verdict.answered_reason(),
        "auditAnnotations": verdict.audit_annotations(),
        "images": verdict.images.iter().map(image_json).collect::<Vec<_>>(),
    })
}

fn image_json(image: &ImageVerdict) -> Value {
    let common = json!({
        "image": image.judged.original,
        "allowed": image.allowed,
        "decidedBy": image.decided_by,
        "because": image.because().collect::<Vec<_>>(),
        "policies": image.judged.said.iter().map(said_json).collect::<Vec<_>>(),
    });
    let parsed = match &image.judged.image {
        Ok(parsed) => json!({
            "registry": parsed.registry,
            "repository": parsed.repository,
            "tag": parsed.tag,
            "digest": parsed.digest,
        }),
        Err(error) => json!({ "error": error }),
    };
    joined(common, parsed)
}

fn said_json(said: &Said) -> Value {
    let common = json!({
        "name": said.policy,
        "mode": said.mode,
        "outcome": said.outcome(),
        "log": said.log,
    });
    let common = match said.message_of_denial() {
        Some(message) => joined(common, json!({ "message": message })),
        None => common,
    };
    let judgement = match &said.judgement {
        Ok(decision) => json!({
            "code": decision.code,
            "reason": decision.reason,
            "auditAnnotations": decision.audit_annotations.iter().cloned().collect::<BTreeMap<_, _>>(),
            "warnings": decision.warnings,
        }),
        Err(malfunction) => json!({ "malfunction": malfunction.to_string() }),
    };
    joined(common, judgement)
}

/// Merges two objects.
fn joined(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
