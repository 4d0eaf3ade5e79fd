//! Registries that give names below theirs to anyone who asks.

use alloc::borrow::Cow;
use alloc::format;

use super::{Pattern, glob};
use crate::registry::split_port;

/// Ends of the hosts of such registries, and the registries: `OWNER` stands for the owner's name, `*` for a
/// location. Each registry is written as a pattern that is bound to an owner.
const SERVICES: &[(&str, &str)] = &[
    ("docker.io", "docker.io/OWNER/**"),
    ("ghcr.io", "ghcr.io/OWNER/**"),
    ("quay.io", "quay.io/OWNER/**"),
    ("gcr.io", "gcr.io/OWNER/**"),
    ("public.ecr.aws", "public.ecr.aws/OWNER/**"),
    ("registry.gitlab.com", "registry.gitlab.com/OWNER/**"),
    ("codeberg.org", "codeberg.org/OWNER/**"),
    ("amazonaws.com", "OWNER.dkr.ecr.*.amazonaws.com/**"),
    ("amazonaws.com", "OWNER.dkr.ecr-fips.*.amazonaws.com/**"),
    ("amazonaws.com.cn", "OWNER.dkr.ecr.*.amazonaws.com.cn/**"),
    ("on.aws", "OWNER.dkr-ecr.*.on.aws/**"),
    ("azurecr.io", "OWNER.azurecr.io/**"),
    ("azurecr.cn", "OWNER.azurecr.cn/**"),
    ("azurecr.us", "OWNER.azurecr.us/**"),
    ("azurecr.io", "OWNER.*.azurecr.io/**"),
    ("-docker.pkg.dev", "*-docker.pkg.dev/OWNER/**"),
    ("gcr.io", "*.gcr.io/OWNER/**"),
    ("jfrog.io", "OWNER.jfrog.io/**"),
    ("ocir.io", "*.ocir.io/OWNER/**"),
    ("icr.io", "*.icr.io/OWNER/**"),
    ("scw.cloud", "rg.*.scw.cloud/OWNER/**"),
    ("aliyuncs.com", "registry.*.aliyuncs.com/OWNER/**"),
    ("cr.aliyuncs.com", "OWNER-registry.*.cr.aliyuncs.com/**"),
    ("tencentcloudcr.com", "OWNER.tencentcloudcr.com/**"),
    ("container-registry.ovh.net", "OWNER.*.container-registry.ovh.net/**"),
    ("cloudsmith.io", "OWNER.cloudsmith.io/**"),
    ("github.io", "OWNER.github.io/**"),
    ("ngrok.io", "OWNER.ngrok.io/**"),
    ("ngrok.app", "OWNER.ngrok.app/**"),
    ("ngrok-free.app", "OWNER.ngrok-free.app/**"),
    ("trycloudflare.com", "OWNER.trycloudflare.com/**"),
    ("workers.dev", "OWNER.workers.dev/**"),
    ("pages.dev", "OWNER.pages.dev/**"),
    ("fly.dev", "OWNER.fly.dev/**"),
    ("run.app", "OWNER.run.app/**"),
    ("run.app", "OWNER.*.run.app/**"),
    ("herokuapp.com", "OWNER.herokuapp.com/**"),
    ("azurewebsites.net", "OWNER.azurewebsites.net/**"),
    ("cloudapp.azure.com", "OWNER.*.cloudapp.azure.com/**"),
    ("cloudfront.net", "OWNER.cloudfront.net/**"),
    ("elb.amazonaws.com", "OWNER.*.elb.amazonaws.com/**"),
    ("duckdns.org", "OWNER.duckdns.org/**"),
    ("nip.io", "OWNER.nip.io/**"),
    ("sslip.io", "OWNER.sslip.io/**"),
];

/// Hosts that look like such a registry and belong to one owner.
const OF_ONE_OWNER: &[&str] = &["k8s.gcr.io"];

/// Returns a pattern with an owner, if this pattern leaves the owner open. It has the host of this pattern,
/// unless a `*` in the host leaves the owner open.
pub(super) fn without_owner(pattern: &Pattern) -> Option<Cow<'static, str>> {
    let (host, _) = split_port(pattern.registry());
    if OF_ONE_OWNER.contains(&host) {
        return None;
    }
    let is_literal = !host.contains('*');
    let (_, found) = SERVICES.iter().copied().find(|(end, service)| {
        // Lists have thousands of patterns, and nearly all of them end here.
        if is_literal && !host.ends_with(end) {
            return false;
        }
        let (theirs, path) = service.split_once('/').unwrap_or((service, ""));
        let owner_in_path = path.starts_with("OWNER");
        let owner_open = |label: &str| label.contains('*');
        let mut open = owner_in_path
            && pattern
                .path_text()
                .split('/')
                .next()
                .is_none_or(|first| first.is_empty() || owner_open(first));
        let mut own = host.rsplit('.');
        let mut theirs = theirs.rsplit('.');
        loop {
            match (own.next(), theirs.next()) {
                (None, None) => return open,
                (Some(own), Some(theirs)) if theirs.starts_with("OWNER") => open |= owner_open(own),
                (Some(own), Some(theirs)) if glob::matches(theirs, own) => {}
                (Some(own), Some(theirs))
                    if own.contains('*') && (theirs.contains('*') || glob::matches(own, theirs)) => {}
                _ => return false,
            }
        }
    })?;
    Some(match is_literal {
        false => Cow::Borrowed(found),
        true => Cow::Owned(format!("{}/OWNER/**", pattern.registry())),
    })
}

/// Returns the pattern with an owner of the service below this domain, as in `amazonaws.com` and
/// `*.azurecr.io`.
pub(super) fn below(host: &str) -> Option<&'static str> {
    let domain = host.trim_start_matches(['*', '.', '-']);
    if !domain.contains('.') {
        return None;
    }
    let (_, service) = SERVICES.iter().copied().find(|(_, service)| {
        let (host, _) = service.split_once('/').unwrap_or((service, ""));
        host.strip_suffix(domain).is_some_and(|before| before.ends_with(['.', '-']))
    })?;
    Some(service)
}
