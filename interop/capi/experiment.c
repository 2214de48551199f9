/* The paper's experiment with the ten functions of libgose (MILCOM 2014, section IV): a guest's element (EAP-TLS peer)
 * and the authentication server's element (EAP-TLS authenticator) do a TLS handshake, EAP packet by EAP packet; then
 * both hosts take cipher suite and key block.
 *
 *     experiment CONFIGURATION PEER-PIN SERVER-PIN
 *
 * The readers are called `peer` and `server`; the PINs are the bearers' of their EAP-TLS applications. */
#include <gose.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The EAP-TLS application of GoSE's elements. */
static const uint8_t AID[] = {0xF0, 0x47, 0x4F, 0x53, 0x45, 0x45, 0x41, 0x50, 0x01};

static gose_handle *handle;

#define MUST(wanted, call)                                                                       \
    do {                                                                                         \
        gose_status got = (call);                                                                \
        if (got != (wanted)) {                                                                   \
            fprintf(stderr, "line %d: %s: %d, not %d: %s\n", __LINE__, #call, got, (wanted),     \
                    gose_error_text(handle));                                                    \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)
#define OK(call) MUST(GOSE_OK, call)
#define CHECK(what)                                                  \
    do {                                                             \
        if (!(what)) {                                               \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what); \
            exit(1);                                                 \
        }                                                            \
    } while (0)

static size_t records_sent;

/* Where the middleware hands over the TLS records of a flight; a guest would send them on. */
static int count_records(void *arg, const uint8_t *records, size_t len) {
    (void)arg;
    CHECK(records[0] >= 20 && records[0] <= 24);
    records_sent += len;
    return 0;
}

static size_t index_of(const char *names, const char *name) {
    size_t index = 0;
    for (const char *at = names; *at; at += strlen(at) + 1, index++)
        if (!strcmp(at, name))
            return index;
    fprintf(stderr, "no reader is called %s\n", name);
    exit(1);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void *lists(void *arg) {
    char names[256];
    for (int i = 0; i < 20; i++) {
        size_t len = sizeof names, count = 0;
        OK(SCard_list_remote_reader(handle, names, &len, &count));
        CHECK(count == 2);
    }
    return arg;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: experiment CONFIGURATION PEER-PIN SERVER-PIN\n");
        return 2;
    }

    /* what goes wrong has a cause and a text */
    MUST(GOSE_INVALID_ARGUMENT, gose_open(NULL, &handle));
    MUST(GOSE_INVALID_ARGUMENT, gose_open(argv[1], NULL));
    MUST(GOSE_CONFIGURATION, gose_open("/nonexistent", &handle));
    CHECK(strstr(gose_error_text(handle), "/nonexistent"));
    MUST(GOSE_CONFIGURATION, SCard_connect_remote_reader(handle, 0));
    gose_close(handle);
    gose_close(NULL);
    MUST(GOSE_INVALID_ARGUMENT, SCard_connect_remote_reader(NULL, 0));

    /* list */
    OK(gose_open(argv[1], &handle));
    size_t len = 0, count = 0;
    MUST(GOSE_INVALID_ARGUMENT, SCard_list_remote_reader(handle, NULL, NULL, &count));
    MUST(GOSE_BUFFER_TOO_SMALL, SCard_list_remote_reader(handle, NULL, &len, &count));
    char *names = malloc(len);
    OK(SCard_list_remote_reader(handle, names, &len, &count));
    CHECK(count == 2 && names[len - 1] == 0 && names[len - 2] == 0);
    size_t peer = index_of(names, "peer"), server = index_of(names, "server");
    free(names);
    MUST(GOSE_NO_READER, SCard_connect_remote_reader(handle, 77));

    /* initialise: application, PIN, identity */
    size_t readers = 0;
    MUST(GOSE_INVALID_ARGUMENT, SCard_init_remote_reader(handle, peer, NULL, 9, "client", argv[2], 0, NULL));
    MUST(GOSE_INVALID_ARGUMENT, SCard_init_remote_reader(handle, peer, AID, sizeof AID, NULL, argv[2], 0, NULL));
    MUST(GOSE_PIN_WRONG, SCard_init_remote_reader(handle, peer, AID, sizeof AID, "client", "111", 0, NULL));
    MUST(GOSE_CARD, SCard_init_remote_reader(handle, peer, AID, sizeof AID, "nobody", argv[2], 0, NULL));
    OK(SCard_init_remote_reader(handle, peer, AID, sizeof AID, "client", argv[2], 0, &readers));
    CHECK(readers == 2);
    OK(SCard_init_remote_reader(handle, server, AID, sizeof AID, "server", argv[3], 0, NULL));
    uint8_t block[512];
    uint64_t client_next, server_next;
    uint16_t version, suite;
    MUST(GOSE_CARD, SCard_get_remote_cipher_suite(handle, peer, &version, &suite));

    /* the handshake: the server's element begins when the peer's identity comes */
    double began = seconds();
    uint8_t a[4096], b[4096];
    const uint8_t identity_request[] = {1, 1, 0, 5, 1};
    size_t a_len = 3, b_len;
    MUST(GOSE_BUFFER_TOO_SMALL, SCard_start_remote_eap(handle, peer, identity_request, 5, a, &a_len));
    CHECK(a_len > 5 && a_len < sizeof a);
    /* the same question again gives the answer that did not fit */
    OK(SCard_start_remote_eap(handle, peer, identity_request, 5, a, &a_len));
    CHECK(a[0] == 2 && a[4] == 1);
    b_len = sizeof b;
    OK(SCard_start_remote_eap(handle, server, a, a_len, b, &b_len));
    int packets = 2;
    gose_message message = {0};
    for (;;) {
        OK(SCard_parse_rw_message(handle, server, b, b_len, &message, count_records, NULL));
        a_len = sizeof a;
        OK(SCard_process_eap_tls_packet(handle, peer, b, b_len, a, &a_len));
        packets++;
        if (message.code == 3 || message.code == 4)
            break;
        CHECK(message.code == 1 && message.type == 13 && a_len > 0);
        OK(SCard_parse_rw_message(handle, peer, a, a_len, &message, count_records, NULL));
        b_len = sizeof b;
        OK(SCard_process_eap_tls_packet(handle, server, a, a_len, b, &b_len));
        CHECK(++packets < 100);
    }
    CHECK(message.code == 3);
    double took = seconds() - began;

    /* cipher suite and key block, the same on both sides, once */
    uint16_t other_version, other_suite;
    OK(SCard_get_remote_cipher_suite(handle, peer, &version, &suite));
    OK(SCard_get_remote_cipher_suite(handle, server, &other_version, &other_suite));
    CHECK(version == other_version && suite == other_suite);
    uint8_t other_block[512];
    size_t block_len = 10, other_len = sizeof other_block;
    uint64_t other_client, other_server;
    MUST(GOSE_BUFFER_TOO_SMALL, SCard_get_remote_key_block(handle, peer, block, &block_len, &client_next, &server_next));
    OK(SCard_get_remote_key_block(handle, peer, block, &block_len, &client_next, &server_next));
    OK(SCard_get_remote_key_block(handle, server, other_block, &other_len, &other_client, &other_server));
    CHECK(block_len == other_len && block_len >= 32 && !memcmp(block, other_block, block_len));
    CHECK(client_next == other_client && server_next == other_server);
    MUST(GOSE_CARD, SCard_get_remote_key_block(handle, peer, block, &block_len, &client_next, &server_next));

    /* any other command; threads on one handle; back to nothing */
    const uint8_t select[] = {0x00, 0xA4, 0x04, 0x00, 0x02, 0x11, 0x22};
    uint16_t sw = 0;
    a_len = sizeof a;
    MUST(GOSE_REFUSED, SCard_send_remote_apdu_cmd(handle, peer, select, sizeof select, a, &a_len, &sw));
    const uint8_t tries[] = {0xA0, 0x20, 0x00, 0x00};
    a_len = sizeof a;
    OK(SCard_send_remote_apdu_cmd(handle, peer, tries, sizeof tries, a, &a_len, &sw));
    CHECK(a_len == 0 && sw != 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, lists, NULL));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    OK(SCard_disconnect_remote_reader(handle, peer));
    OK(SCard_connect_remote_reader(handle, peer));
    OK(SCard_disconnect_remote_reader(handle, peer));
    OK(SCard_disconnect_remote_reader(handle, server));
    MUST(GOSE_MESSAGE, SCard_parse_rw_message(handle, peer, select, 3, &message, NULL, NULL));
    gose_close(handle);
    printf("TLS %04x, suite %04x, key block of %zu bytes, %d packets, %zu bytes of records, %.0f ms\n", version, suite,
           block_len, packets, records_sent, took * 1000);
    return 0;
}
