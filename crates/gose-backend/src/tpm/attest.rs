//! What a TPM says of a key and of its machine, signed by its attestation key (part 3, 18).

use tpm2_protocol::{
    data::{
        Tpm2bData, TpmAlgId, TpmlPcrSelection, TpmsPcrSelect, TpmsPcrSelection, TpmtSigScheme,
        TpmtSignature,
    },
    frame::{TpmCertifyCommand, TpmCertifyResponse, TpmQuoteCommand, TpmQuoteResponse},
};

use super::{
    Attested, TpmError,
    authorisation::{Cover, Subject},
    der_signature, kdf,
    key::{Blob, Parent, Session},
    template,
};

impl Session<'_> {
    /// TPM2_Certify.
    pub(super) fn certify(&mut self, blob: &Blob, nonce: &[u8]) -> Result<Attested, TpmError> {
        let qualifying_data = Tpm2bData::try_from(nonce).map_err(TpmError::wire)?;
        let name = blob.name()?;
        let handle = self.load(blob)?;
        let said = self.create_primary(template::attestation());
        let said = said.and_then(|signer| {
            let command = TpmCertifyCommand {
                handles: [handle, signer.handle],
                qualifying_data,
                in_scheme: TpmtSigScheme::default(),
            };
            let certified = Subject {
                name: &name,
                auth: &self.settings.auth,
            };
            let subjects = [certified, signer.subject()];
            let said: Result<TpmCertifyResponse, _> =
                self.state.client.call(&command, &subjects, Cover::COMMAND);
            self.state.client.flush(signer.handle)?;
            let said = said?;
            attested(
                kdf::marshalled(&said.certify_info.inner)?,
                &said.signature,
                &signer,
            )
        });
        self.state.client.flush(handle)?;
        said
    }

    /// TPM2_Quote of these PCRs of the bank of SHA-256.
    pub(super) fn quote(&mut self, pcrs: &[u8], nonce: &[u8]) -> Result<Attested, TpmError> {
        let qualifying_data = Tpm2bData::try_from(nonce).map_err(TpmError::wire)?;
        let pcr_select = selection(pcrs)?;
        // The attestation key and its session want a place; the card's key gives up its own.
        self.evict()?;
        let signer = self.create_primary(template::attestation())?;
        let command = TpmQuoteCommand {
            handles: [signer.handle],
            qualifying_data,
            in_scheme: TpmtSigScheme::default(),
            pcr_select,
        };
        let said: Result<TpmQuoteResponse, _> =
            self.state
                .client
                .call(&command, &[signer.subject()], Cover::COMMAND);
        self.state.client.flush(signer.handle)?;
        let said = said?;
        attested(
            kdf::marshalled(&said.quoted.inner)?,
            &said.signature,
            &signer,
        )
    }
}

/// PCRs 0 to 23 as the bits of three bytes (part 2, 10.6.2).
fn selection(pcrs: &[u8]) -> Result<TpmlPcrSelection, TpmError> {
    let mut bits = [0_u8; 3];
    for pcr in pcrs {
        let byte = bits.get_mut(usize::from(pcr / 8));
        *byte.ok_or_else(|| TpmError::Wire(format!("no PCR {pcr}")))? |= 1 << (pcr % 8);
    }
    let mut selection = TpmlPcrSelection::default();
    let bank = TpmsPcrSelection {
        hash: TpmAlgId::Sha256,
        pcr_select: TpmsPcrSelect::try_from(&bits[..]).map_err(TpmError::wire)?,
    };
    selection.try_push(bank).map_err(TpmError::wire)?;
    Ok(selection)
}

fn attested(
    statement: Vec<u8>,
    signature: &TpmtSignature,
    signer: &Parent,
) -> Result<Attested, TpmError> {
    let (_, attestation_key) = template::read(&signer.public).ok_or(TpmError::Malformed)?;
    Ok(Attested {
        statement,
        signature: der_signature(signature)?,
        attestation_key,
    })
}
