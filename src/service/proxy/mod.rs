//! What a SOCKS proxy is made of that needs no socket: a TCP/IP host whose packets go through a circuit ([`stack`]), and
//! names that are asked for through it ([`names`]). The proxy itself is [`crate::socks`].

pub mod names;
pub mod ports;
pub mod stack;
