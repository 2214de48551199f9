/* start MODULE COUNT: that many processes and threads start within a moment; each must see a token within a second of
 * its own start. Where other work keeps the machine from it, the processors' time counts that they needed together:
 * what they would wait for each other if they had the machine to themselves. */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Seconds that this process or its children used, a processor. */
static double used(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    double all = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    return all / sysconf(_SC_NPROCESSORS_ONLN);
}

static CK_FUNCTION_LIST *p11;
static pthread_barrier_t barrier;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static int sees_token(void) {
    CK_SLOT_ID slots[16];
    CK_ULONG count = 0;
    CK_TOKEN_INFO token;
    if (p11->C_GetSlotList(CK_TRUE, NULL, &count) != CKR_OK || count < 1 || count > 16)
        return 0;
    if (p11->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK || count < 1)
        return 0;
    return p11->C_GetTokenInfo(slots[0], &token) == CKR_OK;
}

static void *thread(void *argument) {
    double *took = argument, began;
    pthread_barrier_wait(&barrier);
    began = now();
    CK_RV rv = p11->C_Initialize(NULL);
    int good = (rv == CKR_OK || rv == CKR_CRYPTOKI_ALREADY_INITIALIZED) && sees_token();
    *took = good ? now() - began : 1e9;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    int count = atoi(argv[2]), results[2];
    void *library = dlopen(argv[1], RTLD_NOW);
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    if (!list || list(&p11) != CKR_OK || pipe(results))
        return 1;
    for (int i = 0; i < count; i++) {
        if (!fork()) {
            double began = now(), took = 1e9;
            if (p11->C_Initialize(NULL) == CKR_OK && sees_token())
                took = now() - began;
            p11->C_Finalize(NULL);
            _exit(write(results[1], &took, sizeof took) != sizeof took);
        }
    }
    double longest = 0, took;
    for (int i = 0; i < count; i++) {
        if (read(results[0], &took, sizeof took) != sizeof took)
            return 1;
        longest = took > longest ? took : longest;
    }
    while (wait(NULL) > 0) {
    }
    double children = used(RUSAGE_CHILDREN);
    printf("%d processes: longest %.3f s, %.3f s of each processor together\n", count, longest, children);
    pthread_t threads[256];
    double times[256];
    count = count > 256 ? 256 : count;
    pthread_barrier_init(&barrier, NULL, count);
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, thread, &times[i]);
    double slowest = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        slowest = times[i] > slowest ? times[i] : slowest;
    }
    double own = used(RUSAGE_SELF);
    printf("%d threads: longest %.3f s, %.3f s of each processor together\n", count, slowest, own);
    if (p11->C_Finalize(NULL) != CKR_OK)
        return 1;
    return (longest > 1.0 && (children > 1.0 || longest > 60)) || (slowest > 1.0 && (own > 1.0 || slowest > 60));
}
