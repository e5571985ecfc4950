//! Threads that run jobs, one queue for all.
//!
//! Nothing here knows of an interpreter, and no thread waits for anything but the queue's lock, which is held
//! for as long as it takes to move a pointer.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What a thread keeps from job to job, such as a compressor's tables.
pub trait Job: Send + Sync + 'static {
    /// One for each thread.
    type Tools: Default;

    /// Does the job and keeps its result. Must not panic; one that does is dropped without a result.
    fn run(&self, tools: &mut Self::Tools);

    /// Stands around everything that a thread does.
    fn around(work: impl FnOnce() + Send) {
        work();
    }
}

struct Queue<J> {
    jobs: VecDeque<Arc<J>>,
    closed: bool,
    /// Threads that have begun to look for jobs.
    ready: usize,
}

struct Shared<J> {
    queue: Mutex<Queue<J>>,
    more: Condvar,
    begun: Condvar,
}

impl<J> Shared<J> {
    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads. Dropping it lets them finish what is queued, and does not wait for them: see [`join_left`].
pub struct Crew<J: Job> {
    shared: Arc<Shared<J>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<J: Job> Crew<J> {
    /// Starts so many threads.
    ///
    /// # Errors
    /// The system gives no more.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), closed: false, ready: 0 }),
            more: Condvar::new(),
            begun: Condvar::new(),
        });
        let crew = Self { shared: Arc::clone(&shared), threads: Mutex::new(Vec::new()) };
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let thread = Builder::new()
                .name(format!("portask-worker-{number}"))
                .spawn(move || J::around(|| work(&shared)))?;
            crew.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(crew)
    }

    /// Waits until every thread is past what stands before its first job: see [`Job::around`].
    pub fn wait_until_ready(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).len();
        let mut queue = self.shared.queue();
        while queue.ready < threads {
            queue = self.shared.begun.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Queues a job for the next free thread; `false` when the crew is closed.
    pub fn submit(&self, job: Arc<J>) -> bool {
        let mut queue = self.shared.queue();
        if queue.closed {
            return false;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.more.notify_one();
        true
    }

    /// No more jobs. What is queued is still done.
    pub fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.more.notify_all();
    }

    /// Waits until everything is done and the threads are gone; after [`Crew::close`].
    pub fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join(); // a thread does not panic
        }
    }
}

impl<J: Job> Drop for Crew<J> {
    fn drop(&mut self) {
        self.close();
        leave(std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)));
    }
}

/// Threads that nobody waited for, and that may still have something to do.
static LEFT: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Leaves threads, which were told to end, to [`join_left`].
pub fn leave(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|thread| !thread.is_finished());
    left.extend(threads);
}

/// Waits for all threads that were left.
pub fn join_left() {
    let left = std::mem::take(&mut *LEFT.lock().unwrap_or_else(PoisonError::into_inner));
    for thread in left {
        let _ = thread.join(); // a thread does not panic
    }
}

fn work<J: Job>(shared: &Shared<J>) {
    let mut tools = J::Tools::default();
    shared.queue().ready += 1;
    shared.begun.notify_all();
    loop {
        let mut queue = shared.queue();
        let job = loop {
            if let Some(job) = queue.jobs.pop_front() {
                break job;
            }
            if queue.closed {
                return;
            }
            queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        if catch_unwind(AssertUnwindSafe(|| job.run(&mut tools))).is_err() {
            tools = J::Tools::default(); // they may be half-changed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(Arc<AtomicUsize>, usize);

    impl Job for Count {
        type Tools = usize;

        fn run(&self, done_by_this_thread: &mut usize) {
            *done_by_this_thread += 1;
            assert!(*done_by_this_thread <= self.1, "a planted panic");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn everything_is_done_once_and_close_waits_for_it() {
        let done = Arc::new(AtomicUsize::new(0));
        let crew = Crew::new(3).unwrap();
        crew.wait_until_ready();
        for _ in 0..1000 {
            assert!(crew.submit(Arc::new(Count(Arc::clone(&done), usize::MAX))));
        }
        crew.close();
        assert!(!crew.submit(Arc::new(Count(Arc::clone(&done), usize::MAX))));
        crew.join();
        crew.join();
        assert_eq!(done.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn who_is_dropped_is_waited_for_later() {
        let done = Arc::new(AtomicUsize::new(0));
        let crew = Crew::new(2).unwrap();
        for _ in 0..1000 {
            crew.submit(Arc::new(Count(Arc::clone(&done), usize::MAX)));
        }
        drop(crew);
        join_left();
        assert_eq!(done.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn a_panic_ends_a_job_and_no_thread() {
        let done = Arc::new(AtomicUsize::new(0));
        let crew = Crew::new(1).unwrap();
        for _ in 0..6 {
            crew.submit(Arc::new(Count(Arc::clone(&done), 1))); // every second one panics, and clears the count
        }
        crew.close();
        crew.join();
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }
}
