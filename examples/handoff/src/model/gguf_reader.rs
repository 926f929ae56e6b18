//! Bounds-checked reading of a GGUF header: every error names the file, the place and the thing that was read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer, or a signed one that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// Values of one type.
    Array(Vec<Self>),
}

/// A cursor over the head of the file.
pub(super) struct HeaderReader {
    path: PathBuf,
    file: BufReader<File>,
    length: u64,
    position: u64,
}

impl HeaderReader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("{}: cannot open the model", path.display()))?;
        let length = file.metadata()?.len();
        Ok(Self {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(1 << 20, file),
            length,
            position: 0,
        })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Checks against the file's length before allocating, so a wild length costs nothing.
    fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>> {
        let left = self.length - self.position;
        ensure!(
            count <= left,
            "{}: truncated: {what} needs {count} bytes at offset {}, but only {left} follow",
            self.path.display(),
            self.position
        );
        let mut bytes = vec![0; usize::try_from(count)?];
        self.file.read_exact(&mut bytes).with_context(|| format!("{}: {what}", self.path.display()))?;
        self.position += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn magic(&mut self) -> Result<[u8; 4]> {
        self.array("the magic number")
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        let bytes = self.bytes(length, what)?;
        String::from_utf8(bytes).with_context(|| format!("{}: {what} is not UTF-8", self.path.display()))
    }

    /// A value of the given GGUF type number.
    pub(super) fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array(key)?).into()),
            1 => signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Unsigned(self.u32(key)?.into()),
            5 => signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Value::Bool(self.array::<1>(key)? != [0]),
            8 => Value::Text(self.text(key)?),
            9 => self.list(key)?,
            10 => Value::Unsigned(self.u64(key)?),
            11 => signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            _ => bail!("{}: metadata {key:?} has the unknown type {kind}", self.path.display()),
        })
    }

    fn list(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        // Lists of lists do not occur in models, and refusing them bounds the recursion.
        ensure!(kind != 9, "{}: metadata {key:?} is a list of lists", self.path.display());
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(kind, key)?);
        }
        Ok(Value::Array(values))
    }
}

fn signed(number: i64) -> Value {
    u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned)
}
