//! What stands in the memory of another process, and in files.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

/// A secret in the forms in which it might lie about.
pub(crate) struct Secret {
    pub(crate) name: &'static str,
    forms: Vec<Vec<u8>>,
}

/// Longer than any form.
const LONGEST: usize = 512;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

impl Secret {
    /// A P-256 key: the scalar in both byte orders and in hexadecimal, the PKCS#8 structure, its base64.
    pub(crate) fn p256(name: &'static str, pkcs8: &[u8]) -> Self {
        // ECPrivateKey (RFC 5915): version 1, then the scalar as an OCTET STRING.
        let before = [0x02, 0x01, 0x01, 0x04, 0x20];
        let at = pkcs8.windows(5).position(|part| part == before).unwrap() + 5;
        let scalar = pkcs8[at..at + 32].to_vec();
        let hex = |upper: bool| -> Vec<u8> {
            let digits = |byte: &u8| match upper {
                true => format!("{byte:02X}"),
                false => format!("{byte:02x}"),
            };
            scalar.iter().map(digits).collect::<String>().into_bytes()
        };
        let base64: String = gose_client::pki::to_pem("PRIVATE KEY", pkcs8)
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        let reversed = scalar.iter().rev().copied().collect();
        let (lower, upper) = (hex(false), hex(true));
        let forms = vec![
            scalar,
            reversed,
            pkcs8.to_vec(),
            lower,
            upper,
            // What encodes the scalar alone; lines of PEM are 64 characters.
            base64.as_bytes()[48..64].to_vec(),
        ];
        assert!(forms.iter().all(|form| form.len() <= LONGEST));
        Self { name, forms }
    }

    /// Bytes that are no key.
    pub(crate) fn bytes(name: &'static str, bytes: &[u8]) -> Self {
        Self {
            name,
            forms: vec![bytes.to_vec()],
        }
    }
}

/// How often each of these secrets, in any form, stands in a text.
pub(crate) fn count(text: &[u8], secrets: &[Secret]) -> Vec<usize> {
    let mut counts = vec![0; secrets.len()];
    add(text, &Prefixes::new(secrets), &mut counts);
    counts
}

/// What was found in the memory of a process.
pub(crate) struct Found {
    /// As [`count`].
    pub(crate) counts: Vec<usize>,
    /// Bytes that were read.
    pub(crate) read: u64,
}

/// Reads every readable mapping of a process (proc(5)).
pub(crate) fn of_process(pid: u32, secrets: &[Secret]) -> Found {
    let prefixes = Prefixes::new(secrets);
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{pid}/mem"))
        .unwrap_or_else(|error| panic!("/proc/{pid}/mem: {error}; run this test as root"));
    let mut found = Found {
        counts: vec![0; secrets.len()],
        read: 0,
    };
    for range in maps.lines().filter_map(readable) {
        mapping(&mut memory, range, &prefixes, &mut found);
    }
    found
}

/// The addresses of a mapping that may be read. The kernel's own pages cannot, whatever their flags say.
fn readable(line: &str) -> Option<Range<u64>> {
    let mut words = line.split_whitespace();
    let (range, flags) = (words.next()?, words.next()?);
    if !flags.starts_with('r') || line.contains("[v") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

fn mapping(memory: &mut File, range: Range<u64>, prefixes: &Prefixes<'_>, found: &mut Found) {
    let mut window = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let size = usize::try_from(range.end - at).unwrap().min(PIECE);
        // The end of the piece before: what lies across the boundary is found, and nothing twice that matters.
        window.drain(..window.len().saturating_sub(LONGEST));
        let old = window.len();
        window.resize(old + size, 0);
        memory.seek(SeekFrom::Start(at)).unwrap();
        match memory.read(&mut window[old..]) {
            // A mapping may have gone since the list was made.
            Ok(0) | Err(_) => return,
            Ok(read) => {
                window.truncate(old + read);
                at += read as u64;
                found.read += read as u64;
            }
        }
        add(&window, prefixes, &mut found.counts);
    }
}

/// Forms by their first two bytes: memory is long, and this is not optimised.
struct Prefixes<'s> {
    secrets: &'s [Secret],
    first: Vec<bool>,
}

impl<'s> Prefixes<'s> {
    fn new(secrets: &'s [Secret]) -> Self {
        let mut first = vec![false; 1 << 16];
        for form in secrets.iter().flat_map(|secret| &secret.forms) {
            first[usize::from(u16::from_be_bytes([form[0], form[1]]))] = true;
        }
        Self { secrets, first }
    }
}

fn add(text: &[u8], prefixes: &Prefixes<'_>, counts: &mut [usize]) {
    let mut two = 0usize;
    for (next, byte) in text.iter().enumerate() {
        two = (two << 8 | usize::from(*byte)) & 0xFFFF;
        if !prefixes.first[two] || next == 0 {
            continue;
        }
        let rest = &text[next - 1..];
        for (secret, count) in prefixes.secrets.iter().zip(counts.iter_mut()) {
            *count += secret
                .forms
                .iter()
                .filter(|form| rest.starts_with(form))
                .count();
        }
    }
}

/// Every file under a folder, with its bytes.
pub(crate) fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(self::files(&entry.path()));
        } else if kind.is_file() {
            files.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
    files
}
