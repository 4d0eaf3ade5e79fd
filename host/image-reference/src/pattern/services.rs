//! Registries that give names below theirs to anyone who asks.

use alloc::borrow::Cow;
use alloc::format;

use super::{Pattern, glob};
use crate::registry::split_port;

/// Hosts of such registries: `OWNER` stands where the owner's name does, `*` for a location. Each is written as a
/// pattern that is bound to an owner.
const SERVICES: &[&str] = &[
    "docker.io/OWNER/**",
    "ghcr.io/OWNER/**",
    "quay.io/OWNER/**",
    "gcr.io/OWNER/**",
    "public.ecr.aws/OWNER/**",
    "registry.gitlab.com/OWNER/**",
    "codeberg.org/OWNER/**",
    "OWNER.dkr.ecr.*.amazonaws.com/**",
    "OWNER.dkr.ecr-fips.*.amazonaws.com/**",
    "OWNER.dkr.ecr.*.amazonaws.com.cn/**",
    "OWNER.dkr-ecr.*.on.aws/**",
    "OWNER.azurecr.io/**",
    "OWNER.azurecr.cn/**",
    "OWNER.azurecr.us/**",
    "OWNER.*.azurecr.io/**",
    "*-docker.pkg.dev/OWNER/**",
    "*.gcr.io/OWNER/**",
    "OWNER.jfrog.io/**",
    "*.ocir.io/OWNER/**",
    "*.icr.io/OWNER/**",
    "rg.*.scw.cloud/OWNER/**",
    "registry.*.aliyuncs.com/OWNER/**",
    "OWNER-registry.*.cr.aliyuncs.com/**",
    "OWNER.tencentcloudcr.com/**",
    "OWNER.*.container-registry.ovh.net/**",
    "OWNER.cloudsmith.io/**",
    "OWNER.github.io/**",
    "OWNER.ngrok.io/**",
    "OWNER.ngrok.app/**",
    "OWNER.ngrok-free.app/**",
    "OWNER.trycloudflare.com/**",
    "OWNER.workers.dev/**",
    "OWNER.pages.dev/**",
    "OWNER.fly.dev/**",
    "OWNER.run.app/**",
    "OWNER.*.run.app/**",
    "OWNER.herokuapp.com/**",
    "OWNER.azurewebsites.net/**",
    "OWNER.*.cloudapp.azure.com/**",
    "OWNER.cloudfront.net/**",
    "OWNER.*.elb.amazonaws.com/**",
    "OWNER.duckdns.org/**",
    "OWNER.nip.io/**",
    "OWNER.sslip.io/**",
];

/// Hosts that look like such a registry and belong to one owner.
const OF_ONE_OWNER: &[&str] = &["k8s.gcr.io"];

/// Returns a pattern with an owner, if this pattern leaves the owner open. It has the host of this pattern, unless a `*` in
/// the host leaves the owner open.
pub(super) fn without_owner(pattern: &Pattern) -> Option<Cow<'static, str>> {
    let (host, _) = split_port(pattern.registry());
    if OF_ONE_OWNER.contains(&host) {
        return None;
    }
    let found = SERVICES.iter().copied().find(|service| {
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
    Some(match host.contains('*') {
        true => Cow::Borrowed(found),
        false => Cow::Owned(format!("{}/OWNER/**", pattern.registry())),
    })
}

/// Returns the pattern with an owner of the service below this domain, as in `amazonaws.com` and `*.azurecr.io`.
pub(super) fn below(host: &str) -> Option<&'static str> {
    let domain = host.trim_start_matches(['*', '.', '-']);
    if !domain.contains('.') {
        return None;
    }
    SERVICES.iter().copied().find(|service| {
        let (host, _) = service.split_once('/').unwrap_or((service, ""));
        host.strip_suffix(domain).is_some_and(|before| before.ends_with(['.', '-']))
    })
}
