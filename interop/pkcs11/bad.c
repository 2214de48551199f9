/* What applications do wrong: NULL, lying lengths, buffers too small, too many sessions, hundreds of objects, wrong
 * PINs. Every call gives the code that the standard names; nothing crashes. */
#include <assert.h>
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static CK_FUNCTION_LIST *p11;

static void expect(int line, const char *call, CK_RV got, CK_RV wanted) {
    if (got != wanted) {
        fprintf(stderr, "line %d: %s: 0x%lx, not 0x%lx\n", line, call, got, wanted);
        exit(1);
    }
}
#define IS(code, call) expect(__LINE__, #call, (call), (code))
#define OK(call) IS(CKR_OK, call)

static CK_OBJECT_HANDLE find(CK_SESSION_HANDLE session, CK_OBJECT_CLASS class) {
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}};
    CK_OBJECT_HANDLE found = 0;
    CK_ULONG count = 0;
    OK(p11->C_FindObjectsInit(session, template, 1));
    IS(CKR_OPERATION_ACTIVE, p11->C_FindObjectsInit(session, template, 1));
    OK(p11->C_FindObjects(session, &found, 1, &count));
    OK(p11->C_FindObjectsFinal(session));
    IS(CKR_OPERATION_NOT_INITIALIZED, p11->C_FindObjectsFinal(session));
    return count ? found : 0;
}

static CK_RV create_mutex(void **mutex) {
    *mutex = NULL;
    return CKR_OK;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    CK_UTF8CHAR *pin = (CK_UTF8CHAR *)argv[2];
    CK_ULONG pin_len = strlen(argv[2]);
    void *library = dlopen(argv[1], RTLD_NOW);
    assert(library);
    CK_C_GetFunctionList list = (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList");
    IS(CKR_ARGUMENTS_BAD, list(NULL));
    OK(list(&p11));

    CK_SLOT_ID slots[4];
    CK_ULONG count = 4;
    IS(CKR_CRYPTOKI_NOT_INITIALIZED, p11->C_GetSlotList(CK_TRUE, slots, &count));
    IS(CKR_CRYPTOKI_NOT_INITIALIZED, p11->C_Finalize(NULL));
    CK_C_INITIALIZE_ARGS arguments = {0};
    arguments.pReserved = &count;
    IS(CKR_ARGUMENTS_BAD, p11->C_Initialize(&arguments));
    arguments.pReserved = NULL;
    arguments.CreateMutex = create_mutex;
    IS(CKR_ARGUMENTS_BAD, p11->C_Initialize(&arguments));
    OK(p11->C_Initialize(NULL));
    IS(CKR_CRYPTOKI_ALREADY_INITIALIZED, p11->C_Initialize(NULL));

    IS(CKR_ARGUMENTS_BAD, p11->C_GetInfo(NULL));
    IS(CKR_ARGUMENTS_BAD, p11->C_GetSlotList(CK_TRUE, slots, NULL));
    OK(p11->C_GetSlotList(CK_TRUE, NULL, &count));
    assert(count == 2);
    count = 1;
    IS(CKR_BUFFER_TOO_SMALL, p11->C_GetSlotList(CK_TRUE, slots, &count));
    assert(count == 2);
    OK(p11->C_GetSlotList(CK_TRUE, slots, &count));
    CK_SLOT_ID slot = slots[0];
    IS(CKR_ARGUMENTS_BAD, p11->C_GetSlotInfo(slot, NULL));
    IS(CKR_ARGUMENTS_BAD, p11->C_GetTokenInfo(slot, NULL));
    CK_TOKEN_INFO token;
    IS(CKR_SLOT_ID_INVALID, p11->C_GetTokenInfo(77, &token));
    IS(CKR_SLOT_ID_INVALID, p11->C_GetTokenInfo((CK_SLOT_ID)-1, &token));
    IS(CKR_NO_EVENT, p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, &slot, NULL));
    CK_MECHANISM_TYPE few[2];
    count = 2;
    IS(CKR_BUFFER_TOO_SMALL, p11->C_GetMechanismList(slot, few, &count));
    CK_MECHANISM_INFO mechanism_info;
    IS(CKR_MECHANISM_INVALID, p11->C_GetMechanismInfo(slot, 0x4711, &mechanism_info));

    /* 10,000 sessions: refused at the bound, and the others go on */
    CK_SESSION_HANDLE session, extra;
    IS(CKR_SESSION_PARALLEL_NOT_SUPPORTED, p11->C_OpenSession(slot, 0, NULL, NULL, &session));
    IS(CKR_ARGUMENTS_BAD, p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, NULL));
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    int opened = 1, refused = 0;
    for (int i = 1; i < 10000; i++) {
        CK_RV rv = p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &extra);
        if (rv == CKR_OK)
            opened++;
        else if (rv == CKR_SESSION_COUNT)
            refused++;
        else
            expect(__LINE__, "C_OpenSession", rv, CKR_SESSION_COUNT);
    }
    printf("sessions: %d opened, %d refused\n", opened, refused);
    assert(opened == 1024 && refused == 8976);
    OK(p11->C_CloseAllSessions(slot));
    IS(CKR_SESSION_HANDLE_INVALID, p11->C_CloseSession(session));
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));

    /* PINs: forms that the card is not asked about, no PIN, twice */
    assert(find(session, CKO_PRIVATE_KEY) == 0);
    IS(CKR_ARGUMENTS_BAD, p11->C_Login(session, CKU_USER, NULL, 0));
    IS(CKR_PIN_INCORRECT, p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)"letters", 7));
    IS(CKR_ARGUMENTS_BAD, p11->C_Login(session, CKU_USER, pin, (CK_ULONG)-1));
    IS(CKR_USER_TYPE_INVALID, p11->C_Login(session, 9, pin, pin_len));
    IS(CKR_USER_NOT_LOGGED_IN, p11->C_Logout(session));
    OK(p11->C_Login(session, CKU_USER, pin, pin_len));
    IS(CKR_USER_ALREADY_LOGGED_IN, p11->C_Login(session, CKU_USER, pin, pin_len));

    /* attributes */
    CK_OBJECT_HANDLE key = find(session, CKO_PRIVATE_KEY), public_key = find(session, CKO_PUBLIC_KEY);
    assert(key && public_key);
    CK_BYTE value[4096];
    CK_ATTRIBUTE asked[] = {{CKA_PRIVATE_EXPONENT, value, sizeof value}, {CKA_ID, value, 3}, {CKA_LABEL, value, sizeof value}};
    CK_RV rv = p11->C_GetAttributeValue(session, key, asked, 3);
    assert(rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_BUFFER_TOO_SMALL);
    assert(asked[0].ulValueLen == (CK_ULONG)-1 && asked[1].ulValueLen == (CK_ULONG)-1 && asked[2].ulValueLen == 2);
    CK_ATTRIBUTE unknown = {0x7777, value, sizeof value};
    IS(CKR_ATTRIBUTE_TYPE_INVALID, p11->C_GetAttributeValue(session, key, &unknown, 1));
    IS(CKR_ARGUMENTS_BAD, p11->C_GetAttributeValue(session, key, NULL, 1));
    IS(CKR_OBJECT_HANDLE_INVALID, p11->C_GetAttributeValue(session, 12345678, asked, 1));
    CK_ATTRIBUTE lying = {CKA_LABEL, NULL, 100};
    IS(CKR_ATTRIBUTE_VALUE_INVALID, p11->C_FindObjectsInit(session, &lying, 1));
    lying.pValue = value;
    lying.ulValueLen = (CK_ULONG)-1;
    IS(CKR_ATTRIBUTE_VALUE_INVALID, p11->C_FindObjectsInit(session, &lying, 1));
    IS(CKR_ARGUMENTS_BAD, p11->C_FindObjectsInit(session, NULL, 1));
    IS(CKR_ARGUMENTS_BAD, p11->C_FindObjectsInit(session, asked, (CK_ULONG)-1));

    /* signatures: buffers too small consume nothing */
    CK_MECHANISM ecdsa = {CKM_ECDSA_SHA256, NULL, 0}, pss = {CKM_RSA_PKCS_PSS, value, 3}, none = {0x4711, NULL, 0};
    CK_BYTE message[] = "message", signature[512];
    CK_ULONG len = 10;
    IS(CKR_OPERATION_NOT_INITIALIZED, p11->C_Sign(session, message, 7, signature, &len));
    IS(CKR_ARGUMENTS_BAD, p11->C_SignInit(session, NULL, key));
    IS(CKR_MECHANISM_INVALID, p11->C_SignInit(session, &none, key));
    IS(CKR_MECHANISM_PARAM_INVALID, p11->C_SignInit(session, &pss, key));
    IS(CKR_KEY_HANDLE_INVALID, p11->C_SignInit(session, &ecdsa, 12345678));
    IS(CKR_KEY_TYPE_INCONSISTENT, p11->C_SignInit(session, &ecdsa, public_key));
    OK(p11->C_SignInit(session, &ecdsa, key));
    IS(CKR_OPERATION_ACTIVE, p11->C_SignInit(session, &ecdsa, key));
    OK(p11->C_Sign(session, message, 7, NULL, &len));
    assert(len == 64);
    len = 63;
    IS(CKR_BUFFER_TOO_SMALL, p11->C_Sign(session, message, 7, signature, &len));
    assert(len == 64);
    IS(CKR_ARGUMENTS_BAD, p11->C_Sign(session, message, 7, signature, NULL));
    IS(CKR_ARGUMENTS_BAD, p11->C_Sign(session, NULL, 7, signature, &len));
    OK(p11->C_Sign(session, message, 7, signature, &len));
    assert(len == 64);
    OK(p11->C_VerifyInit(session, &ecdsa, public_key));
    OK(p11->C_Verify(session, message, 7, signature, 64));
    OK(p11->C_VerifyInit(session, &ecdsa, public_key));
    IS(CKR_SIGNATURE_LEN_RANGE, p11->C_Verify(session, message, 7, signature, 63));
    signature[10] ^= 1;
    OK(p11->C_VerifyInit(session, &ecdsa, public_key));
    IS(CKR_SIGNATURE_INVALID, p11->C_Verify(session, message, 7, signature, 64));
    /* in parts; input and output in one buffer */
    OK(p11->C_SignInit(session, &ecdsa, key));
    OK(p11->C_SignUpdate(session, message, 3));
    OK(p11->C_SignUpdate(session, message + 3, 4));
    OK(p11->C_SignFinal(session, signature, &len));
    OK(p11->C_VerifyInit(session, &ecdsa, public_key));
    OK(p11->C_Verify(session, message, 7, signature, 64));
    memcpy(value, message, 7);
    OK(p11->C_SignInit(session, &ecdsa, key));
    len = sizeof value;
    OK(p11->C_Sign(session, value, 7, value, &len));
    OK(p11->C_VerifyInit(session, &ecdsa, public_key));
    OK(p11->C_Verify(session, message, 7, value, 64));

    /* 300 objects of the session, found again and gone with it */
    CK_OBJECT_CLASS data = CKO_DATA;
    CK_SESSION_HANDLE other;
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &other));
    for (CK_ULONG i = 0; i < 300; i++) {
        CK_ATTRIBUTE template[] = {{CKA_CLASS, &data, sizeof data}, {CKA_VALUE, &i, sizeof i}};
        CK_OBJECT_HANDLE made;
        OK(p11->C_CreateObject(other, template, 2, &made));
    }
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &data, sizeof data}};
    CK_OBJECT_HANDLE found[1000];
    OK(p11->C_FindObjectsInit(session, template, 1));
    OK(p11->C_FindObjects(session, found, 200, &count));
    assert(count == 200);
    OK(p11->C_FindObjects(session, found, 1000, &count));
    assert(count == 100);
    OK(p11->C_FindObjectsFinal(session));
    OK(p11->C_CloseSession(other));
    assert(find(session, CKO_DATA) == 0);
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE private_template[] = {{CKA_TOKEN, &yes, 1}};
    CK_MECHANISM pair = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_BYTE curve[] = {6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7};
    CK_ATTRIBUTE public_template[] = {{CKA_EC_PARAMS, curve, sizeof curve}};
    IS(CKR_TOKEN_WRITE_PROTECTED, p11->C_GenerateKeyPair(session, &pair, public_template, 1, private_template, 1, &key, &public_key));

    OK(p11->C_Logout(session));
    IS(CKR_OPERATION_NOT_INITIALIZED, p11->C_Sign(session, message, 7, signature, &len));
    assert(find(session, CKO_PRIVATE_KEY) == 0);
    IS(CKR_FUNCTION_NOT_SUPPORTED, p11->C_InitToken(slot, pin, pin_len, value));
    OK(p11->C_Finalize(NULL));
    puts("every code as the standard names it");
    return 0;
}
