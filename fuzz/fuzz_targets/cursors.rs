//! Cursors: what is taken comes back the same when it is written and read again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use tidegate::event::{Cursor, cursor};

fuzz_target!(|text: &str| {
    if let Ok(Cursor::Rooms(rooms)) = Cursor::parse(text) {
        let mut written = String::new();
        cursor::write(rooms.iter().map(|(name, seq)| (name, *seq)), &mut written);
        assert_eq!(Cursor::parse(&written), Ok(Cursor::Rooms(rooms)));
    }
});
