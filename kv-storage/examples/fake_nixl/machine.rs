//! What the emulated library keeps, and its rules. Nothing here has a C type.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread::ThreadId;

pub(crate) const BACKEND: i32 = -2;
pub(crate) const INVALID: i32 = -1;
pub(crate) const DONE: i32 = 0;
pub(crate) const GOES_ON: i32 = 1;

/// A range of memory, a file or an object: kind, address or offset, length, device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) kind: u32,
    pub(crate) address: usize,
    pub(crate) len: usize,
    pub(crate) device: u64,
}

/// An agent.
pub(crate) struct Agent {
    thread: ThreadId,
    registered: Vec<(Range, String)>,
    pub(crate) parameters: HashMap<String, String>,
    pub(crate) under_way: usize,
}

/// A transfer.
pub(crate) struct Request {
    pub(crate) into_memory: bool,
    pub(crate) near: Range,
    pub(crate) far: Range,
    pub(crate) key: String,
    pub(crate) posted: bool,
    pub(crate) questions: u32,
    pub(crate) ended: Option<i32>,
}

/// Misuse that may crash the real one.
#[expect(clippy::print_stderr, reason = "the last words before the process dies")]
pub(crate) fn die(why: &str) -> ! {
    eprintln!("fake NIXL: {why}");
    std::process::abort()
}

impl Agent {
    pub(crate) fn new() -> Self {
        let thread = std::thread::current().id();
        Self { thread, registered: Vec::new(), parameters: HashMap::new(), under_way: 0 }
    }

    /// Agents are made for one thread.
    pub(crate) fn checked(&mut self) -> &mut Self {
        if std::thread::current().id() != self.thread {
            die("an agent without synchronisation is used by two threads");
        }
        self
    }

    pub(crate) fn mode(&self) -> &str {
        let otherwise = self.parameters.contains_key("fake_while") && !self.stands("fake_while");
        self.parameters.get("fake").filter(|_| !otherwise).map_or("ok", String::as_str)
    }

    /// Whether reads hang; one that does leaves a sign.
    pub(crate) fn hangs(&self) -> bool {
        let hangs = self.stands("fake_hang");
        if let Some(sign) = self.parameters.get("fake_hung").filter(|_| hangs) {
            drop(std::fs::write(sign, ""));
        }
        hangs
    }

    /// Whether the file that a parameter names exists.
    fn stands(&self, parameter: &str) -> bool {
        self.parameters.get(parameter).is_some_and(|path| PathBuf::from(path).exists())
    }

    pub(crate) fn register(&mut self, range: Range, key: String) {
        self.registered.push((range, key));
    }

    pub(crate) fn forget(&mut self, range: Range) -> i32 {
        match self.registered.iter().position(|(known, _)| *known == range) {
            Some(place) => {
                self.registered.swap_remove(place);
                DONE
            }
            None => BACKEND,
        }
    }

    /// The key of what covers a range; dies if nothing does.
    pub(crate) fn key(&self, range: Range) -> String {
        let covers = |known: &Range| {
            known.kind == range.kind
                && known.device == range.device
                && known.address <= range.address
                && range.address + range.len <= known.address + known.len
        };
        match self.registered.iter().find(|(known, _)| covers(known)) {
            Some((_, key)) => key.clone(),
            None => die(&format!("{range:?} is not registered")),
        }
    }

    pub(crate) fn questions(&self) -> u32 {
        self.parameters.get("fake_questions").and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// Most bytes that a transfer moves before it says that it is done.
    pub(crate) fn most(&self, len: usize) -> usize {
        match self.mode() {
            "short" => len / 2,
            "nothing" => 0,
            _ => len,
        }
    }
}

/// The bytes of an object: the letters of its key, over and over.
pub(crate) fn letters(key: &str, offset: usize, into: &mut [u8]) {
    for (byte, letter) in into.iter_mut().zip(key.bytes().cycle().skip(offset % key.len().max(1))) {
        *byte = letter;
    }
}
