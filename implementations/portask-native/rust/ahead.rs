//! Hints to the processor that a cache line will be needed: they never fault, whatever the address, and change nothing
//! that a program can see. Where there are none for this kind of processor they do nothing.

/// Will be read.
#[inline(always)]
pub fn read(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; see the module's text.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Will be written: other cores give it up. All x86-64 decode this; LLVM emits it for newer processors only.
#[inline(always)]
pub fn write(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; see the module's text.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
