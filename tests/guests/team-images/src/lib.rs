//! A namespace runs the images that its own team has built: `ghcr.io/acme/NAMESPACE/…`.

wit_bindgen::generate!({ path: "wit", world: "image-policy" });

use exports::image_policy::host::policy::{Context, Decision, Guest, Image, Outcome, SettingsError};

struct TeamImages;

impl Guest for TeamImages {
    fn configure(_settings: String) -> Result<(), Vec<SettingsError>> {
        Ok(())
    }

    fn evaluate(image: Image, context: Context) -> Result<Decision, String> {
        let team = format!("acme/{}/", context.namespace);
        let own = image.registry == "ghcr.io" && image.repository.starts_with(&team);
        Ok(Decision {
            outcome: if own { Outcome::Allow } else { Outcome::Deny },
            code: if own { "own-image" } else { "foreign-image" }.to_owned(),
            reason: format!("namespace {} runs images of ghcr.io/{team}", context.namespace),
            audit_annotations: vec![],
            warnings: vec![],
        })
    }
}

export!(TeamImages);
