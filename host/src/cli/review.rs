//! `host review`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::{Exit, Failure, Format, OnePolicy, broken_config, exit, load, named, read, say, say_json, tell};
use crate::config::{Config, HostLimits, Mode};
use crate::evaluate::{Facts, Options, evaluate};
use crate::install::demo;
use crate::limits;
use crate::policy::PolicySet;
use crate::review::manifests::{Manifest, Object, Skipped};
use crate::review::verdict::{Decision, Disposition, ImageVerdict, Said, Verdict};
use crate::review::{Review, VerdictDocument};
use crate::text;

/// Maximum length of a namespace in a line, in bytes. Kubernetes has no longer ones.
const SHOWN: usize = 63;

/// Judge images, or the manifests of a repository, and show the decision of each policy
///
/// A file holds YAML documents or JSON: Pods, Deployments and every other built-in workload, Lists,
/// ImageReviews and AdmissionReviews. Kinds without pods are skipped.
///
/// Exit status: 0 allowed, 1 denied, 2 broken (usage, a file, a policy that does not load).
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("subject").required(true).multiple(false)))]
pub(super) struct Arguments {
    /// Image references
    #[arg(value_name = "IMAGE", group = "subject")]
    images: Vec<String>,
    /// Manifests, as YAML or JSON; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE", group = "subject", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Namespace of a review, if its file names none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Annotation of the pod, for IMAGE arguments
    #[arg(short, long = "annotation", value_name = "KEY=VALUE", requires = "images")]
    annotations: Vec<String>,
    /// host.yaml with the policies [default: the policies of the demo]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    policy: OnePolicy,
    /// `json` has the same content for scripts, with the fields of each image
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    exit(review(arguments))
}

fn review(arguments: Arguments) -> Result<Exit, Failure> {
    let (config, set) = policies(&arguments)?;
    if !arguments.files.is_empty() {
        return of_files(&arguments, &config.limits, &set);
    }
    let verdict = judge(&set, &of_images(&arguments)?);
    match arguments.format {
        Format::Text => say(in_text(&set, &verdict))?,
        Format::Json => say_sorted(&VerdictDocument::of(&verdict))?,
    }
    Ok(status(verdict.allowed()))
}

/// Loads the policies that the arguments name, or those of the demo.
fn policies(arguments: &Arguments) -> Result<(Config, PolicySet), Failure> {
    let config = match (&arguments.config, arguments.policy.config()?) {
        (Some(path), _) => Config::read(path).map_err(broken_config)?,
        (None, Some(config)) => config,
        (None, None) => {
            tell("judged by the policies of the demo; --config host.yaml judges by yours");
            let folder = tempfile::tempdir().map_err(Failure::broken)?;
            demo::write_policies(folder.path(), ([127, 0, 0, 1], 1234).into()).map_err(Failure::broken)?;
            let config = Config::read(&folder.path().join("host.yaml")).map_err(Failure::broken)?;
            // Loaded before the folder is removed.
            let set = load(&config, Exit::Broken)?;
            return Ok((config, set));
        }
    };
    let set = load(&config, Exit::Broken)?;
    Ok((config, set))
}

fn status(allowed: bool) -> Exit {
    if allowed { Exit::Yes } else { Exit::No }
}

fn of_images(arguments: &Arguments) -> Result<Review, Failure> {
    let pair = |annotation: &String| match annotation.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::broken(format_args!("--annotation {annotation:?}: write KEY=VALUE"))),
    };
    let mut annotations = arguments.annotations.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    annotations.sort();
    Ok(Review { namespace: arguments.namespace.clone(), annotations, images: arguments.images.clone() })
}

fn judge(set: &PolicySet, review: &Review) -> Verdict {
    evaluate(set, review, &Facts::default(), &Options::of(set)).verdict
}

/// An object of a file, and the verdict on it.
struct Judged<'a> {
    file: &'a Path,
    object: Object,
    /// Whether its file holds more than one document.
    is_one_of_many: bool,
    verdict: Verdict,
}

/// The contents of all files.
#[derive(Default)]
struct Files<'a> {
    judged: Vec<Judged<'a>>,
    skipped: Skipped,
    problems: Vec<String>,
}

/// Evaluates all objects of all files. A broken file is reported with all its problems, and hides no verdict.
fn of_files(arguments: &Arguments, limits: &HostLimits, set: &PolicySet) -> Result<Exit, Failure> {
    let mut files = Files::default();
    let mut is_stdin_read = false;
    for file in &arguments.files {
        if file.as_path() == Path::new("-") && std::mem::replace(&mut is_stdin_read, true) {
            files.problems.push("standard input: it is named twice, and can be read once".to_owned());
        } else {
            files.add(file, &arguments.namespace, limits, set);
        }
    }
    let Files { judged, skipped, problems } = files;
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
        Format::Json => say_sorted(&FilesDocument {
            allowed: allowed && problems.is_empty(),
            objects: judged.iter().map(ObjectDocument::of).collect(),
            problems: &problems,
            skipped: &skipped,
        })?,
    }
    tell(&problems.join("\n"));
    Ok(if problems.is_empty() { status(allowed) } else { Exit::Broken })
}

impl<'a> Files<'a> {
    /// Reads a file, and evaluates its objects.
    fn add(&mut self, file: &'a Path, namespace: &str, limits: &HostLimits, set: &PolicySet) {
        if file.is_dir() {
            let file = file.display();
            self.problems.push(format!("{file}: it is a folder: name its files, such as `-f {file}/*.yaml`"));
            return;
        }
        let bytes = match read(file, limits::MANIFEST_FILE.default) {
            Ok(bytes) => bytes,
            Err(failure) => return self.problems.push(failure.message),
        };
        let manifest = Manifest::read(&bytes, namespace, limits);
        if manifest.documents == 0 && manifest.problems.is_empty() {
            self.problems.push(format!("{}: it is empty", named(file)));
        }
        self.problems.extend(manifest.problems.iter().map(|problem| format!("{}:{problem}", named(file))));
        for (kind, count) in manifest.skipped {
            *self.skipped.0.entry(kind).or_default() += count;
        }
        let is_one_of_many = manifest.documents > 1;
        self.judged.extend(manifest.objects.into_iter().map(|object| {
            let verdict = match &object.review {
                Ok(review) => judge(set, review),
                Err(refusal) => Verdict::refuse(&set.rules, &set.generation(), &refusal.to_string()),
            };
            Judged { file, object, is_one_of_many, verdict }
        }));
    }
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
    place.extend(
        namespace.map(|namespace| format!("namespace {}", text::escape_and_truncate(namespace, SHOWN))),
    );
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

/// Writes a document as JSON, with the keys of each object in alphabetical order.
fn say_sorted(document: &impl Serialize) -> Result<(), Failure> {
    say_json(&serde_json::to_value(document).map_err(Failure::broken)?)
}

/// The verdicts on all objects of all files.
#[derive(Serialize)]
struct FilesDocument<'a> {
    allowed: bool,
    objects: Vec<ObjectDocument<'a>>,
    problems: &'a [String],
    skipped: &'a Skipped,
}

/// An object of a file, and the verdict on it.
#[derive(Serialize)]
struct ObjectDocument<'a> {
    file: String,
    line: usize,
    column: usize,
    document: usize,
    kind: &'a str,
    name: Option<&'a str>,
    /// None if no policy ran.
    namespace: Option<&'a str>,
    #[serde(flatten)]
    verdict: VerdictDocument<'a>,
}

impl<'a> ObjectDocument<'a> {
    fn of(Judged { file, object, verdict, .. }: &'a Judged<'_>) -> ObjectDocument<'a> {
        ObjectDocument {
            file: named(file),
            line: object.at.line,
            column: object.at.column,
            document: object.document,
            kind: &object.kind,
            name: object.name.as_deref(),
            namespace: object.review.as_ref().ok().map(|review| review.namespace.as_str()),
            verdict: VerdictDocument::of(verdict),
        }
    }
}
