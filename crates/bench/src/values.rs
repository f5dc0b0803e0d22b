//! What is stored: text as Kubernetes objects are made of, half of it words that come again, half of it random. It
//! compresses to about a half; values of zeros would flatter whoever compresses, random ones whoever does not.

/// Random numbers that are the same in every run (xorshift64*).
pub struct Dice(u64);

impl Dice {
    /// A die of its own.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Words around the random parts.
const WORDS: [&str; 8] = [
    "\"metadata\":{\"name\":\"node-",
    "\",\"namespace\":\"kube-node-lease\",\"uid\":\"",
    "\",\"resourceVersion\":\"",
    "\"},\"spec\":{\"holderIdentity\":\"",
    "\",\"leaseDurationSeconds\":40,\"renewTime\":\"",
    "\",\"labels\":{\"app.kubernetes.io/name\":\"",
    "\",\"pod-template-hash\":\"",
    "\"},\"status\":{\"podIP\":\"10.",
];
/// Where a value's 16 digits for the benchmark's own use begin.
pub const STAMP: std::ops::Range<usize> = 6..22;

/// A value of exactly `size` bytes (at least [`STAMP`]'s end) that begins with a stamp.
pub fn value(dice: &mut Dice, stamp: u64, size: usize) -> Vec<u8> {
    let mut text = format!("{{\"t\":\"{stamp:016x}\",").into_bytes();
    let mut word = 0;
    while text.len() < size {
        text.extend_from_slice(WORDS[word % WORDS.len()].as_bytes());
        digits(&mut text, dice.next());
        if word % 3 == 1 {
            digits(&mut text, dice.next());
        }
        word += 1;
    }
    text.truncate(size);
    text
}

fn digits(text: &mut Vec<u8>, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.extend((0..16).map(|place| DIGITS[(number >> (4 * place)) as usize & 15]));
}

/// The stamp of a value.
pub fn stamp(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(value.get(STAMP)?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_keep_their_stamp() {
        let mut dice = Dice::new(1);
        for size in [22, 256, 1024] {
            let text = value(&mut dice, 77, size);
            assert_eq!((text.len(), stamp(&text)), (size, Some(77)));
        }
        assert_ne!(value(&mut dice, 1, 256), value(&mut dice, 1, 256));
    }
}
