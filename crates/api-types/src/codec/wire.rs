//! The protobuf wire format: reading fields in order, writing tags and length-delimited parts.

use super::CodecError;

/// Why bytes are no message. Read in every field's way: it is small, and dropping it is nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WireError {
    /// The message ends in the middle of a field.
    Truncated,
    Malformed(&'static str),
}

impl From<WireError> for CodecError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Truncated => Self::Truncated,
            WireError::Malformed(why) => Self::Wire(why),
        }
    }
}

/// A field's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads one message field by field.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("a varint is longer than ten bytes"))
    }

    #[inline(always)]
    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let part = rest.get(..length).ok_or(WireError::Truncated)?;
        self.at += length;
        Ok(part)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The payload behind a field's tag.
    #[inline(always)]
    pub(crate) fn payload(&mut self, tag: u64) -> Result<Wire<'a>, WireError> {
        match tag & 7 {
            2 => {
                let length = self.varint()?;
                Ok(Wire::Bytes(self.take(length)?))
            }
            0 => Ok(Wire::Varint(self.varint()?)),
            other => self.rare(other),
        }
    }

    /// The payload of a wire type that few fields have.
    #[inline(never)]
    fn rare(&mut self, wire_type: u64) -> Result<Wire<'a>, WireError> {
        Ok(match wire_type {
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("took 8 bytes"))),
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("took 4 bytes"))),
            _ => return Err(WireError::Malformed("a wire type is not known")),
        })
    }

    /// Passes over a field: its number.
    #[inline(always)]
    pub(crate) fn skip(&mut self) -> Result<u32, WireError> {
        let tag = self.varint()?;
        let number = number_of(tag)?;
        match tag & 7 {
            // A number, or a length, in the same form: no branch that depends on which it is.
            0 | 2 => {
                let value = self.varint()?;
                self.take(if tag & 2 == 0 { 0 } else { value })?;
            }
            other => {
                self.rare(other)?;
            }
        }
        Ok(number)
    }

    /// The next (field number, payload); none at the end.
    #[inline(always)]
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        if self.is_at_end() {
            return Ok(None);
        }
        let tag = self.varint()?;
        Ok(Some((number_of(tag)?, self.payload(tag)?)))
    }
}

#[inline(always)]
fn number_of(tag: u64) -> Result<u32, WireError> {
    u32::try_from(tag >> 3).map_err(|_| WireError::Malformed("a field number is too large"))
}

impl<'a> Wire<'a> {
    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::Malformed("a length-delimited field has another wire type")),
        }
    }

    #[inline]
    pub(crate) fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(WireError::Malformed("an integer field has another wire type")),
        }
    }

    pub(crate) fn double(self) -> Result<f64, WireError> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(WireError::Malformed("a floating-point field has another wire type")),
        }
    }
}

/// The first length-delimited field with this number.
pub(crate) fn first_bytes(message: &[u8], number: u32) -> Result<Option<&[u8]>, WireError> {
    let mut reader = Reader::new(message);
    while let Some((found, wire)) = reader.field()? {
        if found == number {
            return wire.bytes().map(Some);
        }
    }
    Ok(None)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Writes a length-delimited field whose content `write` appends. Its length is not known before, so one byte is
/// kept for it and the content moved when that is too little.
pub(crate) fn put_part(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    put_varint(out, u64::from(number) << 3 | 2);
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = (out.len() - at - 1) as u64;
    let more = varint_len(length) - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(at + 1..end, at + 1 + more);
    }
    let mut value = length;
    for slot in &mut out[at..at + more] {
        *slot = value as u8 | 0x80;
        value >>= 7;
    }
    out[at + more] = value as u8;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_length_read_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let mut out = Vec::new();
            put_part(&mut out, 7, |o| {
                o.resize(o.len() + length, 9);
                Ok(())
            })
            .unwrap();
            let mut plain = Vec::new();
            put_bytes(&mut plain, 7, &vec![9; length]);
            assert_eq!(out, plain, "{length}");
        }
    }

    #[test]
    fn truncated_messages_are_refused() {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"hello");
        for end in 1..out.len() {
            assert!(Reader::new(&out[..end]).field().is_err(), "{end}");
        }
    }

    #[test]
    fn negative_integers_take_ten_bytes() {
        let mut out = Vec::new();
        put_int(&mut out, 1, -1);
        assert_eq!(out.len(), 11);
        let (_, wire) = Reader::new(&out).field().unwrap().unwrap();
        assert_eq!(wire.varint().unwrap() as i64, -1);
    }
}
