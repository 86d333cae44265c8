//! Names of levels, as the world writes them, to OpenTelemetry's severity numbers.

/// The severity number of a level's name; `None` for a word that is none.
pub fn severity(name: &str) -> Option<u8> {
    let mut lower = [0_u8; 13];
    let name = name.trim();
    let bytes = lower.get_mut(..name.len())?;
    bytes.copy_from_slice(name.as_bytes());
    bytes.make_ascii_lowercase();
    Some(match &*bytes {
        b"trace" | b"trc" | b"finest" | b"verbose" => 1,
        b"debug" | b"dbg" | b"fine" => 5,
        b"info" | b"inf" | b"information" | b"informational" => 9,
        b"notice" => 10,
        b"warn" | b"warning" | b"wrn" => 13,
        b"error" | b"err" | b"eror" | b"severe" => 17,
        b"crit" | b"critical" => 21,
        b"alert" => 22,
        b"fatal" | b"ftl" | b"panic" => 21,
        b"emerg" | b"emergency" => 24,
        _ => return None,
    })
}

/// Syslog's severities, 0 (emergency) to 7 (debug), as OpenTelemetry maps them.
pub fn of_syslog(severity: u8) -> u8 {
    [24, 22, 21, 17, 13, 10, 9, 5].get(usize::from(severity)).copied().unwrap_or(0)
}

/// A level among the first words of a line of text, for example `[ERROR]`, `WARN:`, `level=info` or `<3>`-less syslog text.
/// Only words in capitals or in brackets, since `error` in a sentence is a word like any other.
pub fn in_text(text: &str) -> u8 {
    let head = text.get(..text.len().min(80)).or_else(|| text.get(..text.floor_char_boundary(80))).unwrap_or(text);
    for word in head.split([' ', '\t', '|', ',', ';']).take(8) {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let bracketed = word.starts_with(['[', '<', '(']) || word.ends_with(':');
        let capitals = bare.len() >= 3 && bare.bytes().all(|byte| byte.is_ascii_uppercase());
        if (capitals || bracketed)
            && let Some(severity) = severity(bare)
        {
            return severity;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_brackets_or_capitals_are_levels() {
        assert_eq!(in_text("[error] no such file"), 17);
        assert_eq!(in_text("2024-01-02 03:04:05,123 WARN  [main] c.e.App - slow"), 13);
        assert_eq!(in_text("DEBUG: x"), 5);
        assert_eq!(in_text("an error is a word here"), 0);
        assert_eq!(in_text("I am INFORMATIONALLY overdressed"), 0);
        assert_eq!(in_text(&"é".repeat(60)), 0);
    }
}
