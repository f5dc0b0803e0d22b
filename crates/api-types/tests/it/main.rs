//! The codec, the tables and the texts against what upstream's own libraries answer.

mod codec;
mod fill;
mod full;
mod golden;
mod openapi;
mod properties;
mod table;
mod wild;
