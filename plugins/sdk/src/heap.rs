//! The heap of a policy. It begins in the rest of the first memory that the linker left.
//!
//! The host copies the whole memory of a policy for every review, so a page less is a review that is cheaper:
//! the allocator of the standard library would leave the rest of the first pages unused and begin with a page
//! more.
#![expect(unsafe_code, reason = "an allocator owns raw memory")]

use std::alloc::Layout;
use std::arch::wasm32::{memory_grow, memory_size};
use std::ptr::NonNull;

use talc::base::binning::Binning;
use talc::base::{CHUNK_UNIT, Talc};
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

const PAGE: usize = 64 * 1024;

#[global_allocator]
static HEAP: TalcSyncCell<Memory, WasmBinning> = TalcSyncCell::new_wasm(Memory { end: None });

unsafe extern "C" {
    /// The linker's symbol: its address is the first byte that nothing else has.
    static __heap_base: u8;
}

/// The source of the heap's memory.
#[derive(Debug)]
struct Memory {
    /// The end of the heap; none before it begins.
    end: Option<NonNull<u8>>,
}

// SAFETY: it only takes memory that the linker left over or that it has grown itself, and allocates nothing.
unsafe impl Source for Memory {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let Some(end) = talc.source.end else { return begin(talc) };
        let bytes = layout.size().saturating_add(layout.align()).saturating_add(2 * CHUNK_UNIT);
        let pages = bytes.div_ceil(PAGE);
        let before = memory_grow::<0>(pages);
        if before == usize::MAX {
            return Err(());
        }
        let new_end = before.saturating_add(pages).saturating_mul(PAGE) as *mut u8;
        // SAFETY: nothing but the heap grows the memory, so what is new begins where the heap ends.
        talc.source.end = Some(unsafe { talc.extend(end, new_end) });
        Ok(())
    }
}

/// Takes the rest of the first memory, and a page if the rest is too small.
fn begin<B: Binning>(talc: &mut Talc<Memory, B>) -> Result<(), ()> {
    let base = (&raw const __heap_base).cast_mut();
    let mut size = memory_size::<0>().saturating_mul(PAGE).saturating_sub(base.addr());
    if size < talc::min_first_heap_size::<B>() {
        if memory_grow::<0>(1) == usize::MAX {
            return Err(());
        }
        size = size.saturating_add(PAGE);
    }
    // SAFETY: from `__heap_base` to the end of the memory there is nothing.
    talc.source.end = unsafe { talc.claim(base, size) };
    talc.source.end.map(|_| ()).ok_or(())
}
