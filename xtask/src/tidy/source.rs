//! Rust sources with comments, strings and characters blanked, so that rules see code only; and which
//! parts of it are tests. Byte positions and lines stay as they were.

use std::ops::Range;

/// `text` with everything that is not code replaced by spaces.
pub fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        match end {
            Some(end) => {
                for byte in &mut out[at..end] {
                    if *byte != b'\n' {
                        *byte = b' ';
                    }
                }
                at = end;
            }
            // A whole identifier at a time, so that the r of `for` starts no raw string.
            None if is_word(bytes[at]) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
            None => at += 1,
        }
    }
    String::from_utf8(out).expect("only whole characters are blanked, byte for byte")
}

/// Whether a byte belongs to an identifier or number.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The end of the comment, string or character that starts at `at`, if one does.
fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some(find(bytes, at, b"\n").unwrap_or(bytes.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(block_comment(bytes, at));
    }
    match rest[0] {
        b'"' => return Some(string(bytes, at + 1)),
        b'\'' => return character(bytes, at),
        _ => {}
    }
    // Prefixes of strings: b c r br cr, with hashes where raw.
    let prefix = rest.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
    let word = &rest[..prefix];
    if !matches!(word, b"b" | b"c" | b"r" | b"br" | b"cr") {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let quote = rest.get(prefix + hashes).copied();
    if word.contains(&b'r') && quote == Some(b'"') {
        let close = [b"\"", vec![b'#'; hashes].as_slice()].concat();
        let from = at + prefix + hashes + 1;
        return Some(find(bytes, from, &close).map_or(bytes.len(), |end| end + close.len()));
    }
    match (hashes, quote) {
        (0, Some(b'"')) => Some(string(bytes, at + prefix + 1)),
        (0, Some(b'\'')) if word == b"b" => character(bytes, at + prefix),
        _ => None,
    }
}

fn block_comment(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The end of a string whose first character is at `at`.
fn string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of the character whose quote is at `at`; `None` for a lifetime.
fn character(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        return find(bytes, at + 3, b"'").map(|end| end + 1);
    }
    let text = std::str::from_utf8(&bytes[at + 1..]).ok()?;
    let width = text.chars().next()?.len_utf8();
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let from = from.min(bytes.len());
    bytes[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
}

/// An inline module of a stripped file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineModule {
    /// Its name.
    pub name: String,
    /// Its braces and what is between them.
    pub body: Range<usize>,
    /// Whether it is compiled for tests only.
    pub test: bool,
}

/// The inline modules of a stripped file, in the order in which they open.
pub fn inline_modules(code: &str) -> Vec<InlineModule> {
    let mut found = Vec::new();
    for at in word_positions(code, "mod") {
        let after = &code[at + 3..];
        let name_at = at + 3 + (after.len() - after.trim_start().len());
        let name: String = code[name_at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let rest = &code[name_at + name.len()..];
        if name.is_empty() || !rest.trim_start().starts_with('{') {
            continue;
        }
        let open = name_at + name.len() + rest.find('{').expect("just seen");
        let body = open..matching_brace(code, open);
        found.push(InlineModule { name, body, test: has_test_attribute(&code[..at]) });
    }
    found
}

/// The names of modules declared `#[cfg(test)] mod NAME;`: their files are tests.
pub fn test_module_files(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for at in word_positions(code, "mod") {
        let declaration = code[at + 3..].split(';').next().unwrap_or_default().trim();
        let is_name = !declaration.is_empty() && declaration.bytes().all(is_word);
        if is_name && has_test_attribute(&code[..at]) {
            found.push(declaration.to_string());
        }
    }
    found
}

/// Whether the attributes at the end of `before` (which ends at `mod`) hold a `cfg` of tests.
fn has_test_attribute(before: &str) -> bool {
    let item = before.rfind([';', '}', '{']).map_or(0, |at| at + 1);
    let attributes: String = before[item..].split_whitespace().collect();
    attributes.contains("#[cfg(test)]") || attributes.contains("#[cfg(any(test")
}

/// Where `word` stands alone.
pub fn word_positions<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let after = bytes.get(at + word.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn matching_brace(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return open + offset + 1;
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let text = r####"
// crate::a
/* crate::b /* crate::c */ crate::d */
let s = "crate::e \" crate::f";
let r = r#"crate::g " crate::h"#; let b = b"crate::i"; let c = b'"';
let q = '"'; let l: &'static str = crate::keep1; let e = '\''; let u = '→'; let n = '\u{1F600}';
for r in crate::keep2 {}
/// crate::j
"####;
        let code = strip(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
        let left: Vec<&str> = code.match_indices("crate::").map(|(at, _)| &code[at..at + 12]).collect();
        assert_eq!(left, ["crate::keep1", "crate::keep2"]);
    }

    #[test]
    fn nothing_makes_it_panic() {
        for text in ["", "\"", "'", "r#\"", "/*", "b'", "'\\", "\"\\", "→'→", "r", "br#", "mod", "mod x {"]
        {
            let code = strip(text);
            assert_eq!(code.len(), text.len(), "{text}");
            inline_modules(&code);
            test_module_files(&code);
        }
    }

    #[test]
    fn finds_modules_and_which_are_tests() {
        let code = strip("pub mod a { mod b { } }\n#[cfg(test)]\nmod tests { fn f() { } }\nfn modern() {}");
        let modules = inline_modules(&code);
        let names: Vec<(&str, bool)> = modules.iter().map(|m| (m.name.as_str(), m.test)).collect();
        assert_eq!(names, [("a", false), ("b", false), ("tests", true)]);
        assert!(modules[0].body.start < modules[1].body.start && modules[1].body.end < modules[0].body.end);
        let files =
            test_module_files("mod a; #[cfg(test)] #[allow(x)] mod b; #[cfg(any(test, x))] pub mod c;");
        assert_eq!(files, ["b", "c"]);
    }
}
