//! How a test controls a fake: commands in words, through one C symbol or the environment.
#![expect(unsafe_code, reason = "the control symbol is a C function")]

use std::ffi::{CStr, CString, c_char, c_int};

use super::machine::Machine;
use super::streams::Schedule;
use super::work::Failure;
use crate::dynamic::Library;
use crate::{Error, ErrorKind, Result};

/// The C symbol that a fake exports beside its vendor's: `int kv_fake_control(const char *command, char *out, size_t out_len)`.
///
/// It answers with a C string in `out`, cut at `out_len`, and returns its whole length, or -1 minus that for an error's text.
pub const CONTROL_SYMBOL: &str = "kv_fake_control";
/// Environment variable with commands, separated by `;`, that a fake runs when it is first used.
pub const SCRIPT_VARIABLE: &str = "KV_FAKE_SCRIPT";
/// Room for an answer; a longer one is asked for again.
const ROOM: usize = 64 << 10;

type ControlFn = unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> c_int;

/// A test's side of the control symbol.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    call: ControlFn,
}

impl Control {
    /// The control of a loaded fake.
    ///
    /// # Errors
    /// `Unavailable` if the library is no fake.
    pub fn of(library: &Library) -> Result<Self> {
        // SAFETY: the symbol is this project's own, declared at `CONTROL_SYMBOL`.
        let call = unsafe { library.symbol::<ControlFn>(CONTROL_SYMBOL) }?;
        Ok(Self { call })
    }

    /// Runs one command; see [`Machine::command`].
    ///
    /// # Errors
    /// `Invalid` with the fake's own words.
    pub fn command(&self, command: &str) -> Result<String> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "fake", message);
        let c_command = CString::new(command).map_err(|error| invalid(error.to_string()))?;
        let mut room = ROOM;
        loop {
            let mut out: Vec<u8> = vec![0; room];
            // SAFETY: the command is a C string and the buffer has as many bytes as it is said to have, as the symbol demands.
            let answer = unsafe { (self.call)(c_command.as_ptr(), out.as_mut_ptr().cast(), out.len()) };
            let len = usize::try_from(if answer < 0 { -1 - answer } else { answer }).unwrap_or(0);
            if len >= room && !changes(command) {
                room = len + 1;
                continue;
            }
            out.truncate(len.min(room - 1));
            let text = String::from_utf8_lossy(&out).into_owned();
            return if answer < 0 { Err(invalid(format!("{command}: {text}"))) } else { Ok(text) };
        }
    }

    /// How often a function was called since the log was last cleared.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn count(&self, symbol: &str) -> Result<u64> {
        let counts = self.command("counts")?;
        let count = counts.lines().find_map(|line| line.strip_prefix(symbol)?.trim().parse().ok());
        Ok(count.unwrap_or(0))
    }
}

/// Whether running a command twice is not the same as once.
fn changes(command: &str) -> bool {
    !matches!(command.split_whitespace().next(), Some("counts" | "log" | "leaks" | "copies" | "now"))
}

/// What a fake's control symbol does.
///
/// # Safety
/// `command` is a C string; `out` is null or has room for `out_len` bytes.
pub unsafe fn serve(machine: &Machine, command: *const c_char, out: *mut c_char, out_len: usize) -> c_int {
    if command.is_null() {
        return -1;
    }
    // SAFETY: it is a C string by this function's contract.
    let command = unsafe { CStr::from_ptr(command) }.to_string_lossy();
    let outcome = machine.command(&command);
    let (text, failed) = match &outcome {
        Ok(text) => (text, false),
        Err(text) => (text, true),
    };
    if let Some(room) = out_len.checked_sub(1).filter(|_| !out.is_null()) {
        let len = text.len().min(room);
        // SAFETY: `out` has `out_len` bytes by this function's contract, and `len` is less.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), len) };
        let end = out.wrapping_add(len);
        // SAFETY: as above.
        unsafe { end.write(0) };
    }
    let len = c_int::try_from(text.len()).unwrap_or(c_int::MAX - 1);
    if failed { -1 - len } else { len }
}

impl Machine {
    /// Runs the commands of the environment; a mistake in them is a line in `script-error` of the settings.
    pub fn run_script(&self) {
        let script = std::env::var(SCRIPT_VARIABLE).unwrap_or_default();
        for command in script.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            if let Err(error) = self.command(command) {
                self.state().settings.insert("script-error".into(), format!("{command}: {error}"));
            }
        }
    }

    /// Runs one command of a test:
    ///
    /// * `counts`, `log`, `copies`: calls by symbol; symbols in order; `direction bytes start end` of each copy. `clear`: empties them.
    /// * `leaks`: what was not freed, a line each, or nothing.
    /// * `fail SYMBOL N CODE`: the n-th call from now answers the code and does nothing; `*` is any symbol.
    /// * `lose-device N THOUSANDTHS`: the n-th copy from now makes so much of itself, and the device is lost. `no-faults`: none of these.
    /// * `fail-device DEVICE`: it is lost now. `reset`: devices work again, without faults, and the log is empty.
    /// * `device-limit BYTES`, `pinned-limit BYTES`: most memory.
    /// * `hold STREAM`, `release STREAM`: delays a stream, or lets it go on.
    /// * `schedule lazy|threads`: for streams that are made afterwards; `queries N`: so many queries of an event see nothing.
    /// * `model d2h=GB/s h2d=GB/s device=GB/s call=NS clock=virtual|real`: what things cost.
    /// * `now`, `advance-to NS`, `charge NS`: the calling thread's time.
    /// * `set KEY VALUE`, `get KEY`: the fake's own settings.
    ///
    /// # Errors
    /// What is wrong with the command.
    pub fn command(&self, command: &str) -> Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let done = || Ok(String::new());
        match words.as_slice() {
            ["counts"] => Ok(self.state().calls.counts()),
            ["log"] => Ok(self.state().calls.log()),
            ["copies"] => Ok(self.state().calls.copies()),
            ["clear"] => {
                self.state().calls.clear_log();
                done()
            }
            ["leaks"] => Ok(self.leaks()),
            ["fail", symbol, nth, code] => {
                let code = code.parse().map_err(|_| format!("{code} is no code"))?;
                self.state().calls.fail(symbol, number(nth)?, code);
                done()
            }
            ["lose-device", copies, thousandths] => {
                self.state().calls.lose(number(copies)?, number(thousandths)?);
                done()
            }
            ["fail-device", device] => {
                let device = u32::try_from(number(device)?).map_err(|error| error.to_string())?;
                self.fail_device(device, Failure::DeviceLost);
                done()
            }
            ["reset"] => {
                let mut state = self.state();
                state.failed.clear();
                state.calls.clear_faults();
                state.calls.clear_log();
                done()
            }
            ["no-faults"] => {
                self.state().calls.clear_faults();
                done()
            }
            ["device-limit", bytes] => {
                self.memory().limit(Some(number(bytes)?), None);
                done()
            }
            ["pinned-limit", bytes] => {
                self.memory().limit(None, Some(number(bytes)?));
                done()
            }
            [word @ ("hold" | "release"), stream] => {
                let outcome = self.hold(number(stream)?, *word == "hold");
                outcome.map_err(|_| format!("{stream} is no stream"))?;
                done()
            }
            ["schedule", schedule] => {
                self.state().schedule = match *schedule {
                    "lazy" => Schedule::Lazy,
                    "threads" => Schedule::Threads,
                    other => return Err(format!("schedule {other}: expected lazy or threads")),
                };
                done()
            }
            ["queries", queries] => {
                self.state().queries = u32::try_from(number(queries)?).map_err(|error| error.to_string())?;
                done()
            }
            ["model", settings @ ..] => self.set_model(settings).and_then(|()| done()),
            ["now"] => Ok(self.now(&self.state()).to_string()),
            ["advance-to", time] => {
                self.state().clock.advance_to(number(time)?);
                done()
            }
            ["charge", time] => {
                let mut state = self.state();
                let end = self.now(&state) + number(time)?;
                state.clock.advance_to(end);
                done()
            }
            ["set", key, value @ ..] => {
                self.state().settings.insert((*key).to_owned(), value.join(" "));
                done()
            }
            ["get", key] => Ok(self.setting(key).unwrap_or_default()),
            _ => Err("unknown command: see kv_device::emulation::Machine::command".into()),
        }
    }

    fn set_model(&self, settings: &[&str]) -> Result<(), String> {
        let mut state = self.state();
        for setting in settings {
            let (key, value) =
                setting.split_once('=').ok_or_else(|| format!("{setting}: expected key=value"))?;
            let rate = || value.parse::<f64>().map_err(|_| format!("{setting}: expected a number"));
            match key {
                "d2h" => state.model.device_to_host = rate()?,
                "h2d" => state.model.host_to_device = rate()?,
                "device" => state.model.on_device = rate()?,
                "call" => state.model.call = number(value)?,
                "clock" => state.model.real = value == "real",
                _ => return Err(format!("{setting}: unknown")),
            }
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u64, String> {
    let hex = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
    hex.unwrap_or_else(|| text.parse()).map_err(|_| format!("{text} is no number"))
}
