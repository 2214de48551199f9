"""suite.py MODULE TOKEN PIN: the same cases by python-pkcs11 on any module; one line for each, `ok` or `no`, its name and
why. Keys and data are the token's and are gone at the end; cryptography (OpenSSL) computes the same for comparison."""
import hashlib
import hmac
import sys
import traceback

import pkcs11
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

CRYPT = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
WRAP = MechanismFlag.WRAP | MechanismFlag.UNWRAP
SIGN = MechanismFlag.SIGN | MechanismFlag.VERIFY
TEXT = b"sixteen bytes!!!" * 100
CASES = []
made = []


def case(function):
    CASES.append((function.__doc__, function))
    return function


def kept(thing):
    made.append(thing)
    return thing


def aes(session, bits=256, uses=CRYPT, **more):
    return kept(session.generate_key(KeyType.AES, bits, store=True, capabilities=uses, **more))


def known(session, kind, value, uses, more={}):
    flags = {flag: False for flag in (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.SIGN, Attribute.VERIFY,
                                      Attribute.WRAP, Attribute.UNWRAP)}
    for flag in uses:
        flags[flag] = True
    return kept(session.create_object({
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: kind, Attribute.VALUE: value,
        Attribute.TOKEN: True, Attribute.PRIVATE: True, Attribute.SENSITIVE: True, **flags, **more}))


def refuses(error, function, *arguments, **named):
    try:
        function(*arguments, **named)
    except error:
        return
    raise AssertionError(f"not refused as {error.__name__}")


@case
def _(session):
    "an AES key that is made is found by its label and tells what it is"
    aes(session, 128, label="made")
    found = session.get_key(object_class=ObjectClass.SECRET_KEY, label="made")
    assert found.key_type == KeyType.AES and found.key_length == 128
    assert found[Attribute.SENSITIVE] and found[Attribute.LOCAL] and not found[Attribute.EXTRACTABLE]
    assert found[Attribute.NEVER_EXTRACTABLE] and found[Attribute.ENCRYPT] and not found[Attribute.SIGN]
    refuses(pkcs11.exceptions.AttributeSensitive, lambda: found[Attribute.VALUE])


@case
def _(session):
    "AES-GCM: what OpenSSL sealed under a key that was given is opened"
    for key in (b"k" * 16, b"K" * 32):
        own = known(session, KeyType.AES, key, (Attribute.ENCRYPT, Attribute.DECRYPT))
        for text, aad in ((b"", b""), (TEXT, b"to Bob"), (b"x", b"")):
            nonce = b"123456789012"
            sealed = AESGCM(key).encrypt(nonce, text, aad)
            parameters = GCMParams(nonce, aad, 128)
            assert own.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=parameters) == text


@case
def _(session):
    "AES-GCM: what was changed is not opened"
    key = b"k" * 16
    own = known(session, KeyType.AES, key, (Attribute.ENCRYPT, Attribute.DECRYPT))
    sealed = AESGCM(key).encrypt(b"123456789012", TEXT, b"to Bob")
    for at in (0, len(sealed) - 1):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1:]
        refuses(pkcs11.exceptions.EncryptedDataInvalid, own.decrypt, changed, mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(b"123456789012", b"to Bob", 128))


@case
def _(session):
    "AES-GCM under a nonce of the application's: OpenSSL opens it"
    key = b"k" * 32
    own = known(session, KeyType.AES, key, (Attribute.ENCRYPT, Attribute.DECRYPT))
    parameters = GCMParams(b"123456789012", b"to Bob", 128)
    sealed = own.encrypt(TEXT, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
    assert AESGCM(key).decrypt(b"123456789012", sealed, b"to Bob") == TEXT


@case
def _(session):
    "AES-GCM under nonces of the element's: OpenSSL opens it, no nonce comes twice, and the key opens it again"
    key = b"k" * 32
    own = known(session, KeyType.AES, key, (Attribute.ENCRYPT, Attribute.DECRYPT))
    parameters = GCMParams(b"", b"to Bob", 128)
    nonces = set()
    for length in (0, 1, 1600, 16000):
        sealed = own.encrypt(b"x" * length, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        assert AESGCM(key).decrypt(sealed[:12], sealed[12:], b"to Bob") == b"x" * length
        assert own.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=parameters) == b"x" * length
        nonces.add(sealed[:12])
    assert len(nonces) == 4
    refuses(pkcs11.exceptions.DataLenRange, own.encrypt, b"x" * 16001, mechanism=Mechanism.AES_GCM,
            mechanism_param=parameters)


@case
def _(session):
    "AES-GCM in parts"
    key = b"k" * 32
    own = known(session, KeyType.AES, key, (Attribute.ENCRYPT, Attribute.DECRYPT))
    sealed = AESGCM(key).encrypt(b"123456789012", TEXT, b"")
    parts = [sealed[at:at + 100] for at in range(0, len(sealed), 100)]
    opened = own.decrypt(parts, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(b"123456789012", b"", 128))
    assert b"".join(opened) == TEXT


@case
def _(session):
    "HMAC with SHA-256 is OpenSSL's, and verifies"
    for length in (16, 32, 64):
        key = bytes(range(length))
        own = known(session, KeyType.GENERIC_SECRET, key, (Attribute.SIGN, Attribute.VERIFY))
        for text in (b"", b"x", TEXT):
            mac = own.sign(text, mechanism=Mechanism.SHA256_HMAC)
            assert mac == hmac.new(key, text, hashlib.sha256).digest()
            assert own.verify(text, mac, mechanism=Mechanism.SHA256_HMAC)
            assert not own.verify(text + b"!", mac, mechanism=Mechanism.SHA256_HMAC)
        parts = own.sign([b"one", b"two"], mechanism=Mechanism.SHA256_HMAC)
        assert parts == hmac.new(key, b"onetwo", hashlib.sha256).digest()


@case
def _(session):
    "an HMAC key that is made signs"
    own = kept(session.generate_key(KeyType.GENERIC_SECRET, 256, store=True, capabilities=SIGN))
    assert own.verify(TEXT, own.sign(TEXT, mechanism=Mechanism.SHA256_HMAC), mechanism=Mechanism.SHA256_HMAC)


@case
def _(session):
    "AES key wrap: a key travels under another one, as OpenSSL wraps it"
    wrapping = known(session, KeyType.AES, b"w" * 32, (Attribute.WRAP, Attribute.UNWRAP))
    sealed = AESGCM(b"i" * 16).encrypt(b"123456789012", TEXT, b"")
    inner = kept(wrapping.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, aes_key_wrap(b"w" * 32, b"i" * 16),
                                     mechanism=Mechanism.AES_KEY_WRAP, store=True, capabilities=CRYPT,
                                     template={Attribute.EXTRACTABLE: True}))
    assert inner.decrypt(sealed, mechanism=Mechanism.AES_GCM,
                         mechanism_param=GCMParams(b"123456789012", b"", 128)) == TEXT
    assert wrapping.wrap_key(inner, mechanism=Mechanism.AES_KEY_WRAP) == aes_key_wrap(b"w" * 32, b"i" * 16)


@case
def _(session):
    "AES key wrap: what may not leave does not, what was changed does not come in"
    wrapping = aes(session, 256, WRAP)
    stays = aes(session, 128)
    refuses(pkcs11.exceptions.KeyUnextractable, wrapping.wrap_key, stays, mechanism=Mechanism.AES_KEY_WRAP)
    refuses(pkcs11.exceptions.PKCS11Error, wrapping.unwrap_key, ObjectClass.SECRET_KEY, KeyType.AES, b"x" * 40,
            mechanism=Mechanism.AES_KEY_WRAP, store=True, capabilities=CRYPT)


@case
def _(session):
    "a key has the uses that its template says"
    uses = (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP, Attribute.SIGN, Attribute.VERIFY)
    for key, own in ((aes(session, 256, WRAP), (2, 3)), (aes(session), (0, 1)), (
            kept(session.generate_key(KeyType.GENERIC_SECRET, 256, store=True, capabilities=SIGN)), (4, 5))):
        assert [key[use] for use in uses] == [at in own for at in range(6)]


@case
def _(session):
    "a key that is destroyed is gone"
    key = aes(session, label="gone")
    key.destroy()
    made.remove(key)
    refuses(pkcs11.NoSuchKey, session.get_key, object_class=ObjectClass.SECRET_KEY, label="gone")


@case
def _(session):
    "one AES key encrypts and wraps"
    aes(session, 256, CRYPT | WRAP)


@case
def _(session):
    "an AES key of 192 bits"
    aes(session, 192)


@case
def _(session):
    "AES-CBC"
    key = aes(session)
    sealed = key.encrypt(TEXT, mechanism=Mechanism.AES_CBC_PAD, mechanism_param=b"i" * 16)
    assert key.decrypt(sealed, mechanism=Mechanism.AES_CBC_PAD, mechanism_param=b"i" * 16) == TEXT


@case
def _(session):
    "an AES key of the session"
    session.generate_key(KeyType.AES, 256)


@case
def _(session):
    "HMAC with SHA-512"
    key = known(session, KeyType.GENERIC_SECRET, b"k" * 64, (Attribute.SIGN, Attribute.VERIFY))
    assert key.sign(TEXT, mechanism=Mechanism.SHA512_HMAC) == hmac.new(b"k" * 64, TEXT, hashlib.sha512).digest()


@case
def _(session):
    "data is kept, read, changed and deleted"
    data = kept(session.create_object({Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: True,
                                       Attribute.LABEL: "note", Attribute.VALUE: TEXT, Attribute.PRIVATE: True}))
    found, = session.get_objects({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: "note"})
    assert found[Attribute.VALUE] == TEXT and found[Attribute.PRIVATE]
    found[Attribute.VALUE] = b"other"
    again, = session.get_objects({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: "note"})
    assert again[Attribute.VALUE] == b"other"
    data.destroy()
    made.remove(data)
    assert not list(session.get_objects({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: "note"}))


@case
def _(session):
    "data of an application by name"
    kept(session.create_object({Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: True, Attribute.LABEL: "named",
                                Attribute.APPLICATION: "mail", Attribute.VALUE: b"x"}))


@case
def _(session):
    "data of the session"
    kept(session.create_object({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: "own", Attribute.VALUE: b"x"}))


@case
def _(session):
    "a P-256 key pair of the token signs and verifies"
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
    public, private = parameters.generate_keypair(store=True)
    assert public.verify(TEXT, private.sign(TEXT, mechanism=Mechanism.ECDSA_SHA256), mechanism=Mechanism.ECDSA_SHA256)


@case
def _(session):
    "a key pair of the session"
    session.generate_keypair(KeyType.RSA, 2048)


@case
def _(session):
    "a P-521 key pair"
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp521r1")}, local=True)
    parameters.generate_keypair(store=True)


@case
def _(session):
    "digests and random bytes"
    assert session.digest(TEXT, mechanism=Mechanism.SHA256) == hashlib.sha256(TEXT).digest()
    assert session.digest(TEXT, mechanism=Mechanism.SHA512) == hashlib.sha512(TEXT).digest()
    assert session.generate_random(256) != session.generate_random(256)


@case
def _(session):
    "the mechanisms that the list tells have infos"
    slot = session.token.slot
    for mechanism in slot.get_mechanisms():
        slot.get_mechanism_info(mechanism)


def main():
    token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])
    with token.open(user_pin=sys.argv[3], rw=True) as session:
        for name, function in CASES:
            try:
                function(session)
                print(f"ok {name}")
            except Exception as error:
                print(f"no {name}: {type(error).__name__} {error}")
                traceback.print_exc()
            while made:
                try:
                    made.pop().destroy()
                except pkcs11.exceptions.PKCS11Error as error:
                    print(f"no destroyed: {error}")


main()
