//! What Glance remembers of image data: its size, its SHA-512, and the MD5 that old clients compare.
//!
//! MD5 (RFC 1321) is here for its place in Glance's answers, and protects nothing.

use sha2::{Digest, Sha512};

/// Image data that came by, a piece at a time.
pub(crate) struct Measure {
    sha512: Sha512,
    md5: Md5,
    size: u64,
    head: Vec<u8>,
}

/// Image data that came by: measured and hashed, not kept.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub size: u64,
    pub sha512: String,
    pub md5: String,
    /// The first bytes, which tell the format.
    pub head: Vec<u8>,
}

impl Measure {
    pub(crate) fn new() -> Self {
        Self { sha512: Sha512::new(), md5: Md5::new(), size: 0, head: Vec::new() }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        if self.head.len() < 8 {
            self.head.extend_from_slice(&data[..data.len().min(8)]);
        }
        self.size += data.len() as u64;
        self.sha512.update(data);
        self.md5.update(data);
    }

    pub(crate) fn finish(self) -> Measured {
        Measured {
            size: self.size,
            sha512: hex(&self.sha512.finalize()),
            md5: hex(&self.md5.finish()),
            head: self.head,
        }
    }
}

impl Measured {
    /// Stands for data of this size that is nowhere.
    pub(crate) fn imagined(what: &str, size: u64) -> Self {
        let mut measure = Measure::new();
        measure.update(what.as_bytes());
        Self { size, ..measure.finish() }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

struct Md5 {
    state: [u32; 4],
    constants: [u32; 64],
    rest: Vec<u8>,
    length: u64,
}

impl Md5 {
    fn new() -> Self {
        // The whole part of 2^32 times the sine: small, positive, exact in an f64.
        let constants = std::array::from_fn(|index| ((index as f64 + 1.0).sin().abs() * 4_294_967_296.0) as u32);
        let state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        Self { state, constants, rest: Vec::new(), length: 0 }
    }

    fn update(&mut self, mut data: &[u8]) {
        self.length = self.length.wrapping_add(data.len() as u64);
        if !self.rest.is_empty() {
            let fill = (64 - self.rest.len()).min(data.len());
            self.rest.extend_from_slice(&data[..fill]);
            data = &data[fill..];
            if self.rest.len() == 64 {
                let block = std::mem::take(&mut self.rest);
                self.block(&block);
            }
        }
        let mut blocks = data.chunks_exact(64);
        for block in &mut blocks {
            self.block(block);
        }
        self.rest.extend_from_slice(blocks.remainder());
    }

    fn block(&mut self, block: &[u8]) {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let [mut a, mut b, mut c, mut d] = self.state;
        for step in 0..64 {
            let (mix, index) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), (7 * step) % 16),
            };
            let sum = a.wrapping_add(mix).wrapping_add(self.constants[step]).wrapping_add(words[index]);
            let next = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
            (a, d, c, b) = (d, c, b, next);
        }
        for (held, new) in self.state.iter_mut().zip([a, b, c, d]) {
            *held = held.wrapping_add(new);
        }
    }

    fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let padding = 1 + (119 - self.length as usize % 64) % 64;
        let mut tail = vec![0; padding];
        tail[0] = 0x80;
        tail.extend_from_slice(&bits.to_le_bytes());
        self.update(&tail);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_the_standard_one() {
        for (text, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            (&"1234567890".repeat(8), "57edf4a22be3c955ac49da2e2107b67a"),
        ] {
            let mut measure = Measure::new();
            text.as_bytes().chunks(7).for_each(|piece| measure.update(piece));
            assert_eq!(measure.finish().md5, digest, "{text}");
        }
    }
}
