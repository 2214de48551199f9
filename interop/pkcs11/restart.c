/* restart MODULE PIN SECONDS: signs all the time while the grid goes and comes back. Prints one line a change, and
 * how many errors came after the first signature that succeeded again. */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static CK_FUNCTION_LIST *p11;

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW);
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}};
    if (!list || list(&p11) || p11->C_Initialize(NULL) || p11->C_GetSlotList(CK_TRUE, slots, &count) ||
        p11->C_OpenSession(slots[0], CKF_SERIAL_SESSION, NULL, NULL, &session) ||
        p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)argv[2], strlen(argv[2])) ||
        p11->C_FindObjectsInit(session, template, 1) || p11->C_FindObjects(session, &key, 1, &count) ||
        p11->C_FindObjectsFinal(session) || count != 1)
        return 1;
    puts("ready");
    fflush(stdout);
    int signatures = 0, changes = 0, errors = 0, good = 1;
    CK_RV last = CKR_OK;
    for (time_t end = time(NULL) + atoi(argv[3]); time(NULL) < end;) {
        CK_MECHANISM mechanism = {CKM_ECDSA_SHA256, NULL, 0};
        CK_BYTE signature[64];
        CK_ULONG len = sizeof signature;
        CK_RV rv = p11->C_SignInit(session, &mechanism, key);
        if (rv == CKR_OK)
            rv = p11->C_Sign(session, (CK_BYTE *)"message", 7, signature, &len);
        if (rv == CKR_OK) {
            signatures++;
        } else {
            errors++;
            last = rv;
            struct timespec pause = {0, 20000000};
            nanosleep(&pause, NULL);
        }
        if ((rv == CKR_OK) != good) {
            good = !good;
            changes++;
        }
    }
    printf("%d signatures, %d errors (last 0x%lx), %d changes, %s at the end\n", signatures, errors, last, changes,
           good ? "good" : "bad");
    p11->C_Finalize(NULL);
    return !good || signatures == 0 || changes > 2;
}
