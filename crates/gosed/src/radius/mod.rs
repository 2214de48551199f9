//! RADIUS in front of the server elements: UDP, and TLS (RadSec).
//!
//! RADIUS knows nothing of cards: it hands EAP packets to [`crate::auth::Authenticators`] and takes EAP packets, a verdict and
//! the MSK from them. What it says on the line is decided by the pure machine, `gose_proto::radius::server`.

mod clients;
mod disconnect;
pub mod exchange;
mod front;
mod radsec;
mod record;
mod server;
mod sessions;
mod udp;

pub use clients::{Clients, Network};
pub use disconnect::{Disconnector, Ended};
pub(crate) use front::random as fresh;
pub use front::{Counters, Front};
pub use server::{Server, StartError};
pub use sessions::{Session, Sessions};
pub use udp::{Socket, bind};
