/* The raw peer of the backend for readers: SCardTransmit in a loop, a thread a reader.
   raw APDU MILLISECONDS READER...   prints APDUs a second over all readers.
   The library is loaded, as the backend does, so that no header is needed. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { unsigned long protocol, length; } io_request;
static long (*establish)(unsigned long, const void *, const void *, long *);
static long (*connect_card)(long, const char *, unsigned long, unsigned long, long *, unsigned long *);
static long (*transmit)(long, const io_request *, const unsigned char *, unsigned long, io_request *, unsigned char *, unsigned long *);
static long (*disconnect)(long, unsigned long);

static unsigned char apdu[512], first[64];
static size_t apdu_len, first_len;
static double seconds;
static pthread_barrier_t begin;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what, long code) {
    fprintf(stderr, "%s: %08lX\n", what, (unsigned long)code & 0xFFFFFFFF);
    exit(1);
}

static size_t hex(const char *text, unsigned char *out, size_t room) {
    size_t n = 0;
    unsigned byte;
    for (; n < room && sscanf(text, "%2x", &byte) == 1; text += 2) out[n++] = byte;
    return n;
}

static void *work(void *reader) {
    long context, card;
    unsigned long protocol;
    unsigned char answer[70000];
    long rc = establish(2, 0, 0, &context);
    if (rc) fail("SCardEstablishContext", rc);
    rc = connect_card(context, reader, 1, 3, &card, &protocol);
    if (rc) fail("SCardConnect", rc);
    io_request io = { protocol, sizeof io };
    unsigned long length = sizeof answer;
    rc = transmit(card, &io, first, first_len, 0, answer, &length);
    if (rc || length < 2 || answer[length - 2] != 0x90) fail("SELECT", rc);
    pthread_barrier_wait(&begin);
    double start = now();
    unsigned long count = 0;
    while (now() - start < seconds) {
        length = sizeof answer;
        rc = transmit(card, &io, apdu, apdu_len, 0, answer, &length);
        if (rc || length < 2 || answer[length - 2] != 0x90) fail("SCardTransmit", rc);
        count++;
    }
    double *rate = malloc(sizeof *rate);
    *rate = count / (now() - start);
    disconnect(card, 0);
    return rate;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    first_len = hex(argv[1], first, sizeof first);
    apdu_len = hex(argv[2], apdu, sizeof apdu);
    seconds = atof(argv[3]) / 1000;
    void *library = dlopen("libpcsclite.so.1", RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    *(void **)&establish = dlsym(library, "SCardEstablishContext");
    *(void **)&connect_card = dlsym(library, "SCardConnect");
    *(void **)&transmit = dlsym(library, "SCardTransmit");
    *(void **)&disconnect = dlsym(library, "SCardDisconnect");
    if (!establish || !connect_card || !transmit || !disconnect) return 1;
    int readers = argc - 4;
    pthread_t threads[64];
    if (readers > 64) return 2;
    pthread_barrier_init(&begin, 0, readers);
    for (int n = 0; n < readers; n++) pthread_create(&threads[n], 0, work, argv[4 + n]);
    double sum = 0;
    for (int n = 0; n < readers; n++) {
        void *rate;
        pthread_join(threads[n], &rate);
        sum += *(double *)rate;
    }
    printf("%f\n", sum);
    return 0;
}
