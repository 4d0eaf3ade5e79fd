//! The table of limits for people: as Markdown, and in columns for a terminal.

use std::fmt::Write;

use super::{ALL, Bound, Group, Over, Set};

/// Returns the table as Markdown: for each group a heading, the effect of exceeding its limits, and its rows.
pub fn markdown() -> String {
    let mut page = String::new();
    for Group { title, over, bounds } in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "### {title}\n\n{over}\n");
        page.push_str("| bound | of | default | key, and its range | over it |\n|---|---|---|---|---|\n");
        for bound in *bounds {
            let set = match bound.set {
                Set::Key { key, least, most } => {
                    format!("`{key}`, {} to {}", bound.show(least), bound.show(most))
                }
                Set::Fixed(why) => format!("none: {why}"),
            };
            let over = match bound.over {
                Over::Says(message) => {
                    format!("“{}”", message.replace("{key}", bound.key().unwrap_or_default()))
                }
                Over::Does(what) => what.to_owned(),
            };
            let Bound { name, what, .. } = bound;
            let _ = writeln!(page, "| {name} | {what} | {} | {set} | {over} |", bound.show_default());
        }
        page.push('\n');
    }
    page
}

/// Returns the table for a terminal: name, default and key in columns.
pub fn columns() -> String {
    let mut text = String::new();
    for Group { title, bounds, .. } in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{title}");
        for bound in *bounds {
            let set = match bound.set {
                Set::Key { key, least, most } => {
                    format!("{key}: {} to {}", bound.show(least), bound.show(most))
                }
                Set::Fixed(_) => "fixed".to_owned(),
            };
            let _ = writeln!(
                text,
                "  {:<20} {:>10}  {:<44} {}",
                bound.name,
                bound.show_default(),
                set,
                bound.what
            );
        }
    }
    text
}
