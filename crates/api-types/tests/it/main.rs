//! Codec against bytes and texts of upstream's encoders.

mod codec;
mod table;
