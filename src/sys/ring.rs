//! One io_uring and all the memory that the kernel may touch on its behalf, behind calls that are safe.
//!
//! Everything that a request points at (packet buffers, message headers, addresses, control messages, the
//! word that an eventfd is read into) lives in mappings that the [`Ring`] owns, never moves, and is
//! changed only while no request uses it. When a ring is dropped, its requests are cancelled and waited
//! for; should one remain, the memory is leaked rather than freed under the kernel's hands.
//!
//! A ring belongs to the thread that made it (`SINGLE_ISSUER`); it is not `Send`. Completions are run by
//! [`Ring::enter`] alone (`DEFER_TASKRUN`): one system call per turn of the loop.

mod tun;

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Napi, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::buffers::{Buffers, Lender};
use super::eventfd::EventFd;
use super::kernel::{self, KernelError};
use super::message::{CONTROL_SIZE, Control, NAME_SIZE, write_address};
use super::region::Region;
use super::socket::Socket;
use crate::base::{BufId, Place};
use crate::limits::{
    COMPLETION_QUEUE, RECEIVE_CONTROL_SIZE, RECEIVE_NAME_SIZE, SEND_SLOTS, SUBMISSION_QUEUE, TUN_WRITES_MAX,
};

/// The provided-buffer group that all sockets of a ring receive into.
const GROUP: u16 = 0;
/// The one that all TUN queues of a ring are read into.
const TUN_GROUP: u16 = 1;
const PAGE: usize = 4096;
/// `IORING_SEND_ZC_REPORT_USAGE`: a flag of sends without a copy.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`: the report says that there was a copy.
const USAGE_COPIED: u32 = 1 << 31;

/// One thing that the kernel finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// A socket received, or stopped receiving.
    Received {
        /// The number given to [`Ring::receive`].
        socket: u16,
        /// Bytes received, [`super::buffers::RECEIVE_HEADER`] included, or the error number.
        result: Result<u32, i32>,
        /// The buffer that holds them: the caller's until [`Buffers::release`].
        buffer: Option<BufId>,
        /// Whether more will come without asking again.
        more: bool,
    },
    /// A send is done.
    Sent {
        /// The slot given to [`Ring::send`].
        slot: u16,
        /// Bytes sent, or the error number.
        result: Result<u32, i32>,
        /// Whether slot and buffer are still the kernel's, until [`Completion::Released`].
        held: bool,
    },
    /// The kernel is done with what a send without a copy left to it.
    Released {
        /// The slot given to [`Ring::send`].
        slot: u16,
        /// Whether it had to copy after all.
        copied: bool,
    },
    /// A socket has room for sending again.
    Writable {
        /// The number given to [`Ring::poll_writable`].
        socket: u16,
    },
    /// A TUN queue was read, or reading it stopped.
    TunRead {
        /// The number given to [`Ring::tun_read`].
        tun: u16,
        /// Bytes read, virtio-net's header included, or the error number.
        result: Result<u32, i32>,
        /// The buffer that holds them: the caller's until [`Buffers::release`].
        buffer: Option<BufId>,
        /// Whether more will come without asking again.
        more: bool,
    },
    /// A write to a TUN queue is done.
    TunWritten {
        /// The device: the number given to [`Ring::tun_write`].
        tun: u16,
        /// The slot given to [`Ring::tun_write`].
        slot: u16,
        /// Bytes written, or the error number.
        result: Result<u32, i32>,
    },
    /// A TUN queue takes packets again.
    TunWritable {
        /// The number given to [`Ring::poll_tun`].
        tun: u16,
    },
    /// The eventfd was signalled; call [`Ring::wait_event`] again.
    Woken,
    /// Pages were faulted in.
    Populated {
        /// The number given to [`Ring::populate`].
        tag: u16,
        /// The error number, if that failed.
        result: Result<(), i32>,
    },
}

/// One datagram or train to send.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// To whom.
    pub to: SocketAddr,
    /// The bytes, in a buffer that [`Buffers::sending`] was told of.
    pub place: Place,
    /// Segment size, ECN and source.
    pub control: Control,
    /// Whether to fail with `EAGAIN` rather than wait in the kernel when the socket's buffer is full.
    pub now_or_never: bool,
    /// Whether the device may read the bytes where they lie, after the send is done.
    pub zero_copy: bool,
}

#[repr(C)]
struct SendSlot {
    header: libc::msghdr,
    part: libc::iovec,
    control: [u8; CONTROL_SIZE],
    name: [u8; NAME_SIZE],
}

/// What requests point at beside packet buffers.
#[repr(C)]
struct Pinned {
    receive: libc::msghdr,
    event: u64,
    slots: [SendSlot; SEND_SLOTS],
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Received = 1,
    Sent,
    Writable,
    Woken,
    Populated,
    TunRead,
    TunWritten,
    TunWritable,
    /// Told to nobody.
    Advised,
}

/// An io_uring with its memory.
pub struct Ring {
    /// Closed before the memory goes.
    io: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<Buffers>,
    pinned: ManuallyDrop<Region>,
    /// Where the buffers are that this ring was registered with: others must not take their place.
    home: u64,
    slot_busy: [bool; SEND_SLOTS],
    event_busy: bool,
    in_flight: usize,
    enter_flags: EnterFlags,
}

/// What one [`Ring::enter`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Whether completions overflowed their queue and waited in the kernel.
    pub overflowed: bool,
    /// Whether the kernel was entered: it is not when there is nothing to do there.
    pub called: bool,
}

impl Ring {
    /// A ring for the calling thread, after checking that the kernel can do what shards need.
    pub fn new() -> Result<Self, KernelError> {
        kernel::check_version()?;
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_QUEUE)
            .build(SUBMISSION_QUEUE)
            .map_err(|e| kernel::explain_setup(&e))?;
        kernel::check_operations(&io)?;
        let os = |what| move |source| KernelError::Os { what, source };
        let mut buffers = Buffers::new().map_err(os("mapping the packet buffers"))?;
        let pinned = Region::new(size_of::<Pinned>()).map_err(os("mapping the send slots"))?;
        for (lender, group) in [(Lender::Udp, GROUP), (Lender::Tun, TUN_GROUP)] {
            let (address, count) = buffers.entries(lender);
            // SAFETY: the entries are zeroed pages, as many as registered, and outlive the ring (see `drop`).
            unsafe { io.submitter().register_buf_ring_with_flags(address, count, group, 0) }
                .map_err(os("registering the receive buffers"))?;
        }
        let no_iowait =
            if io.params().is_feature_no_iowait() { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        let mut ring = Self {
            home: buffers.entries(Lender::Udp).0,
            io: ManuallyDrop::new(io),
            buffers: ManuallyDrop::new(buffers),
            pinned: ManuallyDrop::new(pinned),
            slot_busy: [false; SEND_SLOTS],
            event_busy: false,
            in_flight: 0,
            enter_flags: EnterFlags::EXT_ARG | no_iowait,
        };
        // SAFETY: no request exists yet, so nobody else looks at the pinned memory. All zeroes is a valid
        // `msghdr`; only these two lengths matter to a multishot receive.
        unsafe {
            let receive = &mut (*ring.pinned()).receive;
            receive.msg_namelen = RECEIVE_NAME_SIZE as libc::socklen_t;
            receive.msg_controllen = RECEIVE_CONTROL_SIZE;
        }
        Ok(ring)
    }

    /// The packet buffers.
    pub fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn pinned(&mut self) -> *mut Pinned {
        self.pinned.start().as_ptr().cast()
    }

    /// Starts a multishot receive: it completes once per train until it ends without `more`.
    pub fn receive(&mut self, socket: &Socket, number: u16) {
        let header = receive_header(self.pinned());
        let entry = opcode::RecvMsgMulti::new(Fd(socket.as_raw_fd()), header, GROUP).build();
        self.push(entry, Kind::Received, number);
    }

    /// Sends a datagram or train. The slot and the buffer are the kernel's until [`Completion::Sent`], or until
    /// [`Completion::Released`] when that says so.
    pub fn send(&mut self, socket: &Socket, slot: u16, message: &Message) {
        let busy = &mut self.slot_busy[usize::from(slot)];
        assert!(!*busy, "a slot sends one message at a time");
        *busy = true;
        let start = self.buffers.sending_address(message.place);
        // SAFETY: the slot was not busy, so no request points at it and this is the only reference.
        let entry = unsafe {
            let slot = &mut (*self.pinned()).slots[usize::from(slot)];
            slot.header.msg_namelen = write_address(message.to, &mut slot.name) as libc::socklen_t;
            slot.header.msg_name = slot.name.as_mut_ptr().cast();
            let control_len = message.control.write(message.to.is_ipv6(), &mut slot.control);
            slot.header.msg_controllen = control_len;
            slot.header.msg_control =
                if control_len > 0 { slot.control.as_mut_ptr().cast() } else { std::ptr::null_mut() };
            slot.part = libc::iovec { iov_base: start.cast(), iov_len: message.place.len as usize };
            slot.header.msg_iov = &raw mut slot.part;
            slot.header.msg_iovlen = 1;
            let flags = if message.now_or_never { libc::MSG_DONTWAIT as u32 } else { 0 };
            let (fd, header) = (Fd(socket.as_raw_fd()), &raw const slot.header);
            if message.zero_copy {
                opcode::SendMsgZc::new(fd, header).flags(flags).ioprio(REPORT_USAGE).build()
            } else {
                opcode::SendMsg::new(fd, header).flags(flags).build()
            }
        };
        self.push(entry, Kind::Sent, slot);
    }

    /// Completes once when the socket has room for sending.
    pub fn poll_writable(&mut self, socket: &Socket, number: u16) {
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build();
        self.push(entry, Kind::Writable, number);
    }

    /// Completes once when the eventfd has been signalled, and takes the signal.
    pub fn wait_event(&mut self, event: &EventFd) {
        assert!(!self.event_busy, "one read of the eventfd at a time");
        self.event_busy = true;
        let into = event_word(self.pinned());
        let entry = opcode::Read::new(Fd(event.as_raw_fd()), into.cast(), size_of::<u64>() as u32).build();
        self.push(entry, Kind::Woken, 0);
    }

    /// Faults pages in, off this thread (`MADV_POPULATE_READ`), after asking the disk for exactly these at once
    /// (`MADV_WILLNEED`). Any address is safe to name: the kernel changes no content, and answers an unmapped
    /// one with an error.
    pub fn populate(&mut self, address: usize, len: usize, tag: u16) {
        let start = address & !(PAGE - 1);
        let len = address.saturating_add(len).next_multiple_of(PAGE) - start;
        let entry = |advice| opcode::Madvise::new(start as *const _, len as libc::off_t, advice).build();
        // A hard link: the second begins when the first has ended, however it did. So the first need not be counted,
        // nor tell of its end; it does when it fails.
        let first = squeue::Flags::IO_HARDLINK | squeue::Flags::SKIP_SUCCESS;
        self.push(entry(libc::MADV_WILLNEED).flags(first), Kind::Advised, tag);
        self.in_flight -= 1;
        self.push(entry(libc::MADV_POPULATE_READ), Kind::Populated, tag);
    }

    fn push(&mut self, entry: squeue::Entry, kind: Kind, number: u16) {
        let entry = entry.user_data(u64::from(kind as u8) << 16 | u64::from(number));
        // SAFETY: every entry built here points into memory that `self` owns and keeps until the request
        // completes (`drop` sees to it), at places that are not changed meanwhile.
        let pushed = unsafe { self.io.submission().push(&entry) };
        assert!(pushed.is_ok(), "limits.rs shows that the submission queue has room");
        self.in_flight += 1;
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a completion can be had without entering the kernel.
    pub fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty()
    }

    /// Takes the next completion that has been posted.
    pub fn completion(&mut self) -> Option<Completion> {
        let entry = loop {
            let entry = self.io.completion().next()?;
            if entry.user_data() >> 16 != Kind::Advised as u64 {
                break entry;
            }
        };
        let number = entry.user_data() as u16;
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        let result = u32::try_from(entry.result()).map_err(|_| entry.result().wrapping_neg());
        Some(match entry.user_data() >> 16 {
            kind if kind == Kind::Received as u64 => {
                assert_eq!(self.home, self.buffers.entries(Lender::Udp).0, "a ring keeps its buffers");
                let buffer =
                    cqueue::buffer_select(entry.flags()).map(|id| self.buffers.filled(Lender::Udp, id));
                Completion::Received { socket: number, result, buffer, more }
            }
            kind if kind == Kind::TunRead as u64 => {
                assert_eq!(self.home, self.buffers.entries(Lender::Udp).0, "a ring keeps its buffers");
                let buffer =
                    cqueue::buffer_select(entry.flags()).map(|id| self.buffers.filled(Lender::Tun, id));
                Completion::TunRead { tun: number, result, buffer, more }
            }
            kind if kind == Kind::TunWritten as u64 => {
                let (tun, slot) = (number / TUN_WRITES_MAX as u16, number % TUN_WRITES_MAX as u16);
                Completion::TunWritten { tun, slot, result }
            }
            kind if kind == Kind::TunWritable as u64 => Completion::TunWritable { tun: number },
            kind if kind == Kind::Sent as u64 => {
                self.slot_busy[usize::from(number)] = more;
                if cqueue::notif(entry.flags()) {
                    Completion::Released { slot: number, copied: entry.result() as u32 & USAGE_COPIED != 0 }
                } else {
                    Completion::Sent { slot: number, result, held: more }
                }
            }
            kind if kind == Kind::Writable as u64 => Completion::Writable { socket: number },
            kind if kind == Kind::Populated as u64 => {
                Completion::Populated { tag: number, result: result.map(drop) }
            }
            _ => {
                self.event_busy = false;
                Completion::Woken
            }
        })
    }

    /// Submits what was queued and runs completions; with `wait`, sleeps until one is there or the time
    /// is over (`Duration::MAX`: for as long as it takes). The only system call of a turn.
    pub fn enter(&mut self, wait: Option<Duration>) -> io::Result<Entered> {
        let (submitter, submission, completion) = self.io.split();
        let (queued, overflowed) = (submission.len(), submission.cq_overflow());
        let work = submission.taskrun() || overflowed;
        if queued == 0 && !work && wait.is_none() {
            return Ok(Entered { overflowed, called: false });
        }
        drop((submission, completion));
        let mut flags = self.enter_flags;
        if wait.is_some() || work {
            flags |= EnterFlags::GETEVENTS;
        }
        let time = wait.filter(|wait| *wait < Duration::MAX).map(Timespec::from);
        let args = SubmitArgs::new();
        let args = time.as_ref().map_or(args, |time| args.timespec(time));
        // SAFETY: the arguments match the flags: with EXT_ARG the kernel reads one `io_uring_getevents_arg`
        // (which `SubmitArgs` is), and the time that it names outlives the call.
        let result =
            unsafe { submitter.enter(queued as u32, u32::from(wait.is_some()), flags.bits(), Some(&args)) };
        match result {
            Ok(_) => Ok(Entered { overflowed, called: true }),
            Err(e) => match e.raw_os_error() {
                // The time is over; a signal came; completions must be taken first; memory is short for
                // the moment. In each case the caller's next turn goes on where this one stopped.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {
                    Ok(Entered { overflowed, called: true })
                }
                _ => Err(e),
            },
        }
    }
}

impl Ring {
    /// Submits what was queued and runs completions without waiting for one.
    pub fn look(&mut self) -> io::Result<Entered> {
        self.enter(Some(Duration::ZERO))
    }

    /// Has the kernel poll the devices of the ring's sockets for so long before it sleeps (NAPI); false where it cannot.
    pub fn poll_devices(&mut self, time: Duration) -> bool {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut napi = Napi::new().set_busy_poll_timeout(micros).set_prefer_busy_poll(true);
        self.io.submitter().register_napi(&mut napi).is_ok()
    }
}

fn receive_header(pinned: *mut Pinned) -> *const libc::msghdr {
    // SAFETY: `pinned` points at a whole `Pinned`; no reference is made.
    unsafe { &raw const (*pinned).receive }
}

fn event_word(pinned: *mut Pinned) -> *mut u64 {
    // SAFETY: `pinned` points at a whole `Pinned`; no reference is made.
    unsafe { &raw mut (*pinned).event }
}

impl Ring {
    /// Takes back every request, waiting for what cannot be cancelled, within reason.
    fn cancel(&mut self) {
        // What was queued but not submitted must reach the kernel first, to be cancelled like the rest.
        let _ = self.enter(None);
        let limit = Some(Timespec::new().sec(1));
        for _ in 0..8 {
            while self.completion().is_some() {}
            if self.in_flight == 0 {
                break;
            }
            let _ = self.io.submitter().register_sync_cancel(limit, CancelBuilder::any());
            let _ = self.enter(Some(Duration::from_millis(100)));
        }
        while self.completion().is_some() {}
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.cancel();
        // SAFETY: each is dropped once, here. The ring goes first. The memory goes only when no request is
        // left that could touch it; otherwise it stays mapped for the life of the process.
        unsafe {
            ManuallyDrop::drop(&mut self.io);
            if self.in_flight == 0 && self.home == self.buffers.entries(Lender::Udp).0 {
                ManuallyDrop::drop(&mut self.buffers);
                ManuallyDrop::drop(&mut self.pinned);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
