//! The policy with settings of the guide (host/docs/rust.md).

use image_policy::{Context, Decision, Image, Line, Malfunction, Mistakes, Patterns, Policy};
use image_policy::{abstain, allow, deny, log, policy};
use serde::Deserialize;

/// Images that namespaces may run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rules {
    /// The registry that teams push to.
    registry: String,
    /// Images that every namespace may run.
    #[serde(default)]
    shared: Patterns,
    /// Namespaces that run anything.
    #[serde(default)]
    sandboxes: Vec<String>,
    /// The end of each denial: where to ask.
    message: Option<Line<300>>,
}

impl Policy for Rules {
    fn evaluate(&self, image: &Image, context: &Context) -> Result<Decision, Malfunction> {
        if self.sandboxes.contains(&context.namespace) {
            return Ok(abstain("sandbox", "a sandbox runs anything"));
        }
        if let Some(pattern) = self.shared.first_match(&image.reference()) {
            return Ok(allow("shared", "every namespace may run it").annotate("pattern", pattern.as_str()));
        }
        let team = format!("{}/", context.namespace);
        if image.registry == self.registry && image.repository.starts_with(&team) {
            return Ok(allow("own-image", "its own team has pushed it"));
        }
        let message = self.message.as_ref().map_or("ask the platform team", Line::as_str);
        Ok(deny("foreign-image", format!("write {}/{team}…: {message}", self.registry)))
    }

    fn check(&self, mistakes: &mut Mistakes) {
        if self.sandboxes.iter().any(|name| name == "kube-system") {
            mistakes.add("/sandboxes", "kube-system is no sandbox");
        }
    }

    fn loaded(&self) {
        log::info!("{} patterns are shared", self.shared.all().len());
    }
}

policy!(Rules);

mod tests {
    use super::Rules;
    use image_policy::test::settings;
    use image_policy::{assert_allows, assert_denies};

    #[test]
    fn teams_run_their_own_images() {
        let rules: Rules =
            settings(r#"{ "registry": "ghcr.io", "shared": ["registry.k8s.io/**"] }"#).unwrap();
        assert_allows!(rules, "ghcr.io/shop/web:1", "own-image", in "shop");
        assert_allows!(rules, "registry.k8s.io/pause:3.9", "shared");
        let decision = assert_denies!(rules, "nginx", "foreign-image", in "shop");
        assert_eq!(decision.reason, "write ghcr.io/shop/…: ask the platform team");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let wrong = r#"{ "registry": 7, "shared": ["nginx", "ghcr.io/acme/**"], "mesage": "see the wiki" }"#;
        let mistakes = settings::<Rules>(wrong).unwrap_err();
        assert_eq!(mistakes.pointers(), ["/registry", "/shared/0", "/mesage"]);
    }

    image_policy::suite!(Rules, "tests/suite");

    #[test]
    fn a_sandbox_is_left_to_other_policies() {
        let rules: Rules = settings(r#"{ "registry": "ghcr.io", "sandboxes": ["play"] }"#).unwrap();
        image_policy::assert_abstains!(rules, "nginx", "sandbox", in "play");
        let mistakes =
            settings::<Rules>(r#"{ "registry": "ghcr.io", "sandboxes": ["kube-system"] }"#).unwrap_err();
        assert_eq!(mistakes.to_string(), "/sandboxes: kube-system is no sandbox");
    }

    #[test]
    fn the_guide_shows_the_messages() {
        let wrong = r#"{ "registry": 7, "shared": ["nginx", "ghcr.io/acme/**"], "mesage": "see the wiki" }"#;
        let expected = "/registry: wanted a string, found a number\n\
            /shared/0: a pattern begins with its registry: write `docker.io/library/nginx`\n\
            /mesage: unknown key `mesage`: did you mean `message`?";
        assert_eq!(settings::<Rules>(wrong).unwrap_err().to_string(), expected);
    }
}
