//! What nodes tell each other of themselves first, on a stream of channel 2 (docs/protocol/hello.md).
//! Protobuf, since it will grow: fields that we do not know are skipped, fields that are missing are empty.

use prost::Message;

use super::Malformed;
use super::relay::RelayCard;
use crate::base::ChannelId;
use crate::limits::{HELLO_AGENT_MAX, HELLO_SERVICES_MAX, HELLO_SIZE_MAX, RELAYS_TOLD_MAX};

/// The version of the protocol between nodes that this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// One side's introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The newest protocol version that the sender speaks.
    pub version: u32,
    /// Program and version, for people: at most [`HELLO_AGENT_MAX`] printable ASCII characters.
    pub agent: String,
    /// The channels of the services that the sender offers; at most [`HELLO_SERVICES_MAX`].
    pub services: Vec<ChannelId>,
    /// To friends, of a sender that relays: itself, and then friends of its that agreed; at most [`RELAYS_TOLD_MAX`].
    pub relays: Vec<RelayCard>,
}

#[derive(Clone, PartialEq, Message)]
struct HelloMessage {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    agent: String,
    #[prost(uint32, repeated, tag = "3")]
    services: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    relays: Vec<Vec<u8>>,
}

impl Hello {
    /// This program's, offering `services`.
    pub fn ours(services: &[ChannelId]) -> Self {
        let agent = concat!("tornet ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { version: PROTOCOL_VERSION, agent, services: services.to_vec(), relays: Vec::new() }
    }

    /// The message's bytes; it ends with its stream.
    pub fn emit(&self) -> Vec<u8> {
        let services = self.services.iter().map(|channel| u32::from(channel.0)).collect();
        let relays = self.relays.iter().map(|relay| relay.emit().to_vec()).collect();
        HelloMessage { version: self.version, agent: self.agent.clone(), services, relays }.encode_to_vec()
    }

    /// Reads and checks a whole message.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > HELLO_SIZE_MAX {
            return Err(Malformed("hello: too long"));
        }
        let message = HelloMessage::decode(bytes).map_err(|_| Malformed("hello"))?;
        if message.version == 0 {
            return Err(Malformed("hello: version"));
        }
        let printable = |c: char| c.is_ascii_graphic() || c == ' ';
        if message.agent.len() > HELLO_AGENT_MAX || !message.agent.chars().all(printable) {
            return Err(Malformed("hello: agent"));
        }
        if message.services.len() > HELLO_SERVICES_MAX {
            return Err(Malformed("hello: services"));
        }
        // Numbers beyond our channels are services of a later version.
        let services =
            message.services.iter().filter_map(|&n| u16::try_from(n).ok().map(ChannelId)).collect();
        if message.relays.len() > RELAYS_TOLD_MAX {
            return Err(Malformed("hello: relays"));
        }
        let relays = message.relays.iter().map(|bytes| RelayCard::parse(bytes)).collect::<Result<_, _>>()?;
        Ok(Self { version: message.version, agent: message.agent, services, relays })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(version in 1u32.., agent in "[ -~]{0,64}", services in prop::collection::vec(any::<u16>(), 0..=HELLO_SERVICES_MAX)) {
            let services: Vec<_> = services.into_iter().map(ChannelId).collect();
            let hello = Hello { version, agent, services, relays: Vec::new() };
            prop_assert_eq!(Hello::parse(&hello.emit()), Ok(hello));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::parse(&bytes);
        }
    }

    #[test]
    fn what_a_terminal_could_take_amiss_is_refused() {
        let hello = Hello::ours(&[ChannelId(1)]);
        assert_eq!(Hello::parse(&hello.emit()), Ok(hello.clone()));
        for agent in ["\x1b[2J", "täuschend", &"x".repeat(HELLO_AGENT_MAX + 1)] {
            assert!(
                Hello::parse(&Hello { agent: agent.into(), ..hello.clone() }.emit()).is_err(),
                "{agent:?}"
            );
        }
        let many = vec![ChannelId(9); HELLO_SERVICES_MAX + 1];
        assert!(Hello::parse(&Hello { services: many, ..hello }.emit()).is_err());
        assert!(Hello::parse(&[]).is_err(), "no version");
    }

    #[test]
    fn fields_of_later_versions_are_skipped() {
        let mut bytes = Hello::ours(&[ChannelId(1)]).emit();
        bytes.extend_from_slice(&[0x7a, 3, b'n', b'e', b'w']);
        assert_eq!(Hello::parse(&bytes), Ok(Hello::ours(&[ChannelId(1)])));
    }
}
