//! The least that moving datagrams costs: `sendmsg` with GSO, `recvmsg` with GRO, nothing else. Every so many
//! trains the receiver says how many datagrams came, so that the sender does not outrun it.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::thread::Builder;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tornet::limits::{SOCKET_RECEIVE_BUFFER, SOCKET_SEND_BUFFER, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use tornet::sys::affinity;

use super::meter::{self, Moved};
use super::{End, Fallible, Plan};

/// Trains ahead of the receiver's word.
const WINDOW: u64 = 48;
/// Trains between two words.
const TELL: u64 = 8;

pub fn run(end: End, plan: &Plan) -> Fallible<()> {
    let (moved, plan) = (Moved::default(), *plan);
    let socket = match end {
        End::At(address) => UdpSocket::bind(address)?,
        End::To(address) => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(address)?;
            socket
        }
    };
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_RECEIVE_BUFFER)?;
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_SEND_BUFFER)?;
    let mover = moved.clone();
    Builder::new().name("raw".into()).spawn(move || {
        let ended = match end {
            End::At(_) => receive(&socket, &plan, &mover),
            End::To(_) => send(&socket, &plan, &mover),
        };
        eprintln!("raw: {ended:?}");
        std::process::exit(1);
    })?;
    if matches!(end, End::At(_)) {
        println!("ready");
    }
    meter::measure("raw", plan.seconds, &moved, None)
}

fn send(socket: &UdpSocket, plan: &Plan, moved: &Moved) -> Fallible<()> {
    affinity::pin_to(plan.core)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let count = (TRAIN_SIZE_MAX / plan.size).min(TRAIN_SEGMENTS_MAX);
    let (train, segment) = (vec![7u8; count * plan.size], plan.size as u16);
    let (mut sent, mut heard) = (0u64, 0u64);
    loop {
        while sent < heard + WINDOW * count as u64 {
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            let parts = [IoSlice::new(&train)];
            let to: Option<&SockaddrStorage> = None;
            match sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), to) {
                Ok(_) => {}
                // The receiver has measured and is gone. What was sent until then is told by the other thread.
                Err(Errno::ECONNREFUSED) => loop {
                    std::thread::park();
                },
                Err(error) => return Err(error.into()),
            }
            sent += count as u64;
            moved.add(train.len() as u64, count as u64);
        }
        let mut word = [0; 8];
        heard = match socket.recv(&mut word) {
            Ok(_) => heard.max(u64::from_le_bytes(word)),
            // Something was lost.
            Err(_) => {
                let lost = sent - heard;
                sent -= lost;
                sent
            }
        };
    }
}

fn receive(socket: &UdpSocket, plan: &Plan, moved: &Moved) -> Fallible<()> {
    affinity::pin_to(plan.core)?;
    setsockopt(socket, sockopt::UdpGroSegment, &true)?;
    let mut train = vec![0u8; 1 << 17];
    let mut space = nix::cmsg_space!(i32);
    let (mut heard, mut trains) = (0u64, 0u64);
    loop {
        let mut parts = [IoSliceMut::new(&mut train)];
        let got =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let segment = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::UdpGroSegments(size) => Some(size as usize),
            _ => None,
        });
        let packets = got.bytes.div_ceil(segment.unwrap_or(got.bytes).max(1)) as u64;
        let from = got.address;
        heard += packets;
        trains += 1;
        moved.add(got.bytes as u64, packets);
        if trains % TELL == 0
            && let Some(from) = from
        {
            let word = heard.to_le_bytes();
            sendmsg(socket.as_raw_fd(), &[IoSlice::new(&word)], &[], MsgFlags::empty(), Some(&from))?;
        }
    }
}
