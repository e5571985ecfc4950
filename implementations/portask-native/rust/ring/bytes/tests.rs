//! The ring against a deque, between two threads, and under loom: no order of two sides' steps shows a record
//! that was not published, or changes one that is being read.

use super::*;

/// Memory whose every byte is watched by loom, or by nobody.
struct Bytes {
    indexes: Indexes,
    #[cfg(loom)]
    data: Vec<loom::cell::UnsafeCell<u8>>,
    #[cfg(not(loom))]
    data: Vec<std::cell::UnsafeCell<u8>>,
}

// SAFETY: the ring sees to it that a byte is one side's at a time; that it does is what is tested here.
unsafe impl Sync for Bytes {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Bytes {}

impl Memory for Bytes {
    fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    unsafe fn write(&self, at: usize, from: &[u8]) {
        for (cell, byte) in self.data[at..at + from.len()].iter().zip(from) {
            // SAFETY: the caller's promise.
            #[cfg(loom)]
            cell.with_mut(|place| unsafe { *place = *byte });
            // SAFETY: the caller's promise.
            #[cfg(not(loom))]
            unsafe {
                *cell.get() = *byte;
            }
        }
    }

    unsafe fn read<R>(&self, at: usize, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let cells = self.data[at..at + len].iter();
        // SAFETY: the caller's promise.
        #[cfg(loom)]
        let bytes: Vec<u8> = cells.map(|cell| cell.with(|place| unsafe { *place })).collect();
        // SAFETY: the caller's promise.
        #[cfg(not(loom))]
        let bytes: Vec<u8> = cells.map(|cell| unsafe { *cell.get() }).collect();
        look(&bytes)
    }
}

fn ring(capacity: usize) -> ByteRing<Bytes> {
    let data = (0..area(capacity)).map(|_| 0xdb.into()).collect();
    // SAFETY: the data area has the size that it must have; each test has one writer and one reader at a
    // time.
    unsafe { ByteRing::new(Bytes { indexes: Indexes::default(), data }, capacity) }
}

fn put(ring: &ByteRing<Bytes>, cache: &mut Cache, records: &[&[u8]]) -> Result<usize, Fault> {
    let mut writer = ring.writer(cache)?;
    let mut count = 0;
    for record in records {
        if !writer.push(record)? {
            break;
        }
        count += 1;
    }
    writer.publish();
    Ok(count)
}

fn get(ring: &ByteRing<Bytes>, cache: &mut Cache, limit: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let mut reader = ring.reader(cache)?;
    let mut records = Vec::new();
    while records.len() < limit {
        let Some(record) = reader.next(<[u8]>::to_vec)? else { break };
        records.push(record);
    }
    reader.take();
    Ok(records)
}

#[cfg(not(loom))]
mod plain {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::thread;

    /// What one of several handles of a side does.
    #[derive(Clone, Debug)]
    enum Step {
        Put { handle: usize, lengths: Vec<usize> },
        Abandon { handle: usize, lengths: Vec<usize> },
        Get { handle: usize, limit: usize },
        Look { handle: usize, limit: usize },
        Close,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let lengths = || prop::collection::vec(prop_oneof![Just(0), Just(64), 0..=64_usize], 0..12);
        let step = prop_oneof![
            8 => (0..2_usize, lengths()).prop_map(|(handle, lengths)| Step::Put { handle, lengths }),
            1 => (0..2_usize, lengths()).prop_map(|(handle, lengths)| Step::Abandon { handle, lengths }),
            8 => (0..2_usize, 0..9_usize).prop_map(|(handle, limit)| Step::Get { handle, limit }),
            1 => (0..2_usize, 0..9_usize).prop_map(|(handle, limit)| Step::Look { handle, limit }),
            1 => Just(Step::Close),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Two handles a side, in turns, with whatever they remember from before; some give up half-way.
        #[test]
        fn it_is_a_bounded_deque(
            capacity in prop_oneof![Just(64_usize), Just(100), Just(512), Just(1000)],
            steps in steps(),
        ) {
            let ring = ring(capacity);
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let mut caches: [[Cache; 2]; 2] = Default::default();
            let mut closed = false;
            let mut serial = 0_u8;
            for step in steps {
                let mut records = |lengths: &[usize]| -> Vec<Vec<u8>> {
                    lengths.iter().map(|length| {
                        serial = serial.wrapping_add(1);
                        vec![serial; length * largest(capacity) / 64]
                    }).collect()
                };
                match step {
                    Step::Put { handle, lengths } => {
                        let records = records(&lengths);
                        let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                        let outcome = put(&ring, &mut caches[0][handle], &slices);
                        if closed {
                            prop_assert_eq!(outcome, Err(Fault::Closed));
                            continue;
                        }
                        let count = outcome.unwrap();
                        model.extend(records[..count].iter().cloned());
                        let used: usize = model.iter().map(|record| record.len() + OVERHEAD).sum();
                        prop_assert!(used <= capacity);
                        if count < records.len() {
                            prop_assert!(used + OVERHEAD + records[count].len() > capacity, "there was room");
                        }
                    }
                    Step::Abandon { handle, lengths } => {
                        if let Ok(mut writer) = ring.writer(&mut caches[0][handle]) {
                            for record in records(&lengths) {
                                writer.push(&record).unwrap();
                            }
                        }
                    }
                    Step::Get { handle, limit } => {
                        let outcome = get(&ring, &mut caches[1][handle], limit);
                        if closed && model.is_empty() {
                            prop_assert_eq!(outcome, Err(Fault::Closed));
                        } else {
                            let expected: Vec<_> = model.drain(..limit.min(model.len())).collect();
                            prop_assert_eq!(outcome, Ok(expected));
                        }
                    }
                    Step::Look { handle, limit } => {
                        if let Ok(mut reader) = ring.reader(&mut caches[1][handle]) {
                            for record in model.iter().take(limit) {
                                prop_assert_eq!(reader.next(<[u8]>::to_vec), Ok(Some(record.clone())));
                            }
                        }
                    }
                    Step::Close => {
                        ring.close();
                        closed = true;
                    }
                }
                let used: usize = model.iter().map(|record| record.len() + OVERHEAD).sum();
                prop_assert_eq!(ring.used(), used);
                prop_assert_eq!(ring.ready(), closed || !model.is_empty());
            }
        }

        /// Whatever stands in the memory, reading it ends in records or in a fault, never outside of the data
        /// area.
        #[test]
        fn garbage_is_found_out_or_harmless(
            put in any::<u64>(), ahead in -100_i64..=200, bytes in prop::collection::vec(any::<u8>(), 64 + 8 + 8),
        ) {
            let ring = ring(64);
            for (cell, byte) in ring.memory.data.iter().zip(&bytes) {
                // SAFETY: nobody else looks.
                unsafe { *cell.get() = *byte };
            }
            ring.memory.indexes.put.0.store(put.wrapping_add_signed(ahead), Ordering::Relaxed);
            ring.memory.indexes.got.0.store(put, Ordering::Relaxed);
            prop_assert!(ring.used() <= 64);
            let got = get(&ring, &mut Cache::default(), 100);
            if !(0..=64).contains(&ahead) {
                prop_assert!(matches!(got, Err(Fault::Overwritten(..))));
            }
            let _ = super::put(&ring, &mut Cache::default(), &[&[1; 8], &[2; 8]]);
        }
    }

    #[test]
    fn what_never_fits_is_said_and_nothing_happens() {
        let ring = ring(800);
        let mut cache = Cache::default();
        assert_eq!(put(&ring, &mut cache, &[&[1; 100], &[2; 101]]), Err(Fault::NeverFits(101)));
        assert_eq!(ring.used(), 0);
        assert_eq!(put(&ring, &mut cache, &[&[3; 100]]), Ok(1));
        assert_eq!(get(&ring, &mut Cache::default(), 9), Ok(vec![vec![3; 100]]));
    }

    #[test]
    fn counters_may_wrap() {
        let ring = ring(64);
        let start = 0_u64.wrapping_sub(40);
        ring.memory.indexes.put.0.store(start, Ordering::Relaxed);
        ring.memory.indexes.got.0.store(start, Ordering::Relaxed);
        // 2^64 is a multiple of 64: positions go on where they were
        let cache = || Cache { own: start, at: (start % 64) as usize, other: start };
        let (mut ours, mut theirs) = (cache(), cache());
        for number in 0..100_u8 {
            assert_eq!(put(&ring, &mut ours, &[&[number; 8], &[number; 3]]), Ok(2));
            assert_eq!(get(&ring, &mut theirs, 9), Ok(vec![vec![number; 8], vec![number; 3]]));
        }
    }

    #[test]
    fn two_threads() {
        const RECORDS: u32 = 200_000;
        let ring = Arc::new(ring(1000));
        let producer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let mut cache = Cache::default();
                let mut number = 0;
                while number < RECORDS {
                    let batch: Vec<Vec<u8>> = (number..RECORDS.min(number + number % 9 + 1))
                        .map(|n| n.to_le_bytes().repeat(n as usize % 30))
                        .collect();
                    let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
                    let count = put(&ring, &mut cache, &slices).unwrap();
                    number += count as u32;
                    if count == 0 {
                        thread::yield_now();
                    }
                }
                ring.close();
            }
        });
        let mut cache = Cache::default();
        let mut number = 0;
        let far = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while ring.bell().wait(std::time::Instant::now(), far, || ring.ready()) {
            let Ok(records) = get(&ring, &mut cache, 7) else { break };
            for record in records {
                assert_eq!(record, (number as u32).to_le_bytes().repeat(number % 30));
                number += 1;
            }
        }
        assert_eq!(number, RECORDS as usize);
        producer.join().unwrap();
    }
}

#[cfg(loom)]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// A producer puts batches, waiting for room; a consumer takes them: in order, whole, once, and it is
    /// woken.
    fn handed_over(capacity: usize, batches: &'static [&'static [&'static [u8]]], limit: usize) {
        loom::model(move || {
            let ring = Arc::new(ring(capacity));
            let producer = thread::spawn({
                let ring = Arc::clone(&ring);
                move || {
                    let mut cache = Cache::default();
                    for batch in batches {
                        let mut rest = *batch;
                        while !rest.is_empty() {
                            let count = put(&ring, &mut cache, rest).unwrap();
                            rest = &rest[count..];
                            if count == 0 {
                                thread::yield_now();
                            }
                        }
                    }
                    ring.close();
                }
            });
            let mut cache = Cache::default();
            let mut expected = batches.iter().flat_map(|batch| batch.iter());
            loop {
                while !ring.bell().sleep(super::super::super::bell::NAP, || ring.ready()) {}
                match get(&ring, &mut cache, limit) {
                    Ok(records) => {
                        records.iter().for_each(|record| assert_eq!(record, expected.next().unwrap()))
                    }
                    Err(fault) => {
                        assert_eq!(fault, Fault::Closed);
                        break;
                    }
                }
            }
            assert_eq!(expected.next(), None);
            producer.join().unwrap();
        });
    }

    #[test]
    fn a_batch_and_a_single() {
        handed_over(64, &[&[b"ab", b""], &[b"c"]], 9);
    }

    #[test]
    fn a_lap() {
        // 16 bytes each: the fifth waits for room and overwrites the first
        handed_over(64, &[&[b"11111111", b"22222222", b"33333333", b"44444444"], &[b"55555555"]], 1);
    }

    #[test]
    fn what_is_abandoned_is_never_seen() {
        loom::model(|| {
            let ring = Arc::new(ring(64));
            let producer = thread::spawn({
                let ring = Arc::clone(&ring);
                move || {
                    let mut cache = Cache::default();
                    ring.writer(&mut cache).unwrap().push(b"half").unwrap();
                    put(&ring, &mut cache, &[b"whole"]).unwrap();
                }
            });
            let mut cache = Cache::default();
            let seen = get(&ring, &mut cache, 9).unwrap();
            assert!(seen.is_empty() || seen == [b"whole"]);
            producer.join().unwrap();
            let rest = get(&ring, &mut cache, 9).unwrap();
            assert_eq!(seen.len() + rest.len(), 1);
        });
    }

    #[test]
    fn closed_means_that_nothing_comes() {
        loom::model(|| {
            let ring = Arc::new(ring(64));
            let producer = thread::spawn({
                let ring = Arc::clone(&ring);
                move || {
                    put(&ring, &mut Cache::default(), &[b"last"]).unwrap();
                    ring.close();
                }
            });
            let mut cache = Cache::default();
            let mut seen = Vec::new();
            loop {
                match get(&ring, &mut cache, 9) {
                    Ok(records) => seen.extend(records),
                    Err(_) => break,
                }
                thread::yield_now();
            }
            assert_eq!(seen, [b"last"]);
            producer.join().unwrap();
        });
    }
}
