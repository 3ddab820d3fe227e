//! Standard output, which may be closed or full: that ends the command, and is no panic.

use std::{
    fmt::Arguments,
    io::{self, Write as _},
    process,
};

/// As `println!`, for output that may be closed.
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Writes a line. Where nobody reads any longer the command has done its work; where it cannot be written it has failed.
pub(crate) fn line(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.write_all(b"\n")) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => process::exit(0),
        Err(e) => {
            eprintln!("raic: cannot write the output: {e}");
            process::exit(1);
        }
    }
}
