//! Asking a person for a secret: on the terminal itself, without echo.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::fd::AsFd,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Bytes that a line may have.
const LONGEST: usize = 1024;

/// Asks for a line that is not shown, and returns its bytes, without the line's end. Standard input stays free for data.
///
/// # Errors
/// Where the process has no terminal, or nothing is typed.
pub fn ask(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    write!(terminal, "{question}: ")?;
    terminal.flush()?;
    let mut line = {
        let _quiet = Quiet::new(&terminal)?;
        // As long as any secret: growing would leave copies behind.
        let mut line = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
        let mut reader = BufReader::with_capacity(LONGEST, &terminal).take(LONGEST as u64);
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line
    };
    writeln!(terminal)?;
    while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        line.pop();
    }
    Ok(line)
}

/// The terminal does not show what is typed while this lives.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal.as_fd())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal.as_fd(), OptionalActions::Flush, &self.before);
    }
}
