"""vectors.py MODULE TOKEN PIN FOLDER: Wycheproof's vectors of HMAC, AES-GCM and AES key wrap (FOLDER has them as JSON) on
keys that are given to the element, through the module's own C functions. Lengths that no element takes are left out."""
import json
import sys

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import EncryptedDataInvalid, WrappedKeyInvalid, WrappedKeyLenRange

USES = (Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.SIGN, Attribute.VERIFY, Attribute.WRAP, Attribute.UNWRAP)
CRYPT = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT


def given(session, kind, value, uses):
    return session.create_object({
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: kind, Attribute.VALUE: value, Attribute.TOKEN: True,
        Attribute.PRIVATE: True, Attribute.SENSITIVE: True, **{use: use in uses for use in USES}})


def mac(session, group, test, field):
    if group["tagSize"] != 256 or len(field["key"]) not in range(16, 65, 8):
        return None
    key = given(session, KeyType.GENERIC_SECRET, field["key"], USES[2:4])
    good = key.verify(field["msg"], field["tag"], mechanism=Mechanism.SHA256_HMAC)
    key.destroy()
    return good


def gcm(session, group, test, field):
    if group["ivSize"] != 96 or group["tagSize"] != 128 or len(field["key"]) == 24:
        return None
    key = given(session, KeyType.AES, field["key"], USES[:2])
    try:
        parameters = GCMParams(field["iv"], field["aad"], 128)
        opened = key.decrypt(field["ct"] + field["tag"], mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        return opened == field["msg"]
    except EncryptedDataInvalid:
        return False
    finally:
        key.destroy()


def wrap(session, group, test, field):
    if len(field["key"]) == 24 or len(field["msg"]) not in (16, 32):
        return None
    key = given(session, KeyType.AES, field["key"], USES[4:])
    try:
        key.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, field["ct"], mechanism=Mechanism.AES_KEY_WRAP, store=True,
                       capabilities=CRYPT).destroy()
        return True
    except (WrappedKeyInvalid, WrappedKeyLenRange):
        return False
    finally:
        key.destroy()


wrong = 0
token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])
with token.open(user_pin=sys.argv[3], rw=True) as session:
    for name, judge, least in (("hmac_sha256", mac, 60), ("aes_gcm", gcm, 100), ("aes_wrap", wrap, 50)):
        tried = 0
        with open(f"{sys.argv[4]}/{name}_test.json") as file:
            groups = json.load(file)["testGroups"]
        for group in groups:
            for test in group["tests"]:
                hexadecimal = {name: bytes.fromhex(test[name]) for name in ("key", "msg", "tag", "iv", "aad", "ct") if name in test}
                good = judge(session, group, test, hexadecimal)
                if good is None:
                    continue
                tried += 1
                if good != (test["result"] == "valid"):
                    wrong += 1
                    print(name, test["tcId"], test["comment"], test["result"], good)
        print(f"{name}: {tried} vectors, {wrong} mismatches")
        assert tried >= least, tried
sys.exit(wrong != 0)
