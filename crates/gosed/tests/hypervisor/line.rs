//! The line between the hypervisor and a grid node: it can be cut, and the node behind it can go and come back.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// Forwards connections to a node.
#[derive(Clone)]
pub(crate) struct Line(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    node: Option<SocketAddr>,
    open: Vec<TcpStream>,
}

impl Line {
    pub(crate) fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self(Arc::new(Inner {
            address: listener.local_addr().unwrap(),
            state: Mutex::default(),
        }));
        line.lead_to(Some(node));
        let accepting = line.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepting.forward(stream);
            }
        });
        line
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// Where new connections go; nowhere: they are closed at once.
    pub(crate) fn lead_to(&self, node: Option<SocketAddr>) {
        self.0.state.lock().unwrap().node = node;
    }

    /// Breaks what is open.
    pub(crate) fn cut(&self) {
        for stream in self.0.state.lock().unwrap().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn forward(&self, near: TcpStream) {
        let mut state = self.0.state.lock().unwrap();
        let Some(far) = state.node.and_then(|node| TcpStream::connect(node).ok()) else {
            return;
        };
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let _ = to.set_nodelay(true);
            std::thread::spawn(move || {
                let mut bytes = [0; 16_384];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        state.open.extend([near, far]);
    }
}
