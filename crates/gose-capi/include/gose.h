/* libgose: secure elements of a grid as remote readers (Aissaoui-Mehrez, Urien, Pujolle, MILCOM 2014, section IV).
 *
 * A handle is a session with a node, the hypervisor's middleware or a grid. A reader is an element that the node lists
 * for this client; its index is its position in the last SCard_list_remote_reader on the handle, from 0, stable until
 * the next one.
 *
 * Lengths are in and out: the caller passes the capacity and gets the length. GOSE_BUFFER_TOO_SMALL tells the length
 * that is needed; the answer that did not fit is given by the next call of the same function with the same input, and
 * the element is not asked again. Any number of threads may use a handle; their calls go one after the other. The
 * library keeps nothing when the last handle is closed, and starts no thread. */
#ifndef GOSE_H
#define GOSE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One value a cause; gose_error_text says more. */
typedef enum gose_status {
    GOSE_OK = 0,
    GOSE_INVALID_ARGUMENT = 1,  /* NULL, or bytes that are no command */
    GOSE_BUFFER_TOO_SMALL = 2,  /* the length needed is told */
    GOSE_CONFIGURATION = 3,     /* the file, a certificate or a key cannot be used */
    GOSE_NO_READER = 4,         /* no reader has this index */
    GOSE_UNREACHABLE = 5,       /* the node does not answer, or ended the session */
    GOSE_REFUSED = 6,           /* the node's policy forbids it */
    GOSE_IN_USE = 7,            /* another session holds the element */
    GOSE_ABSENT = 8,            /* no element is in the reader */
    GOSE_MUTE = 9,              /* the element does not answer */
    GOSE_OUTCOME_UNKNOWN = 10,  /* the connection broke after the command was sent */
    GOSE_PROTOCOL = 11,         /* the element speaks neither T=0 nor T=1 as asked */
    GOSE_PIN_WRONG = 12,        /* the text tells the tries left */
    GOSE_PIN_BLOCKED = 13,
    GOSE_CARD = 14,             /* the element refused; the text has its status word */
    GOSE_DISCARDED = 15,        /* the packet belongs to no conversation */
    GOSE_MESSAGE = 16,          /* malformed packet */
    GOSE_ELEMENT = 17,          /* any other failure of the element */
    GOSE_INTERNAL = 18,         /* a fault of the library; please report it */
} gose_status;

/* A session with a node. */
typedef struct gose_handle gose_handle;

/* What a packet says (RFC 3748, RFC 5216). */
typedef struct gose_message {
    uint8_t code;        /* 1 request, 2 response, 3 success, 4 failure */
    uint8_t identifier;
    uint8_t type;        /* the method, 13 for EAP-TLS; 0 in success and failure */
    uint8_t more;        /* 1: fragments follow; ask for them with an empty packet */
    size_t records;      /* bytes of TLS records handed to the callback */
} gose_message;

/* Takes TLS records that an element sends; anything but 0 ends the call with GOSE_INVALID_ARGUMENT. */
typedef int (*gose_send)(void *arg, const uint8_t *records, size_t len);

#define GOSE_API __attribute__((visibility("default")))

/* A session as a configuration file says: `version = 1` and the table [grid] (docs/guide/pkcs11.md). Nothing is sent
 * yet. Where this fails, the handle is there for its text and to be closed, unless memory is short. */
GOSE_API gose_status gose_open(const char *config, gose_handle **out);

/* Ends the session; the node powers its elements down. NULL is nothing. No other thread may use the handle then. */
GOSE_API void gose_close(gose_handle *handle);

/* What went wrong last on this handle in this or another thread, in words; valid until the next call on it. */
GOSE_API const char *gose_error_text(gose_handle *handle);

/* The elements that this client may use: names one after the other, each ended by NUL, and one more NUL at the end. */
GOSE_API gose_status SCard_list_remote_reader(gose_handle *handle, char *names, size_t *names_len, size_t *count);

/* Powers the element up, selects the application, shows the PIN, chooses the identity. protocol: 0 any, 1 T=0, 2 T=1.
 * readers (NULL or not) gets the number of readers. */
GOSE_API gose_status SCard_init_remote_reader(gose_handle *handle, size_t index, const uint8_t *aid, size_t aid_len,
                                              const char *identity, const char *pin, unsigned protocol,
                                              size_t *readers);

/* Powers the element up; while it is, nobody else uses it. */
GOSE_API gose_status SCard_connect_remote_reader(gose_handle *handle, size_t index);

/* Powers the element down. */
GOSE_API gose_status SCard_disconnect_remote_reader(gose_handle *handle, size_t index);

/* Begins an EAP conversation with this packet, EAP-Request/Identity or EAP-TLS Start; gives the element's answer. */
GOSE_API gose_status SCard_start_remote_eap(gose_handle *handle, size_t index, const uint8_t *eap, size_t eap_len,
                                            uint8_t *out, size_t *out_len);

/* Any command APDU; what the element announces by 61xx is fetched. */
GOSE_API gose_status SCard_send_remote_apdu_cmd(gose_handle *handle, size_t index, const uint8_t *apdu, size_t len,
                                                uint8_t *out, size_t *out_len, uint16_t *sw);

/* TLS records of the other end, wrapped into EAP-TLS packets, in one request; or an EAP packet as it is; or nothing,
 * for the next fragment. Gives the element's EAP packet; of length 0 where it has none to send. */
GOSE_API gose_status SCard_process_eap_tls_packet(gose_handle *handle, size_t index, const uint8_t *tls, size_t len,
                                                  uint8_t *out, size_t *out_len);

/* Says what a packet of the element is; hands the TLS records of a whole flight to the callback, where there is one. */
GOSE_API gose_status SCard_parse_rw_message(gose_handle *handle, size_t index, const uint8_t *msg, size_t len,
                                            gose_message *out, gose_send send, void *arg);

/* Version and cipher suite as on the line, e.g. 0x0304 and 0x1301, after the handshake. */
GOSE_API gose_status SCard_get_remote_cipher_suite(gose_handle *handle, size_t index, uint16_t *version,
                                                   uint16_t *suite);

/* The key block (TLS 1.2: keys and IVs; TLS 1.3: both traffic secrets) and the numbers of the next records. The
 * element gives it once and has it no more. */
GOSE_API gose_status SCard_get_remote_key_block(gose_handle *handle, size_t index, uint8_t *out, size_t *out_len,
                                                uint64_t *client_seq, uint64_t *server_seq);

#ifdef __cplusplus
}
#endif
#endif
