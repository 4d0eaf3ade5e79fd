//! The text of an expression: its limits, its syntax, and the places in it.
//!
//! The parser and the interpreter recurse, and a component has a small stack. So a text is scanned first,
//! token by token: a text that nests too deep is refused with its place, and never parsed.

use std::sync::Arc;

use cel_interpreter::IdedExpr;
use cel_interpreter::common::ast::SourceInfo;
use cel_interpreter::parser::PrattParser;
use cel_interpreter::parser::pratt_parser::{Lexer, TokenKind};

use crate::contract::TextPosition;
use crate::functions::MACROS;

/// Limit of one text, in bytes.
pub const BYTES: usize = 8 * 1024;

/// Limit of the tree's depth. The stack of the component holds a quarter more: a suite has expressions of
/// this depth.
pub const DEPTH: usize = 32;

/// Levels that a macro such as `all` adds around its arguments.
const MACRO: usize = 4;

/// A mistake in a text.
#[derive(Debug)]
pub struct Fault {
    /// The sentence.
    pub message: String,
    /// Where the mistake begins. None where the whole text is meant.
    pub position: Option<TextPosition>,
}

/// A parsed text.
#[derive(Debug)]
pub struct Parsed {
    /// The expression.
    pub tree: IdedExpr,
    /// The text.
    text: String,
    /// Where each node of the tree stands in the text.
    places: Option<Arc<SourceInfo>>,
}

impl Parsed {
    /// Returns the place of a node. Returns None if a macro made the node.
    pub fn position(&self, node: u64) -> Option<TextPosition> {
        let (start, _) = self.places.as_ref()?.offset_for(node)?;
        Some(position(&self.text, start as usize))
    }
}

/// Parses a text.
///
/// # Errors
/// All mistakes of the syntax, or the first limit that the text exceeds.
pub fn parse(text: &str) -> Result<Parsed, Vec<Fault>> {
    scan(text).map_err(|fault| vec![fault])?;
    let parser = || {
        PrattParser::new()
            .enable_optional_syntax(true)
            .max_recursion_depth(u16::try_from(DEPTH).unwrap_or(u16::MAX))
    };
    let tree = parser().parse(text).map_err(|found| {
        let faults = found
            .errors
            .iter()
            .map(|error| Fault { message: sentence(&error.msg), position: of_bytes(text, error.pos) });
        faults.collect::<Vec<_>>()
    })?;
    // The parser returns the places of the nodes only with an error. The same text with one token too many
    // has the same nodes, with the same numbers.
    let more = parser().parse(&format!("{text}\n)"));
    let places = more.err().and_then(|found| found.errors.into_iter().find_map(|error| error.source_info));
    Ok(Parsed { tree, text: text.to_owned(), places })
}

/// Returns the parser's message in the words of this project.
fn sentence(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    match message.strip_prefix("reserved identifier: ") {
        Some("namespace") => "`namespace` is a reserved word of CEL: write `request.namespace`".to_owned(),
        Some(word) => format!("`{word}` is a reserved word of CEL"),
        None => message.replace("mismatched input '<EOF>' expecting expression", "an expression is missing"),
    }
}

/// Returns the line and column of a byte of the text. A byte after the end counts as the end.
pub fn position(text: &str, byte: usize) -> TextPosition {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.chars().rev().take_while(|c| *c != '\n').count().saturating_add(1);
    TextPosition { line: number(line), column: number(column) }
}

/// Returns the place of the parser, whose columns are bytes, in characters.
fn of_bytes(text: &str, (line, column): (isize, isize)) -> Option<TextPosition> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    Some(position(text, start.saturating_add(column)))
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One pair of brackets, or the text outside of all brackets.
#[derive(Default)]
struct Level {
    /// Depth of the current operand of `&&`, `||` or `,`, with the operators around it so far.
    operand: usize,
    /// Depth of the deepest operand before.
    deepest: usize,
    /// Number of `&&` and `||`.
    logical: usize,
    /// Number of `?` of conditions, which nest to the right.
    conditions: usize,
    /// Whether the brackets hold the arguments of a macro.
    is_macro: bool,
}

impl Level {
    fn depth(&self) -> usize {
        let logical = usize::try_from(self.logical.checked_ilog2().map_or(0, |log| log + 1)).unwrap_or(0);
        let own = self.operand.max(self.deepest).saturating_add(if self.is_macro { MACRO } else { 0 });
        own.saturating_add(logical).saturating_add(self.conditions).saturating_add(1)
    }

    fn next_operand(&mut self) {
        self.deepest = self.deepest.max(self.operand);
        self.operand = 0;
    }
}

/// Refuses a text that is too long, has characters that CEL has no use for, or may nest deeper than
/// [`DEPTH`].
fn scan(text: &str) -> Result<(), Fault> {
    let whole = |message: String| Fault { message, position: None };
    if text.trim().is_empty() {
        return Err(whole("empty: write an expression".to_owned()));
    }
    if text.len() > BYTES {
        return Err(whole(format!("{} bytes: an expression has at most {BYTES}", text.len())));
    }
    let mut lexer = Lexer::new(text);
    let mut levels = vec![Level::default()];
    let mut previous = (TokenKind::TokEnd, "");
    loop {
        let token = lexer.lex();
        let fault = |message: String| Fault { message, position: Some(position(text, token.start)) };
        match token.kind {
            TokenKind::TokEnd => break,
            TokenKind::TokWhitespace | TokenKind::TokComment => continue,
            TokenKind::TokError => {
                let message = lexer.get_error().map(|error| error.message.clone());
                return Err(fault(message.unwrap_or_else(|| "unexpected character".to_owned())));
            }
            kind => step(&mut levels, kind, previous),
        }
        let outer = levels.iter().map(Level::depth).fold(0_usize, usize::saturating_add);
        if outer > DEPTH {
            return Err(fault(format!("the expression nests deeper than {DEPTH} levels: use `variables`")));
        }
        previous = (token.kind, text.get(token.start..token.end).unwrap_or_default());
    }
    Ok(())
}

/// Counts one token. The token before it comes with its text.
fn step(levels: &mut Vec<Level>, kind: TokenKind, (previous, name): (TokenKind, &str)) {
    use TokenKind as T;
    match kind {
        T::TokLeftParen | T::TokLeftBracket | T::TokLeftBrace => {
            let is_macro = kind == T::TokLeftParen && MACROS.contains(&name);
            levels.push(Level { is_macro, ..Level::default() });
        }
        T::TokRightParen | T::TokRightBracket | T::TokRightBrace => {
            // Brackets that do not fit are the parser's to tell.
            if levels.len() < 2 {
                return;
            }
            let inner = levels.pop().map_or(0, |level| level.depth());
            if let Some(level) = levels.last_mut() {
                level.operand = level.operand.max(inner).saturating_add(1);
            }
        }
        _ => {
            let Some(level) = levels.last_mut() else { return };
            match kind {
                T::TokComma | T::TokColon => level.next_operand(),
                T::TokLogicalAnd | T::TokLogicalOr => {
                    level.next_operand();
                    level.logical = level.logical.saturating_add(1);
                }
                T::TokQuestion if previous != T::TokDot => {
                    level.next_operand();
                    level.conditions = level.conditions.saturating_add(1);
                }
                T::TokIdent | T::TokReservedWord | T::TokNull | T::TokTrue | T::TokFalse => {}
                T::TokInt | T::TokUint | T::TokFloat | T::TokString | T::TokBytes | T::TokQuestion => {}
                // A selection, and the other operators.
                _ => level.operand = level.operand.saturating_add(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DEPTH, parse, position};

    fn first(text: &str) -> String {
        match parse(text) {
            Ok(_) => "parses".to_owned(),
            Err(faults) => {
                let fault = faults.into_iter().next().unwrap();
                let at = fault.position.map_or(String::new(), |p| format!("{}:{}: ", p.line, p.column));
                format!("{at}{}", fault.message)
            }
        }
    }

    #[test]
    fn columns_are_characters() {
        let text = "'é' ==\n 'ü' + x";
        assert_eq!(position(text, text.find('x').unwrap()), (2, 8).into());
        assert_eq!(first("'é' == 'ü' )"), "1:12: mismatched input ')' expecting <EOF>");
        assert_eq!(first("'é' == §"), "1:8: unexpected character");
    }

    #[test]
    fn every_node_has_its_place() {
        let parsed = parse("// a comment\nimage.registry ==\n  imge").unwrap();
        let places: Vec<_> = (1..=4).filter_map(|node| parsed.position(node)).collect();
        assert_eq!(places, [(2, 1).into(), (2, 6).into(), (2, 16).into(), (3, 3).into()]);
    }

    #[test]
    fn hostile_nesting_is_refused_before_it_is_parsed() {
        let deep = |text: &str, times: usize| first(&text.repeat(times));
        for text in ["(", "[", "{1:", "f(", "a[", "a?b:", "1+", "a.", "-!", "a ? ", "a.all(x,"] {
            assert!(
                deep(text, 500).contains(&format!("deeper than {DEPTH} levels")),
                "{text}: {}",
                deep(text, 500)
            );
        }
        let right = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        assert!(first(&right).contains("deeper"), "{right}");
        // The balanced trees of logical operators are no deeper than their logarithm.
        assert_eq!(first(&format!("true{}", " && true".repeat(500))), "parses");
        assert_eq!(first(&format!("[1{}]", ", 1".repeat(500))), "parses");
    }

    #[test]
    fn a_reserved_word_has_a_remedy() {
        assert_eq!(
            first("namespace == 'a'"),
            "1:1: `namespace` is a reserved word of CEL: write `request.namespace`"
        );
        assert_eq!(first("object.metadata.namespace == 'a'"), "parses");
        assert_eq!(first(" "), "empty: write an expression");
    }
}
