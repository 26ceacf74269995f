//! Runs the parsers of `gabion-foreign` under a fuzzer, and holds them to the memory that they may take.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use gabion_foreign::Target;
use gabion_store_core::testing::trust_checksums;

/// The system's allocator, with an account of the bytes in use and the most there were.
struct Counting {
    used: AtomicUsize,
    most: AtomicUsize,
}

#[global_allocator]
static MEMORY: Counting = Counting { used: AtomicUsize::new(0), most: AtomicUsize::new(0) };

/// Nothing asks for as much at once but by mistake.
const ABSURD: usize = 256 << 20;

impl Counting {
    fn add(&self, bytes: usize) {
        if bytes > ABSURD {
            // A panic would allocate.
            std::process::abort();
        }
        self.most.fetch_max(self.used.fetch_add(bytes, Relaxed) + bytes, Relaxed);
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.add(size);
        self.take(layout.size());
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.take(layout.size());
        unsafe { System.dealloc(at, layout) }
    }
}

/// Gives `bytes` to a parser, the only one of this process; panics if it takes more memory than it may.
pub fn run(target: &Target, bytes: &[u8]) {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        trust_checksums();
        // What is made once and kept is on no input's account.
        (target.run)(bytes);
    });
    let before = MEMORY.used.load(Relaxed);
    MEMORY.most.store(before, Relaxed);
    (target.run)(bytes);
    let (most, may) = (MEMORY.most.load(Relaxed).saturating_sub(before), target.memory.of(bytes.len()));
    assert!(most <= may, "{most} bytes of memory for {} of input, more than {may}", bytes.len());
}
