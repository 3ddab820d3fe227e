//! Lines to standard output and standard error. If standard output is closed or full, the command
//! ends without a panic.

use std::{
    fmt::Arguments,
    io::{self, Write as _},
    process,
};

use crate::error::{Failed, Outcome};

/// Prints a line like `println!`, but without a panic if the output is closed.
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints a line like `eprintln!`, but without a panic if standard error is closed.
macro_rules! tell {
    ($($text:tt)*) => { $crate::output::error_line(format_args!($($text)*)) };
}
pub(crate) use tell;

/// Writes a line to standard error, escaped as [`line()`] does. If it cannot be written, it is lost
/// and the command goes on.
pub(crate) fn error_line(text: Arguments<'_>) {
    let text = raic_wasm::shown(&text.to_string());
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns a value as one line of JSON. Characters that hide or reorder text are escaped as JSON
/// escapes them.
///
/// # Errors
/// If the value cannot be written as JSON.
pub(crate) fn as_json(value: &impl serde::Serialize) -> Outcome<String> {
    let text = serde_json::to_string(value).map_err(Failed::other)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if raic_wasm::hides(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// A writer that never fails. Bytes that cannot be written are lost.
#[derive(Debug)]
pub(crate) struct Unheeded<W>(pub(crate) W);

impl<W: io::Write> io::Write for Unheeded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Writes a line to standard output. Text from a file, a connector or a service may move the cursor
/// or hide text, so such characters are escaped.
///
/// If the reader has closed the output, the process exits with 0, because the command has done its
/// work. If the line cannot be written, the process exits with an error.
pub(crate) fn line(text: Arguments<'_>) {
    let text = raic_wasm::shown(&text.to_string());
    let mut out = io::stdout().lock();
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
    {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => process::exit(0),
        Err(e) => {
            let failed = Failed::io("cannot write the output", &e);
            error_line(format_args!("raic: {}", failed.sentence));
            process::exit(i32::from(failed.exit_code()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_hides_nothing_and_stays_json() {
        let text = "a\u{202e}b\u{fe0f}\u{e0041}\n\u{7f}\u{e9}\"";
        let line = as_json(&text).unwrap();
        assert!(!line.chars().any(raic_wasm::hides), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        assert_eq!(raic_wasm::shown(&line), line);
    }
}
