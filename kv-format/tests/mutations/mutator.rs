//! Seeded damage to valid objects: blind (bits, cuts, splices) and informed (edge values in fields, with the checksums made right
//! again, as a hostile writer would). Shared by the mutated-input test and by `examples/interop.rs`.

use super::repair::repair;
use super::valid::Valid;

/// First byte and bytes of every field of the header that SPEC.md names, and of the reserved bytes.
const HEADER: [(usize, usize); 28] = [
    (0, 8),
    (8, 2),
    (10, 2),
    (12, 4),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 4),
    (44, 4),
    (48, 32),
    (80, 32),
    (112, 32),
    (144, 4),
    (148, 4),
    (152, 8),
    (160, 4),
    (164, 4),
    (168, 4),
    (172, 4),
    (176, 4),
    (180, 4),
    (184, 2),
    (186, 2),
    (188, 2),
    (190, 2),
    (192, 32),
    (224, 64),
    (296, 24),
];

/// The same for an entry of the tensor table.
const ENTRY: [(usize, usize); 10] =
    [(0, 4), (4, 2), (6, 2), (8, 4), (12, 4), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8)];

const TABLE: usize = 320;
const ENTRY_BYTES: usize = 48;

/// Damaged bytes, which of the valid objects they were, and how they were damaged.
pub(crate) struct Mutant {
    pub(crate) bytes: Vec<u8>,
    pub(crate) of: usize,
    pub(crate) how: String,
}

/// A deterministic source of mutants (SplitMix64).
pub(crate) struct Mutator(pub(crate) u64);

impl Mutator {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// One way of damage, applied to one of the objects; `most` fields at most are changed.
    pub(crate) fn mutant(&mut self, objects: &[Valid], most: usize) -> Mutant {
        let of = self.below(objects.len());
        let mut bytes = objects[of].bytes.clone();
        let how = match self.below(16) {
            0 => self.flip(&mut bytes),
            1 => self.cut(&mut bytes),
            2 => self.extend(&mut bytes),
            3 | 4 => {
                let other = self.below(objects.len());
                self.splice(&mut bytes, &objects[other].bytes)
            }
            _ => self.fields(&mut bytes, most),
        };
        Mutant { bytes, of, how }
    }

    fn flip(&mut self, bytes: &mut [u8]) -> String {
        let bits: Vec<usize> = (0..=self.below(4)).map(|_| self.below(bytes.len() * 8)).collect();
        bits.iter().for_each(|bit| bytes[bit / 8] ^= 1 << (bit % 8));
        format!("bits {bits:?} flipped")
    }

    fn cut(&mut self, bytes: &mut Vec<u8>) -> String {
        let len = if self.next().is_multiple_of(4) { self.below(TABLE) } else { self.below(bytes.len()) };
        bytes.truncate(len);
        format!("cut to {len} bytes")
    }

    /// Longer, and half of the time with a header that says so.
    fn extend(&mut self, bytes: &mut Vec<u8>) -> String {
        let len = bytes.len() + 1 + self.below(9000);
        bytes.resize(len, 0x5A);
        let said = self.next().is_multiple_of(2);
        if said {
            bytes[24..32].copy_from_slice(&(len as u64).to_le_bytes());
            repair(bytes, true);
        }
        format!("extended to {len} bytes, said so: {said}")
    }

    /// A piece of another object at the same place, or of this one at another.
    fn splice(&mut self, bytes: &mut [u8], other: &[u8]) -> String {
        let from = if self.next().is_multiple_of(2) { other.to_vec() } else { bytes.to_vec() };
        let shortest = from.len().min(bytes.len());
        let start = self.below(shortest);
        let len = 1 + self.below(shortest - start).min(self.below(1000));
        let at = if self.next().is_multiple_of(4) { self.below(bytes.len() - len + 1) } else { start };
        bytes[at..at + len].copy_from_slice(&from[start..start + len]);
        let repaired = self.next().is_multiple_of(2);
        if repaired {
            repair(bytes, self.next().is_multiple_of(2));
        }
        format!("{len} bytes from {start} spliced in at {at}, repaired: {repaired}")
    }

    fn fields(&mut self, bytes: &mut [u8], most: usize) -> String {
        let mut how = String::new();
        for _ in 0..=self.below(most) {
            let (at, len) = if self.next().is_multiple_of(3) {
                let count = u32::from_le_bytes(bytes[44..48].try_into().unwrap()) as usize;
                let (at, len) = ENTRY[self.below(ENTRY.len())];
                (TABLE + ENTRY_BYTES * self.below(count.clamp(1, 16)) + at, len)
            } else {
                HEADER[self.below(HEADER.len())]
            };
            let value = self.edge(bytes, at, len);
            bytes[at..at + len].copy_from_slice(&value);
            how.push_str(&format!("{len} bytes at {at} = {value:02x?}, "));
        }
        let checksum = !self.next().is_multiple_of(8);
        let digest = self.next().is_multiple_of(2);
        if checksum {
            repair(bytes, digest);
        }
        format!("{how}checksum repaired: {checksum}, digest: {digest}")
    }

    /// A value beside the one that is there, at an end of a range, a small one, or any.
    fn edge(&mut self, bytes: &[u8], at: usize, len: usize) -> Vec<u8> {
        let mut value = bytes[at..at + len].to_vec();
        if len > 8 {
            match self.below(3) {
                0 => value.fill(0),
                1 => value.fill(0xFF),
                _ => value[self.below(len)] ^= 1 << self.below(8),
            }
            return value;
        }
        let mut wide = [0; 8];
        wide[..len].copy_from_slice(&value);
        let old = u64::from_le_bytes(wide);
        let new = match self.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => old.wrapping_add(1),
            3 => old.wrapping_sub(1),
            4 => 1 << self.below(len * 8),
            5 => (1_u64 << self.below(len * 8)).wrapping_sub(1),
            6 => old.wrapping_mul(2),
            7 => old ^ 1 << self.below(len * 8),
            8 => old.wrapping_add(4096),
            9 => self.below(12) as u64,
            10 => bytes.len() as u64,
            _ => self.next(),
        };
        value.copy_from_slice(&new.to_le_bytes()[..len]);
        value
    }
}
