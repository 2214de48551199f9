"""python-pkcs11: finds keys by label, signs, verifies, decrypts, agrees; cryptography's answers are openssl's."""
import sys

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_ec_public_key

library = pkcs11.lib(sys.argv[1])
token = library.get_token(token_label=sys.argv[2])
kind, pin = sys.argv[3], sys.argv[4]
assert token.manufacturer_id == "GoSE"
with token.open(user_pin=pin) as session:
    private = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="9A")
    public = session.get_key(object_class=ObjectClass.PUBLIC_KEY, label="9A")
    assert private[Attribute.SENSITIVE] and not private[Attribute.EXTRACTABLE]
    assert private.id == public.id
    message = b"message" * 1000
    assert len(session.generate_random(128)) == 16
    assert session.digest(b"abc", mechanism=Mechanism.SHA256).hex().startswith("ba7816bf")
    if kind == "ec":
        signature = private.sign(message, mechanism=Mechanism.ECDSA_SHA256)
        assert public.verify(message, signature, mechanism=Mechanism.ECDSA_SHA256)
        assert not public.verify(b"other", signature, mechanism=Mechanism.ECDSA_SHA256)
        from pkcs11 import KDF
        derived = private.derive_key(
            KeyType.GENERIC_SECRET, 256,
            mechanism_param=(KDF.NULL, None, public[Attribute.EC_POINT]),
            template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True})
        assert len(derived[Attribute.VALUE]) == 32
    else:
        for mechanism in (Mechanism.SHA256_RSA_PKCS, Mechanism.SHA512_RSA_PKCS):
            signature = private.sign(message, mechanism=mechanism)
            assert public.verify(message, signature, mechanism=mechanism)
        for length in (0, 1, 100):
            crypted = public.encrypt(b"x" * length)
            assert private.decrypt(crypted) == b"x" * length
    certificates = list(session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE}))
    assert len(certificates) >= 1 and certificates[0][Attribute.VALUE][0] == 0x30
print("python-pkcs11 is content")
