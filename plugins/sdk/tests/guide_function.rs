//! The first policy of the guide (host/docs/rust.md).

use image_policy::{Context, Decision, Image, allow, deny, policy};

fn pinned(image: &Image, _: &Context) -> Decision {
    match image.digest {
        Some(_) => allow("pinned", "it is named by a digest"),
        None => deny("not-pinned", format!("write {}@sha256:…", image.original)),
    }
}

policy!(fn pinned);

#[test]
fn an_image_without_a_digest_is_denied() {
    image_policy::assert_denies!(pinned, "nginx:1", "not-pinned");
    image_policy::assert_allows!(pinned, &format!("nginx@sha256:{}", "0".repeat(64)), "pinned");
}
