//! Outages of three members of the store alone, as processes: killed, stopped, frozen, behind plain text and TLS.
//! What comes afterwards is waited for; nothing here depends on how long it takes.

mod leaders;
mod linearizable;
mod sleepers;
mod support;
