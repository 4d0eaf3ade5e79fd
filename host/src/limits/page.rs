//! The table of limits for people: as Markdown, and in columns for a terminal.

use std::fmt::Write;

use super::{ALL, Limit, LimitGroup, OnExceed, Set};

/// Returns the table as Markdown: for each group a heading, the effect of exceeding its limits, and its rows.
pub fn markdown() -> String {
    let mut page = String::new();
    for LimitGroup { title, on_exceed, limits } in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "### {title}\n\n{on_exceed}\n");
        page.push_str("| limit | of | default | key, and its range | over it |\n|---|---|---|---|---|\n");
        for limit in *limits {
            let set = match limit.set {
                Set::Key { key, min, max } => {
                    format!("`{key}`, {} to {}", limit.show(min), limit.show(max))
                }
                Set::Fixed(why) => format!("none: {why}"),
            };
            let on_exceed = match limit.on_exceed {
                OnExceed::Message(message) => {
                    format!("“{}”", message.replace("{key}", limit.key().unwrap_or_default()))
                }
                OnExceed::Effect(effect) => effect.to_owned(),
            };
            let Limit { name, quantity, .. } = limit;
            let default = limit.show_default();
            let _ = writeln!(page, "| {name} | {quantity} | {default} | {set} | {on_exceed} |");
        }
        page.push('\n');
    }
    page
}

/// Returns the table for a terminal: name, default and key in columns.
pub fn columns() -> String {
    let mut text = String::new();
    for LimitGroup { title, limits, .. } in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{title}");
        for limit in *limits {
            let set = match limit.set {
                Set::Key { key, min, max } => {
                    format!("{key}: {} to {}", limit.show(min), limit.show(max))
                }
                Set::Fixed(_) => "fixed".to_owned(),
            };
            let _ = writeln!(
                text,
                "  {:<20} {:>10}  {:<44} {}",
                limit.name,
                limit.show_default(),
                set,
                limit.quantity
            );
        }
    }
    text
}
