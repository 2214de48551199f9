//! Command chaining (ISO/IEC 7816-4:2020, 5.3.3): CLA bit 5 set on all commands but the last.

use zeroize::Zeroizing;

use super::{Command, CommandRef, StatusWord};

/// The CLA bit that announces further commands of the chain.
pub const MORE: u8 = 0x10;

/// Cuts a command into a chain whose data fields hold at most `piece` bytes (1 to 255).
/// Ne stands on the last command only.
#[must_use]
pub fn split(command: &Command, piece: u8) -> Vec<Command> {
    let pieces = command.data.chunks(usize::from(piece.max(1)));
    let last = pieces.len().saturating_sub(1);
    if last == 0 {
        return vec![command.clone()];
    }
    pieces
        .enumerate()
        .map(|(index, data)| Command {
            cla: if index == last {
                command.cla
            } else {
                command.cla | MORE
            },
            ins: command.ins,
            p1: command.p1,
            p2: command.p2,
            data: data.to_vec(),
            ne: command.ne.filter(|_| index == last),
        })
        .collect()
}

/// The card's side: joins the data fields of a chain.
#[derive(Debug)]
pub struct Assembler {
    limit: usize,
    header: Option<[u8; 4]>,
    data: Zeroizing<Vec<u8>>,
}

/// What a command means for the chain.
#[derive(Debug)]
pub enum Link {
    /// The chain goes on: answer `9000`.
    More,
    /// The chain is complete, or there was none: execute this.
    Whole(Command),
}

impl Assembler {
    /// An assembler that joins at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            header: None,
            data: Zeroizing::default(),
        }
    }

    /// Whether a chain is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.header.is_some()
    }

    /// Forgets an open chain.
    pub fn clear(&mut self) {
        self.header = None;
        self.data = Zeroizing::default();
    }

    /// Takes the next command, whose class is interindustry.
    ///
    /// # Errors
    /// `6883` when another command comes before the chain's last one (the chain is then forgotten),
    /// `6A84` over the limit.
    pub fn take(&mut self, command: CommandRef<'_>) -> Result<Link, StatusWord> {
        let header = [command.cla & !MORE, command.ins, command.p1, command.p2];
        if self.header.is_some_and(|open| open != header) {
            self.clear();
            return Err(StatusWord::LAST_COMMAND_EXPECTED);
        }
        if self.data.len() + command.data.len() > self.limit {
            self.clear();
            return Err(StatusWord::NOT_ENOUGH_MEMORY);
        }
        if command.cla & MORE != 0 {
            self.header = Some(header);
            self.data.extend_from_slice(command.data);
            return Ok(Link::More);
        }
        let mut whole = command.to_owned();
        if self.header.is_some() {
            let mut data = std::mem::take(&mut *self.data);
            data.extend_from_slice(command.data);
            whole.data = data;
            self.clear();
        }
        Ok(Link::Whole(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_joined_again() {
        let put = Command::new(0x00, 0xDB, 0x3F, 0xFF)
            .with_data(vec![7; 600])
            .with_ne(256);
        let chain = split(&put, 255);
        assert_eq!(
            chain
                .iter()
                .map(|c| (c.cla, c.data.len(), c.ne))
                .collect::<Vec<_>>(),
            [(0x10, 255, None), (0x10, 255, None), (0x00, 90, Some(256))]
        );
        let mut assembler = Assembler::new(1000);
        let mut whole = None;
        for command in &chain {
            if let Link::Whole(command) = assembler.take(command.view()).unwrap() {
                whole = Some(command);
            }
        }
        assert_eq!(whole, Some(put));
        assert!(!assembler.is_open());
    }

    #[test]
    fn another_command_inside_a_chain_and_too_much_data() {
        let mut assembler = Assembler::new(10);
        let part = Command::new(0x10, 0xDB, 0x3F, 0xFF).with_data(vec![0; 8]);
        assert!(matches!(assembler.take(part.view()), Ok(Link::More)));
        let other = Command::new(0x00, 0xA4, 4, 0);
        assert_eq!(
            assembler.take(other.view()).err(),
            Some(StatusWord::LAST_COMMAND_EXPECTED)
        );
        assert!(matches!(assembler.take(part.view()), Ok(Link::More)));
        assert_eq!(
            assembler.take(part.view()).err(),
            Some(StatusWord::NOT_ENOUGH_MEMORY)
        );
        assert!(matches!(assembler.take(other.view()), Ok(Link::Whole(_))));
    }

    #[test]
    fn short_commands_are_one_piece() {
        let select = Command::new(0, 0xA4, 4, 0);
        assert_eq!(split(&select, 255), std::slice::from_ref(&select));
    }
}
