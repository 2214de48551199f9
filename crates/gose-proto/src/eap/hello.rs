//! What the server's first flight tells in the clear: version, suite, whether a session is resumed
//! (RFC 8446, 4.1.3; RFC 5246, 7.4.1.3).

/// A ServerHello, as far as the record of a conversation needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// 0303 or 0304.
    pub version: u16,
    /// Cipher suite.
    pub suite: u16,
    /// Whether the session is another one's.
    pub resumed: bool,
}

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;
/// The random of a HelloRetryRequest begins like this (RFC 8446, 4.1.3); the real ServerHello follows later.
const RETRY: [u8; 4] = [0xCF, 0x21, 0xAD, 0x74];

impl Hello {
    /// Reads it from the TLS records of a server's flight; `None` if there is none in them, or a retry request.
    #[must_use]
    pub fn read(flight: &[u8]) -> Option<Self> {
        let (kind, fragment, rest) = record(flight)?;
        let (message, body, after) = message(fragment)?;
        if kind != HANDSHAKE || message != SERVER_HELLO {
            return None;
        }
        let (random, body) = body.get(2..)?.split_at_checked(32)?;
        if random.starts_with(&RETRY) {
            return None;
        }
        let (&length, body) = body.split_first()?;
        let [high, low, _compression, ref extensions @ ..] = *body.get(usize::from(length)..)?
        else {
            return None;
        };
        let suite = u16::from_be_bytes([high, low]);
        let extensions = Extensions {
            rest: extensions.get(2..).unwrap_or_default(),
        };
        let has = |wanted| extensions.clone().any(|(kind, _)| kind == wanted);
        if has(SUPPORTED_VERSIONS) {
            return Some(Self {
                version: 0x0304,
                suite,
                resumed: has(PRE_SHARED_KEY),
            });
        }
        Some(Self {
            version: 0x0303,
            suite,
            resumed: !certificate_follows(after, rest),
        })
    }
}

/// TLS 1.2: a full handshake goes on with Certificate, a resumed one with NewSessionTicket or ChangeCipherSpec.
fn certificate_follows(in_record: &[u8], further: &[u8]) -> bool {
    if let Some(&kind) = in_record.first() {
        return kind == CERTIFICATE;
    }
    match record(further) {
        Some((CHANGE_CIPHER_SPEC, ..)) | None => false,
        Some((_, fragment, _)) => fragment.first() == Some(&CERTIFICATE),
    }
}

/// Type and fragment of the first record, and what follows it.
fn record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, _, _, high, low], rest) = bytes.split_first_chunk::<5>()?;
    let (fragment, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, fragment, rest))
}

/// Type and body of the first handshake message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, a, b, c], rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    let (body, rest) = rest.split_at_checked(length)?;
    Some((kind, body, rest))
}

#[derive(Clone)]
struct Extensions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[k1, k2, l1, l2], rest) = self.rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l1, l2])))?;
        self.rest = rest;
        Some((u16::from_be_bytes([k1, k2]), value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ServerHello record with these extensions, and what follows.
    fn flight(extensions: &[u16], random: [u8; 4], after: &[u8]) -> Vec<u8> {
        let mut list = Vec::new();
        for kind in extensions {
            list.extend_from_slice(&kind.to_be_bytes());
            list.extend_from_slice(&[0, 2, 3, 4]);
        }
        let mut body = vec![3, 3];
        body.extend_from_slice(&random);
        body.resize(34, 0);
        body.extend_from_slice(&[2, 9, 9, 0xC0, 0x2F, 0]);
        body.extend_from_slice(&u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&list);
        let mut out = vec![
            22,
            3,
            3,
            0,
            u8::try_from(body.len() + 4).unwrap(),
            2,
            0,
            0,
            u8::try_from(body.len()).unwrap(),
        ];
        out.extend_from_slice(&body);
        out.extend_from_slice(after);
        out
    }

    #[test]
    fn full_and_resumed_in_both_versions() {
        let check = |extensions: &[u16], after: &[u8], expected: Option<(u16, bool)>| {
            let hello = Hello::read(&flight(extensions, [1; 4], after));
            assert_eq!(hello.map(|hello| (hello.version, hello.resumed)), expected);
        };
        check(&[43, 51], &[], Some((0x0304, false)));
        check(&[43, 51, 41], &[], Some((0x0304, true)));
        check(
            &[23],
            &[22, 3, 3, 0, 5, 11, 0, 0, 1, 0],
            Some((0x0303, false)),
        );
        check(&[23], &[20, 3, 3, 0, 1, 1], Some((0x0303, true)));
        check(
            &[23],
            &[22, 3, 3, 0, 5, 4, 0, 0, 1, 0],
            Some((0x0303, true)),
        );
        assert_eq!(Hello::read(&flight(&[43], RETRY, &[])), None);
        assert_eq!(Hello::read(&[21, 3, 3, 0, 2, 2, 40]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::read(&bytes);
        }
    }
}
