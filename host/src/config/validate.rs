//! Checks that turn the raw values of host.yaml into a [`Config`]. After a problem the checks go on with some
//! value, and a configuration with a problem is never returned.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::{Number, Value};

use super::raw::{self, ClientAuthKind, HostYaml, Quantity};
use super::schema_check::{found, place};
use super::units::{parse_duration, parse_quantity};
use super::{
    API_VERSION, ClientAuth, Config, DecisionLogConfig, Gate, HostLimits, ImageScope, KIND, ModuleSource,
    NamespacePattern, NamespacePatterns, Placement, PolicyConfig, PolicyLimits, PolicyName, Rules, Scope,
    Serving, TextSource, TlsConfig, pointer,
};
use crate::config::yaml::{Document, Problem, quote};
use crate::image::Pattern;
use crate::limits::{self, Limit, Set};
use crate::text;

/// Checks the whole file, and returns either the configuration or every problem.
pub(super) fn config(path: &Path, document: Document, raw: HostYaml) -> Result<Config, Vec<Problem>> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let mut checker = Checker { document: &document, parent, problems: Vec::new() };
    let limits = checker.host_limits(&raw.limits);
    let listen = checker.address("/listen", &raw.listen);
    let admin_listen = checker.address("/admin/listen", &raw.admin.listen);
    if listen == admin_listen && listen.port() != 0 {
        checker.problem("/admin/listen", "the same address as `listen`");
    }
    let missing = [("apiVersion", API_VERSION, raw.api_version), ("kind", KIND, raw.kind)];
    let missing = missing.into_iter().filter(|(_, _, value)| value.is_none());
    let config = Config {
        path: path.to_owned(),
        directory: if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() },
        serving: raw.tls.and_then(|tls| checker.tls(&tls)).map(|tls| Serving { listen, tls }),
        admin_listen,
        state_directory: raw.state_directory.map(|path| checker.path("/stateDirectory", &path)),
        rules: Rules {
            mode: raw.mode,
            unjudged: raw.unjudged,
            exempt_namespaces: checker.namespaces(
                "/exempt/namespaces",
                &raw.exempt.namespaces,
                "`mode: audit` denies nothing anywhere",
            ),
        },
        allow_empty: raw.allow_empty,
        policy_directory: raw.policy_directory.map(|path| checker.path("/policyDirectory", &path)),
        gate: raw.gate.map(|gate| checker.gate(&gate)),
        policies: checker.policies(raw.policies, limits.policies),
        decision_log: raw.decision_log.map(|log| checker.decision_log(&log)),
        limits,
        missing: missing.map(|(key, value, _)| format!("`{key}: {value}` is missing")).collect(),
        document: Document::default(),
    };
    let problems = checker.problems;
    if problems.is_empty() { Ok(Config { document, ..config }) } else { Err(problems) }
}

struct Checker<'a> {
    document: &'a Document,
    /// The folder of the file as `Path::parent` gives it: empty for a bare file name.
    parent: &'a Path,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, pointer: &str, message: impl std::fmt::Display) {
        let message = format!("{}{message}", place(pointer));
        self.problems.push(Problem::new(self.document.span(pointer), message));
    }

    fn tls(&mut self, raw: &raw::Tls) -> Option<TlsConfig> {
        let certificate = self.path("/tls/certificate", &raw.certificate);
        let private_key = self.path("/tls/privateKey", &raw.private_key);
        let client_auth = match raw.client_auth {
            ClientAuthKind::Required => self.required(raw),
            ClientAuthKind::None => self.anyone(raw),
        };
        Some(TlsConfig { certificate, private_key, client_auth: client_auth? })
    }

    fn required(&mut self, raw: &raw::Tls) -> Option<ClientAuth> {
        let names = raw.client_names.clone().unwrap_or_default();
        if raw.client_names.is_some() && names.is_empty() {
            self.problem(
                "/tls/clientNames",
                "no name: remove the key to accept every certificate of `clientCA`",
            );
        }
        for (index, _) in names.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            self.problem(&format!("/tls/clientNames/{index}"), "a name must not be empty");
        }
        let Some(ca) = &raw.client_ca else {
            let message = "`clientCA` is missing: name the authority that signs the apiserver's client \
                           certificate, or write `clientAuth: None` to accept every client that reaches \
                           the port";
            self.problem("/tls", message);
            return None;
        };
        Some(ClientAuth::Required { ca: self.path("/tls/clientCA", ca), names })
    }

    fn anyone(&mut self, raw: &raw::Tls) -> Option<ClientAuth> {
        for (key, is_there) in
            [("clientCA", raw.client_ca.is_some()), ("clientNames", raw.client_names.is_some())]
        {
            if is_there {
                let at = self.document.key_span(&format!("/tls/{key}"));
                let message =
                    format!("tls: `{key}` has no effect with `clientAuth: None`: remove one of the two");
                self.problems.push(Problem::new(at, message));
            }
        }
        Some(ClientAuth::None)
    }

    fn decision_log(&mut self, raw: &raw::DecisionLog) -> DecisionLogConfig {
        let sample = raw.sample.as_f64().filter(|sample| (0.0..=1.0).contains(sample));
        if sample.is_none() {
            let message = format!("{} is out of range: from `0` to `1`", quote(&raw.sample.to_string()));
            self.problem("/decisionLog/sample", message);
        }
        DecisionLogConfig {
            directory: self.path("/decisionLog/directory", &raw.directory),
            sample: sample.unwrap_or(1.0),
            file_size: self.quantity("", &raw.file_size, &limits::DECISION_LOG_FILE),
            files: self.count("", &raw.files, &limits::DECISION_LOG_FILES),
            queue: self.count("", &raw.queue, &limits::DECISION_LOG_QUEUE),
        }
    }

    fn policies(&mut self, raw: Vec<raw::Policy>, max: usize) -> Vec<PolicyConfig> {
        if raw.len() > max {
            self.problem("/policies", limits::POLICIES.says(raw.len(), max as u64));
        }
        let mut policies = Vec::new();
        let mut places: BTreeMap<PolicyName, String> = BTreeMap::new();
        for (index, raw) in raw.into_iter().enumerate() {
            let Some(policy) = self.policy(format!("/policies/{index}"), raw) else { continue };
            let at = format!("{}/name", policy.pointer);
            if let Some(first) = places.get(&policy.name) {
                let first = self.document.locate(first);
                self.problem(&at, format!("the name `{}` is taken: the first is at {first}", policy.name));
            } else {
                places.insert(policy.name.clone(), at);
            }
            policies.push(policy);
        }
        policies
    }

    fn policy(&mut self, pointer: String, raw: raw::Policy) -> Option<PolicyConfig> {
        let name = PolicyName::try_from(raw.name.as_str());
        if let Err(error) = &name {
            self.problem(&format!("{pointer}/name"), error);
        }
        for (index, capability) in raw.capabilities.iter().enumerate() {
            let message = format!("there is no capability {}: this version grants none", quote(capability));
            self.problem(&format!("{pointer}/capabilities/{index}"), message);
        }
        let module = self.path(&format!("{pointer}/module"), &raw.module);
        let settings_from = raw.settings_from.as_ref();
        let settings_from = settings_from.map(|path| self.path(&format!("{pointer}/settingsFrom"), path));
        let adding = match &settings_from {
            Some(_) => Some("settingsFrom"),
            None => (!raw.settings_files.is_empty()).then_some("settingsFiles"),
        };
        if let Some(key) = adding.filter(|_| !raw.settings.is_object()) {
            let message = format!("expected a map, since `{key}` adds to it");
            self.problem(&format!("{pointer}/settings"), message);
        }
        let settings_files = self.settings_files(&pointer, &raw.settings, &raw.settings_files);
        let scope = self.scope(&format!("{pointer}/match"), &raw.scope);
        let limits = self.policy_limits(&pointer, &raw.limits);
        let message = raw.message.map(|text| self.message(&format!("{pointer}/message"), &text));
        Some(PolicyConfig {
            name: name.ok()?,
            module: ModuleSource::File(module),
            settings: raw.settings,
            settings_from,
            settings_files,
            settings_file: None,
            has_file_settings: false,
            overlays: Vec::new(),
            placement: Placement { scope, mode: raw.mode, failure_policy: raw.failure_policy },
            message,
            limits,
            capabilities: raw.capabilities.into_iter().collect(),
            pointer,
        })
    }

    /// Returns the sources of texts in an entry, whose own settings have none of their keys.
    fn settings_files(
        &mut self,
        entry: &str,
        settings: &Value,
        raw: &BTreeMap<String, Value>,
    ) -> BTreeMap<String, TextSource> {
        let mut sources = BTreeMap::new();
        for (key, path) in raw {
            let token = pointer::escape(key);
            let at = format!("{entry}/settingsFiles/{token}");
            if settings.get(key).is_some() {
                let first = self.document.locate(&format!("{entry}/settings/{token}"));
                let message = format!(
                    "{}{} is set twice, also at {first}: remove one",
                    place(&format!("{entry}/settingsFiles")),
                    quote(key)
                );
                self.problems.push(Problem::new(self.document.key_span(&at), message));
            }
            let Some(text) = path.as_str() else {
                self.problem(&at, format!("expected the path of a file or a folder, found {}", found(path)));
                continue;
            };
            let path = self.path(&at, text);
            sources.insert(key.clone(), TextSource::of(text, path));
        }
        sources
    }

    /// Returns the message of a policy's entry as shown to people: on one line, escaped.
    fn message(&mut self, pointer: &str, text: &str) -> String {
        // A YAML block ends in a line break.
        let text = text.trim();
        if text.is_empty() {
            self.problem(pointer, "the message is empty: remove the key, or write where to ask");
        }
        if text.contains(['\n', '\r']) {
            self.problem(
                pointer,
                "the message has several lines: write it on one, such as `\"ask in #platform\"`",
            );
        }
        let shown = text::escape(text);
        if shown.len() > limits::MESSAGE.size() {
            self.problem(pointer, limits::MESSAGE.says(shown.len(), limits::MESSAGE.default));
        }
        shown
    }

    fn gate(&mut self, raw: &raw::Gate) -> Gate {
        let suites = raw.suites.iter().enumerate();
        Gate {
            suites: suites.map(|(index, path)| self.path(&format!("/gate/suites/{index}"), path)).collect(),
            replay: self.count("", &raw.replay, &limits::REPLAY),
            on_difference: raw.on_difference,
            budget: self.duration("", &raw.budget, &limits::GATE_BUDGET),
        }
    }

    fn scope(&mut self, pointer: &str, raw: &raw::Match) -> Scope {
        let images = self.images(&format!("{pointer}/images"), &raw.images);
        let pointer = format!("{pointer}/namespaces");
        let raw = &raw.namespaces;
        let at = format!("{pointer}/include");
        if raw.include.as_ref().is_some_and(Vec::is_empty) {
            self.problem(&at, "an empty list includes no namespace: remove the key to include all");
        }
        Scope {
            include: raw
                .include
                .as_ref()
                .map(|names| self.namespaces(&at, names, "without `include` it is all")),
            exclude: self.namespaces(
                &format!("{pointer}/exclude"),
                &raw.exclude,
                "a policy that applies nowhere is left out",
            ),
            images,
        }
    }

    fn images(&mut self, pointer: &str, raw: &raw::Images) -> ImageScope {
        let at = format!("{pointer}/include");
        if raw.include.as_ref().is_some_and(Vec::is_empty) {
            self.problem(&at, "an empty list includes no image: remove the key to include all");
        }
        let include = raw.include.as_ref().map(|texts| self.patterns(&at, texts));
        for pattern in include.iter().flatten() {
            // A pod that names the image in the other way would escape the policy.
            let (named, lacking) = match pattern.as_str() {
                text if text.contains('@') => ("its tag", "digest"),
                _ if pattern.is_of_tag() => ("its digest", "tag"),
                _ => continue,
            };
            let why = format!("an image named by {named} has no {lacking} and would leave the policy");
            self.problem(&at, format!("`{pattern}`: {why}: leave the {lacking} out"));
        }
        ImageScope::new(include, self.patterns(&format!("{pointer}/exclude"), &raw.exclude))
    }

    fn patterns(&mut self, pointer: &str, texts: &[String]) -> Vec<Pattern> {
        let mut read = |(index, text): (usize, &String)| match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                self.problem(&format!("{pointer}/{index}"), error);
                None
            }
        };
        texts.iter().enumerate().filter_map(&mut read).collect()
    }

    fn policy_limits(&mut self, at: &str, raw: &raw::PolicyLimits) -> PolicyLimits {
        PolicyLimits {
            deadline: self.duration(at, &raw.deadline, &limits::DEADLINE),
            memory: self.quantity(at, &raw.memory, &limits::MEMORY),
            result: self.quantity(at, &raw.result, &limits::RESULT),
            log_lines: u32::try_from(self.count(at, &raw.log_lines, &limits::LOG_LINES)).unwrap_or(u32::MAX),
            log_line_bytes: self.quantity(at, &raw.log_line_bytes, &limits::LOG_LINE_BYTES),
        }
    }

    fn host_limits(&mut self, raw: &raw::Limits) -> HostLimits {
        let concurrent = raw.concurrent_reviews.as_ref();
        let concurrent = concurrent.map(|count| self.count("", count, &limits::CONCURRENT_REVIEWS));
        HostLimits {
            body: self.quantity("", &raw.body, &limits::BODY),
            images: self.count("", &raw.images, &limits::IMAGES),
            annotations: self.quantity("", &raw.annotations, &limits::ANNOTATIONS),
            review_deadline: self.duration("", &raw.review_deadline, &limits::REVIEW_DEADLINE),
            concurrent_reviews: concurrent.unwrap_or(HostLimits::default().concurrent_reviews),
            queue: self.count("", &raw.queue, &limits::QUEUE),
            connections: self.count("", &raw.connections, &limits::CONNECTIONS),
            module: self.quantity("", &raw.module, &limits::MODULE),
            policies: self.count("", &raw.policies, &limits::POLICIES),
            prepare_time: self.duration("", &raw.prepare_time, &limits::PREPARE_TIME),
            prepare_memory: self.quantity("", &raw.prepare_memory, &limits::PREPARE_MEMORY),
            cache: self.quantity("", &raw.cache, &limits::CACHE),
        }
    }

    fn address(&mut self, pointer: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            let message = format!(
                "expected ADDRESS:PORT such as `127.0.0.1:1234` or `[::1]:1234`, found {}",
                quote(text)
            );
            self.problem(pointer, message);
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    /// Returns the path resolved against the folder of the file, and without `.` in it, so that one file has
    /// one spelling.
    fn path(&mut self, pointer: &str, text: &str) -> PathBuf {
        if text.is_empty() {
            self.problem(pointer, "a path must not be empty");
        }
        let path = self.parent.join(text);
        let path: PathBuf = path.components().filter(|component| *component != Component::CurDir).collect();
        if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
    }

    /// Reads patterns. `all` is the advice against a pattern for all namespaces.
    fn namespaces(&mut self, pointer: &str, patterns: &[String], all: &str) -> NamespacePatterns {
        let mut read = |(index, text): (usize, &String)| match NamespacePattern::try_from(text.as_str()) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let advice = if text == "*" { format!(" ({all})") } else { String::new() };
                self.problem(&format!("{pointer}/{index}"), format!("{error}{advice}"));
                None
            }
        };
        patterns.iter().enumerate().filter_map(&mut read).collect()
    }

    /// Returns the value of a limit, within its range. `at` points to the map that the limit's key starts
    /// from.
    fn duration(&mut self, at: &str, raw: &raw::DurationText, limit: &Limit) -> Duration {
        let Some(duration) = parse_duration(&raw.0) else {
            let message =
                format!("expected a duration such as `500ms`, `1s` or `1m30s`, found {}", quote(&raw.0));
            self.problem(&pointer(at, limit), message);
            return Duration::ZERO;
        };
        let milliseconds = u64::try_from(duration.as_millis()).ok();
        Duration::from_millis(self.in_range(at, &raw.0, milliseconds, limit))
    }

    /// Returns the value of a limit as [`Checker::duration`] does.
    fn quantity(&mut self, at: &str, raw: &Quantity, limit: &Limit) -> u64 {
        let (text, bytes) = match raw {
            Quantity::Number(number) => (number.to_string(), number.as_u64()),
            Quantity::Text(text) => {
                let bytes = parse_quantity(text);
                if bytes.is_none() {
                    let message =
                        format!("expected bytes such as `256Ki`, `64Mi` or `1Gi`, found {}", quote(text));
                    self.problem(&pointer(at, limit), message);
                    return 0;
                }
                (text.clone(), bytes)
            }
        };
        self.in_range(at, &text, bytes, limit)
    }

    /// Returns the value of a limit as [`Checker::duration`] does.
    fn count(&mut self, at: &str, raw: &Number, limit: &Limit) -> usize {
        let count = self.in_range(at, &raw.to_string(), raw.as_u64(), limit);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn in_range(&mut self, at: &str, text: &str, number: Option<u64>, limit: &Limit) -> u64 {
        let Set::Key { min, max, .. } = limit.set else { return limit.default };
        if let Some(number) = number.filter(|number| (min..=max).contains(number)) {
            return number;
        }
        let (from, to) = (limit.show(min), limit.show(max));
        let message = format!("{} is out of range: from `{from}` to `{to}`", quote(text));
        self.problem(&pointer(at, limit), message);
        min
    }
}

/// Returns the JSON Pointer to a limit's key below `at`.
fn pointer(at: &str, limit: &Limit) -> String {
    format!("{at}/{}", limit.key().unwrap_or_default().replace('.', "/"))
}
