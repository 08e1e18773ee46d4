//! The floor under a tunnel's round trip: packets from a TUN device to a UDP socket and back, by one thread that waits in
//! `poll` and does nothing else. No encryption, no batches, no offloads; `cargo xtask bench tunnel` measures beside it.
//!
//! ```text
//! tun_forwarder DEVICE OWN_ADDRESS:PORT OTHER_ADDRESS:PORT
//! ```
//!
//! Prints `ready` once the device is there; its address is the caller's to give.

use std::error::Error;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::DeviceBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().ok_or("tun_forwarder DEVICE OWN_ADDRESS:PORT OTHER_ADDRESS:PORT");
    let device = DeviceBuilder::new().name(word()?).inherit_enable_state().build_sync()?;
    let socket = UdpSocket::bind(word()?)?;
    socket.connect(word()?)?;
    println!("ready");
    let mut bytes = [0; 2048];
    loop {
        let wait = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut ready = [wait(device.as_fd()), wait(socket.as_fd())];
        poll(&mut ready, PollTimeout::NONE)?;
        if ready[0].any().unwrap_or(false) {
            let len = device.recv(&mut bytes)?;
            // Nobody listens at the other end yet: the packet is lost, as on any link.
            let _ = socket.send(&bytes[..len]);
        }
        if ready[1].any().unwrap_or(false)
            && let Ok(len) = socket.recv(&mut bytes)
        {
            // A device that is not up takes nothing.
            let _ = device.send(&bytes[..len]);
        }
    }
}
