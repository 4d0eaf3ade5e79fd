//! `host review`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::{Failure, Format, OnePolicy, exit, load, named, parse_yaml, read, say, tell};
use crate::config::{Config, Mode};
use crate::demo;
use crate::evaluate::evaluate;
use crate::policy::PolicySet;
use crate::review::{Review, ReviewError};
use crate::text;
use crate::verdict::{Disposition, ImageVerdict, Said, Verdict};

const DENIED: u8 = 1;
const BROKEN: u8 = 2;
/// The largest file in bytes: larger than any request that the server reads by default.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Judge images, an ImageReview or a Pod, and tell what each policy said
///
/// Exit status: 0 allowed, 1 denied, 2 broken (usage, a file, a policy that does not load).
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(false)))]
pub(super) struct Arguments {
    /// Image references
    #[arg(value_name = "IMAGE", group = "what")]
    images: Vec<String>,
    /// An ImageReview or a Pod, as YAML or JSON; `-` is standard input
    #[arg(short, long, value_name = "FILE", group = "what")]
    file: Option<PathBuf>,
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
    let review = match &arguments.file {
        Some(path) => of_file(path, &arguments.namespace, &config)?,
        None => of_images(&arguments)?,
    };
    let verdict = match review {
        Ok(review) => evaluate(&set, &review),
        Err(reason) => Verdict::refuse(&set.rules, &set.generation(), &reason),
    };
    match arguments.format {
        Format::Text => say(in_text(&set, &verdict))?,
        Format::Json => say(format_args!("{:#}", to_json(&verdict)))?,
    }
    Ok(if verdict.allowed() { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn of_images(arguments: &Arguments) -> Result<Result<Review, String>, Failure> {
    let pair = |annotation: &String| match annotation.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::new(BROKEN, format!("--annotation {annotation:?}: write KEY=VALUE"))),
    };
    let mut annotations = arguments.annotations.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    annotations.sort();
    Ok(Ok(Review { namespace: arguments.namespace.clone(), annotations, images: arguments.images.clone() }))
}

/// The review that a file holds; `Err` inside is the reason why the server would refuse it.
fn of_file(path: &Path, namespace: &str, config: &Config) -> Result<Result<Review, String>, Failure> {
    let failure = |error: &dyn std::fmt::Display| Failure::new(BROKEN, format!("{}: {error}", named(path)));
    let bytes = read(path, FILE_BYTES)?;
    // JSON is read as the server reads it, so that duplicated keys are seen.
    let json = if serde_json::from_slice::<IgnoredAny>(&bytes).is_ok() {
        bytes
    } else {
        serde_json::to_vec(&parse_yaml(path, &bytes)?.value).map_err(|error| failure(&error))?
    };
    let kind = serde_json::from_slice::<Value>(&json).ok().and_then(|value| {
        Some((value.get("apiVersion")?.as_str()?.to_owned(), value.get("kind")?.as_str()?.to_owned()))
    });
    let review = match kind.as_ref().map(|(version, kind)| (version.as_str(), kind.as_str())) {
        Some(("v1", "Pod")) => {
            let pod = serde_json::from_slice(&json).map_err(|error| failure(&error))?;
            Review::of_pod(pod, namespace, &config.limits)
        }
        Some((_, "ImageReview")) => Review::parse(&json, &config.limits),
        Some((version, kind)) => {
            let problem = format!(
                "it holds a {} of {}; this takes an ImageReview or a Pod (for a workload, a Pod with the metadata and \
                 spec of its template)",
                text::cut(&text::printable(kind), 64),
                text::cut(&text::printable(version), 64)
            );
            return Err(failure(&problem));
        }
        None => {
            return Err(failure(
                &"it holds no Kubernetes object (apiVersion and kind); this takes an ImageReview or a Pod",
            ));
        }
    };
    match review {
        Ok(review) => Ok(Ok(review)),
        Err(ReviewError::Refused(reason)) => Ok(Err(reason)),
        Err(ReviewError::NotAnImageReview(problem)) => Err(failure(&problem)),
    }
}

fn in_text(set: &PolicySet, verdict: &Verdict) -> String {
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
    lines.push(String::new());
    let (by, reason) = (verdict.disposition.decided_by(), &verdict.reason);
    match verdict.disposition {
        Disposition::Allowed(_) => lines.push(format!("verdict: allowed (decided by {by})")),
        Disposition::WouldDeny(_) => {
            lines.push("verdict: allowed".to_owned());
            lines.push(format!("would be denied if `mode` were enforce (decided by {by}): {reason}"));
        }
        Disposition::Denied(_) | Disposition::Refused => {
            lines.push(format!("verdict: denied (decided by {by})\nreason: {reason}"));
        }
    }
    lines.join("\n")
}

/// The reference as given, and as it is judged.
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
        Mode::Audit => " (audit: it changes no verdict)",
    };
    match &said.judgement {
        Ok(decision) if decision.reason.is_empty() => {
            format!("{}  {}{mode}", decision.outcome, decision.code)
        }
        Ok(decision) => format!("{}  {}: {}{mode}", decision.outcome, decision.code, decision.reason),
        Err(_) => format!("malfunction, counts as {}: {}{mode}", said.outcome(), said.reason()),
    }
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

/// One object of two.
fn joined(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
