//! A bounded list of APDUs with RACS's CONTINUE, MORE and FETCH (draft-urien-core-racs-02, 4.6).

use crate::apdu::StatusWord;
use zeroize::Zeroizing;

/// The command that fetches pending bytes, without its last byte: CLA INS P1 P2.
pub type Fetch = [u8; 4];

/// GET RESPONSE of the interindustry class, the default of FETCH.
pub const GET_RESPONSE: Fetch = [0x00, 0xC0, 0x00, 0x00];

/// One APDU of a script, and when the script goes on after it.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// The command APDU, 4 to 65,544 bytes.
    pub apdu: Zeroizing<Vec<u8>>,
    /// `CONTINUE=`: any other final status word stops the script.
    pub expect: Option<StatusWord>,
    /// `MORE=`: the SW1 that announces pending bytes; SW2 is the P3 of the fetch command.
    pub more: Option<u8>,
    /// `FETCH=`: the fetch command; no effect without `more`.
    pub fetch: Fetch,
    /// `APPEND`: whether the caller wants this step's answer even if a later one follows.
    pub append: bool,
}

impl Step {
    /// An APDU whose status word is taken as it comes.
    #[must_use]
    pub fn new(apdu: impl Into<Vec<u8>>) -> Self {
        Self {
            apdu: Zeroizing::new(apdu.into()),
            expect: None,
            more: None,
            fetch: GET_RESPONSE,
            append: false,
        }
    }

    /// The same step, which stops the script unless the card answers `9000` in the end.
    #[must_use]
    pub fn expect_normal(mut self) -> Self {
        self.expect = Some(StatusWord::NORMAL);
        self
    }

    /// The same step, collecting pending bytes announced by `61xx` with `fetch`.
    #[must_use]
    pub fn collect(mut self, fetch: Fetch) -> Self {
        self.more = Some(0x61);
        self.fetch = fetch;
        self
    }

    /// The same step, whose answer is wanted whatever follows.
    #[must_use]
    pub fn append(mut self) -> Self {
        self.append = true;
        self
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let header = self.apdu.get(..4).unwrap_or_default();
        write!(
            f,
            "{} ({} bytes)",
            crate::hex::encode(header),
            self.apdu.len()
        )
    }
}

/// APDUs for one element, run in order without another user's in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// The steps, at most [`Script::MAX_STEPS`].
    pub steps: Vec<Step>,
}

impl Script {
    /// Steps that one script may have: the command lines of one RACS request.
    pub const MAX_STEPS: usize = 999;
    /// Bytes that one step may collect (body without status word).
    pub const MAX_BODY: usize = 65_536;
    /// Fetch rounds that one step may take.
    pub const MAX_FETCHES: usize = 600;

    /// A script of these steps.
    #[must_use]
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }
}

impl From<Step> for Script {
    fn from(step: Step) -> Self {
        Self { steps: vec![step] }
    }
}

/// What one step came to.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Everything collected, without the status word.
    pub body: Vec<u8>,
    /// The last status word.
    pub sw: StatusWord,
    /// Whether `expect` was absent or met.
    pub expected: bool,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {:?}", self.body.len(), self.sw)
    }
}
