//! A namespace runs the images that its own team has built: `ghcr.io/acme/NAMESPACE/…`.

use image_policy::{Context, Decision, Image, allow, deny, policy};

fn team_images(image: &Image, context: &Context) -> Decision {
    let team = format!("acme/{}/", context.namespace);
    let reason = format!("namespace {} runs images of ghcr.io/{team}", context.namespace);
    if image.registry == "ghcr.io" && image.repository.starts_with(&team) {
        return allow("own-image", reason);
    }
    deny("foreign-image", reason)
}

policy!(fn team_images);

#[cfg(test)]
mod tests {
    use image_policy::{assert_allows, assert_denies};

    use super::team_images;

    image_policy::suite!(fn team_images, "suite");

    #[test]
    fn a_team_runs_its_own_images() {
        assert_allows!(team_images, "ghcr.io/acme/shop/web:1", "own-image", in "shop");
        assert_denies!(team_images, "ghcr.io/acme/shop/web:1", "foreign-image", in "billing");
        assert_denies!(team_images, "ghcr.io/acme/shop-evil/web:1", "foreign-image", in "shop");
    }
}
