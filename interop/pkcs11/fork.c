/* A program that forks after it used the module: the child goes on with the same handles, or begins anew; threads use
 * the module during the fork; a thread of the parent signs while the child does; nothing of SIGPIPE. */
#include <assert.h>
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static CK_FUNCTION_LIST *p11;
static const char *pin;
static CK_SLOT_ID slot;

#define OK(call)                                                                     \
    do {                                                                             \
        CK_RV rv = (call);                                                           \
        if (rv != CKR_OK) {                                                          \
            fprintf(stderr, "%d: line %d: %s: 0x%lx\n", getpid(), __LINE__, #call, rv); \
            _exit(1);                                                                \
        }                                                                            \
    } while (0)

static CK_SESSION_HANDLE session_of(void) {
    CK_SESSION_HANDLE session;
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session));
    return session;
}

static CK_OBJECT_HANDLE key_of(CK_SESSION_HANDLE session) {
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}};
    CK_OBJECT_HANDLE key = 0;
    CK_ULONG count = 0;
    OK(p11->C_FindObjectsInit(session, template, 1));
    OK(p11->C_FindObjects(session, &key, 1, &count));
    OK(p11->C_FindObjectsFinal(session));
    assert(count == 1);
    return key;
}

static void login(CK_SESSION_HANDLE session) {
    OK(p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)pin, strlen(pin)));
}

static void sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key) {
    CK_MECHANISM mechanism = {CKM_ECDSA_SHA256, NULL, 0};
    CK_BYTE message[] = "message", signature[64];
    CK_ULONG len = sizeof signature;
    OK(p11->C_SignInit(session, &mechanism, key));
    OK(p11->C_Sign(session, message, sizeof message, signature, &len));
    assert(len == 64);
}

static void child_must_pass(pid_t child) {
    int status;
    assert(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "a child ended with status 0x%x\n", status);
        exit(1);
    }
}

static void start(const char *module) {
    void *library = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    CK_C_GetFunctionList list = (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList");
    assert(list);
    OK(list(&p11));
    OK(p11->C_Initialize(NULL));
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    OK(p11->C_GetSlotList(CK_TRUE, slots, &count));
    assert(count >= 1);
    slot = slots[0];
}

static volatile int over;

static void *signs(void *argument) {
    CK_OBJECT_HANDLE key = *(CK_OBJECT_HANDLE *)argument;
    CK_SESSION_HANDLE session = session_of();
    while (!over)
        sign(session, key);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    pin = argv[3];
    const char *how = argv[2];
    int times = atoi(argv[4]);
    start(argv[1]);
    CK_SESSION_HANDLE session = session_of();
    if (!strcmp(how, "before")) {
        /* forked before anything was used: each child logs in by itself, one after the other */
        for (int i = 0; i < times; i++) {
            pid_t child = fork();
            if (!child) {
                login(session);
                sign(session, key_of(session));
                _exit(0);
            }
            child_must_pass(child);
        }
        login(session);
        sign(session, key_of(session));
    } else if (!strcmp(how, "shared")) {
        /* handles, login and PIN go on in children while the parent goes on too (elements with shared = true) */
        login(session);
        CK_OBJECT_HANDLE key = key_of(session);
        sign(session, key);
        pid_t children[64];
        for (int i = 0; i < times; i++) {
            children[i] = fork();
            if (!children[i]) {
                for (int n = 0; n < 3; n++)
                    sign(session, key);
                /* a child that begins anew has no sessions */
                if (i % 2) {
                    CK_RV rv = p11->C_Initialize(NULL);
                    if (rv != CKR_OK || p11->C_CloseSession(session) != CKR_SESSION_HANDLE_INVALID)
                        _exit(3);
                    CK_ULONG count = 16;
                    CK_SLOT_ID slots[16];
                    OK(p11->C_GetSlotList(CK_TRUE, slots, &count));
                    CK_SESSION_HANDLE own = session_of();
                    login(own);
                    sign(own, key_of(own));
                    OK(p11->C_Finalize(NULL));
                }
                _exit(0);
            }
            sign(session, key);
        }
        for (int i = 0; i < times; i++)
            child_must_pass(children[i]);
        for (int n = 0; n < 10; n++)
            sign(session, key);
    } else if (!strcmp(how, "threads")) {
        /* threads sign while the main thread forks; children sign with the inherited handles */
        login(session);
        CK_OBJECT_HANDLE key = key_of(session);
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            pthread_create(&threads[i], NULL, signs, &key);
        for (int i = 0; i < times; i++) {
            pid_t child = fork();
            if (!child) {
                sign(session, key);
                _exit(0);
            }
            child_must_pass(child);
        }
        over = 1;
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
    } else if (!strcmp(how, "unload")) {
        /* loaded and unloaded again and again, used in a thread that lives longer */
        for (int i = 0; i < times; i++) {
            login(session);
            sign(session, key_of(session));
            OK(p11->C_Finalize(NULL));
            assert(p11->C_Finalize(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
            void *library = dlopen(argv[1], RTLD_NOW);
            dlclose(library);
            dlclose(library);
            start(argv[1]);
            session = session_of();
        }
    } else {
        return 2;
    }
    OK(p11->C_Finalize(NULL));
    return 0;
}
