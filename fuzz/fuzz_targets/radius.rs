//! A RADIUS server against any client, and a client against any server: every table within its bound, no accept
//! without a verdict.
#![no_main]

use std::{sync::Arc, time::Duration};

use gose_proto::radius::{
    Code, Packet, RequestAuthenticator, Secret, Type,
    client::{Access, Exchange, Timers},
    server::{Client, Completion, Limits, Origin, Output, Server, Service, Ticket},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let secret = Secret::new(b"s".to_vec()).expect("not empty");
    let client = Arc::new(Client { name: "nas".into(), secret: secret.clone(), disconnect_port: None });
    let limits = Limits { conversations: 3, conversations_a_client: 2, exchanges: 5, ..Limits::DEFAULT };
    let mut server = Server::new(limits);
    let origin = Origin { address: ([127, 0, 0, 1], 1).into(), channel: 0, service: Service::Both };
    let mut now = Duration::ZERO;
    let mut tickets: Vec<Ticket> = Vec::new();
    let mut state: Option<Vec<u8>> = None;
    for (number, piece) in bytes.chunks(24).enumerate() {
        let (&action, rest) = piece.split_first().expect("no piece is empty");
        let fresh = [u8::try_from(number % 256).expect("a byte"); 16];
        match action % 6 {
            0 => drop(server.receive(origin, &client, rest, now, fresh)),
            1 | 2 => {
                let state = state.as_deref().filter(|_| action % 6 == 2);
                let access = Access { state, eap: rest, ..Access::default() };
                let at = RequestAuthenticator([action; 16]);
                let request = access.encode(action, &at, &secret).expect("fits");
                drop(server.receive(origin, &client, &request, now, fresh));
            }
            3 => {
                now += Duration::from_secs(u64::from(action));
                server.expire(now);
            }
            _ => {
                if let Some(ticket) = tickets.pop() {
                    let completion = match action % 4 {
                        0 => Completion::Reject(rest.to_vec()),
                        1 => Completion::Ignored,
                        2 => Completion::Overload,
                        _ => Completion::Challenge(rest.to_vec()),
                    };
                    let _ = server.complete(ticket, completion, now, [0; 2]);
                }
            }
        }
        while let Some(output) = server.poll() {
            match output {
                Output::Run { ticket, .. } => tickets.push(ticket),
                Output::Abandon(_) => {}
                Output::Send { bytes, .. } => {
                    let packet = Packet::parse(&bytes).expect("what is sent is a packet");
                    assert_ne!(packet.code, Code::AccessAccept);
                    if let Some(given) = packet.first(Type::STATE) {
                        state = Some(given.value.to_vec());
                    }
                }
            }
        }
        assert!(server.conversations() <= 3 && server.exchanges() <= 5);
    }
    if let Ok(packet) = Packet::parse(bytes) {
        let _ = (packet.attributes().flat_map(|a| a.vendor()).count(), packet.eap());
    }
    let access = Access::default().encode(1, &RequestAuthenticator([0; 16]), &secret).expect("fits");
    let exchange = Exchange::new(access, secret, Timers::DEFAULT, now).expect("a packet");
    assert!(exchange.receive(bytes).is_err());
});
