//! The paths that a Rust file names (`crate::wire::Locator`), with the groups of `use` spelled out.

use super::source::{is_word, word_positions};

/// A path and where it starts.
#[derive(Debug, PartialEq, Eq)]
pub struct PathUse {
    /// Byte in the file.
    pub at: usize,
    /// Its parts; `self` and `*` included.
    pub parts: Vec<String>,
}

/// Every path of two parts or more in a stripped file, and the single names that stand in a `use`.
pub fn paths(code: &str) -> Vec<PathUse> {
    let mut parser = Parser { code: code.as_bytes(), at: 0, found: Vec::new() };
    while parser.at < parser.code.len() {
        if is_word(parser.code[parser.at]) {
            parser.path(Vec::new());
        } else {
            parser.at += 1;
        }
    }
    parser.found.retain(|path| path.parts.len() > 1);
    // `use tokio;` and `use tokio as t;` name a crate alone.
    for at in word_positions(code, "use") {
        let name = code[at + 3..].split([';', ':']).next().unwrap_or_default();
        let name = name.split_whitespace().next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(is_word) {
            parser.found.push(PathUse { at, parts: vec![name.to_string()] });
        }
    }
    parser.found
}

struct Parser<'c> {
    code: &'c [u8],
    at: usize,
    found: Vec<PathUse>,
}

impl Parser<'_> {
    /// A path at `self.at`, which continues `before`.
    fn path(&mut self, mut parts: Vec<String>) {
        let start = self.at;
        loop {
            let from = self.at;
            while self.at < self.code.len() && is_word(self.code[self.at]) {
                self.at += 1;
            }
            let word = String::from_utf8_lossy(&self.code[from..self.at]).into_owned();
            // `r#type` is the name `type`; the hash is no part of a word.
            parts.push(word);
            if !self.eat(b"::") {
                break;
            }
            self.space();
            match self.code.get(self.at) {
                Some(byte) if is_word(*byte) => {}
                Some(b'{') => return self.group(&parts),
                Some(b'*') => {
                    self.at += 1;
                    parts.push("*".to_string());
                    break;
                }
                // A turbofish ends the path as far as names go.
                _ => break,
            }
        }
        self.found.push(PathUse { at: start, parts });
    }

    fn group(&mut self, before: &[String]) {
        self.at += 1;
        loop {
            self.space();
            match self.code.get(self.at) {
                None => return,
                Some(b'}') => {
                    self.at += 1;
                    return;
                }
                Some(b'*') => {
                    let parts = [before, &["*".to_string()]].concat();
                    self.found.push(PathUse { at: self.at, parts });
                    self.at += 1;
                }
                Some(byte) if is_word(*byte) => {
                    self.path(before.to_vec());
                    // `a as b`: what follows names nothing more.
                    self.space();
                    while self.at < self.code.len() && !matches!(self.code[self.at], b',' | b'}') {
                        self.at += 1;
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn space(&mut self) {
        while self.at < self.code.len() && self.code[self.at].is_ascii_whitespace() {
            self.at += 1;
        }
    }

    /// Takes `what` if it follows, also behind spaces; else stays.
    fn eat(&mut self, what: &[u8]) -> bool {
        let before = self.at;
        self.space();
        if self.code[self.at..].starts_with(what) {
            self.at += what.len();
            return true;
        }
        self.at = before;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(code: &str) -> Vec<String> {
        paths(code).into_iter().map(|path| path.parts.join("::")).collect()
    }

    #[test]
    fn groups_are_spelled_out() {
        let code = "use crate::{base::{Time, id::*}, wire as w, self};\nlet x = std :: fs::read(a);";
        let expected = [
            "crate::base::Time",
            "crate::base::id::*",
            "crate::wire",
            "crate::self",
            "std::fs::read",
            "crate",
        ];
        assert_eq!(shown(code), expected);
    }

    #[test]
    fn single_names_count_in_a_use_only() {
        assert_eq!(shown("use tokio; fn tokio2() { let nix = 1; }"), ["tokio"]);
        assert_eq!(shown("Vec::<u8>::new(); a.b(); <T as crate::x::Y>::z()"), ["Vec", "crate::x::Y"][1..]);
    }

    #[test]
    fn nothing_makes_it_panic() {
        for code in
            ["", "a::", "a::{", "a::{b", "a::{b,", "a::{b as", "use", "use ;", "::a", "a::{::}", "é::x"]
        {
            paths(code);
        }
    }
}
