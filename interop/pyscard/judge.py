"""Cases on a card in the first reader: by pyscard alone, and by Yubico's library (yubikit) on top of it.

usage: judge.py CASE SECRETS; the secrets are those that `gose element init` wrote.
"""

import datetime
import re
import sys
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID
from smartcard.CardMonitoring import CardMonitor, CardObserver
from smartcard.Exceptions import CardConnectionException, NoCardException
from smartcard.ExclusiveConnectCardConnection import ExclusiveConnectCardConnection
from smartcard.scard import SCARD_RESET_CARD
from smartcard.System import readers
from smartcard.util import toBytes, toHexString

from ykman.pcsc import ScardSmartCardConnection
from yubikit.core.smartcard import ApduError
from yubikit.piv import (
    KEY_TYPE,
    MANAGEMENT_KEY_TYPE,
    OBJECT_ID,
    PIN_POLICY,
    SLOT,
    InvalidPinError,
    PivSession,
)

SELECT = toBytes("00A4040009A0000003080000100000")
SHA256 = hashes.SHA256()


def secret(name):
    with open(sys.argv[2]) as file:
        return re.search(f'^{name} = "(.*)"$', file.read(), re.M).group(1)


def pin():
    return secret("piv-pin")


def management():
    return MANAGEMENT_KEY_TYPE.AES256, bytes.fromhex(secret("management-key"))


def connection():
    made = readers()[0].createConnection()
    made.connect()
    return made


def exchange(card, apdu):
    """What the card answers, with what it announces by 61xx."""
    data, sw1, sw2 = card.transmit(apdu)
    while sw1 == 0x61:
        more, sw1, sw2 = card.transmit([0x00, 0xC0, 0x00, 0x00, sw2])
        data += more
    return bytes(data), sw1 << 8 | sw2


def verify_apdu(digits):
    value = digits.encode().ljust(8, b"\xff")
    return [0x00, 0x20, 0x00, 0x80, 8, *value]


def recognises():
    card = connection()
    assert toHexString(card.getATR()).startswith("3B 8B 01 80 F9 A0 00 00 03 08"), card.getATR()
    data, sw = exchange(card, SELECT)
    assert sw == 0x9000 and data[:2] == bytes.fromhex("6134"), (data, sw)
    card.disconnect()


def long_answers():
    """The certificate of 9A: by 61xx and by an extended Le, the same bytes."""
    card = connection()
    exchange(card, SELECT)
    get = toBytes("00CB3FFF055C035FC105")
    short, sw = exchange(card, get + [0x00])
    assert sw == 0x9000 and len(short) > 256, (len(short), sw)
    extended = toBytes("00CB3FFF0000055C035FC1050000")
    whole, sw1, sw2 = card.transmit(extended)
    assert (sw1, sw2) == (0x90, 0x00) and bytes(whole) == short
    der = short[short.index(b"\x70\x82") + 4 :]
    x509.load_der_x509_certificate(der[: 4 + int.from_bytes(der[2:4], "big")])


def signs():
    """GENERAL AUTHENTICATE by hand; the cryptography package verifies."""
    card = connection()
    exchange(card, SELECT)
    digest = hashes.Hash(SHA256)
    digest.update(b"a message")
    digest = digest.finalize()
    sign = [0x00, 0x87, 0x11, 0x9A, 38, 0x7C, 36, 0x82, 0x00, 0x81, 32, *digest, 0x00]
    assert exchange(card, sign)[1] == 0x6982
    assert exchange(card, verify_apdu(pin()))[1] == 0x9000
    data, sw = exchange(card, sign)
    assert sw == 0x9000, hex(sw)
    PivSession(Over(card)).get_certificate(SLOT.AUTHENTICATION).public_key().verify(
        data[4:], digest, ec.ECDSA(utils.Prehashed(SHA256))
    )


def resets():
    """A reset forgets the PIN and the selection."""
    card = connection()
    exchange(card, SELECT)
    assert exchange(card, verify_apdu(pin()))[1] == 0x9000
    assert exchange(card, toBytes("00200080"))[1] == 0x9000
    card.disconnect()
    again = readers()[0].createConnection()
    again.connect(disposition=SCARD_RESET_CARD)
    again.disconnect()
    again.connect()
    exchange(again, SELECT)
    assert exchange(again, toBytes("00200080"))[1] == 0x63C3


def excludes():
    """A connection for one program alone keeps the next one out."""
    first = ExclusiveConnectCardConnection(readers()[0].createConnection())
    first.connect()
    try:
        connection()
    except CardConnectionException:
        pass
    else:
        raise AssertionError("two have the card")
    first.disconnect()
    connection().disconnect()


class Comings(CardObserver):
    def __init__(self):
        self.added, self.removed = 0, 0

    def update(self, observable, actions):
        self.added += len(actions[0])
        self.removed += len(actions[1])


def monitors():
    """Says `ready`, then waits for the card to leave and to come back."""
    comings = Comings()
    monitor = CardMonitor()
    monitor.addObserver(comings)
    wait(lambda: comings.added == 1)
    print("ready", flush=True)
    wait(lambda: comings.removed == 1)
    try:
        connection()
        raise AssertionError("a card that is away answers")
    except (NoCardException, CardConnectionException):
        pass
    wait(lambda: comings.added == 2)
    monitor.deleteObserver(comings)
    wait(answers)
    recognises()


def answers():
    """Whether the card is powered: pcscd tells of the one before the other."""
    try:
        connection().disconnect()
        return True
    except (NoCardException, CardConnectionException):
        return False


def wait(ready):
    end = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


class Over(ScardSmartCardConnection):
    """A connection that is there already, for yubikit."""

    def __init__(self, card):
        self.connection = card

    transport = None


def session():
    return PivSession(ScardSmartCardConnection(readers()[0].createConnection()))


def introduces():
    piv = session()
    assert piv.version >= (5, 4, 0), piv.version
    serial, sw1, sw2 = piv.protocol.connection.connection.transmit(toBytes("00F8000000"))
    assert (sw1, sw2) == (0x90, 0x00)
    guid = piv.get_object(OBJECT_ID.CHUID)
    assert guid[guid.index(b"\x34\x10") + 2 :].startswith(bytes(serial))
    assert piv.get_management_key_metadata().key_type == MANAGEMENT_KEY_TYPE.AES256
    for metadata in (piv.get_pin_metadata(), piv.get_puk_metadata()):
        assert not metadata.default_value and metadata.attempts_remaining == 3


def pins():
    piv = session()
    try:
        piv.verify_pin("000000")
        raise AssertionError("any PIN is good")
    except InvalidPinError as error:
        assert error.attempts_remaining == 2, error
    piv.verify_pin(pin())
    assert piv.get_pin_attempts() == 3
    piv.change_pin(pin(), "87654321")
    piv.verify_pin("87654321")
    piv.unblock_pin(secret("piv-puk"), pin())
    piv.verify_pin(pin())


def use(piv, slot, key_type, public):
    """The key of a slot signs, and decrypts or agrees."""
    piv.verify_pin(pin())
    if isinstance(public, rsa.RSAPublicKey):
        signature = piv.sign(slot, key_type, b"a message", SHA256, padding.PKCS1v15())
        public.verify(signature, b"a message", padding.PKCS1v15(), SHA256)
        secret_text = public.encrypt(b"a secret", padding.PKCS1v15())
        piv.verify_pin(pin())
        assert piv.decrypt(slot, secret_text, padding.PKCS1v15()) == b"a secret"
    else:
        signature = piv.sign(slot, key_type, b"a message", SHA256)
        public.verify(signature, b"a message", ec.ECDSA(SHA256))
        other = ec.generate_private_key(public.curve)
        piv.verify_pin(pin())
        assert piv.calculate_secret(slot, other.public_key()) == other.exchange(ec.ECDH(), public)


def generates():
    piv = session()
    try:
        piv.generate_key(SLOT.RETIRED1, KEY_TYPE.ECCP256)
        raise AssertionError("anybody makes keys")
    except ApduError as error:
        assert error.sw == 0x6982, error
    piv.authenticate(*management())
    for key_type in (KEY_TYPE.ECCP256, KEY_TYPE.ECCP384, KEY_TYPE.RSA2048):
        public = piv.generate_key(SLOT.RETIRED1, key_type, pin_policy=PIN_POLICY.ONCE)
        metadata = piv.get_slot_metadata(SLOT.RETIRED1)
        assert metadata.generated and metadata.key_type == key_type
        use(piv, SLOT.RETIRED1, key_type, public)
    try:
        piv.generate_key(SLOT.RETIRED1, KEY_TYPE.ECCP256, pin_policy=PIN_POLICY.NEVER)
        raise AssertionError("a policy that the slot has not")
    except ApduError as error:
        assert error.sw == 0x6A81, error


def imports():
    piv = session()
    piv.authenticate(*management())
    for key in (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ):
        key_type = piv.put_key(SLOT.RETIRED2, key)
        metadata = piv.get_slot_metadata(SLOT.RETIRED2)
        assert not metadata.generated and metadata.key_type == key_type
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        assert metadata.public_key.public_bytes(*form) == key.public_key().public_bytes(*form)
        use(piv, SLOT.RETIRED2, key_type, key.public_key())
        try:
            piv.attest_key(SLOT.RETIRED2)
            raise AssertionError("a key from outside is attested")
        except ApduError as error:
            assert error.sw == 0x6985, error


def attests():
    piv = session()
    attestation = piv.attest_key(SLOT.AUTHENTICATION)
    issuer = piv.get_certificate(SLOT.ATTESTATION)
    issuer.public_key().verify(
        attestation.signature, attestation.tbs_certificate_bytes, ec.ECDSA(SHA256)
    )
    own = piv.get_certificate(SLOT.AUTHENTICATION)
    assert attestation.public_key().public_numbers() == own.public_key().public_numbers()


def certificates():
    piv = session()
    piv.authenticate(*management())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 60)])
    now = datetime.datetime.utcnow()
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(1))
        .sign(key, SHA256)
    )
    piv.put_certificate(SLOT.RETIRED2, made)
    assert piv.get_certificate(SLOT.RETIRED2) == made
    piv.delete_certificate(SLOT.RETIRED2)
    try:
        piv.get_certificate(SLOT.RETIRED2)
        raise AssertionError("what was deleted is there")
    except ApduError as error:
        assert error.sw == 0x6A82, error


def rekeys():
    piv = session()
    kind, value = management()
    piv.authenticate(kind, value)
    piv.set_management_key(MANAGEMENT_KEY_TYPE.AES128, bytes(range(16)))
    piv.authenticate(MANAGEMENT_KEY_TYPE.AES128, bytes(range(16)))
    piv.set_management_key(kind, value)
    piv.authenticate(kind, value)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
