//! Cells: the payload of a packet of type 3 (docs/protocol/onion.md §2).
//!
//! ```text
//! 0          4                                                                          n
//! | circuit  | area: the record of the next hop, random bytes behind it                |
//! | 0        | message | circuit | what it says, random bytes behind it                |
//!              0: build   1: answer   2: end
//! ```
//!
//! A cell has one of two lengths ([`Class`]), whatever it holds. A record is `body | tag 16 | sequence 8`; a hop that
//! opens it finds the next one at the same place, 24 bytes shorter. The innermost body is
//! `kind 1 | length 2 | content | zeros`.

use std::ops::Range;

use super::Malformed;
use crate::limits::{
    CELL_DATAGRAM_LARGE, CELL_DATAGRAM_SMALL, CELL_INNER_LARGE, CELL_INNER_SMALL, CIRCUIT_NUMBER_SIZE,
    INNER_HEADER_SIZE, LAYER_OVERHEAD, LAYERS_MAX, PACKET_OVERHEAD, TAG_SIZE,
};

/// Where the area begins.
pub const AREA_AT: usize = CIRCUIT_NUMBER_SIZE;
/// Where a message of circuit 0 begins, behind its kind and the circuit that it is about.
pub const MESSAGE_AT: usize = AREA_AT + 1 + CIRCUIT_NUMBER_SIZE;
/// Where the content of an innermost body begins, in an opened cell.
pub const CONTENT_AT: usize = AREA_AT + INNER_HEADER_SIZE;

const BUILD: u8 = 0;
const ANSWER: u8 = 1;
const END: u8 = 2;

/// The two lengths of cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Up to [`CELL_INNER_SMALL`] bytes of content.
    Small = 0,
    /// Up to [`CELL_INNER_LARGE`] bytes of content.
    Large = 1,
}

impl Class {
    /// Length of a whole cell, bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Small => CELL_DATAGRAM_SMALL - PACKET_OVERHEAD,
            Self::Large => CELL_DATAGRAM_LARGE - PACKET_OVERHEAD,
        }
    }

    /// The class of cells of this length.
    pub const fn of_size(size: usize) -> Option<Self> {
        if size == Self::Large.size() {
            Some(Self::Large)
        } else if size == Self::Small.size() {
            Some(Self::Small)
        } else {
            None
        }
    }

    /// Content that fits at most, bytes.
    pub const fn content_max(self) -> usize {
        match self {
            Self::Small => CELL_INNER_SMALL,
            Self::Large => CELL_INNER_LARGE,
        }
    }

    /// The smallest class for so many bytes of content.
    pub const fn for_content(len: usize) -> Option<Self> {
        if len <= CELL_INNER_SMALL {
            Some(Self::Small)
        } else if len <= CELL_INNER_LARGE {
            Some(Self::Large)
        } else {
            None
        }
    }

    /// Length of a record under which `layers` (1 to [`LAYERS_MAX`]) lie, its own among them, bytes.
    pub const fn record(self, layers: u8) -> usize {
        INNER_HEADER_SIZE + self.content_max() + layers as usize * LAYER_OVERHEAD
    }
}

/// What a cell is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A record of this circuit.
    Data {
        /// Its number on this link; not 0.
        circuit: u32,
        /// Its class.
        class: Class,
    },
    /// A circuit is asked for; a request of [`super::build`] follows at [`MESSAGE_AT`].
    Build {
        /// The number that it shall have on this link; not 0.
        circuit: u32,
    },
    /// A circuit was built; an answer of [`super::build`] follows at [`MESSAGE_AT`].
    Answer {
        /// Which.
        circuit: u32,
    },
    /// A circuit is over.
    End {
        /// Which.
        circuit: u32,
        /// Why, as the neighbour has it.
        why: EndWhy,
    },
}

/// Why a circuit is over, as neighbours tell each other. It is not authenticated end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EndWhy {
    /// Its origin or its end wants it no more, or it is not known.
    Done = 0,
    /// A cell failed authentication.
    Forged = 1,
    /// A neighbour is gone.
    Lost = 2,
    /// It could not be built.
    Refused = 3,
}

impl EndWhy {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Done, Self::Forged, Self::Lost, Self::Refused].get(usize::from(byte)).copied()
    }
}

impl Head {
    /// Reads the head of a whole cell.
    pub fn parse(cell: &[u8]) -> Result<Self, Malformed> {
        let class = Class::of_size(cell.len()).ok_or(Malformed("cell: length"))?;
        match number(cell, 0) {
            0 => {}
            circuit => return Ok(Self::Data { circuit, class }),
        }
        let circuit = number(cell, AREA_AT + 1);
        let head = match (cell[AREA_AT], class) {
            (BUILD, Class::Large) => Self::Build { circuit },
            (ANSWER, Class::Large) => Self::Answer { circuit },
            (END, Class::Small) => {
                let why = EndWhy::from_byte(cell[MESSAGE_AT]).ok_or(Malformed("cell: reason of an end"))?;
                Self::End { circuit, why }
            }
            _ => return Err(Malformed("cell: message")),
        };
        if circuit == 0 { Err(Malformed("cell: circuit 0")) } else { Ok(head) }
    }

    /// The length of such a cell.
    pub fn class(&self) -> Class {
        match self {
            Self::Data { class, .. } => *class,
            Self::Build { .. } | Self::Answer { .. } => Class::Large,
            Self::End { .. } => Class::Small,
        }
    }

    /// Writes the head into a cell of its class; what follows it is left as it is.
    pub fn emit(&self, cell: &mut [u8]) {
        debug_assert_eq!(Class::of_size(cell.len()), Some(self.class()), "a cell of its class");
        let (message, circuit) = match self {
            Self::Data { circuit, .. } => return set_circuit(cell, *circuit),
            Self::Build { circuit } => (BUILD, circuit),
            Self::Answer { circuit } => (ANSWER, circuit),
            Self::End { circuit, why } => {
                cell[MESSAGE_AT] = *why as u8;
                (END, circuit)
            }
        };
        set_circuit(cell, 0);
        cell[AREA_AT] = message;
        cell[AREA_AT + 1..MESSAGE_AT].copy_from_slice(&circuit.to_le_bytes());
    }
}

fn number(cell: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(cell[at..at + 4].try_into().expect("four bytes"))
}

/// Gives a cell its number on the next link.
pub fn set_circuit(cell: &mut [u8], circuit: u32) {
    cell[..CIRCUIT_NUMBER_SIZE].copy_from_slice(&circuit.to_le_bytes());
}

/// What the innermost body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Inner {
    /// Nothing.
    Padding = 0,
    /// One IP packet.
    Packet = 1,
    /// A message between the two ends of the circuit.
    Message = 2,
    /// One IP packet of several circuits, behind its sequence of 4 bytes.
    Spread = 3,
}

impl Inner {
    /// Reads an innermost body (`kind | length | content | …`); returns the kind and where the content lies in it.
    pub fn parse(body: &[u8]) -> Result<(Self, Range<usize>), Malformed> {
        let [kind, low, high] = *body.first_chunk().ok_or(Malformed("cell: no content"))?;
        let kind = match kind {
            0 => Self::Padding,
            1 => Self::Packet,
            2 => Self::Message,
            3 => Self::Spread,
            _ => return Err(Malformed("cell: kind of content")),
        };
        let content = INNER_HEADER_SIZE..INNER_HEADER_SIZE + usize::from(u16::from_le_bytes([low, high]));
        if content.end > body.len() {
            return Err(Malformed("cell: length of content"));
        }
        Ok((kind, content))
    }

    /// Writes the header before `len` bytes of content that lie in `body` already, and zeros behind them. `body` has
    /// room for both.
    pub fn emit(self, body: &mut [u8], len: usize) {
        body[0] = self as u8;
        body[1..INNER_HEADER_SIZE].copy_from_slice(&(len as u16).to_le_bytes());
        body[INNER_HEADER_SIZE + len..].fill(0);
    }
}

/// Where the parts of a record lie in a cell: body and tag, then the sequence.
pub fn record_parts(class: Class, layers: u8) -> (Range<usize>, Range<usize>) {
    let end = AREA_AT + class.record(layers);
    (AREA_AT..end - 8, end - 8..end)
}

const _: () = {
    assert!(Class::Large.size() == AREA_AT + Class::Large.record(LAYERS_MAX as u8));
    assert!(Class::Small.size() == AREA_AT + Class::Small.record(LAYERS_MAX as u8));
    assert!(LAYER_OVERHEAD == TAG_SIZE + 8);
    assert!(CELL_INNER_LARGE <= u16::MAX as usize);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> impl Strategy<Value = Head> {
        let class = prop_oneof![Just(Class::Small), Just(Class::Large)];
        let why = (0u8..4).prop_map(|byte| EndWhy::from_byte(byte).unwrap());
        prop_oneof![
            (1u32.., class).prop_map(|(circuit, class)| Head::Data { circuit, class }),
            (1u32..).prop_map(|circuit| Head::Build { circuit }),
            (1u32..).prop_map(|circuit| Head::Answer { circuit }),
            (1u32.., why).prop_map(|(circuit, why)| Head::End { circuit, why }),
        ]
    }

    proptest! {
        #[test]
        fn heads_round_trip(head in head(), fill: u8) {
            let mut cell = vec![fill; head.class().size()];
            head.emit(&mut cell);
            prop_assert_eq!(Head::parse(&cell), Ok(head));
        }

        #[test]
        fn contents_round_trip(kind in 0u8..4, len in 0usize..=CELL_INNER_SMALL, layers in 1u8..=5) {
            let body = Class::Small.record(layers) - LAYER_OVERHEAD;
            let mut bytes = vec![0xaa; body];
            let (kind, _) = Inner::parse(&[kind, 0, 0]).unwrap();
            kind.emit(&mut bytes, len);
            prop_assert_eq!(Inner::parse(&bytes), Ok((kind, 3..3 + len)));
            prop_assert!(bytes[3..3 + len].iter().all(|b| *b == 0xaa) && bytes[3 + len..].iter().all(|b| *b == 0));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), large: bool) {
            let _ = (Head::parse(&bytes), Inner::parse(&bytes));
            let mut cell = bytes;
            cell.resize(if large { Class::Large } else { Class::Small }.size(), 0);
            let _ = Head::parse(&cell);
        }
    }

    #[test]
    fn only_the_two_lengths_are_cells() {
        let sizes: Vec<_> = (0..2000).filter(|size| Head::parse(&vec![1; *size]).is_ok()).collect();
        assert_eq!(sizes, [255, 1423]);
        assert_eq!(
            [128, 129, 1296, 1297].map(Class::for_content),
            [Some(Class::Small), Some(Class::Large), Some(Class::Large), None]
        );
    }

    #[test]
    fn a_message_has_the_length_of_its_kind() {
        for (message, size) in
            [(BUILD, Class::Small), (ANSWER, Class::Small), (END, Class::Large), (3, Class::Large)]
        {
            let mut cell = vec![0; size.size()];
            (cell[AREA_AT], cell[AREA_AT + 1]) = (message, 1);
            assert!(Head::parse(&cell).is_err(), "{message}");
        }
        let mut nameless = vec![0; Class::Large.size()];
        assert_eq!(Head::parse(&nameless), Err(Malformed("cell: circuit 0")));
        nameless[AREA_AT + 1] = 1;
        assert_eq!(Head::parse(&nameless), Ok(Head::Build { circuit: 1 }));
    }

    #[test]
    fn a_record_ends_where_its_cell_does_under_all_layers() {
        let (body, sequence) = record_parts(Class::Large, LAYERS_MAX as u8);
        assert_eq!((body.start, body.end, sequence), (4, 1415, 1415..1423));
        assert_eq!(record_parts(Class::Small, 1).1.end, 4 + 3 + 128 + 24);
    }
}
