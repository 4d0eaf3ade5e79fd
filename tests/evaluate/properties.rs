//! Properties of all verdicts, of decisions that are generated.

use std::time::Duration;

use host::config::{FailurePolicy, Mode, NamespacePattern, Rules, Unjudged};
use host::image::Image;
use host::review::Review;
use host::review::verdict::{
    DecidedBy, Decision, Disposition, Judged, Malfunction, Outcome, ReferenceError, Said, Verdict,
};
use host::text;
use proptest::prelude::*;
use serde_json::json;

use crate::support;
use crate::support::evaluation::evaluate;

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Allow), Just(Outcome::Deny), Just(Outcome::Abstain)]
}

fn malfunction() -> impl Strategy<Value = Malfunction> {
    prop_oneof![
        any::<String>().prop_map(Malfunction::NotLoaded),
        (0..10_000_u64).prop_map(|ms| Malfunction::Deadline(Duration::from_millis(ms))),
        (0..10_000_u64).prop_map(|ms| Malfunction::Budget(Duration::from_millis(ms))),
        any::<u64>().prop_map(Malfunction::Memory),
        any::<u64>().prop_map(Malfunction::Result),
        any::<String>().prop_map(Malfunction::Trap),
        any::<String>().prop_map(Malfunction::Reported),
        any::<String>().prop_map(Malfunction::Contract),
    ]
}

/// Generates decisions within the contract's limits, as the sandbox passes them on: the reason is escaped
/// already.
fn decision() -> impl Strategy<Value = Decision> {
    let texts = || prop::collection::vec(any::<String>(), 0..3);
    let pairs = prop::collection::vec((any::<String>(), any::<String>()), 0..40);
    (outcome(), "[a-z-]{1,63}", any::<String>(), 1..300_usize, pairs, texts()).prop_map(
        |(outcome, code, reason, times, audit_annotations, warnings)| Decision {
            outcome,
            code,
            reason: text::truncate(&text::escape(&reason.repeat(times)), 1024),
            audit_annotations,
            warnings,
        },
    )
}

fn said() -> impl Strategy<Value = Said> {
    let judgement = prop_oneof![3 => decision().prop_map(Ok), 1 => malfunction().prop_map(Err)];
    // As after the check: escaped, and within the limit.
    let message = prop::option::weighted(0.3, (any::<String>(), 1..100_usize)).prop_map(|message| {
        message.map(|(text, times)| text::escape_and_truncate(&text.repeat(times), 256).into())
    });
    (any::<bool>(), any::<bool>(), "[a-z]([-a-z0-9]{0,61}[a-z0-9])?", judgement, message).prop_map(
        |(audit, ignore, policy, judgement, message)| Said {
            policy,
            message,
            mode: if audit { Mode::Audit } else { Mode::Enforce },
            failure_policy: if ignore { FailurePolicy::Ignore } else { FailurePolicy::Fail },
            judgement,
            log: Vec::new(),
        },
    )
}

fn judged() -> impl Strategy<Value = Judged> {
    let original =
        prop_oneof!["x\\.io/[a-z]{1,8}", any::<String>(), "[a-z]{1,400}".prop_map(|s| format!("x.io/a:{s}"))];
    let exhausted = prop::option::weighted(0.1, Just(Duration::from_secs(10)));
    (original, prop::collection::vec(said(), 0..5), exhausted).prop_map(|(original, said, exhausted)| {
        let image = Image::parse(&original).map_err(ReferenceError::from);
        let said = if image.is_ok() { said } else { Vec::new() };
        Judged { original, image, said, exhausted }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    (prop::bool::weighted(0.2), any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        |(audit, unjudged, exempt)| Rules {
            mode: if audit { Mode::Audit } else { Mode::Enforce },
            unjudged: if unjudged { Unjudged::Allow } else { Unjudged::Deny },
            exempt_namespaces: exempt
                .then(|| NamespacePattern::Name("default".to_owned()))
                .into_iter()
                .collect(),
        },
    )
}

fn combine(rules: &Rules, images: &[Judged]) -> Verdict {
    Verdict::combine(rules, "default", "7-0123456789ab", images.to_vec())
}

/// Checks the properties of every verdict's text.
fn well_formed(verdict: &Verdict) -> Result<(), TestCaseError> {
    prop_assert_eq!(verdict.allowed(), verdict.answered_reason().is_empty());
    prop_assert!(Disposition::ALL.contains(&verdict.disposition));
    prop_assert!(verdict.reason.len() <= 1024, "{} bytes", verdict.reason.len());
    prop_assert_eq!(&text::escape(&verdict.reason), &verdict.reason);
    // checkKeyFormat in k8s.io/apiserver/pkg/admission/attributes.go, after the name of the plugin and `/`.
    let annotations = verdict.audit_annotations();
    let hosts = ["decided-by", "generation", "would-deny"];
    for (key, value) in &annotations {
        prop_assert!(key.contains('.') != hosts.contains(&key.as_str()), "{key}");
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        prop_assert!((1..=63).contains(&key.len()), "{key}");
        prop_assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{key}");
        prop_assert!(ends(key.chars().next()) && ends(key.chars().last()), "{key}");
        prop_assert!(value.len() <= 1024, "{} bytes", value.len());
        prop_assert_eq!(&text::escape(value), value);
    }
    prop_assert!(annotations.len() <= 67);
    Ok(())
}

proptest! {
    #[test]
    fn text_is_within_its_limits(rules in rules(), images in prop::collection::vec(judged(), 0..8)) {
        let verdict = combine(&rules, &images);
        well_formed(&verdict)?;
        prop_assert_eq!(&verdict.generation, "7-0123456789ab");
        let first = verdict.images.iter().find(|image| !image.allowed);
        if let (false, Some(first)) = (verdict.allowed(), first) {
            let name = text::image(&first.judged.original);
            prop_assert!(verdict.reason.starts_with(&format!("{name}: ")), "{}", verdict.reason);
        }
    }

    #[test]
    fn a_policy_in_mode_audit_denies_nothing_and_overrides_nothing_in_force(
        rules in rules(),
        images in prop::collection::vec(judged(), 0..6),
    ) {
        let mut without = images.clone();
        for image in &mut without {
            image.said.retain(|said| said.mode == Mode::Enforce);
        }
        let (verdict, without) = (combine(&rules, &images), combine(&rules, &without));
        prop_assert!(verdict.allowed() || !without.allowed());
        for (image, without) in verdict.images.iter().zip(&without.images) {
            // If no policy enforces, the audit policies are the only ones.
            if without.judged.said.is_empty() && !image.judged.said.is_empty()
                && without.decided_by == DecidedBy::Unjudged {
                prop_assert_eq!((image.allowed, image.decided_by), (true, DecidedBy::AuditOnly));
                continue;
            }
            prop_assert_eq!((image.allowed, image.decided_by), (without.allowed, without.decided_by));
            prop_assert!(image.because().eq(without.because()));
        }
    }

    #[test]
    fn another_denial_never_allows(
        rules in rules(),
        images in prop::collection::vec(judged(), 1..6),
        mut denial in said(),
        at in any::<prop::sample::Index>(),
    ) {
        let before = combine(&rules, &images);
        denial.mode = Mode::Enforce;
        match &mut denial.judgement {
            Ok(decision) => decision.outcome = Outcome::Deny,
            Err(_) => denial.failure_policy = FailurePolicy::Fail,
        }
        let mut more = images.clone();
        at.get_mut(&mut more).said.push(denial);
        let after = combine(&rules, &more);
        prop_assert!(before.allowed() || !after.allowed());
        if rules.mode == Mode::Enforce && rules.exempt_namespaces.is_empty() {
            prop_assert!(!after.allowed(), "a denial, or a malfunction under Fail, denies");
        }
    }

    #[test]
    fn another_allow_overrides_no_denial(
        rules in rules(),
        images in prop::collection::vec(judged(), 1..6),
        at in any::<prop::sample::Index>(),
        mut allow in decision(),
    ) {
        allow.outcome = Outcome::Allow;
        let mut more = images.clone();
        at.get_mut(&mut more).said.push(Said {
            policy: "generous".to_owned(),
            mode: Mode::Enforce,
            failure_policy: FailurePolicy::Fail,
            message: None,
            judgement: Ok(allow),
            log: Vec::new(),
        });
        let denied = |image: &Judged| {
            let denies = |s: &Said| s.mode == Mode::Enforce && s.outcome() == Outcome::Deny;
            image.image.is_err() || image.exhausted.is_some() || image.said.iter().any(denies)
        };
        let after = combine(&rules, &more);
        if rules.mode == Mode::Enforce && rules.exempt_namespaces.is_empty() && images.iter().any(denied) {
            prop_assert!(!after.allowed());
        }
    }

    #[test]
    fn order_does_not_matter(
        rules in rules(),
        (images, shuffled) in prop::collection::vec(judged(), 0..6)
            .prop_flat_map(|images| (Just(images.clone()), Just(images).prop_shuffle())),
    ) {
        let mut shuffled = shuffled;
        shuffled.iter_mut().for_each(|image| image.said.reverse());
        prop_assert_eq!(combine(&rules, &images).disposition, combine(&rules, &shuffled).disposition);
    }

    #[test]
    fn a_host_in_mode_audit_never_denies(
        rules in rules(),
        images in prop::collection::vec(judged(), 0..6),
    ) {
        let enforced = combine(&Rules { mode: Mode::Enforce, ..rules.clone() }, &images);
        let audited = combine(&Rules { mode: Mode::Audit, ..rules }, &images);
        prop_assert!(audited.allowed());
        prop_assert_eq!(audited.would_deny().unwrap_or_default(), enforced.reason);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Runs the component: nothing that a guest returns exceeds the limits of the text.
    #[test]
    fn whatever_a_policy_says_is_fit_to_print(
        outcome in prop_oneof![Just("allow"), Just("deny"), Just("abstain")],
        code in prop_oneof![Just("fine".to_owned()), any::<String>()],
        (reason, reason_bytes) in (any::<String>(), prop_oneof![Just(0), 0..5000_usize]),
        annotations in prop::collection::vec((any::<String>(), any::<String>()), 0..40),
        warnings in prop::collection::vec(any::<String>(), 0..4),
        warnings_times in 0..40,
        error in prop::option::weighted(0.2, any::<String>()),
        trap in prop::option::weighted(0.2, any::<String>()),
        images in prop::collection::vec(prop_oneof!["[a-z]{1,9}", any::<String>()], 1..4),
        namespace in any::<String>(),
    ) {
        let mut decision = json!({
            "outcome": outcome, "code": code, "reason": reason, "reasonBytes": reason_bytes,
            "annotations": annotations, "warnings": warnings, "warningsTimes": warnings_times,
        });
        for (key, text) in [("error", error), ("trap", trap)] {
            if let Some(text) = text {
                decision[key] = json!(text);
            }
        }
        let set = support::scripted_set(json!({ "*": decision }));
        let review = Review { namespace, annotations: Vec::new(), images };
        well_formed(&evaluate(&set, &review))?;
    }
}
