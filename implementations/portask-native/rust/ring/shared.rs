//! Memory that two processes map, and the name by which the second one finds it.
//!
//! **Memory without a file system.** A memfd (memfd_create(2)) is memory with a descriptor: it needs no
//! `/dev/shm`, which is 64 MB in many containers, and leaves nothing behind. Its name is where the maker's
//! descriptor stands, `portask-ring-<process>-<descriptor>-<token>`, and is opened through `/proc`. So the
//! name lives exactly as long as the maker's descriptor: `close()` removes it, the end of the maker's handle
//! removes it, and so does SIGKILL, for the kernel closes the descriptors of the dead. No helper process must
//! clean up. The memory itself lives as long as anybody maps it. Whoever may read the maker's
//! `/proc/<process>/fd` may attach: the same user, or root.
//!
//! **Sealed.** The size is sealed before anybody can know the name, and looked at when attaching. So no peer
//! can cut the memory short, which would end a process that reads it with SIGBUS. It is allocated at once, so
//! that a machine without room says so here and not later.
//!
//! **Validated.** Processes and descriptors are numbered anew: the token, 64 random bits, stands in the name,
//! in the memfd's own name and in the memory, and must agree, as must magic, version, capacity and size.

use super::bytes::{self, Indexes, Memory};
use crate::ahead;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::rand::GetRandomFlags;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

const MAGIC: u64 = u64::from_le_bytes(*b"PORTrng\0");
const VERSION: u32 = 1;

/// The first bytes. Written before anybody can attach, never afterwards.
#[repr(C)]
struct Head {
    magic: u64,
    version: u32,
    /// Bytes before the data area: another layout of the indexes is another ring.
    data_at: u32,
    capacity: u64,
    token: u64,
}

const INDEXES_AT: usize = 128;
const DATA_AT: usize = INDEXES_AT + size_of::<Indexes>();
const _: () = assert!(size_of::<Head>() <= INDEXES_AT && INDEXES_AT.is_multiple_of(align_of::<Indexes>()));

/// Bytes of memory that a ring of `capacity` bytes needs.
pub fn size(capacity: usize) -> usize {
    DATA_AT + bytes::area(capacity)
}

/// What a ring is opened by. Its text form is for the other process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    process: u32,
    descriptor: u32,
    token: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "portask-ring-{}-{}-{:016x}", self.process, self.descriptor, self.token)
    }
}

impl Name {
    /// The name that `text` is, and no other spelling of it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("portask-ring-")?.splitn(3, '-');
        let name = Self {
            process: parts.next()?.parse().ok()?,
            descriptor: parts.next()?.parse().ok()?,
            token: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        (name.to_string() == text).then_some(name)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", self.process, self.descriptor)
    }
}

fn memfd_name(token: u64) -> String {
    format!("portask-ring-{token:016x}")
}

/// Why there is no ring of that name here.
#[derive(Debug)]
pub enum Refusal {
    /// No process has it open under that name: closed, or its maker is gone.
    Gone,
    /// It is there, and it is not what the name says.
    NoRing(&'static str),
    /// The system refuses it.
    System(io::Error),
}

/// The memory of a ring; unmapped when it is dropped.
pub struct Shared {
    map: MmapRaw,
    data: Range<usize>,
}

impl Shared {
    /// New memory for a ring of `capacity` bytes, its name, and the descriptor that the name lasts as long
    /// as.
    ///
    /// # Errors
    /// There is not as much memory, or no descriptor left.
    pub fn create(capacity: usize) -> io::Result<(Self, Name, OwnedFd)> {
        let size = size(capacity);
        if size as u64 > available_memory() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut token = [0; 8];
        rustix::rand::getrandom(&mut token[..], GetRandomFlags::empty())?;
        let token = u64::from_ne_bytes(token);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create(memfd_name(token), flags)?);
        file.set_len(size as u64)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size as u64)?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let memory = Self::map(&file, size, capacity)?;
        let head = Head {
            magic: MAGIC,
            version: VERSION,
            data_at: DATA_AT as u32,
            capacity: capacity as u64,
            token,
        };
        // SAFETY: the mapping is longer than a head and page-aligned, and nobody else knows of it. The
        // indexes behind it are zero as they must be: a memfd is born so.
        unsafe { memory.map.as_mut_ptr().cast::<Head>().write(head) };
        let name = Name { process: std::process::id(), descriptor: file.as_raw_fd() as u32, token };
        Ok((memory, name, file.into()))
    }

    /// The memory of that name, and the capacity of the ring in it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn attach(name: Name) -> Result<(Self, usize), Refusal> {
        let system = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Refusal::Gone,
            _ => Refusal::System(error),
        };
        // Looked at before it is opened, which for some files is an act.
        let target = std::fs::read_link(name.path()).map_err(system)?;
        if target.as_os_str() != format!("/memfd:{} (deleted)", memfd_name(name.token)).as_str() {
            return Err(Refusal::Gone); // the number was given to something else
        }
        let file = File::options().read(true).write(true).open(name.path()).map_err(system)?;
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|error| Refusal::System(error.into()))?;
        if !seals.contains(SEALS) {
            return Err(Refusal::NoRing("its size is not sealed"));
        }
        let length = file.metadata().map_err(Refusal::System)?.len() as usize;
        if length < size(bytes::MIN_CAPACITY) {
            return Err(Refusal::NoRing("it is too short"));
        }
        let mut memory = Self::map(&file, length, bytes::MIN_CAPACITY).map_err(Refusal::System)?;
        // SAFETY: the mapping is longer than a head and page-aligned; the maker wrote it before it told the
        // name.
        let head = unsafe { memory.map.as_ptr().cast::<Head>().read() };
        let capacity = head.capacity as usize;
        if head.magic != MAGIC || head.token != name.token {
            return Err(Refusal::NoRing("its first bytes do not say so"));
        }
        if head.version != VERSION || head.data_at as usize != DATA_AT {
            return Err(Refusal::NoRing("another version of portask-native made it"));
        }
        if capacity < bytes::MIN_CAPACITY || capacity > length || length != size(capacity) {
            return Err(Refusal::NoRing("its capacity and its size do not agree"));
        }
        memory.data = DATA_AT..length;
        Ok((memory, capacity))
    }

    fn map(file: &File, length: usize, capacity: usize) -> io::Result<Self> {
        // Pages are mapped at once: the first lap shall not cost a page fault every 64 records.
        let map = MmapOptions::new().len(length).populate().map_raw(file)?;
        Ok(Self { map, data: DATA_AT..size(capacity) })
    }
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Bytes that the kernel could give without swapping; everything, where it does not say.
fn available_memory() -> u64 {
    let said = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = said.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

impl Memory for Shared {
    fn indexes(&self) -> &Indexes {
        // SAFETY: it lies inside of the mapping, which is page-aligned and lives as long as `self`. Any bytes
        // are valid atomics, and everybody accesses them as such.
        unsafe { &*self.map.as_ptr().add(INDEXES_AT).cast::<Indexes>() }
    }

    unsafe fn write(&self, at: usize, from: &[u8]) {
        debug_assert!(at + from.len() <= self.data.len());
        // SAFETY: the caller's promise: inside of the data area, and nobody else's now.
        unsafe {
            let place = self.map.as_mut_ptr().add(self.data.start + at);
            std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len());
        }
    }

    unsafe fn read<R>(&self, at: usize, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        debug_assert!(at + len <= self.data.len());
        // SAFETY: the caller's promise: inside of the data area, and nobody writes it now.
        look(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.data.start + at), len) })
    }

    fn expect(&self, at: usize, to_write: bool) {
        /// A small record and its length span so many cache lines.
        const LINES: usize = 2;
        for line in 0..LINES {
            let place = self.map.as_ptr().wrapping_add(self.data.start + at + 64 * line);
            if to_write {
                ahead::write(place);
            } else {
                ahead::read(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::bytes::{ByteRing, Cache, Fault};

    fn made(capacity: usize) -> (ByteRing<Shared>, Name, OwnedFd) {
        let (memory, name, descriptor) = Shared::create(capacity).unwrap();
        // SAFETY: the memory was made for this capacity, and each test has one writer and one reader.
        (unsafe { ByteRing::new(memory, capacity) }, name, descriptor)
    }

    fn attached(name: Name) -> ByteRing<Shared> {
        let (memory, capacity) = Shared::attach(name).unwrap();
        // SAFETY: as above.
        unsafe { ByteRing::new(memory, capacity) }
    }

    #[test]
    fn two_mappings_are_one_ring() {
        let (ours, name, _descriptor) = made(4096);
        let theirs = attached(Name::parse(&name.to_string()).unwrap());
        assert_eq!(theirs.capacity(), 4096);
        let mut cache = Cache::default();
        for number in 0..1000_u32 {
            let mut writer = ours.writer(&mut cache).unwrap();
            assert_eq!(writer.push(&number.to_ne_bytes().repeat(number as usize % 100)), Ok(true));
            writer.publish();
            // a successor a record: it finds the place in the memory
            let mut cache = Cache::default();
            let mut reader = theirs.reader(&mut cache).unwrap();
            let record = reader.next(<[u8]>::to_vec).unwrap().unwrap();
            assert_eq!(record, number.to_ne_bytes().repeat(number as usize % 100));
            reader.take();
        }
        ours.close();
        assert_eq!(theirs.reader(&mut Cache::default()).err(), Some(Fault::Closed));
    }

    #[test]
    fn the_name_lasts_as_long_as_the_descriptor_and_the_memory_longer() {
        let (ours, name, descriptor) = made(64);
        let theirs = attached(name);
        drop((ours, descriptor));
        assert!(matches!(Shared::attach(name), Err(Refusal::Gone)));
        assert_eq!(theirs.used(), 0);
    }

    #[test]
    fn a_number_that_something_else_has_now_is_gone() {
        let (_ring, name, descriptor) = made(64);
        let other = File::open("/dev/null").unwrap();
        assert!(matches!(Shared::attach(Name { token: name.token ^ 1, ..name }), Err(Refusal::Gone)));
        let elsewhere = Name { descriptor: other.as_raw_fd() as u32, ..name };
        assert!(matches!(Shared::attach(elsewhere), Err(Refusal::Gone)));
        let another = Shared::create(64).unwrap();
        let elsewhere = Name { descriptor: another.2.as_raw_fd() as u32, ..name };
        assert!(matches!(Shared::attach(elsewhere), Err(Refusal::Gone)));
        drop(descriptor);
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        let token = 7;
        let refused = |bytes: &[u8], seals: SealFlags| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = File::from(rustix::fs::memfd_create(memfd_name(token), flags).unwrap());
            std::io::Write::write_all(&mut &file, bytes).unwrap();
            rustix::fs::fcntl_add_seals(&file, seals).unwrap();
            let name = Name { process: std::process::id(), descriptor: file.as_raw_fd() as u32, token };
            match Shared::attach(name) {
                Err(Refusal::NoRing(why)) => why,
                other => panic!("{:?}", other.map(|_| ())),
            }
        };
        let (ring, ..) = made(64);
        let memory = &ring.memory().map;
        // SAFETY: nobody writes it.
        let good = unsafe { std::slice::from_raw_parts(memory.as_ptr(), memory.len()) };
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.to_vec();
            bytes[24..32].copy_from_slice(&token.to_ne_bytes());
            bytes[at..at + value.len()].copy_from_slice(value);
            bytes
        };
        assert_eq!(refused(&with(0, &[]), SealFlags::SHRINK), "its size is not sealed");
        assert_eq!(refused(&[0; 10], SEALS), "it is too short");
        assert_eq!(refused(&with(0, b"X"), SEALS), "its first bytes do not say so");
        assert_eq!(refused(&with(24, b"X"), SEALS), "its first bytes do not say so");
        assert_eq!(refused(&with(8, b"\x09"), SEALS), "another version of portask-native made it");
        assert_eq!(refused(&with(12, b"\x09"), SEALS), "another version of portask-native made it");
        for capacity in [0, 63, 65, u64::MAX, u64::MAX / 8] {
            let why = refused(&with(16, &capacity.to_ne_bytes()), SEALS);
            assert_eq!(why, "its capacity and its size do not agree");
        }
        let mut longer = with(0, &[]);
        longer.push(0);
        assert_eq!(refused(&longer, SEALS), "its capacity and its size do not agree");
    }

    #[test]
    fn nobody_cuts_it_short() {
        let (_ring, name, _descriptor) = made(64);
        let file = File::options().write(true).open(name.path()).unwrap();
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn other_spellings_are_no_names() {
        for text in [
            "",
            "portask-ring-",
            "portask-ring-1-2",
            "portask-ring-1-2-3",
            "portask-ring-01-2-0000000000000003",
            "portask-ring-+1-2-0000000000000003",
            "portask-ring-1-2-0000000000000003-4",
            "portask-ring-1-2-000000000000000A",
            "../portask-ring-1-2-0000000000000003",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        let name = Name { process: 1, descriptor: 2, token: 0xa };
        assert_eq!(Name::parse("portask-ring-1-2-000000000000000a"), Some(name));
    }

    #[test]
    fn more_than_the_machine_has_is_an_error() {
        assert_eq!(Shared::create(1 << 50).err().unwrap().kind(), io::ErrorKind::OutOfMemory);
    }
}
