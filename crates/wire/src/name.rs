//! Names that people give to processes and nodes.

use crate::ProcessId;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 63;

/// A name that cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has characters that it may not have, or too many, or none.
    #[error("a name has 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`; choose another")]
    Characters,
    /// It could not be told from a process's id.
    #[error("a name of 16 hexadecimal digits would be taken for an id; choose another")]
    LikeAnId,
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Checks the name of a process or node.
///
/// What begins like an id is allowed (`cafe`, `1`): where a text can mean either, a name goes
/// before the beginning of an id.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_allowed) {
        return Err(NameError::Characters);
    }
    match name.parse::<ProcessId>() {
        Ok(_) => Err(NameError::LikeAnId),
        Err(_) => Ok(()),
    }
}

/// What is left of a text when all that a name may not have is taken out; at most `most` bytes, and
/// `otherwise` where nothing is left that could be a name.
pub fn name_from(text: &str, most: usize, otherwise: &str) -> String {
    let allowed = text.chars().filter(|c| is_allowed(*c));
    let name: String = allowed.take(most.min(MAX_NAME)).collect();
    match check_name(&name) {
        Ok(()) => name,
        Err(_) => otherwise.to_owned(),
    }
}

/// A text that somebody else wrote, fit for a line of a log or a terminal: so many characters of it,
/// and none that a terminal would obey.
pub fn printable(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_confuse_are_refused() {
        for name in ["", "a b", "a/b", "\u{e9}", "a\nb", &"x".repeat(64)] {
            assert_eq!(check_name(name), Err(NameError::Characters), "{name}");
        }
        let id = ProcessId(0xcafe_0000_0000_0001).to_string();
        assert_eq!(check_name(&id), Err(NameError::LikeAnId));
        for name in ["web-1.a_b", "cafe", "7", &"x".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_others_wrote_is_short_and_harmless_to_a_terminal() {
        assert_eq!(printable("a\x1b[2J\r\nb", 100), "a?[2J??b");
        assert_eq!(printable(&"\u{e9}".repeat(1000), 10).chars().count(), 10);
    }

    #[test]
    fn a_name_is_made_from_any_text() {
        assert_eq!(name_from("we ird$", 40, "process"), "weird");
        assert_eq!(name_from("$$", 40, "process"), "process");
        assert_eq!(name_from("0123456789abcdef", 40, "process"), "process");
        assert_eq!(name_from(&"x".repeat(100), 100, "process").len(), MAX_NAME);
    }
}
