//! Reads what strace wrote (`-f -y -xx`): system calls, whole, in the order in which they began.
//!
//! ```text
//! 16510 pwrite64(14<\x2f\x74…>, "\x00\x01…", 4096, 8192) = 4096
//! 16514 unlink("\x2f…" <unfinished ...>
//! 16514 <... unlink resumed>)             = 0
//! ```
//! Strings and paths are hexadecimal, so nothing in them can look like the text around them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The thread's number.
    pub thread: u32,
    /// Its name.
    pub name: String,
    /// Its arguments, as strace wrote them.
    pub args: Vec<String>,
    /// What it gave back; `None` when the thread died in it.
    pub result: Option<i64>,
    /// The path of the descriptor that it gave back.
    pub opened: Option<Vec<u8>>,
    /// The line on which it began.
    pub begin: usize,
    /// The line on which it ended.
    pub end: usize,
}

impl Call {
    /// An argument.
    pub fn arg(&self, index: usize) -> Result<&str> {
        self.args
            .get(index)
            .map(String::as_str)
            .with_context(|| format!("{} has no argument {index}", self.name))
    }

    /// An argument that is a number, decimal or octal.
    pub fn number(&self, index: usize) -> Result<i64> {
        let text = self.arg(index)?;
        let octal = text.len() > 1 && text.starts_with('0');
        let number = if octal { i64::from_str_radix(text, 8) } else { text.parse() };
        number.with_context(|| format!("{}: not a number: {text}", self.name))
    }

    /// An argument that is a string, or several in a structure: their bytes, in a row.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        let text = self.arg(index)?;
        ensure!(!text.contains("..."), "{}: strace cut a string; record with a larger -s", self.name);
        let mut out = Vec::new();
        for quoted in text.split('"').skip(1).step_by(2) {
            out.extend(unescape(quoted)?);
        }
        Ok(out)
    }

    /// An argument that is a descriptor: its number, and what it is open at.
    pub fn descriptor(&self, index: usize) -> Result<(i32, Vec<u8>)> {
        annotated(self.arg(index)?).with_context(|| self.name.clone())
    }
}

/// All calls of a recording; the numbers of its lines begin with `first`.
pub fn parse(text: &str, first: usize) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    let mut open: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
    for (line, number) in text.lines().zip(first..) {
        let wrong = || format!("line {number}: {}", line.chars().take(120).collect::<String>());
        let (thread, rest) = line.split_once(' ').with_context(wrong)?;
        let thread = thread.parse().with_context(wrong)?;
        let rest = rest.trim_start();
        if rest.starts_with("---") || rest.starts_with("+++") {
            // A signal, or the thread's end: a call that it was in never came back.
            if rest.starts_with("+++")
                && let Some((begin, head)) = open.remove(&thread)
            {
                calls.push(call(thread, head, ") = ?", (begin, number)).with_context(wrong)?);
            }
        } else if let Some(head) =
            rest.strip_suffix("<unfinished ...>").or_else(|| rest.strip_suffix("<detached ...>"))
        {
            open.insert(thread, (number, head.trim_end()));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, tail) = resumed.split_once(" resumed>").with_context(wrong)?;
            let (begin, head) = open.remove(&thread).with_context(wrong)?;
            calls.push(call(thread, head, tail, (begin, number)).with_context(wrong)?);
        } else {
            calls.push(call(thread, rest, "", (number, number)).with_context(wrong)?);
        }
    }
    // strace was still in them when it stopped.
    for (thread, (begin, head)) in open {
        calls.push(call(thread, head, ") = ?", (begin, usize::MAX))?);
    }
    calls.sort_by_key(|call| call.begin);
    Ok(calls)
}

fn call(thread: u32, head: &str, tail: &str, (begin, end): (usize, usize)) -> Result<Call> {
    let (name, rest) = head.split_once('(').context("no arguments")?;
    let mut args = Args::default();
    let rest = match args.take(rest)? {
        Some(rest) => rest,
        None => args.take(tail)?.context("no end of the arguments")?,
    };
    let result = rest.trim_start().strip_prefix('=').context("no result")?.trim_start();
    let word = result.split(' ').next().unwrap_or_default();
    let (number, opened) = match word.split_once('<') {
        Some(_) => annotated(word).map(|(number, path)| (Some(i64::from(number)), Some(path)))?,
        None if word == "?" => (None, None),
        None if word.starts_with("0x") => (Some(0), None),
        None => (Some(word.parse().context("not a result")?), None),
    };
    Ok(Call { thread, name: name.into(), args: args.whole, result: number, opened, begin, end })
}

/// Arguments in the making: split at commas that are in no brackets and no string.
#[derive(Default)]
struct Args {
    whole: Vec<String>,
    part: String,
    depth: usize,
    quoted: bool,
}

impl Args {
    /// Goes on; what follows the closing bracket, if it was met.
    fn take<'a>(&mut self, text: &'a str) -> Result<Option<&'a str>> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'"' => self.quoted = !self.quoted,
                _ if self.quoted => {}
                b'(' | b'[' | b'{' => self.depth += 1,
                b')' if self.depth == 0 => {
                    self.end();
                    return Ok(Some(&text[at + 1..]));
                }
                b')' | b']' | b'}' => {
                    self.depth = self.depth.checked_sub(1).context("brackets that do not match")?;
                }
                b',' if self.depth == 0 => {
                    self.end();
                    continue;
                }
                _ => {}
            }
            self.part.push(char::from(byte));
        }
        Ok(None)
    }

    fn end(&mut self) {
        let part = std::mem::take(&mut self.part);
        if !part.trim().is_empty() {
            self.whole.push(part.trim().to_string());
        }
    }
}

/// `14<\x2f…>`, `AT_FDCWD<\x2f…>`, `6<socket:[17]>` → number (-100 for the working directory) and what it is.
fn annotated(text: &str) -> Result<(i32, Vec<u8>)> {
    let (number, rest) = text.split_once('<').with_context(|| format!("no descriptor: {text}"))?;
    let end = rest.find('>').with_context(|| format!("no descriptor: {text}"))?;
    let number = if number == "AT_FDCWD" { -100 } else { number.parse()? };
    let inside = &rest[..end];
    // What is no path is not escaped.
    let path = if inside.starts_with("\\x") { unescape(inside)? } else { inside.as_bytes().to_vec() };
    Ok((number, path))
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let bytes = text.as_bytes();
    ensure!(bytes.len().is_multiple_of(4), "not hexadecimal: {}", text.chars().take(40).collect::<String>());
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(bytes.len() / 4);
    for four in bytes.chunks_exact(4) {
        let (Some(high), Some(low), b"\\x") = (digit(four[2]), digit(four[3]), &four[..2]) else {
            bail!("not hexadecimal: {}", String::from_utf8_lossy(four));
        };
        out.push(high << 4 | low);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"7 openat(AT_FDCWD<\x2f\x74>, "\x2f\x61", O_RDWR|O_CREAT, 0600) = 3<\x2f\x61>
7 writev(3<\x2f\x61>, [{iov_base="\x01\x02", iov_len=2}, {iov_base="\x2c", iov_len=1}], 2 <unfinished ...>
8 pwrite64(15<\x2f\x62>, "\x22\x28", 2, 4128) = 2
7 <... writev resumed>)              = 3
7 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER} ---
7 openat2(5<\x2f\x64>, "\x61", {flags=O_RDWR|O_CREAT|O_EXCL, mode=0600, resolve=RESOLVE_BENEATH}, 24) = -1 EEXIST (File exists)
8 writev(6<socket:[17]>, [{iov_base="\x41", iov_len=1}], 1) = 1
8 fdatasync(15<\x2f\x62> <unfinished ...>
8 +++ killed by SIGKILL +++
9 unlink("\x2f\x61" <detached ...>
"#;

    #[test]
    fn calls_are_whole_and_in_order() {
        let calls = parse(TEXT, 100).unwrap();
        let names: Vec<(&str, u32, Option<i64>, usize)> =
            calls.iter().map(|call| (call.name.as_str(), call.thread, call.result, call.begin)).collect();
        assert_eq!(
            names,
            [
                ("openat", 7, Some(3), 100),
                ("writev", 7, Some(3), 101),
                ("pwrite64", 8, Some(2), 102),
                ("openat2", 7, Some(-1), 105),
                ("writev", 8, Some(1), 106),
                ("fdatasync", 8, None, 107),
                ("unlink", 9, None, 109),
            ]
        );
        assert_eq!((calls[1].end, calls[5].end, calls[6].end), (103, 108, usize::MAX));
        assert_eq!(calls[0].opened.as_deref(), Some(&b"/a"[..]));
        assert_eq!(calls[0].number(3).unwrap(), 0o600);
        assert_eq!(calls[1].bytes(1).unwrap(), [1, 2, b',']);
        assert_eq!(calls[1].descriptor(0).unwrap(), (3, b"/a".to_vec()));
        assert_eq!(calls[2].bytes(1).unwrap(), b"\"(");
        assert_eq!(calls[2].number(3).unwrap(), 4128);
        assert_eq!(calls[3].descriptor(0).unwrap(), (5, b"/d".to_vec()));
        assert_eq!(
            calls[3].arg(2).unwrap(),
            "{flags=O_RDWR|O_CREAT|O_EXCL, mode=0600, resolve=RESOLVE_BENEATH}"
        );
        assert_eq!(calls[4].descriptor(0).unwrap(), (6, b"socket:[17]".to_vec()));
        assert_eq!(calls[6].bytes(0).unwrap(), b"/a");
    }

    #[test]
    fn nonsense_is_refused_and_cut_strings_are_noticed() {
        for bad in [
            "x",
            "7 nothing",
            "7 f(",
            "7 f(1",
            "7 f) = 0",
            "7 f(]) = 0",
            "7 f() = x",
            "7 <... f resumed>) = 0",
        ] {
            assert!(parse(bad, 0).is_err(), "{bad}");
        }
        let calls = parse(r#"7 write(1<\x61>, "\x01"..., 9) = 9"#, 0).unwrap();
        assert!(calls[0].bytes(1).is_err());
        assert!(unescape(r"\x4").is_err() && unescape("abcd").is_err() && unescape(r"\xg0").is_err());
    }
}
