//! Costs of the host in one table, with ratios and goals: `cargo bench -p host`, or only the named parts
//! (`cargo bench -p host -- webhook`).
//!
//! Ratios are of one run and compare between machines; the figures themselves do not. Criterion measures code
//! that runs in this process. Figures of a whole process (CPU time, memory, its start) are medians of
//! interleaved rounds.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod webhook;
mod evaluations;
mod loads;
mod memory;
mod server;
mod subjects;
mod swaps;

use std::path::Path;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// One line of the table.
struct Row {
    what: String,
    figure: String,
    /// The ratio, and the name of its base.
    ratio: Option<(f64, &'static str)>,
    goal: Option<Goal>,
}

/// A goal and whether it was reached.
struct Goal {
    words: String,
    reached: bool,
}

impl Row {
    fn new(what: impl Into<String>, figure: impl Into<String>) -> Row {
        Row { what: what.into(), figure: figure.into(), ratio: None, goal: None }
    }

    fn ratio(self, ratio: f64, to: &'static str) -> Row {
        Row { ratio: Some((ratio, to)), ..self }
    }

    fn goal(self, words: impl Into<String>, reached: bool) -> Row {
        Row { goal: Some(Goal { words: words.into(), reached }), ..self }
    }

    /// Sets a maximum of the ratio as the goal.
    fn at_most(self, most: f64) -> Row {
        let reached = self.ratio.is_some_and(|(ratio, _)| ratio <= most);
        self.goal(format!("≤ {most}"), reached)
    }
}

/// Measures one part.
type Part = fn() -> Result<Vec<Row>, Error>;

/// The parts, in the order of the table.
const PARTS: [(&str, Part); 5] = [
    ("evaluations", evaluations::rows),
    ("loads", loads::rows),
    ("webhook", webhook::rows),
    ("memory", memory::rows),
    ("swaps", swaps::rows),
];

fn main() -> Result<(), Error> {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [role, folder] = arguments.as_slice()
        && role == "bare"
    {
        return runtime()?.block_on(webhook::bare(Path::new(folder)));
    }
    if let Some(unknown) = arguments.iter().find(|argument| PARTS.iter().all(|(name, _)| name != argument)) {
        let parts = PARTS.map(|(name, _)| name).join(", ");
        return Err(format!("{unknown}: there is no such part; there are {parts}").into());
    }
    let mut sections = Vec::new();
    for (name, rows) in PARTS {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            println!("measuring: {name}");
            sections.push((name, rows()?));
        }
    }
    print(&sections);
    Ok(())
}

fn print(sections: &[(&str, Vec<Row>)]) {
    println!("\n{}\n", machine());
    for (name, rows) in sections {
        println!("{:58} {:>12} {:>26}  goal", format!("== {name}"), "", "ratio");
        for Row { what, figure, ratio, goal } in rows {
            let ratio = ratio.map(|(ratio, to)| format!("{ratio:.2} x {to}")).unwrap_or_default();
            let goal = goal.as_ref().map(|Goal { words, reached }| {
                format!("  {words}: {}", if *reached { "reached" } else { "missed" })
            });
            println!("{what:58} {figure:>12} {ratio:>26}{}", goal.unwrap_or_default());
        }
        println!();
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("\t: unknown processor");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{} x {}, load average {load}", processors, model.trim_start_matches(['\t', ' ', ':']))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn microseconds(value: f64) -> String {
    format!("{value:.1} µs")
}

fn milliseconds(value: f64) -> String {
    format!("{value:.2} ms")
}
